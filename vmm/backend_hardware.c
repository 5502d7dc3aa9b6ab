/* The seam for KVMs with hardware virtualisation (VMX, SVM): the architecture
 * holds. `syscall` and gates raise the privilege level, so every way into the
 * hypervisor area arrives at CPL 0, in the page tables of whoever was
 * interrupted. What lies there is mapped alike in both views and is not
 * accessible at CPL 3; guest kernel and user space always have page tables of
 * their own, so both isolation modes give `full`.
 *
 * On the plain path every entry is an `out` to the VMM; with the fast path the
 * hot ones are handled at CPL 0 inside the guest (vmm/shim). Either way the
 * vCPU normally stops at CPL 0 and goes on in generated CPL-0 code, which
 * commits page-table changes, switches CR3 and GS and returns to the guest: the
 * segment registers need not be loaded by KVM.
 *
 * After an `out` the hardware's RIP is still that of the instruction, and KVM
 * steps over it when the vCPU is entered there again: never go on at the address
 * that was left. */
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "vmm/backend_common.h"
#include "vmm/backend_hardware.h"
#include "vmm/mmu.h"
#include "vmm/trap.h"

#define MSR_KERNEL_GS_BASE 0xc0000102u
#define SFMASK             0x47700u /* TF IF DF IOPL NT AC */

static struct hardware *hardware_get(const struct machine *m)
{
	return m->backend;
}

/* ---- set-up ---- */

/* The guest reads the TSC natively and the VMM computes guest time from its
 * own: they must be the same. */
static int tsc_init(struct machine *m, struct ramet_err *err)
{
	uint64_t offset = 0;
	struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL,
					.attr = KVM_VCPU_TSC_OFFSET,
					.addr = (uint64_t)&offset };

	if (ioctl(m->vcpu_fd, KVM_SET_DEVICE_ATTR, &attr))
		return err_errno(err, errno,
				 "the vCPU's TSC offset cannot be set (needs Linux 5.16 or newer)");
	return 0;
}

static int hardware_prepare(struct machine *m, struct ramet_err *err)
{
	const struct syscall_entry entry = {
		.lstar = m->fast_path ? SHIM_ENTRY_VA : HV_PAGE_VA(HV_PAGE_ENTRY_USER),
		.cstar = HV_PAGE_VA(HV_PAGE_ENTRY_USER) + BACKEND_COMPAT_OFFSET,
		.sfmask = SFMASK,
	};
	struct hardware *hw = calloc(1, sizeof(*hw));
	int rc;

	if (!hw)
		return err_set(err, ENOMEM, "no memory for the vCPU");
	m->backend = hw;
	hardware_area_build(m);
	rc = tsc_init(m, err);
	return rc ? rc : backend_processor_init(m, &entry, err);
}

static int hardware_setup(struct machine *m, struct ramet_err *err)
{
	struct hardware *hw = m->backend;

	if (m->fast_path)
		backend_shim_store(m);
	hw->kernel_gs = m->vcpu.kernel_mode;
	return backend_registers_init(m, err);
}

/* ---- entering: page-table commits and the way back into the guest ---- */

static uint8_t *emit_cr3(uint8_t *code, uint64_t cr3) /* movabs $cr3, %rax; mov %rax, %cr3 */
{
	code = backend_emit(code, (const uint8_t[]){ 0x48, 0xb8 }, 2);
	code = backend_emit(code, &cr3, sizeof(cr3));
	return backend_emit(code, (const uint8_t[]){ 0x0f, 0x22, 0xd8 }, 3);
}

static uint8_t *emit_swapgs(uint8_t *code)
{
	return backend_emit(code, (const uint8_t[]){ 0x0f, 0x01, 0xf8 }, 3);
}

/* Code for the pending operations that leaves the root `target` active. */
static uint8_t *emit_ops(struct machine *m, uint64_t target)
{
	uint8_t *code = hv_page_ptr(m, HV_PAGE_OPS);
	uint64_t active = m->run->s.regs.sregs.cr3;
	bool flush = m->mmu.flush;

	/* Only the kernel's root has the direct map. */
	if (m->mmu.touch_count && active != m->vcpu.kernel_cr3) {
		active = m->vcpu.kernel_cr3;
		code = emit_cr3(code, active);
	}
	code = backend_ops_generate(m, code);
	return flush || active != target ? emit_cr3(code, target) : code;
}

/* Lets the vCPU start in the generated code, at CPL 0. */
static void start_at_ops(struct machine *m, struct kvm_regs regs)
{
	struct kvm_sregs *s = &m->run->s.regs.sregs;
	struct hardware *hw = hardware_get(m);

	regs.rip = HV_PAGE_VA(HV_PAGE_OPS);
	regs.rsi = HV_PAGE_VA(HV_PAGE_LIST);
	regs.rflags = 2;
	m->run->s.regs.regs = regs;
	hw->dirty |= KVM_SYNC_X86_REGS;
	if (s->cs.dpl != 0) {
		backend_segments_set(s, SEL_KERNEL_CS);
		hw->dirty |= KVM_SYNC_X86_SREGS;
	}
}

static void hardware_mmu_commit(struct machine *m)
{
	static const uint8_t done[] = { 0xe6, PORT_OPS_DONE };
	struct kvm_regs regs = { .rsp = HV_PAGE_VA(HV_PAGE_STACK_END) };
	struct hardware *hw = hardware_get(m);
	int rc;

	if (!hw || !backend_ops_pending(m)) {
		mmu_pending_clear(m); /* without hw nothing has run yet */
		return;
	}
	(void)backend_emit(emit_ops(m, m->vcpu.kernel_cr3), done, sizeof(done));
	start_at_ops(m, regs);
	m->run->request_interrupt_window = 0;
	do
		rc = backend_run(m, &hw->dirty);
	while (!rc && m->run->exit_reason == KVM_EXIT_INTR);
	if (!rc && (m->run->exit_reason != KVM_EXIT_IO || m->run->io.port != PORT_OPS_DONE))
		rc = -EIO;
	hw->commit_error = rc;
}

/* Whether the processor is where the guest is to go on, but for its general
 * registers: it was stopped by a signal and nothing came of it. */
static bool state_is_loaded(const struct machine *m)
{
	const struct kvm_sregs *s = &m->run->s.regs.sregs;

	return s->cs.dpl == 3 && s->cs.selector == m->vcpu.cs && s->cr3 == mmu_root(m) &&
	       hardware_get(m)->kernel_gs == m->vcpu.kernel_mode && !backend_ops_pending(m);
}

static void state_store(struct machine *m)
{
	struct hardware *hw = hardware_get(m);
	struct kvm_regs regs = m->vcpu.regs;
	uint64_t rsp;
	uint8_t *code;

	if (m->fast_path)
		backend_shim_store(m);
	if (state_is_loaded(m)) {
		m->run->s.regs.regs = regs;
		hw->dirty |= KVM_SYNC_X86_REGS;
		return;
	}
	code = emit_ops(m, mmu_root(m));
	if (hw->kernel_gs != m->vcpu.kernel_mode)
		code = emit_swapgs(code);
	hw->kernel_gs = m->vcpu.kernel_mode;
	(void)backend_emit_return(m, code, &regs, m->vcpu.cs, &rsp);
	regs.rsp = rsp;
	start_at_ops(m, regs);
}

/* Where iretq would fault. User space may ask for such a place; its kernel gets
 * the fault that the processor would give. */
static bool rip_is_valid(const struct vcpu *v)
{
	return trap_canonical(v->regs.rip) && (v->cs == SEL_USER_CS || v->regs.rip >> 32 == 0);
}

static int refuse_rip(struct machine *m, struct vcpu_exit *exit, struct ramet_err *err)
{
	if (m->vcpu.kernel_mode)
		return backend_broken(exit, err, "the guest kernel goes on", m->vcpu.regs.rip);
	*exit = (struct vcpu_exit){ .kind = EXIT_EXCEPTION, .vector = VECTOR_GP };
	return 0;
}

/* ---- leaving ---- */

static int decode_io(struct machine *m, struct vcpu_exit *exit, struct ramet_err *err)
{
	uint16_t port = m->run->io.port;
	struct vcpu *v = &m->vcpu;

	if (m->run->s.regs.sregs.cs.dpl != 0)
		return backend_broken(exit, err, "port access at CPL 3", v->regs.rip);
	if (port < BACKEND_EXCEPTION_PORTS || port == PORT_INT80) {
		backend_exception_decode(m, exit,
					 (uint8_t)(port == PORT_INT80 ? VECTOR_INT80 : port),
					 v->regs.rsp, err);
		return 0;
	}
	switch (port) {
	case PORT_SYSCALL:
		exit->kind = EXIT_SYSCALL;
		v->regs.rip = v->regs.rcx;
		break;
	case PORT_COMPAT:
		exit->kind = EXIT_COMPAT;
		v->regs.rip = (uint32_t)v->regs.rcx - 2;
		v->cs = SEL_USER32_CS;
		break;
	default:
		return backend_broken(exit, err, "unexpected port access at CPL 0", v->regs.rip);
	}
	v->regs.rflags = (v->regs.r11 & RFLAGS_GUEST) | RFLAGS_FIXED;
	return 0;
}

static void decode_interrupted(struct machine *m, struct vcpu_exit *exit, bool injectable)
{
	exit->kind = EXIT_INTERRUPTED;
	exit->injectable = injectable;
	hardware_get(m)->resume_raw = !injectable;
}

static int decode(struct machine *m, struct vcpu_exit *exit, struct ramet_err *err)
{
	struct kvm_run *run = m->run;
	const struct kvm_sregs *s = &run->s.regs.sregs;
	struct vcpu *v = &m->vcpu;

	v->regs = run->s.regs.regs;
	v->regs.rflags = (v->regs.rflags & RFLAGS_GUEST) | RFLAGS_FIXED;
	v->cs = s->cs.selector == SEL_USER32_CS ? SEL_USER32_CS : SEL_USER_CS;
	if (m->fast_path) {
		backend_shim_load(m);
		hardware_get(m)->kernel_gs = v->kernel_mode;
	}
	switch (run->exit_reason) {
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		/* CPL 3 always has IF set, and KVM knows of half-delivered events. */
		decode_interrupted(m, exit, run->ready_for_interrupt_injection && s->cs.dpl == 3);
		return 0;
	case KVM_EXIT_IO:
		return decode_io(m, exit, err);
	case KVM_EXIT_MMIO:
		backend_mmio_answer(m);
		decode_interrupted(m, exit, false);
		return 0;
	default:
		return backend_decode_fatal(m, exit, err);
	}
}

static int hardware_enter(struct machine *m, struct vcpu_exit *exit, struct ramet_err *err)
{
	struct hardware *hw = hardware_get(m);
	int rc;

	if (hw->resume_raw)
		hw->resume_raw = false;
	else if (!rip_is_valid(&m->vcpu))
		return refuse_rip(m, exit, err);
	else
		state_store(m);
	if (hw->commit_error)
		return err_errno(err, -hw->commit_error, "cannot commit page-table changes");
	m->run->request_interrupt_window = m->want_injection;
	rc = backend_run(m, &hw->dirty);
	if (rc)
		return err_errno(err, -rc, "KVM_RUN");
	return decode(m, exit, err);
}

/* ---- bases ---- */

/* The active base is in the registers shared with KVM; NULL for the other GS. */
static uint64_t *base_slot(struct machine *m, enum segment_base base)
{
	struct kvm_sregs *s = &m->run->s.regs.sregs;

	if (base == BASE_FS)
		return (uint64_t *)&s->fs.base;
	if ((base == BASE_GS_KERNEL) == hardware_get(m)->kernel_gs)
		return (uint64_t *)&s->gs.base;
	return NULL;
}

static int hardware_base_get(struct machine *m, enum segment_base base, uint64_t *value)
{
	const uint64_t *slot = base_slot(m, base);

	struct kvm_msr_entry inactive = { .index = MSR_KERNEL_GS_BASE };
	int rc;

	if (slot) {
		*value = *slot;
		return 0;
	}
	rc = backend_msrs(m, KVM_GET_MSRS, &inactive, 1);
	if (!rc)
		*value = inactive.data;
	return rc;
}

static int hardware_base_set(struct machine *m, enum segment_base base, uint64_t value)
{
	struct kvm_msr_entry inactive = { .index = MSR_KERNEL_GS_BASE, .data = value };
	uint64_t *slot = base_slot(m, base);

	if (!trap_canonical(value))
		return -EINVAL;
	if (!slot)
		return backend_msrs(m, KVM_SET_MSRS, &inactive, 1);
	*slot = value;
	hardware_get(m)->dirty |= KVM_SYNC_X86_SREGS;
	return 0;
}

static void hardware_pv_changed(struct machine *m)
{
	if (m->fast_path && m->backend)
		backend_shim_store(m);
}

const struct vcpu_ops vcpu_ops_hardware = {
	.name = "hardware",
	.prepare = hardware_prepare,
	.setup = hardware_setup,
	.enter = hardware_enter,
	.mmu_commit = hardware_mmu_commit,
	.base_get = hardware_base_get,
	.base_set = hardware_base_set,
	.pv_changed = hardware_pv_changed,
};
