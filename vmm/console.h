/* The guest's console (xen/io/console.h): a ring in guest memory, output only.
 *
 * Output goes to the sink; the last part is kept to explain a crash. */
#ifndef RAMET_VMM_CONSOLE_H
#define RAMET_VMM_CONSOLE_H

#include <stddef.h>

#include "vmm/machine.h"

/* Takes what the guest has written to the ring. */
void console_drain(struct machine *m);

/* What the guest said about its crash: the line that names a kernel panic, else
 * the end of its output. Points into m->console_tail. */
const char *console_last_words(const struct machine *m, size_t *len);

/* Passes output on: used by the ring and by HYPERVISOR_console_io. */
void console_output(struct machine *m, const char *data, size_t len);

#endif
