/* Internals shared by the parts of the software-KVM back-end. */
#ifndef RAMET_VMM_BACKEND_SOFTWARE_H
#define RAMET_VMM_BACKEND_SOFTWARE_H

#include "vmm/hv_area.h"
#include "vmm/machine.h"

struct software {
	bool hw_kernel;    /* the mode the processor's GS base belongs to */
	bool resume_raw;   /* registers are the processor's: do not reload them */
	uint64_t gs_other; /* GS base of the inactive mode (plain path) */
	uint32_t dirty;    /* KVM_SYNC_X86_* to write back */
	int commit_error;
	unsigned int retries; /* entries in a row only to leave the fast path's code */
};

/* Lays out the hypervisor area for the fast path in the guest. 0 or -errno. */
int software_shim_install(struct machine *m, struct ramet_err *err);

/* Moves the state that the fast path keeps out of, and back into, its page. */
void software_shim_load(struct machine *m);
void software_shim_store(struct machine *m);

#endif
