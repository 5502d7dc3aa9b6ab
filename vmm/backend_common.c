/* Back-end parts that do not depend on the kind of KVM: see backend_common.h.
 * Control registers, MSRs, frames: AMD64 Architecture Programmer's Manual
 * volume 2. */
#include "vmm/backend_common.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/mmu.h"
#include "vmm/trap.h"

#define MSR_STAR         0xc0000081u
#define MSR_LSTAR        0xc0000082u
#define MSR_CSTAR        0xc0000083u
#define MSR_SFMASK       0xc0000084u
#define CR0_FIXED        0x80050033ull /* PG AM WP NE ET MP PE */
#define CR4_FIXED        0x40620ull    /* PAE OSFXSR OSXMMEXCPT OSXSAVE */
#define EFER_FIXED       0xd01ull      /* SCE LME LMA NX */
#define SEGMENT_CODE     11            /* readable, accessed */
#define SEGMENT_DATA     3             /* writable, accessed */
#define SEGMENT_TSS_BUSY 11

/* ---- the fast path's page ---- */

void backend_shim_init(struct machine *m, bool split_roots)
{
	struct shim_data *d = shim_data_get(m);

	memset(d, 0, PAGE_SIZE);
	d->ram_bytes = m->mem.ram_bytes;
	d->levels = DM_VA + m->mem.levels_gpa;
	d->direct_map = d->quiet_map = DM_VA;
	d->split_roots = split_roots;
}

/* The guest kernel may be able to write to the page: a root that KVM would
 * refuse becomes frame 0, with which the guest ends by its own fault. */
static uint64_t root_checked(const struct machine *m, uint64_t root)
{
	root &= PTE_FRAME;
	return guest_ram_has(&m->mem, root, PAGE_SIZE) ? root : 0;
}

void backend_shim_load(struct machine *m)
{
	const struct shim_data *d = shim_data_get(m);
	struct vcpu *v = &m->vcpu;

	v->kernel_mode = d->kernel_mode != 0;
	v->kernel_sp = d->kernel_sp;
	v->kernel_cr3 = root_checked(m, d->kernel_cr3);
	v->user_cr3 = root_checked(m, d->user_cr3);
}

void backend_shim_store(struct machine *m)
{
	struct shim_data *d = shim_data_get(m);
	const struct vcpu *v = &m->vcpu;

	d->kernel_mode = v->kernel_mode;
	d->kernel_sp = v->kernel_sp;
	d->kernel_cr3 = v->kernel_cr3;
	d->user_cr3 = v->user_cr3;
	d->vcpu_info = DM_VA + m->pv.vcpu_info_gpa;
	d->syscall_cb = m->pv.syscall_callback;
	d->syscall_mask = m->pv.syscall_masks_events;
	d->fault_cb = m->pv.traps[VECTOR_PF].address;
	d->fault_mask = m->pv.traps[VECTOR_PF].masks_events;
	d->break_cb = m->pv.traps[VECTOR_BP].address;
	d->break_mask = m->pv.traps[VECTOR_BP].masks_events;
}

/* ---- the processor's fixed state ---- */

static struct kvm_segment segment(uint16_t selector, uint8_t type, uint8_t dpl, bool wide_code)
{
	return (struct kvm_segment){ .limit = 0xffffffff,
				     .selector = selector,
				     .present = 1,
				     .type = type,
				     .dpl = dpl,
				     .s = 1,
				     .g = 1,
				     .l = wide_code,
				     .db = !wide_code };
}

void backend_segments_set(struct kvm_sregs *s, uint16_t cs)
{
	bool kernel = cs == SEL_KERNEL_CS;

	s->cs = segment(cs, SEGMENT_CODE, kernel ? 0 : 3, cs != SEL_USER32_CS);
	s->ss = segment(kernel ? SEL_KERNEL_SS : SEL_USER_SS, SEGMENT_DATA, kernel ? 0 : 3, false);
}

int backend_registers_init(struct machine *m, struct ramet_err *err)
{
	struct kvm_sregs s;

	if (ioctl(m->vcpu_fd, KVM_GET_SREGS, &s))
		return err_errno(err, errno, "KVM_GET_SREGS");
	s.cr0 = CR0_FIXED;
	s.cr3 = m->vcpu.kernel_cr3;
	s.cr4 = CR4_FIXED;
	s.efer = EFER_FIXED;
	s.gdt.base = HV_PAGE_VA(HV_PAGE_GDT);
	s.gdt.limit = GDT_LIMIT;
	s.idt.base = HV_PAGE_VA(HV_PAGE_IDT);
	s.idt.limit = 0xfff;
	backend_segments_set(&s, SEL_USER_CS);
	s.ds = s.es = s.fs = s.gs = s.ss;
	s.fs.selector = s.gs.selector = 0;
	s.tr = (struct kvm_segment){ .base = HV_PAGE_VA(HV_PAGE_TSS),
				     .limit = HV_TSS_LIMIT,
				     .selector = SEL_TSS,
				     .present = 1,
				     .type = SEGMENT_TSS_BUSY };
	if (ioctl(m->vcpu_fd, KVM_SET_SREGS, &s))
		return err_errno(err, errno, "KVM_SET_SREGS");
	m->has_guest = true;
	m->run->s.regs.sregs = s;
	m->run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
	return 0;
}

int backend_msrs(const struct machine *m, unsigned long request, struct kvm_msr_entry *entries,
		 uint32_t count)
{
	union {
		struct kvm_msrs head;
		uint8_t room[sizeof(struct kvm_msrs) + BACKEND_MSRS_MAX * sizeof(*entries)];
	} msrs = { .room = { 0 } };
	int n;

	if (count > BACKEND_MSRS_MAX)
		return -EINVAL;
	msrs.head.nmsrs = count;
	memcpy(msrs.head.entries, entries, count * sizeof(*entries));
	n = ioctl(m->vcpu_fd, request, &msrs);
	if (n < 0)
		return -errno;
	if (n != (int)count)
		return -EINVAL;
	memcpy(entries, msrs.head.entries, count * sizeof(*entries));
	return 0;
}

static int msrs_init(struct machine *m, const struct syscall_entry *entry, struct ramet_err *err)
{
	struct kvm_msr_entry entries[] = {
		{ .index = MSR_STAR,
		  .data = (uint64_t)SEL_KERNEL_CS << 32 | (uint64_t)SEL_USER32_CS << 48 },
		{ .index = MSR_LSTAR, .data = entry->lstar },
		{ .index = MSR_CSTAR, .data = entry->cstar },
		{ .index = MSR_SFMASK, .data = entry->sfmask },
	};
	int rc = backend_msrs(m, KVM_SET_MSRS, entries, sizeof(entries) / sizeof(entries[0]));

	return rc ? err_errno(err, -rc, "KVM_SET_MSRS of the system call entry") : 0;
}

int backend_processor_init(struct machine *m, const struct syscall_entry *entry,
			   struct ramet_err *err)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = m->xcr0 } } };
	int rc = msrs_init(m, entry, err);

	if (rc)
		return rc;
	if (ioctl(m->vcpu_fd, KVM_SET_XCRS, &xcrs))
		return err_errno(err, errno, "KVM_SET_XCRS %#llx", (unsigned long long)m->xcr0);
	return 0;
}

void backend_entry_page_init(struct machine *m)
{
	static const uint8_t entry[] = { 0xe6, PORT_SYSCALL, 0x0f, 0x0b }; /* out; ud2 */
	static const uint8_t compat[] = { 0xe6, PORT_COMPAT, 0x0f, 0x0b };
	uint8_t *page = hv_page_ptr(m, HV_PAGE_ENTRY_USER);

	memcpy(page, entry, sizeof(entry));
	memcpy(page + BACKEND_COMPAT_OFFSET, compat, sizeof(compat));
}

/* ---- generated code ---- */

uint8_t *backend_emit(uint8_t *code, const void *bytes, size_t len)
{
	memcpy(code, bytes, len);
	return code + len;
}

bool backend_ops_pending(const struct machine *m)
{
	return m->mmu.touch_count || m->mmu.invlpg_count || m->mmu.flush;
}

uint8_t *backend_ops_generate(struct machine *m, uint8_t *code)
{
	static const uint8_t touch[] = { 0x48, 0xad, 0x80, 0x08, 0x00 };  /* lodsq; orb $0,(rax) */
	static const uint8_t invlpg[] = { 0x48, 0xad, 0x0f, 0x01, 0x38 }; /* lodsq; invlpg (rax) */
	uint64_t *list = hv_page_ptr(m, HV_PAGE_LIST);

	for (uint32_t i = 0; i < m->mmu.touch_count; i++) {
		*list++ = DM_VA + m->mmu.touch[i];
		code = backend_emit(code, touch, sizeof(touch));
	}
	for (uint32_t i = 0; !m->mmu.flush && i < m->mmu.invlpg_count; i++) {
		*list++ = m->mmu.invlpg[i];
		code = backend_emit(code, invlpg, sizeof(invlpg));
	}
	mmu_pending_clear(m);
	return code;
}

uint8_t *backend_emit_return(struct machine *m, uint8_t *code, const struct kvm_regs *regs,
			     uint16_t cs, uint64_t *rsp)
{
	static const uint8_t leave[] = { 0x5e, 0x58, 0x48, 0xcf }; /* pop rsi; pop rax; iretq */
	const uint64_t frame[] = { regs->rsi,    regs->rax, regs->rip,  cs,
				   regs->rflags, regs->rsp, SEL_USER_SS };

	memcpy((uint8_t *)hv_page_ptr(m, HV_PAGE_STACK_END) - sizeof(frame), frame, sizeof(frame));
	*rsp = HV_PAGE_VA(HV_PAGE_STACK_END) - sizeof(frame);
	return backend_emit(code, leave, sizeof(leave));
}

/* ---- entering and leaving ---- */

int backend_run(struct machine *m, uint32_t *dirty)
{
	m->run->kvm_dirty_regs = *dirty;
	*dirty = 0;
	if (ioctl(m->vcpu_fd, KVM_RUN, 0) == 0)
		return 0;
	if (errno != EINTR && errno != EAGAIN)
		return -errno;
	m->run->exit_reason = KVM_EXIT_INTR;
	return 0;
}

int backend_broken(struct vcpu_exit *exit, struct ramet_err *err, const char *what, uint64_t rip)
{
	exit->kind = EXIT_BROKEN;
	(void)err_set(err, EIO, "%s at %#llx", what, (unsigned long long)rip);
	return 0;
}

static bool vector_has_error(uint8_t vector)
{
	return vector == VECTOR_DF || (vector >= 10 && vector <= 14) || vector == 17;
}

void backend_exception_broken(struct machine *m, struct vcpu_exit *exit, struct ramet_err *err)
{
	exit->kind = EXIT_BROKEN;
	(void)err_set(
		err, EIO,
		"exception %u (error %#x, address %#llx) in the hypervisor's own code at %#llx",
		exit->vector, exit->error, (unsigned long long)exit->cr2,
		(unsigned long long)m->vcpu.regs.rip);
}

void backend_exception_decode(struct machine *m, struct vcpu_exit *exit, uint8_t vector,
			      uint64_t frame_va, struct ramet_err *err)
{
	bool has_error = vector_has_error(vector);
	const uint64_t *frame = hv_va_ptr(m, frame_va, (has_error ? 6 : 5) * sizeof(*frame),
					  HV_PAGE_STACK, HV_PAGE_IST_END);
	struct vcpu *v = &m->vcpu;

	if (!frame) {
		(void)backend_broken(exit, err, "an exception frame is not on the exception stack",
				     frame_va);
		return;
	}
	exit->kind = EXIT_EXCEPTION;
	exit->vector = vector;
	exit->error = has_error ? (uint32_t)*frame++ : 0;
	exit->cr2 = m->run->s.regs.sregs.cr2;
	v->regs.rip = frame[0];
	v->cs = (uint16_t)frame[1] == SEL_USER32_CS ? SEL_USER32_CS : SEL_USER_CS;
	v->regs.rflags = (frame[2] & RFLAGS_GUEST) | RFLAGS_FIXED;
	v->regs.rsp = frame[3];
	if (!(frame[1] & 3))
		backend_exception_broken(m, exit, err);
}

void backend_mmio_answer(struct machine *m)
{
	if (!m->run->mmio.is_write)
		memset(m->run->mmio.data, 0xff, sizeof(m->run->mmio.data));
}

int backend_decode_fatal(struct machine *m, struct vcpu_exit *exit, struct ramet_err *err)
{
	const struct kvm_run *run = m->run;
	uint64_t rip = run->s.regs.regs.rip;

	switch (run->exit_reason) {
	case KVM_EXIT_SHUTDOWN:
		return backend_broken(exit, err, "triple fault", rip);
	case KVM_EXIT_INTERNAL_ERROR:
		return backend_broken(exit, err, "KVM cannot execute the guest's code", rip);
	default:
		exit->kind = EXIT_BROKEN;
		(void)err_set(err, EIO, "unexpected exit %u of the vCPU at %#llx", run->exit_reason,
			      (unsigned long long)rip);
		return 0;
	}
}
