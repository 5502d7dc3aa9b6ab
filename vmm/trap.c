/* Entering and leaving the guest kernel: see trap.h. */
#include "vmm/trap.h"

#include <errno.h>
#include <string.h>

#include "vmm/evtchn.h"
#include "vmm/mmu.h"
#include "vmm/xen_abi.h"

#define FRAME_KERNEL_CS         0xe030ull /* FLAT_KERNEL_CS with RPL 0, as Xen shows it */
#define FRAME_KERNEL_SS         0xe02bull
#define RFLAGS_IF               0x200ull
#define RFLAGS_CLEARED_ON_ENTRY 0x254500ull /* TF, DF, NT..: a handler starts without them */

static bool vector_has_error(uint8_t vector)
{
	return vector == VECTOR_DF || (vector >= 10 && vector <= 14) || vector == 17 ||
	       vector == 21;
}

/* Builds the frame on the kernel stack and switches to `handler`. */
static void bounce(struct machine *m, uint64_t handler, const uint32_t *error, bool mask_events,
		   const char *what)
{
	struct vcpu *v = &m->vcpu;
	uint64_t mask = vcpu_info_mask(m);
	uint64_t frame[8];
	uint64_t sp, cs, ss;
	size_t n = 0;

	if (!handler) {
		machine_end(m, END_GUEST_FAULT, "%s at %#llx but the guest kernel has no handler",
			    what, (unsigned long long)v->regs.rip);
		return;
	}
	if (v->kernel_mode) {
		cs = FRAME_KERNEL_CS;
		ss = FRAME_KERNEL_SS;
		sp = v->regs.rsp;
	} else {
		cs = v->cs;
		ss = SEL_USER_SS;
		sp = v->kernel_sp;
	}
	frame[n++] = v->regs.rcx;
	frame[n++] = v->regs.r11;
	if (error)
		frame[n++] = *error;
	frame[n++] = v->regs.rip;
	frame[n++] = cs | (mask << 32);
	frame[n++] = (v->regs.rflags & ~RFLAGS_IF) | (mask ? 0 : RFLAGS_IF);
	frame[n++] = v->regs.rsp;
	frame[n++] = ss;
	sp = (sp & ~15ull) - n * 8;
	v->kernel_mode = true;
	if (mmu_copy_out(m, sp, frame, n * 8)) {
		machine_end(m, END_GUEST_FAULT,
			    "%s at %#llx but the kernel stack %#llx is not mapped", what,
			    (unsigned long long)v->regs.rip, (unsigned long long)sp);
		return;
	}
	v->regs.rsp = sp;
	v->regs.rip = handler;
	v->regs.rflags = RFLAGS_FIXED;
	v->cs = SEL_USER_CS;
	if (mask_events)
		vcpu_info_set_mask(m, 1);
}

void trap_exception(struct machine *m, uint8_t vector, uint32_t error, uint64_t cr2)
{
	const struct trap_gate *gate = &m->pv.traps[vector];
	bool has_error = vector_has_error(vector);

	m->stats.exceptions++;
	if (vector == VECTOR_PF) {
		vcpu_info_set_cr2(m, cr2);
		/* The hardware runs the guest kernel as user; the guest must not
		 * take its own faults for ones of user space. */
		error = m->vcpu.kernel_mode ? error & ~4u : error | 4u;
	}
	if (vector == VECTOR_DB)
		m->pv.debugreg[6] = 0xffff0ff0ull | 0x4000; /* BS: the only source here */
	bounce(m, gate->address, has_error ? &error : NULL, gate->masks_events, "exception");
}

void trap_syscall(struct machine *m)
{
	bounce(m, m->pv.syscall_callback, NULL, m->pv.syscall_masks_events, "system call");
}

bool trap_upcall_wanted(const struct machine *m)
{
	return m->pv.event_callback && vcpu_info_pending(m) && !vcpu_info_mask(m);
}

void trap_upcall(struct machine *m)
{
	m->stats.upcalls++;
	bounce(m, m->pv.event_callback, NULL, true, "event upcall");
}

static void iret_user(struct machine *m, const struct iret_context *f)
{
	struct vcpu *v = &m->vcpu;
	uint16_t cs = (uint16_t)f->cs;

	v->kernel_mode = false;
	v->regs.rip = f->rip;
	v->regs.rsp = f->rsp;
	v->regs.rflags = (f->rflags & RFLAGS_GUEST) | RFLAGS_FIXED;
	v->cs = cs == SEL_USER32_CS ? SEL_USER32_CS : SEL_USER_CS;
	/* The processor would fault on these, some KVMs cannot run with such a
	 * stack; so the guest faults at the place it wanted to go to, which its
	 * kernel turns into a signal. */
	if (!trap_canonical(f->rip) || !trap_canonical(f->rsp) ||
	    (cs != SEL_USER_CS && cs != SEL_USER32_CS))
		trap_exception(m, VECTOR_GP, 0, 0);
}

void trap_iret(struct machine *m)
{
	struct vcpu *v = &m->vcpu;
	struct iret_context f;

	if (mmu_copy_in(m, &f, v->regs.rsp, sizeof(f))) {
		machine_end(m, END_GUEST_FAULT, "iret hypercall with an unmapped stack at %#llx",
			    (unsigned long long)v->regs.rsp);
		return;
	}
	v->regs.rax = f.rax;
	if (f.flags & VGCF_in_syscall) {
		v->regs.rcx = f.rip;
		v->regs.r11 = (f.rflags & RFLAGS_GUEST) | RFLAGS_FIXED;
	} else {
		v->regs.rcx = f.rcx;
		v->regs.r11 = f.r11;
	}
	vcpu_info_set_mask(m, !(f.rflags & RFLAGS_IF));
	if ((f.cs & 3) == 3) {
		iret_user(m, &f);
		return;
	}
	v->regs.rip = f.rip;
	v->regs.rsp = f.rsp;
	v->regs.rflags = (f.rflags & RFLAGS_GUEST) | RFLAGS_FIXED;
	if (!trap_canonical(f.rip))
		machine_end(m, END_GUEST_FAULT, "iret hypercall to %#llx",
			    (unsigned long long)f.rip);
}
