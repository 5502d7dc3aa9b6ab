/* The logical vCPU and the seam between it and a kind of KVM.
 *
 * Everything above the seam (hypercalls, traps, events, time, emulation, state)
 * works on struct vcpu and never sees kvm_run. Below it is one implementation
 * of struct vcpu_ops per kind of KVM: how the vCPU is entered, how traps come
 * in, how page-table changes reach the processor. */
#ifndef RAMET_VMM_VCPU_H
#define RAMET_VMM_VCPU_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"

struct machine;

enum segment_base { BASE_FS, BASE_GS_KERNEL, BASE_GS_USER };

struct vcpu {
	struct kvm_regs regs; /* rflags as the guest may see them: no IOPL, IF set */
	uint16_t cs;          /* SEL_USER_CS or SEL_USER32_CS */
	bool kernel_mode;     /* the guest kernel runs, not its user space */
	uint64_t kernel_cr3;  /* gpa of the root tables */
	uint64_t user_cr3;    /* 0: none set */
	uint64_t kernel_sp;   /* stack for entries from user mode */
};

enum vcpu_exit_kind {
	EXIT_SYSCALL,     /* rip, rflags already taken from rcx, r11 */
	EXIT_COMPAT,      /* compat-mode syscall; rip after the instruction */
	EXIT_EXCEPTION,   /* vector, error, cr2; regs at the faulting instruction */
	EXIT_INTERRUPTED, /* a signal, or the injection window opened; see injectable */
	EXIT_BROKEN,      /* the guest did what cannot be continued; err says what */
};

struct vcpu_exit {
	enum vcpu_exit_kind kind;
	bool injectable; /* regs are at an instruction boundary: events may be delivered */
	uint8_t vector;
	uint32_t error;
	uint64_t cr2;
};

struct vcpu_ops {
	const char *name;

	/* What does not depend on a guest: the hypervisor area, the processor's
	 * fixed state. Called once, when the machine is made. */
	int (*prepare)(struct machine *m, struct ramet_err *err);

	/* Takes the guest on: enter() starts from m->vcpu. Called once, guest
	 * memory in place. */
	int (*setup)(struct machine *m, struct ramet_err *err);

	/* Commits m->mmu pending changes and m->vcpu, runs the guest, decodes why
	 * it stopped into *exit and m->vcpu. With m->want_injection set it returns
	 * as soon as an event can be delivered. 0 or -errno (the host failed). */
	int (*enter)(struct machine *m, struct vcpu_exit *exit, struct ramet_err *err);

	/* Commits m->mmu pending changes now, leaving m->vcpu alone. A failure is
	 * reported by the next enter(). */
	void (*mmu_commit)(struct machine *m);

	/* Segment bases, by role: independent of which mode is active. */
	int (*base_get)(struct machine *m, enum segment_base base, uint64_t *value);
	int (*base_set)(struct machine *m, enum segment_base base, uint64_t value);

	/* The PV state in m->pv that the in-guest fast path keeps a copy of
	 * (callbacks, vcpu_info address) has changed. */
	void (*pv_changed)(struct machine *m);
};

extern const struct vcpu_ops vcpu_ops_software; /* syscall stays at CPL 3 */
extern const struct vcpu_ops vcpu_ops_hardware; /* VMX, SVM */

#endif
