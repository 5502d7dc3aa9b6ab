/* Guest time: the PV clock, the wall clock and the single-shot timer.
 *
 * The guest reads the TSC natively; system time is the TSC scaled to ns from
 * pv.tsc_base (public header xen.h, struct vcpu_time_info). */
#ifndef RAMET_VMM_TIMEKEEPING_H
#define RAMET_VMM_TIMEKEEPING_H

#include <stdint.h>

#include "vmm/machine.h"

/* Takes the TSC frequency from the vCPU and derives the scale. 0 or -errno. */
int time_init(struct machine *m, struct ramet_err *err);

/* Guest system time now, ns. */
uint64_t time_now(const struct machine *m);

/* Starts system time at `base_ns` from this moment. */
void time_start(struct machine *m, uint64_t base_ns);

/* Writes the PV clock into vcpu_info and the guest's own copy of it, and the
 * wall clock into the shared page. */
void time_publish(struct machine *m);

/* Takes the linear address of a copy of the PV clock that the guest maps into
 * its user space; 0 ends that. 0 or -EFAULT when it is not in one page of RAM. */
int time_info_register(struct machine *m, uint64_t va);

/* Arms the timer for guest system time `deadline` (0: stops it). */
void time_arm(struct machine *m, uint64_t deadline);

/* Raises the timer event when its deadline has passed. */
void time_check(struct machine *m);

#endif
