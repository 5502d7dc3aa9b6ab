/* Privileged instructions of the guest kernel.
 *
 * The kernel runs at CPL 3, so these fault with #GP (or, with Xen's prefix
 * `ud2a; .ascii "xen"`, with #UD for CPUID). Only what Linux executes natively
 * as a PV guest is emulated; anything else is the guest's own #GP. */
#ifndef RAMET_VMM_EMULATE_H
#define RAMET_VMM_EMULATE_H

#include <stdbool.h>

#include "vmm/machine.h"

/* Emulates the instruction at rip after a #GP in kernel mode. False: deliver it. */
bool emulate_privileged(struct machine *m);

/* Emulates a CPUID with Xen's prefix at rip. False: not one. */
bool emulate_prefixed_cpuid(struct machine *m);

#endif
