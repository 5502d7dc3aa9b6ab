/* The seam for KVMs without hardware virtualisation: guest code at CPL 3 runs
 * natively, CPL 0 is emulated, `syscall` does not change the privilege level.
 *
 * The plain path is here: the system-call entry and every gate consist of an
 * `out` that reaches the VMM. The fast path (backend_software_shim.c) replaces
 * the hot ones. Page tables are shadowed and host writes to them go unseen, so
 * changes are committed by code at CPL 0 that touches each changed entry. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "vmm/backend_common.h"
#include "vmm/backend_software.h"
#include "vmm/mmu.h"
#include "vmm/trap.h"

/* TF DF NT AC. Not IF: at CPL 3 nothing would set it again, and KVM would see
 * a guest that never takes interrupts. */
#define SFMASK      0x44500u
#define ENTRY_VA    HV_PAGE_VA(HV_PAGE_SHIM)
#define OUT_LENGTH  2u
#define RETRIES_MAX 6u /* then every 1.9 ms */

static struct software *software_get(const struct machine *m)
{
	return m->backend;
}

/* ---- set-up ---- */

static int plain_install(struct machine *m)
{
	hv_views_init(m, HV_MAP_WRITE);
	hv_tss_init(m, HV_PAGE_TSS,
		    1u << (PORT_SYSCALL - PORT_FIRST) | 1u << (PORT_COMPAT - PORT_FIRST));
	hv_stubs_init(m, HV_PAGE_STUBS);
	for (unsigned int v = 0; v < 256; v++)
		hv_gate_set(m, HV_PAGE_IDT, (uint8_t)v,
			    HV_PAGE_VA(HV_PAGE_STUBS) + v * HV_STUB_SIZE, SEL_KERNEL_CS,
			    v == 3 || v == 4 || v == 0x80 ? 3 : 0, 0);
	for (unsigned int view = HV_VIEW_KERNEL; view <= HV_VIEW_USER; view++) {
		hv_map(m, view, HV_PAGE_GDT, HV_PAGE_GDT, HV_MAP_WRITE);
		hv_map(m, view, HV_PAGE_TSS, HV_PAGE_TSS, HV_MAP_WRITE);
		hv_map(m, view, HV_PAGE_IDT, HV_PAGE_IDT, 0);
		hv_map(m, view, HV_PAGE_STUBS, HV_PAGE_STUBS, 0);
		for (unsigned int p = HV_PAGE_STACK; p < HV_PAGE_IST_END; p++)
			hv_map(m, view, p, p, HV_MAP_WRITE);
		hv_map(m, view, HV_PAGE_SHIM, HV_PAGE_ENTRY_USER, HV_MAP_USER);
	}
	return 0;
}

static void ops_pages_map(struct machine *m)
{
	for (unsigned int p = HV_PAGE_OPS; p < HV_PAGE_LIST_END; p++)
		hv_map(m, HV_VIEW_KERNEL, p, p, HV_MAP_WRITE);
}

static int software_prepare(struct machine *m, struct ramet_err *err)
{
	const struct syscall_entry entry = { .lstar = ENTRY_VA,
					     .cstar = ENTRY_VA + BACKEND_COMPAT_OFFSET,
					     .sfmask = SFMASK };
	struct software *sw = calloc(1, sizeof(*sw));
	int rc;

	if (!sw)
		return err_set(err, ENOMEM, "no memory for the vCPU");
	m->backend = sw;
	hv_gdt_init(m);
	backend_entry_page_init(m);
	if (m->fast_path)
		rc = software_shim_install(m, err);
	else
		rc = plain_install(m);
	if (rc)
		return rc;
	ops_pages_map(m);
	return backend_processor_init(m, &entry, err);
}

static int software_setup(struct machine *m, struct ramet_err *err)
{
	struct software *sw = m->backend;

	if (m->fast_path)
		software_shim_store(m);
	sw->hw_kernel = m->vcpu.kernel_mode;
	return backend_registers_init(m, err);
}

/* ---- page-table commits ---- */

static uint8_t *ops_generate(struct machine *m)
{
	static const uint8_t flush[] = {
		0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8
	}; /* mov cr3 both ways */
	bool wanted = m->mmu.flush;
	uint8_t *code = backend_ops_generate(m, hv_page_ptr(m, HV_PAGE_OPS));

	return wanted ? backend_emit(code, flush, sizeof(flush)) : code;
}

static int run_raw(struct machine *m)
{
	return backend_run(m, &software_get(m)->dirty);
}

/* Runs the pending operations to their end, apart from the guest's registers. */
static void software_mmu_commit(struct machine *m)
{
	static const uint8_t done[] = { 0xe6, PORT_OPS_DONE };
	struct software *sw = software_get(m);
	struct kvm_regs *r = &m->run->s.regs.regs;
	struct kvm_sregs *s = &m->run->s.regs.sregs;
	int rc;

	if (!sw) {
		mmu_pending_clear(m); /* nothing has run yet */
		return;
	}
	(void)backend_emit(ops_generate(m), done, sizeof(done));
	*r = (struct kvm_regs){ .rip = HV_PAGE_VA(HV_PAGE_OPS),
				.rsi = HV_PAGE_VA(HV_PAGE_LIST),
				.rsp = HV_PAGE_VA(HV_PAGE_STACK_END),
				.rflags = 2 };
	backend_segments_set(s, SEL_KERNEL_CS);
	s->cr3 = m->vcpu.kernel_cr3;
	sw->dirty = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
	do
		rc = run_raw(m);
	while (!rc && m->run->exit_reason == KVM_EXIT_INTR);
	if (!rc && (m->run->exit_reason != KVM_EXIT_IO || m->run->io.port != PORT_OPS_DONE))
		rc = -EIO;
	sw->commit_error = rc;
}

/* Makes the processor start in the operations' code, which then returns to the
 * guest's registers by itself. */
static void ops_prepare_entry(struct machine *m)
{
	struct kvm_regs *r = &m->run->s.regs.regs;
	const struct kvm_regs target = *r;
	struct kvm_sregs *s = &m->run->s.regs.sregs;
	uint64_t rsp;

	(void)backend_emit_return(m, ops_generate(m), &target, s->cs.selector, &rsp);
	r->rip = HV_PAGE_VA(HV_PAGE_OPS);
	r->rsi = HV_PAGE_VA(HV_PAGE_LIST);
	r->rsp = rsp;
	r->rflags = 2;
	backend_segments_set(s, SEL_KERNEL_CS);
	software_get(m)->dirty |= KVM_SYNC_X86_SREGS;
}

/* ---- entry ---- */

static uint64_t active_cr3(const struct machine *m)
{
	return mmu_root(m);
}

static void gs_swap(struct machine *m)
{
	struct software *sw = software_get(m);
	struct kvm_sregs *s = &m->run->s.regs.sregs;
	uint64_t other = sw->gs_other;

	sw->gs_other = s->gs.base;
	s->gs.base = other;
	sw->hw_kernel = !sw->hw_kernel;
	sw->dirty |= KVM_SYNC_X86_SREGS;
}

static void registers_store(struct machine *m)
{
	struct software *sw = software_get(m);
	struct kvm_sregs *s = &m->run->s.regs.sregs;

	m->run->s.regs.regs = m->vcpu.regs;
	sw->dirty |= KVM_SYNC_X86_REGS;
	if (s->cs.selector != m->vcpu.cs || s->cs.dpl != 3) {
		backend_segments_set(s, m->vcpu.cs);
		sw->dirty |= KVM_SYNC_X86_SREGS;
	}
	if (sw->hw_kernel != m->vcpu.kernel_mode)
		gs_swap(m);
	if (s->cr3 != active_cr3(m)) {
		s->cr3 = active_cr3(m);
		sw->dirty |= KVM_SYNC_X86_SREGS;
	}
	if (m->fast_path)
		software_shim_store(m);
}

/* ---- exit ---- */

static bool in_hypervisor_area(uint64_t rip)
{
	return rip >= HV_VA && rip < HV_VA + HV_SIZE;
}

/* The fast path runs at CPL 3 and must not fault either. */
static int decode_exception(struct machine *m, struct vcpu_exit *exit, uint8_t vector,
			    uint64_t frame_va, struct ramet_err *err)
{
	backend_exception_decode(m, exit, vector, frame_va, err);
	if (exit->kind == EXIT_EXCEPTION && m->vcpu.kernel_mode &&
	    in_hypervisor_area(m->vcpu.regs.rip))
		backend_exception_broken(m, exit, err);
	return 0;
}

/* An `in` is not over for KVM before the next KVM_RUN, which would then write
 * back registers of its own. Lets it end there, in vain: m->vcpu is kept. */
static void input_abandon(struct machine *m)
{
	uint32_t dirty = 0;

	m->run->immediate_exit = 1;
	(void)backend_run(m, &dirty);
	m->run->immediate_exit = 0;
}

/* The guest itself executed `in` or `out` on one of our ports: the fault that
 * it would have had. */
static void decode_guest_io(struct machine *m, struct vcpu_exit *exit)
{
	struct kvm_regs *r = &m->vcpu.regs;
	uint8_t opcode = 0;

	if (m->run->io.direction == KVM_EXIT_IO_IN) {
		input_abandon(m); /* rip is still at the instruction */
	} else {
		/* KVM has stepped over it: the form with the port in dx is one byte long. */
		(void)mmu_fetch(m, r->rip - 1, &opcode, 1);
		r->rip -= opcode == 0xee || opcode == 0xef ? 1 : OUT_LENGTH;
	}
	exit->kind = EXIT_EXCEPTION;
	exit->vector = VECTOR_GP;
	exit->error = 0;
}

static int decode_io(struct machine *m, struct vcpu_exit *exit, struct ramet_err *err)
{
	const struct kvm_sregs *s = &m->run->s.regs.sregs;
	struct vcpu *v = &m->vcpu;
	uint16_t port = m->run->io.port;
	int rc;

	if (s->cs.dpl == 0 && port < BACKEND_EXCEPTION_PORTS)
		return decode_exception(m, exit, (uint8_t)port, v->regs.rsp, err);
	if (s->cs.dpl == 0)
		return backend_broken(exit, err, "unexpected port access at CPL 0", v->regs.rip);
	if (!in_hypervisor_area(v->regs.rip) || m->run->io.direction == KVM_EXIT_IO_IN) {
		decode_guest_io(m, exit);
		return 0;
	}
	switch (port) {
	case PORT_SYSCALL:
		exit->kind = EXIT_SYSCALL;
		v->regs.rip = v->regs.rcx;
		v->regs.rflags = (v->regs.r11 & RFLAGS_GUEST) | RFLAGS_FIXED;
		return 0;
	case PORT_COMPAT:
		exit->kind = EXIT_COMPAT;
		v->regs.rip = (uint32_t)v->regs.rcx - 2;
		v->regs.rflags = (v->regs.r11 & RFLAGS_GUEST) | RFLAGS_FIXED;
		v->cs = SEL_USER32_CS;
		return 0;
	case PORT_FAULT: /* the page-fault stub has saved what the frame lacks */
		v->regs.rax = shim_data_get(m)->fault_rax;
		rc = decode_exception(m, exit, VECTOR_PF, HV_PAGE_VA(HV_PAGE_STACK_END) - 48, err);
		exit->cr2 = shim_data_get(m)->fault_cr2;
		return rc;
	case PORT_BP:
		v->regs.rax = shim_data_get(m)->fault_rax;
		return decode_exception(m, exit, VECTOR_BP, HV_PAGE_VA(HV_PAGE_STACK_END) - 40,
					err);
	case PORT_GP:
		return decode_exception(m, exit, VECTOR_GP, HV_PAGE_VA(HV_PAGE_IST_END) - 48, err);
	default:
		return backend_broken(exit, err, "unexpected port access in the hypervisor area",
				      v->regs.rip);
	}
}

static void decode_interrupted(struct machine *m, struct vcpu_exit *exit)
{
	const struct kvm_sregs *s = &m->run->s.regs.sregs;

	exit->kind = EXIT_INTERRUPTED;
	/* KVM says whether an event is half delivered; nobody but this knows of
	 * soft exceptions such as int3. */
	exit->injectable = m->run->ready_for_interrupt_injection && s->cs.dpl == 3 &&
			   !in_hypervisor_area(m->vcpu.regs.rip);
	software_get(m)->resume_raw = !exit->injectable;
}

static int decode(struct machine *m, struct vcpu_exit *exit, struct ramet_err *err)
{
	struct kvm_run *run = m->run;

	m->vcpu.regs = run->s.regs.regs;
	m->vcpu.regs.rflags = (m->vcpu.regs.rflags & RFLAGS_GUEST) | RFLAGS_FIXED;
	m->vcpu.cs = run->s.regs.sregs.cs.selector == SEL_USER32_CS ? SEL_USER32_CS : SEL_USER_CS;
	if (m->fast_path)
		software_shim_load(m);
	switch (run->exit_reason) {
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		decode_interrupted(m, exit);
		return 0;
	case KVM_EXIT_IO:
		return decode_io(m, exit, err);
	case KVM_EXIT_MMIO:
		backend_mmio_answer(m);
		exit->kind = EXIT_INTERRUPTED;
		exit->injectable = false;
		software_get(m)->resume_raw = true;
		return 0;
	default:
		return backend_decode_fatal(m, exit, err);
	}
}

/* Short enough not to be felt, long enough to leave the fast path's code; longer
 * each time, or a host that is slow to enter the guest never gets there. */
static void retry_soon(struct machine *m)
{
	struct software *sw = software_get(m);
	struct itimerspec spec = { .it_value = { .tv_nsec = 30000l << sw->retries } };

	if (sw->retries < RETRIES_MAX)
		sw->retries++;
	(void)timer_settime((timer_t)m->timer_id, 0, &spec, NULL);
}

static int software_enter(struct machine *m, struct vcpu_exit *exit, struct ramet_err *err)
{
	struct software *sw = software_get(m);
	bool raw = sw->resume_raw;
	int rc;

	sw->resume_raw = false;
	if (!raw) {
		sw->retries = 0;
		if (backend_ops_pending(m) && !m->vcpu.kernel_mode)
			software_mmu_commit(m);
		registers_store(m);
		if (backend_ops_pending(m))
			ops_prepare_entry(m);
	} else if (m->want_injection && in_hypervisor_area(m->run->s.regs.regs.rip)) {
		retry_soon(m);
	}
	if (sw->commit_error)
		return err_errno(err, -sw->commit_error, "cannot commit page-table changes");
	m->run->request_interrupt_window =
		m->want_injection && !in_hypervisor_area(m->run->s.regs.regs.rip);
	rc = run_raw(m);
	if (rc)
		return err_errno(err, -rc, "KVM_RUN");
	return decode(m, exit, err);
}

/* ---- bases ---- */

static uint64_t *base_slot(struct machine *m, enum segment_base base)
{
	struct software *sw = software_get(m);
	struct kvm_sregs *s = &m->run->s.regs.sregs;

	if (base == BASE_FS) {
		sw->dirty |= KVM_SYNC_X86_SREGS;
		return (uint64_t *)&s->fs.base;
	}
	if ((base == BASE_GS_KERNEL) == sw->hw_kernel) {
		sw->dirty |= KVM_SYNC_X86_SREGS;
		return (uint64_t *)&s->gs.base;
	}
	return &sw->gs_other;
}

static int software_base_get(struct machine *m, enum segment_base base, uint64_t *value)
{
	*value = *base_slot(m, base);
	return 0;
}

static int software_base_set(struct machine *m, enum segment_base base, uint64_t value)
{
	if (!trap_canonical(value))
		return -EINVAL;
	*base_slot(m, base) = value;
	return 0;
}

static void software_pv_changed(struct machine *m)
{
	if (m->fast_path && m->backend)
		software_shim_store(m);
}

const struct vcpu_ops vcpu_ops_software = {
	.name = "software",
	.prepare = software_prepare,
	.setup = software_setup,
	.enter = software_enter,
	.mmu_commit = software_mmu_commit,
	.base_get = software_base_get,
	.base_set = software_base_set,
	.pv_changed = software_pv_changed,
};
