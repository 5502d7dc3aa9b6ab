/* Hypercall dispatch and the small ones: see hypercall.h.
 *
 * The answers are those a Linux PV guest needs; where Linux has a fallback,
 * -ENOSYS is the simplest correct answer. Every argument is the guest's. */
#include "vmm/hypercall.h"

#include <errno.h>
#include <string.h>

#include "guest/channel.h"
#include "lib/clock.h"
#include "vmm/channel.h"
#include "vmm/console.h"
#include "vmm/evtchn.h"
#include "vmm/grant.h"
#include "vmm/mmu.h"
#include "vmm/reclaim.h"
#include "vmm/timekeeping.h"
#include "vmm/trap.h"
#include "vmm/xen_abi.h"

#define MULTICALL_MAX      4096u
#define CONSOLE_WRITE_MAX  65536u
#define XEN_VERSION_NUMBER ((4 << 16) | 17)

struct call {
	uint64_t nr;
	uint64_t a[5];
};

static int64_t call_one(struct machine *m, const struct call *c);

static int64_t set_trap_table(struct machine *m, uint64_t va)
{
	if (!va) {
		memset(m->pv.traps, 0, sizeof(m->pv.traps));
		m->ops->pv_changed(m);
		return 0;
	}
	for (unsigned int i = 0; i <= TRAP_VECTORS; i++, va += sizeof(struct trap_info)) {
		struct trap_info t;

		if (mmu_copy_in(m, &t, va, sizeof(t)))
			return -EFAULT;
		if (!t.address)
			break;
		if (!trap_canonical(t.address))
			return -EINVAL;
		m->pv.traps[t.vector] = (struct trap_gate){ .address = t.address,
							    .dpl = t.flags & 3,
							    .masks_events = (t.flags & 4) != 0 };
	}
	m->ops->pv_changed(m);
	return 0;
}

static int64_t callback_op(struct machine *m, uint64_t command, uint64_t va)
{
	struct callback_register r;
	bool add = command == CALLBACKOP_register;

	if (command != CALLBACKOP_register && command != CALLBACKOP_unregister)
		return -ENOSYS;
	if (mmu_copy_in(m, &r, va, add ? sizeof(r) : sizeof(struct callback_unregister)))
		return -EFAULT;
	if (add && !trap_canonical(r.address))
		return -EINVAL;
	switch (r.type) {
	case CALLBACKTYPE_event:
		m->pv.event_callback = add ? r.address : 0;
		break;
	case CALLBACKTYPE_failsafe:
		m->pv.failsafe_callback = add ? r.address : 0;
		break;
	case CALLBACKTYPE_syscall:
		m->pv.syscall_callback = add ? r.address : 0;
		m->pv.syscall_masks_events = add && (r.flags & CALLBACKF_mask_events);
		break;
	case CALLBACKTYPE_nmi:
		break; /* there are no NMIs */
	default:
		return -ENOSYS; /* syscall32, sysenter: 32-bit code uses int 0x80 */
	}
	m->ops->pv_changed(m);
	return 0;
}

static int64_t memory_map(struct machine *m, uint64_t va)
{
	struct xen_memory_map map;
	struct {
		uint64_t start, size;
		uint32_t type;
	} __attribute__((packed)) ram = { 0, m->mem.ram_bytes, 1 /* E820_RAM */ };

	if (mmu_copy_in(m, &map, va, sizeof(map)))
		return -EFAULT;
	if (map.nr_entries < 1)
		return -EINVAL;
	map.nr_entries = 1;
	if (mmu_copy_out(m, (uint64_t)map.buffer.p, &ram, sizeof(ram)) ||
	    mmu_copy_out(m, va, &map, sizeof(map)))
		return -EFAULT;
	return 0;
}

static int64_t memory_op(struct machine *m, uint64_t command, uint64_t va)
{
	struct xen_machphys_mapping mapping = { .v_start = M2P_VA,
						.v_end = M2P_VA + m->m2p_size,
						.max_mfn = guest_frames(&m->mem) - 1 };

	switch (command & 0x3f) {
	case XENMEM_memory_map:
		return memory_map(m, va);
	case XENMEM_machphys_mapping:
		return mmu_copy_out(m, va, &mapping, sizeof(mapping));
	case XENMEM_maximum_reservation:
	case XENMEM_current_reservation:
	case XENMEM_maximum_ram_page:
		return (int64_t)guest_frames(&m->mem);
	default:
		return -ENOSYS;
	}
}

static int64_t xen_version(struct machine *m, uint64_t command, uint64_t va)
{
	struct xen_feature_info features;
	xen_extraversion_t extra = ".0-ramet";
	struct xen_platform_parameters platform = { .virt_start = M2P_VA };

	switch (command) {
	case XENVER_version:
		return XEN_VERSION_NUMBER;
	case XENVER_extraversion:
		return mmu_copy_out(m, va, extra, sizeof(extra));
	case XENVER_get_features:
		if (mmu_copy_in(m, &features, va, sizeof(features)))
			return -EFAULT;
		if (features.submap_idx >= XENFEAT_NR_SUBMAPS)
			return -EINVAL;
		features.submap = (1u << XENFEAT_mmu_pt_update_preserve_ad) |
				  (1u << XENFEAT_gnttab_map_avail_bits) |
				  (1u << XENFEAT_memory_op_vnode_supported);
		return mmu_copy_out(m, va, &features, sizeof(features));
	case XENVER_platform_parameters:
		return mmu_copy_out(m, va, &platform, sizeof(platform));
	case XENVER_pagesize:
		return (int64_t)PAGE_SIZE;
	default:
		return -ENOSYS;
	}
}

static int64_t console_io(struct machine *m, uint64_t command, uint64_t len, uint64_t va)
{
	if (command != CONSOLEIO_write)
		return command == CONSOLEIO_read ? 0 : -ENOSYS;
	if (len > CONSOLE_WRITE_MAX)
		return -EINVAL;
	while (len) {
		char buf[512];
		size_t n = len < sizeof(buf) ? len : sizeof(buf);

		if (mmu_copy_in(m, buf, va, n))
			return -EFAULT;
		console_output(m, buf, n);
		va += n;
		len -= n;
	}
	return 0;
}

static int64_t set_singleshot(struct machine *m, uint64_t va)
{
	struct vcpu_set_singleshot_timer t;

	if (mmu_copy_in(m, &t, va, sizeof(t)))
		return -EFAULT;
	if ((t.flags & VCPU_SSHOTTMR_future) && t.timeout_abs_ns < time_now(m))
		return -ETIME;
	time_arm(m, t.timeout_abs_ns ? t.timeout_abs_ns : 1);
	return 0;
}

static int64_t vcpu_op(struct machine *m, uint64_t command, uint64_t cpu, uint64_t va)
{
	struct vcpu_register_vcpu_info info;
	struct vcpu_runstate_info runstate = { .state = RUNSTATE_running };
	uint64_t area;
	int rc;

	/* Linux believes in every vCPU for which this does not say otherwise. */
	if (cpu != 0)
		return -ENOENT;
	switch (command) {
	case VCPUOP_is_up:
		return 1;
	case VCPUOP_register_vcpu_info:
		if (mmu_copy_in(m, &info, va, sizeof(info)))
			return -EFAULT;
		rc = vcpu_info_register(m, info.mfn, info.offset);
		if (!rc)
			time_publish(m);
		return rc;
	case VCPUOP_register_runstate_memory_area:
	case VCPUOP_stop_periodic_timer:
	case VCPUOP_send_nmi:
		return 0;
	case VCPUOP_get_runstate_info:
		runstate.state_entry_time = time_now(m);
		return mmu_copy_out(m, va, &runstate, sizeof(runstate));
	case VCPUOP_stop_singleshot_timer:
		time_arm(m, 0);
		return 0;
	case VCPUOP_set_singleshot_timer:
		return set_singleshot(m, va);
	case VCPUOP_register_vcpu_time_memory_area:
		if (mmu_copy_in(m, &area, va, sizeof(area)))
			return -EFAULT;
		return time_info_register(m, area);
	default:
		return -ENOSYS;
	}
}

static int64_t shutdown(struct machine *m, uint64_t va)
{
	struct sched_shutdown s;
	const char *words;
	size_t len;

	if (mmu_copy_in(m, &s, va, sizeof(s)))
		return -EFAULT;
	console_drain(m);
	switch (s.reason) {
	case SHUTDOWN_poweroff:
		machine_end(m, END_POWEROFF, "the guest powered off");
		break;
	case SHUTDOWN_reboot:
		machine_end(m, END_REBOOT, "the guest asked for a reboot");
		break;
	case SHUTDOWN_crash:
		words = console_last_words(m, &len);
		machine_end(m, END_PANIC, "the guest kernel panicked: %.*s", (int)len, words);
		break;
	default:
		machine_end(m, END_GUEST_FAULT, "the guest shut down for unsupported reason %u",
			    s.reason);
		break;
	}
	return 0;
}

static int64_t sched_op(struct machine *m, uint64_t command, uint64_t va)
{
	switch (command) {
	case SCHEDOP_yield:
		return 0;
	case SCHEDOP_block:
		vcpu_info_set_mask(m, 0);
		m->blocked = true;
		return 0;
	case SCHEDOP_shutdown:
		return shutdown(m, va);
	default:
		return -ENOSYS;
	}
}

static int64_t set_segment_base(struct machine *m, uint64_t which, uint64_t base)
{
	if (which != SEGBASE_GS_USER_SEL && !trap_canonical(base))
		return -EINVAL;
	switch (which) {
	case SEGBASE_FS:
		return m->ops->base_set(m, BASE_FS, base);
	case SEGBASE_GS_USER:
		return m->ops->base_set(m, BASE_GS_USER, base);
	case SEGBASE_GS_KERNEL:
		return m->ops->base_set(m, BASE_GS_KERNEL, base);
	case SEGBASE_GS_USER_SEL: /* a null selector: Linux has no others on 64-bit */
		return m->ops->base_set(m, BASE_GS_USER, 0);
	default:
		return -EINVAL;
	}
}

/* The guest's own GDT is never loaded (the selectors it uses are in ours), so
 * a descriptor is just memory to it. */
static int64_t update_descriptor(struct machine *m, uint64_t gpa, uint64_t value)
{
	void *p = guest_ram_ptr(&m->mem, gpa, sizeof(value));

	if (!p || gpa % sizeof(value))
		return -EINVAL;
	memcpy(p, &value, sizeof(value));
	return 0;
}

static int64_t batch(struct machine *m, uint64_t done_va, uint64_t done, int rc)
{
	uint32_t count = (uint32_t)done;

	if (done_va && mmu_copy_out(m, done_va, &count, sizeof(count)))
		return -EFAULT;
	return rc;
}

static int64_t multicall(struct machine *m, uint64_t va, uint64_t count)
{
	if (count > MULTICALL_MAX)
		return -EINVAL;
	for (; count; count--, va += sizeof(struct multicall_entry)) {
		struct multicall_entry e;
		struct call c;

		if (mmu_copy_in(m, &e, va, sizeof(e)))
			return -EFAULT;
		c = (struct call){ e.op,
				   { e.args[0], e.args[1], e.args[2], e.args[3], e.args[4] } };
		e.result =
			(xen_ulong_t)(e.op == __HYPERVISOR_multicall ? -EINVAL : call_one(m, &c));
		if (mmu_copy_out(m, va, &e, sizeof(e)))
			return -EFAULT;
	}
	return 0;
}

static int64_t debugreg_set(struct machine *m, uint64_t reg, uint64_t value)
{
	/* No hardware breakpoints: Linux reports them as unavailable when the
	 * address registers cannot be set. */
	if (reg < 6)
		return value ? -EINVAL : 0;
	if (reg > 7)
		return -EINVAL;
	m->pv.debugreg[reg] = value;
	return 0;
}

static int64_t free_pages(struct machine *m, uint64_t first, uint64_t count, uint64_t va)
{
	uint64_t bitmap[FREE_PAGES_MAX / 64];

	if (count > FREE_PAGES_MAX || count % 64)
		return -EINVAL;
	if (mmu_copy_in(m, bitmap, va, count / 8))
		return -EFAULT;
	return reclaim_pages(m, first, count, bitmap);
}

static int64_t ramet_op(struct machine *m, const uint64_t *a)
{
	switch (a[0]) {
	case RAMET_OP_CHANNEL:
		return channel_connect(m, (uint32_t)a[1], (uint32_t)a[2]);
	case RAMET_OP_FREE_PAGES:
		return free_pages(m, a[1], a[2], a[3]);
	case RAMET_OP_CHANGED_PAGES:
		return reclaim_changed_count(m);
	case RAMET_OP_WALL_CLOCK:
		return (int64_t)(clock_wall_ns() / 1000) & WALL_CLOCK_MASK;
	default:
		return -ENOSYS;
	}
}

static int64_t call_one(struct machine *m, const struct call *c)
{
	const uint64_t *a = c->a;
	uint64_t done;
	int rc;

	switch (c->nr) {
	case __HYPERVISOR_set_trap_table:
		return set_trap_table(m, a[0]);
	case __HYPERVISOR_mmu_update:
		rc = mmu_update(m, a[0], a[1], &done);
		return batch(m, a[2], done, rc);
	case __HYPERVISOR_mmuext_op:
		rc = mmu_extended(m, a[0], a[1], &done);
		return batch(m, a[2], done, rc);
	case __HYPERVISOR_update_va_mapping:
		return mmu_update_va(m, a[0], a[1], a[2]);
	case __HYPERVISOR_multicall:
		return multicall(m, a[0], a[1]);
	case __HYPERVISOR_stack_switch:
		m->vcpu.kernel_sp = a[1];
		return 0;
	case __HYPERVISOR_set_gdt:
	case __HYPERVISOR_fpu_taskswitch: /* the guest owns the FPU; TS is never set */
		return 0;
	case __HYPERVISOR_update_descriptor:
		return update_descriptor(m, a[0], a[1]);
	case __HYPERVISOR_set_segment_base:
		return set_segment_base(m, a[0], a[1]);
	case __HYPERVISOR_set_debugreg:
		return debugreg_set(m, a[0], a[1]);
	case __HYPERVISOR_get_debugreg:
		return a[0] < 8 ? (int64_t)m->pv.debugreg[a[0]] : -EINVAL;
	case __HYPERVISOR_memory_op:
		return memory_op(m, a[0], a[1]);
	case __HYPERVISOR_set_timer_op:
		time_arm(m, a[0]);
		return 0;
	case __HYPERVISOR_xen_version:
		return xen_version(m, a[0], a[1]);
	case __HYPERVISOR_console_io:
		return console_io(m, a[0], a[1], a[2]);
	case __HYPERVISOR_grant_table_op:
		return grant_hypercall(m, a[0], a[1], a[2]);
	case __HYPERVISOR_vm_assist:
		return 0; /* writable page tables and the rest are always on */
	case __HYPERVISOR_vcpu_op:
		return vcpu_op(m, a[0], a[1], a[2]);
	case __HYPERVISOR_sched_op:
		return sched_op(m, a[0], a[1]);
	case __HYPERVISOR_callback_op:
		return callback_op(m, a[0], a[1]);
	case __HYPERVISOR_event_channel_op:
		return evtchn_hypercall(m, a[0], a[1]);
	case __HYPERVISOR_physdev_op: /* I/O privileges: accepted, and no port opens */
		return a[0] == PHYSDEVOP_set_iopl || a[0] == PHYSDEVOP_set_iobitmap ? 0 : -ENOSYS;
	case RAMET_HYPERCALL:
		return ramet_op(m, a);
	default:
		return -ENOSYS;
	}
}

void hypercall_dispatch(struct machine *m)
{
	struct kvm_regs *r = &m->vcpu.regs;
	struct call c = { (uint32_t)r->rax, { r->rdi, r->rsi, r->rdx, r->r10, r->r8 } };

	m->stats.hypercalls++;
	mmu_work_reset(m);
	if (c.nr == __HYPERVISOR_iret) {
		trap_iret(m);
		return;
	}
	r->rax = (uint64_t)call_one(m, &c);
}
