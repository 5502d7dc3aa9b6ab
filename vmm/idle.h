/* Guests that nobody talks to: most of them, most of the time.
 *
 * Where KVM shadows page tables, the shadow of what a guest has touched takes up
 * to a MiB of the host's memory. A guest that is blocked and has not been talked
 * to for a while gives it back, once for each time that it was talked to. When it
 * is used again KVM builds what it needs anew: some milliseconds. */
#ifndef RAMET_VMM_IDLE_H
#define RAMET_VMM_IDLE_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/machine.h"

#define IDLE_AFTER_NS 10000000000ull

/* For the blocked guest of `m` at `now_ns` (CLOCK_MONOTONIC): milliseconds until
 * it is to be looked at again, rounded up; 0: idle_trim() is due; -1: never, unless
 * somebody talks to it. */
int idle_wait_ms(struct machine *m, uint64_t now_ns);

/* Gives back what an idle guest does not need. Only while no guest code runs. 0;
 * -errno: the guest cannot go on. */
int idle_trim(struct machine *m, struct ramet_err *err);

#endif
