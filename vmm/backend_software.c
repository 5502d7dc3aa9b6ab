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

#include "vmm/backend_software.h"
#include "vmm/mmu.h"
#include "vmm/trap.h"

#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SFMASK 0xc0000084u
/* TF DF NT AC. Not IF: at CPL 3 nothing would set it again, and KVM would see
 * a guest that never takes interrupts. */
#define SFMASK 0x44500u
#define ENTRY_VA HV_PAGE_VA(HV_PAGE_SHIM)
#define COMPAT_ENTRY_OFFSET 0x800u
#define OUT_LENGTH 2u
#define EXCEPTION_PORTS 32u

static struct software *software_get(const struct machine *m)
{
	return m->backend;
}

/* ---- set-up ---- */

static void entry_page_init(struct machine *m)
{
	static const uint8_t entry[] = { 0xe6, PORT_SYSCALL, 0x0f, 0x0b };
	static const uint8_t compat[] = { 0xe6, PORT_COMPAT, 0x0f, 0x0b };
	uint8_t *page = hv_page_ptr(m, HV_PAGE_ENTRY_USER);

	memcpy(page, entry, sizeof(entry));
	memcpy(page + COMPAT_ENTRY_OFFSET, compat, sizeof(compat));
}

static int plain_install(struct machine *m)
{
	hv_views_init(m, HV_MAP_WRITE);
	hv_tss_init(m, HV_PAGE_TSS, 1u << (PORT_SYSCALL - PORT_FIRST) | 1u << (PORT_COMPAT - PORT_FIRST));
	hv_stubs_init(m, HV_PAGE_STUBS);
	for (unsigned int v = 0; v < 256; v++)
		hv_gate_set(m, HV_PAGE_IDT, (uint8_t)v, HV_PAGE_VA(HV_PAGE_STUBS) + v * HV_STUB_SIZE,
			    SEL_KERNEL_CS, v == 3 || v == 4 || v == 0x80 ? 3 : 0, 0);
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

static struct kvm_segment segment(uint16_t selector, uint8_t type, uint8_t dpl, bool code, bool wide)
{
	return (struct kvm_segment){ .limit = 0xffffffff, .selector = selector, .present = 1,
				     .type = type, .dpl = dpl, .s = 1, .g = 1,
				     .l = code && wide, .db = !(code && wide) };
}

static void segments_set(struct kvm_sregs *s, uint16_t cs)
{
	bool kernel = cs == SEL_KERNEL_CS;

	s->cs = segment(cs, 11, kernel ? 0 : 3, true, cs != SEL_USER32_CS);
	s->ss = segment(kernel ? SEL_KERNEL_SS : SEL_USER_SS, 3, kernel ? 0 : 3, false, false);
}

static int processor_init(struct machine *m, struct ramet_err *err)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[4];
	} msrs = { .head = { .nmsrs = 4 },
		   .entries = { { .index = MSR_STAR,
				  .data = (uint64_t)SEL_KERNEL_CS << 32 | (uint64_t)SEL_USER32_CS << 48 },
				{ .index = MSR_LSTAR, .data = ENTRY_VA },
				{ .index = MSR_CSTAR, .data = ENTRY_VA + COMPAT_ENTRY_OFFSET },
				{ .index = MSR_SFMASK, .data = SFMASK } } };
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = m->xcr0 } } };
	struct kvm_sregs s;
	int n;

	if (ioctl(m->vcpu_fd, KVM_GET_SREGS, &s))
		return err_errno(err, errno, "KVM_GET_SREGS");
	s.cr0 = 0x80050033;   /* PG AM WP NE ET MP PE */
	s.cr3 = m->vcpu.kernel_cr3;
	s.cr4 = 0x40620;      /* PAE OSFXSR OSXMMEXCPT OSXSAVE */
	s.efer = 0xd01;       /* SCE LME LMA NX */
	s.gdt.base = HV_PAGE_VA(HV_PAGE_GDT);
	s.gdt.limit = GDT_LIMIT;
	s.idt.base = HV_PAGE_VA(HV_PAGE_IDT);
	s.idt.limit = 0xfff;
	segments_set(&s, SEL_USER_CS);
	s.ds = s.es = s.fs = s.gs = s.ss;
	s.fs.selector = s.gs.selector = 0;
	s.tr = (struct kvm_segment){ .base = HV_PAGE_VA(HV_PAGE_TSS), .limit = HV_TSS_LIMIT,
				     .selector = SEL_TSS, .present = 1, .type = 11 };
	if (ioctl(m->vcpu_fd, KVM_SET_SREGS, &s))
		return err_errno(err, errno, "KVM_SET_SREGS");
	n = ioctl(m->vcpu_fd, KVM_SET_MSRS, &msrs);
	if (n != (int)msrs.head.nmsrs)
		return err_set(err, EIO, "KVM_SET_MSRS accepted %d of %u, not index %#x", n,
			       msrs.head.nmsrs, n < 0 ? 0 : msrs.entries[n].index);
	if (ioctl(m->vcpu_fd, KVM_SET_XCRS, &xcrs))
		return err_errno(err, errno, "KVM_SET_XCRS %#llx", (unsigned long long)m->xcr0);
	m->run->s.regs.sregs = s;
	return 0;
}

static int software_setup(struct machine *m, struct ramet_err *err)
{
	struct software *sw = calloc(1, sizeof(*sw));
	int rc;

	if (!sw)
		return err_set(err, ENOMEM, "no memory for the vCPU");
	m->backend = sw;
	hv_gdt_init(m);
	entry_page_init(m);
	if (m->fast_path)
		rc = software_shim_install(m, err);
	else
		rc = plain_install(m);
	if (rc)
		return rc;
	ops_pages_map(m);
	rc = processor_init(m, err);
	if (rc)
		return rc;
	sw->hw_kernel = m->vcpu.kernel_mode;
	m->run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
	return 0;
}

/* ---- page-table commits ---- */

static uint8_t *emit(uint8_t *code, const uint8_t *bytes, size_t len)
{
	memcpy(code, bytes, len);
	return code + len;
}

/* Writes CPL-0 code that touches every changed entry (an emulated write, which
 * KVM sees), invalidates addresses and flushes. Operands come from a list that
 * rsi points to. Returns where to append. */
static uint8_t *ops_generate(struct machine *m)
{
	static const uint8_t touch[] = { 0x48, 0xad, 0x80, 0x08, 0x00 };  /* lodsq; orb $0,(rax) */
	static const uint8_t invlpg[] = { 0x48, 0xad, 0x0f, 0x01, 0x38 }; /* lodsq; invlpg (rax) */
	static const uint8_t flush[] = { 0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8 }; /* mov cr3 both ways */
	uint8_t *code = hv_page_ptr(m, HV_PAGE_OPS);
	uint64_t *list = hv_page_ptr(m, HV_PAGE_LIST);

	for (uint32_t i = 0; i < m->mmu.touch_count; i++) {
		*list++ = DM_VA + m->mmu.touch[i];
		code = emit(code, touch, sizeof(touch));
	}
	for (uint32_t i = 0; !m->mmu.flush && i < m->mmu.invlpg_count; i++) {
		*list++ = m->mmu.invlpg[i];
		code = emit(code, invlpg, sizeof(invlpg));
	}
	if (m->mmu.flush)
		code = emit(code, flush, sizeof(flush));
	mmu_pending_clear(m);
	return code;
}

static bool ops_pending(const struct machine *m)
{
	return m->mmu.touch_count || m->mmu.invlpg_count || m->mmu.flush;
}

static int run_raw(struct machine *m)
{
	m->run->kvm_dirty_regs = software_get(m)->dirty;
	software_get(m)->dirty = 0;
	if (ioctl(m->vcpu_fd, KVM_RUN, 0) == 0)
		return 0;
	if (errno != EINTR && errno != EAGAIN)
		return -errno;
	m->run->exit_reason = KVM_EXIT_INTR;
	return 0;
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
	(void)emit(ops_generate(m), done, sizeof(done));
	*r = (struct kvm_regs){ .rip = HV_PAGE_VA(HV_PAGE_OPS),
				.rsi = HV_PAGE_VA(HV_PAGE_LIST),
				.rsp = HV_PAGE_VA(HV_PAGE_STACK_END),
				.rflags = 2 };
	segments_set(s, SEL_KERNEL_CS);
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
	static const uint8_t leave[] = { 0x5e, 0x58, 0x48, 0xcf }; /* pop rsi; pop rax; iretq */
	struct kvm_regs *r = &m->run->s.regs.regs;
	struct kvm_sregs *s = &m->run->s.regs.sregs;
	const uint64_t frame[] = { r->rsi, r->rax, r->rip, s->cs.selector,
				   r->rflags, r->rsp, s->ss.selector };
	uint8_t *top = hv_page_ptr(m, HV_PAGE_STACK_END);

	(void)emit(ops_generate(m), leave, sizeof(leave));
	memcpy(top - sizeof(frame), frame, sizeof(frame));
	r->rip = HV_PAGE_VA(HV_PAGE_OPS);
	r->rsi = HV_PAGE_VA(HV_PAGE_LIST);
	r->rsp = HV_PAGE_VA(HV_PAGE_STACK_END) - sizeof(frame);
	r->rflags = 2;
	segments_set(s, SEL_KERNEL_CS);
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
		segments_set(s, m->vcpu.cs);
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

static int broken(struct vcpu_exit *exit, struct ramet_err *err, const char *what, uint64_t rip)
{
	exit->kind = EXIT_BROKEN;
	(void)err_set(err, EIO, "%s at %#llx", what, (unsigned long long)rip);
	return 0;
}

/* Takes the interrupted state from an exception frame in the hypervisor area. */
static int decode_exception(struct machine *m, struct vcpu_exit *exit, uint8_t vector,
			    uint64_t frame_va, struct ramet_err *err)
{
	bool has_error = vector == VECTOR_DF || (vector >= 10 && vector <= 14) || vector == 17;
	const uint64_t *frame = hv_va_ptr(m, frame_va, (has_error ? 6 : 5) * 8, HV_PAGE_STACK,
					  HV_PAGE_IST_END);
	struct vcpu *v = &m->vcpu;

	if (!frame)
		return broken(exit, err, "an exception frame is not on the exception stack", frame_va);
	exit->kind = EXIT_EXCEPTION;
	exit->vector = vector;
	exit->error = has_error ? (uint32_t)*frame++ : 0;
	exit->cr2 = m->run->s.regs.sregs.cr2;
	v->regs.rip = frame[0];
	v->cs = (uint16_t)frame[1] == SEL_USER32_CS ? SEL_USER32_CS : SEL_USER_CS;
	v->regs.rflags = (frame[2] & RFLAGS_GUEST) | RFLAGS_FIXED;
	v->regs.rsp = frame[3];
	if (!(frame[1] & 3) || (v->kernel_mode && in_hypervisor_area(frame[0]))) {
		exit->kind = EXIT_BROKEN;
		(void)err_set(err, EIO, "exception %u (error %#x, address %#llx) in the hypervisor's own code at %#llx", vector, exit->error,
			(unsigned long long)exit->cr2, (unsigned long long)frame[0]);
	}
	return 0;
}

/* The guest itself executed `in` or `out` on one of our ports: the fault that
 * it would have had. */
static void decode_guest_io(struct machine *m, struct vcpu_exit *exit)
{
	struct kvm_regs *r = &m->vcpu.regs;
	uint8_t opcode = 0;

	/* KVM has stepped over it: the form with the port in dx is one byte long. */
	(void)mmu_fetch(m, r->rip - 1, &opcode, 1);
	r->rip -= opcode >= 0xec && opcode <= 0xef ? 1 : OUT_LENGTH;
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

	if (s->cs.dpl == 0 && port < EXCEPTION_PORTS)
		return decode_exception(m, exit, (uint8_t)port, v->regs.rsp, err);
	if (s->cs.dpl == 0)
		return broken(exit, err, "unexpected port access at CPL 0", v->regs.rip);
	if (!in_hypervisor_area(v->regs.rip)) {
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
		return decode_exception(m, exit, VECTOR_BP, HV_PAGE_VA(HV_PAGE_STACK_END) - 40, err);
	case PORT_GP:
		return decode_exception(m, exit, VECTOR_GP, HV_PAGE_VA(HV_PAGE_IST_END) - 48, err);
	default:
		return broken(exit, err, "unexpected port access in the hypervisor area", v->regs.rip);
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
	case KVM_EXIT_MMIO: /* nothing is there: reads give all ones */
		if (!run->mmio.is_write)
			memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
		exit->kind = EXIT_INTERRUPTED;
		exit->injectable = false;
		software_get(m)->resume_raw = true;
		return 0;
	case KVM_EXIT_SHUTDOWN:
		return broken(exit, err, "triple fault", m->vcpu.regs.rip);
	case KVM_EXIT_INTERNAL_ERROR:
		return broken(exit, err, "KVM cannot execute the guest's code", m->vcpu.regs.rip);
	default:
		(void)broken(exit, err, "unexpected exit", m->vcpu.regs.rip);
		return 0;
	}
}

/* Short enough not to be felt, long enough to leave the fast path's code. */
static void retry_soon(struct machine *m)
{
	struct itimerspec spec = { .it_value = { .tv_nsec = 30000 } };

	(void)timer_settime((timer_t)m->timer_id, 0, &spec, NULL);
}

static int software_enter(struct machine *m, struct vcpu_exit *exit, struct ramet_err *err)
{
	struct software *sw = software_get(m);
	bool raw = sw->resume_raw;
	int rc;

	sw->resume_raw = false;
	if (!raw) {
		if (ops_pending(m) && !m->vcpu.kernel_mode)
			software_mmu_commit(m);
		registers_store(m);
		if (ops_pending(m))
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
	.setup = software_setup,
	.enter = software_enter,
	.mmu_commit = software_mmu_commit,
	.base_get = software_base_get,
	.base_set = software_base_set,
	.pv_changed = software_pv_changed,
};
