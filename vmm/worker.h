/* The worker proper: one guest driven over a control socket (vmm/control.h). */
#ifndef RAMET_VMM_WORKER_H
#define RAMET_VMM_WORKER_H

#include <stdint.h>

struct worker_fds {
	int control; /* SOCK_SEQPACKET to the daemon */
	int channel; /* SOCK_STREAM: the agent's bytes */
	int kvm;     /* /dev/kvm */
};

/* Reports CONTROL_READY, waits for CONTROL_BOOT and runs the guest
 * to its end. The process is jailed already. Returns the process's exit status:
 * 0 after CONTROL_ENDED was sent or the daemon went away, 1 otherwise. */
int worker_main(const struct worker_fds *fds);

#endif
