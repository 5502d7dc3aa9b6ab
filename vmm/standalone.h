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

/* Exit statuses of the process. */
#define STANDALONE_POWEROFF    0
#define STANDALONE_ERROR       1 /* the guest could not run, or the host failed */
#define STANDALONE_REBOOT      3
#define STANDALONE_PANIC       4
#define STANDALONE_GUEST_FAULT 5

/* Runs the guest to its end. Returns one of the above. */
int standalone_run(const struct standalone_options *options);

#endif
