/* Exceptions of the fast path: builds the guest kernel's frame for page faults
 * and user breakpoints (arch-x86/xen-x86_64.h). */
#include "vmm/layout.h"
#include "vmm/shim/primitives.h"
#include "vmm/shim/shim.h"

#define PF_PRESENT_WRITE 3u
#define PF_USER          4u
#define LINUX_DIRECT_MAP 0xffff880000000000ull
#define FRAME_KERNEL_CS  0xe030ull
#define FRAME_KERNEL_SS  0xe02bull
#define RFLAGS_IF        0x200ull
#define RFLAGS_GUEST     0x254dd5ull
#define RFLAGS_FIXED     0x202ull

static uint64_t frame_build(const struct shim_regs *regs, const struct trap_frame *f,
			    const uint64_t *error, bool mask_events)
{
	struct shim_data *d = shim_data_ptr();
	struct shim_vcpu_info *info = shim_vcpu_info();
	uint64_t mask = info->mask;
	uint64_t cs, ss;
	uint64_t *sp;

	if (d->kernel_mode) {
		cs = FRAME_KERNEL_CS;
		ss = FRAME_KERNEL_SS;
		sp = (uint64_t *)(f->rsp & ~15ull);
	} else {
		cs = f->cs & 0xffff;
		ss = SEL_USER_SS;
		sp = (uint64_t *)(d->kernel_sp & ~15ull);
		gs_to_kernel();
		d->kernel_mode = 1;
	}
	*--sp = ss;
	*--sp = f->rsp;
	*--sp = (f->rflags & RFLAGS_GUEST & ~RFLAGS_IF) | 2 | (mask ? 0 : RFLAGS_IF);
	*--sp = cs | (mask << 32);
	*--sp = f->rip;
	if (error)
		*--sp = *error;
	*--sp = regs->r11;
	*--sp = regs->rcx;
	if (mask_events)
		info->mask = 1;
	d->stat_fault++;
	return (uint64_t)sp;
}

uint64_t shim_fault(struct shim_regs *regs)
{
	const uint64_t *pushed = (const uint64_t *)(SHIM_TRAP_STACK_VA - 48);
	const struct trap_frame *f = (const struct trap_frame *)(pushed + 1);
	struct shim_data *d = shim_data_ptr();
	uint64_t error = pushed[0];

	if (!d->fault_cb || frame_is_ours(f))
		return 0;
	if (d->kernel_mode) {
		/* A write to a read-only page table is the VMM's to resolve. */
		if ((error & PF_PRESENT_WRITE) == PF_PRESENT_WRITE &&
		    d->fault_cr2 >= LINUX_DIRECT_MAP)
			return 0;
		error &= ~(uint64_t)PF_USER;
	} else {
		error |= PF_USER;
	}
	shim_vcpu_info()->cr2 = d->fault_cr2;
	d->target = d->fault_cb;
	return frame_build(regs, f, &error, d->fault_mask != 0);
}

uint64_t shim_break(struct shim_regs *regs)
{
	const struct trap_frame *f = (const struct trap_frame *)(SHIM_TRAP_STACK_VA - 40);
	struct shim_data *d = shim_data_ptr();

	if (!d->break_cb || d->kernel_mode || frame_is_ours(f))
		return 0;
	d->target = d->break_cb;
	return frame_build(regs, f, 0, d->break_mask != 0);
}
