/* Event channels (two-level ABI) and the vcpu_info page they are signalled in. */
#ifndef RAMET_VMM_EVTCHN_H
#define RAMET_VMM_EVTCHN_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/machine.h"
#include "vmm/xen_abi.h"

/* The vcpu_info structure, wherever the guest registered it. Never NULL: its
 * place is checked when it is registered. */
struct vcpu_info *vcpu_info_get(const struct machine *m);
struct shared_info *shared_info_get(const struct machine *m);

static inline bool vcpu_info_pending(const struct machine *m)
{
	return __atomic_load_n(&vcpu_info_get(m)->evtchn_upcall_pending, __ATOMIC_ACQUIRE) != 0;
}

static inline uint8_t vcpu_info_mask(const struct machine *m)
{
	return __atomic_load_n(&vcpu_info_get(m)->evtchn_upcall_mask, __ATOMIC_RELAXED) != 0;
}

static inline void vcpu_info_set_mask(const struct machine *m, uint8_t mask)
{
	__atomic_store_n(&vcpu_info_get(m)->evtchn_upcall_mask, mask, __ATOMIC_RELAXED);
}

static inline void vcpu_info_set_cr2(const struct machine *m, uint64_t cr2)
{
	vcpu_info_get(m)->arch.cr2 = cr2;
}

/* Moves vcpu_info to [gpa, + sizeof). -EINVAL when that is not in one page of RAM. */
int vcpu_info_register(struct machine *m, uint64_t frame, uint32_t offset);

/* Prepares the shared page and the ports the domain is born with. */
void evtchn_init(struct machine *m);

/* Marks a port pending and, when it is not masked, the upcall. */
void evtchn_raise(struct machine *m, uint32_t port);
void evtchn_raise_virq(struct machine *m, uint32_t virq);

/* HYPERVISOR_event_channel_op. Returns its result or -errno. */
int64_t evtchn_hypercall(struct machine *m, uint64_t command, uint64_t arg);

#endif
