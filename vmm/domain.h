/* The domain builder: a machine ready to execute a PV kernel's first
 * instruction (xen.h, "start of day memory layout"). */
#ifndef RAMET_VMM_DOMAIN_H
#define RAMET_VMM_DOMAIN_H

#include "vmm/machine.h"

struct domain_config {
	int kernel_fd;
	const int *initrd_fds; /* loaded back to back; the kernel unpacks each */
	unsigned int initrd_count;
	const char *cmdline; /* appended to the built-in command line */
};

/* Loads kernel and initrds, builds start_info, p2m and page tables, prepares
 * events and time, and sets m->vcpu to the kernel's entry. -errno. */
int domain_build(struct machine *m, const struct domain_config *config, struct ramet_err *err);

#endif
