/* Internals shared by the parts of the hardware-KVM back-end. */
#ifndef RAMET_VMM_BACKEND_HARDWARE_H
#define RAMET_VMM_BACKEND_HARDWARE_H

#include "vmm/machine.h"

#define VECTOR_NMI   2
#define VECTOR_MC    18
#define VECTOR_INT80 0x80

struct hardware {
	bool kernel_gs;  /* the active GS base is the guest kernel's */
	bool resume_raw; /* registers are the processor's: do not reload them */
	uint32_t dirty;  /* KVM_SYNC_X86_* to write back */
	int commit_error;
};

/* Fills the hypervisor area: descriptors, gates, stubs, the fast path if it is
 * on, and what of it the two views map. */
void hardware_area_build(struct machine *m);

#endif
