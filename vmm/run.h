/* The run loop: enters the guest and handles what comes out until it ends. */
#ifndef RAMET_VMM_RUN_H
#define RAMET_VMM_RUN_H

#include "vmm/machine.h"

/* Runs the guest until m->ended, or until a callback has set m->want_pause and
 * the vCPU is at an instruction boundary (then m->paused; calling this again
 * goes on). 0, or -errno when the host failed. The sink's callbacks are called
 * from here. */
int machine_run(struct machine *m, struct ramet_err *err);

/* Makes a socket raise SIGIO, so that its traffic interrupts the guest. 0, -errno. */
int run_watch_fd(int fd);

#endif
