/* Which pages of guest memory were written: KVM's log of what the guest writes
 * and the VMM's record of what it touched itself (guest_memory.h).
 *
 * Reading never resets the log; what is cleared is protected again, so that the
 * next write shows. Source: KVM API, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
 * KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG. */
#ifndef RAMET_VMM_DIRTY_LOG_H
#define RAMET_VMM_DIRTY_LOG_H

#include <stdint.h>

#include "lib/err.h"
#include "vmm/machine.h"

/* Starts logging with nothing written; harmless when it is on already. From
 * then on KVM maps memory in pages of 4 KiB. 0 or -errno. */
int dirty_log_start(struct machine *m, struct ramet_err *err);

/* Adds to `bitmap` (a bit per page of m->mem.size) the pages that were written
 * since the start or since they were cleared. 0 or -errno. */
int dirty_log_read(const struct machine *m, uint64_t *bitmap, struct ramet_err *err);

/* Clears the pages of RAM [first, first + count), both multiples of 64, whose
 * bit is set in `mask`. 0 or -errno; then some may be cleared. */
int dirty_log_clear(struct machine *m, uint64_t first, uint32_t count, const uint64_t *mask,
		    struct ramet_err *err);

#endif
