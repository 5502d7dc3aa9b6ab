/* `ramet-vmm --run`: one guest in the foreground, its console on stdout.
 * For bringing up kernels and for machines without the daemon (tests/hw). */
#ifndef RAMET_VMM_STANDALONE_H
#define RAMET_VMM_STANDALONE_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/control.h"

#define STANDALONE_INITRDS_MAX CONTROL_INITRD_MAX

struct standalone_options {
	const char *kernel;
	const char *initrds[STANDALONE_INITRDS_MAX];
	unsigned int initrd_count;
	const char *cmdline;
	uint64_t ram_bytes;
	enum isolation_mode isolation;
	bool plain;
	bool stats; /* print counters to stderr at the end */
};

/* Runs the guest to its end. Returns the process's exit status: 0 when the
 * guest powered off, 3 when it ended in any other way, 1 when it could not run. */
int standalone_run(const struct standalone_options *options);

#endif
