/* Hypercalls of the fast path: page tables, context switch, multicalls.
 * Numbers and structures: Xen's public interface. */
#include "vmm/layout.h"
#include "vmm/shim/primitives.h"
#include "vmm/shim/shim.h"

#define HC_MMU_UPDATE        1
#define HC_STACK_SWITCH      3
#define HC_FPU_TASKSWITCH    5
#define HC_UPDATE_DESCRIPTOR 10
#define HC_MULTICALL         13
#define HC_UPDATE_VA_MAPPING 14
#define HC_XEN_VERSION       17
#define HC_SET_SEGMENT_BASE  25
#define HC_MMUEXT_OP         26
#define HC_SCHED_OP          29
#define SCHEDOP_YIELD        0
#define XEN_VERSION_ANSWER   ((4 << 16) | 17)

#define MMU_PT_UPDATE         0
#define MMU_PT_UPDATE_KEEP_AD 2
#define EXT_NEW_BASEPTR       5
#define EXT_TLB_FLUSH_LOCAL   6
#define EXT_INVLPG_LOCAL      7
#define EXT_NEW_USER_BASEPTR  15
#define UVMF_FLUSHTYPE        3
#define UVMF_TLB_FLUSH        1
#define UVMF_INVLPG           2

#define BATCH_MAX     (1u << 20)
#define MULTICALL_MAX 4096u

#define PTE_PRESENT       1ull
#define PTE_WRITE         2ull
#define PTE_USER          4ull
#define PTE_AD            0x60ull
#define PTE_LARGE         0x80ull
#define PTE_FRAME         0x000ffffffffff000ull
#define LEVEL_MASK        7u
#define LEVEL_ROOT_USER   0x14u
#define LEVEL_ROOT_KERNEL 0x24u

static uint8_t level_get(uint64_t gpa)
{
	const struct shim_data *d = shim_data_ptr();

	return gpa < d->ram_bytes ? ((const uint8_t *)d->levels)[gpa >> PAGE_SHIFT] : 0;
}

/* Whether storing this entry needs more than the store: a new table to pin, a
 * table that would become writable, the hypervisor's own slots. */
static bool store_is_simple(uint64_t gpa, uint64_t value)
{
	unsigned int level = level_get(gpa) & LEVEL_MASK;
	unsigned int target;

	if (level == 4) {
		unsigned int slot = (unsigned int)(gpa >> 3) & 511;

		if (slot >= HV_PML4_FIRST && slot <= HV_PML4_LAST)
			return false;
	}
	if (!(value & PTE_PRESENT))
		return true;
	target = level_get(value & PTE_FRAME) & LEVEL_MASK;
	if (level > 1)
		return !(value & PTE_LARGE) && target == level - 1;
	return !((value & PTE_WRITE) && target);
}

static int store(uint64_t ptr, uint64_t value, bool keep_ad)
{
	const struct shim_data *d = shim_data_ptr();
	uint64_t gpa = ptr & ~7ull;
	uint64_t old;

	if (gpa >= d->ram_bytes || !store_is_simple(gpa, value))
		return SHIM_SLOW;
	old = *(const volatile uint64_t *)(d->direct_map + gpa);
	if (value & PTE_PRESENT)
		value |= PTE_USER;
	if (keep_ad)
		value |= old & PTE_AD;
	/* Nothing remembers an absent entry, so nobody needs to see it appear. */
	*(volatile uint64_t *)((old & PTE_PRESENT ? d->direct_map : d->quiet_map) + gpa) = value;
	return SHIM_DONE;
}

static int mmu_update(uint64_t *a)
{
	if (a[2] || a[1] > BATCH_MAX)
		return SHIM_SLOW;
	for (; a[1]; a[1]--, a[0] += 16) {
		const volatile uint64_t *u = (const volatile uint64_t *)a[0];
		uint64_t ptr = u[0];
		unsigned int command = ptr & 3;

		if (command != MMU_PT_UPDATE && command != MMU_PT_UPDATE_KEEP_AD)
			return SHIM_SLOW;
		if (store(ptr & ~3ull, u[1], command == MMU_PT_UPDATE_KEEP_AD))
			return SHIM_SLOW;
	}
	return SHIM_DONE;
}

static int update_va_mapping(const uint64_t *a)
{
	const struct shim_data *d = shim_data_ptr();
	uint64_t table = d->kernel_cr3 & PTE_FRAME;
	uint64_t va = a[0];
	unsigned int flush = a[2] & UVMF_FLUSHTYPE;

	for (unsigned int level = 4; level > 1; level--) {
		uint64_t entry;

		if (table >= d->ram_bytes)
			return SHIM_SLOW;
		entry = *(const volatile uint64_t *)(d->direct_map + table +
						     8 * ((va >> (PAGE_SHIFT + 9 * (level - 1))) &
							  511));
		if (!(entry & PTE_PRESENT) || (entry & PTE_LARGE))
			return SHIM_SLOW;
		table = entry & PTE_FRAME;
	}
	if (store(table + 8 * ((va >> PAGE_SHIFT) & 511), a[1], false))
		return SHIM_SLOW;
	if (flush == UVMF_INVLPG)
		invlpg(va);
	else if (flush == UVMF_TLB_FLUSH)
		write_cr3(d->kernel_cr3);
	return SHIM_DONE;
}

static int new_base(uint64_t gpa, bool user)
{
	struct shim_data *d = shim_data_ptr();

	if (user && (!gpa || !d->split_roots)) {
		d->user_cr3 = gpa;
		return SHIM_DONE;
	}
	if (level_get(gpa) != (user ? LEVEL_ROOT_USER : LEVEL_ROOT_KERNEL))
		return SHIM_SLOW;
	if (user) {
		d->user_cr3 = gpa;
	} else {
		d->kernel_cr3 = gpa;
		write_cr3(gpa);
	}
	return SHIM_DONE;
}

static int extended_one(const volatile uint32_t *op)
{
	uint64_t argument = *(const volatile uint64_t *)(const volatile void *)(op + 2);

	switch (op[0]) {
	case EXT_NEW_BASEPTR:
		return new_base(argument << PAGE_SHIFT, false);
	case EXT_NEW_USER_BASEPTR:
		return new_base(argument << PAGE_SHIFT, true);
	case EXT_TLB_FLUSH_LOCAL:
		write_cr3(shim_data_ptr()->kernel_cr3);
		return SHIM_DONE;
	case EXT_INVLPG_LOCAL:
		invlpg(argument);
		return SHIM_DONE;
	default:
		return SHIM_SLOW;
	}
}

static int mmuext_op(uint64_t *a)
{
	if (a[2] || a[1] > BATCH_MAX)
		return SHIM_SLOW;
	for (; a[1]; a[1]--, a[0] += 24)
		if (extended_one((const volatile uint32_t *)a[0]))
			return SHIM_SLOW;
	return SHIM_DONE;
}

static bool canonical(uint64_t va)
{
	uint64_t top = va >> 47;

	return top == 0 || top == 0x1ffff;
}

static int set_segment_base(const uint64_t *a)
{
	if (a[0] == 3) {
		write_gs_user(0);
		return SHIM_DONE;
	}
	if (!canonical(a[1]))
		return SHIM_SLOW;
	if (a[0] == 0)
		write_fs(a[1]);
	else if (a[0] == 1)
		write_gs_user(a[1]);
	else if (a[0] == 2)
		write_gs_kernel(a[1]);
	else
		return SHIM_SLOW;
	return SHIM_DONE;
}

static int update_descriptor(const uint64_t *a)
{
	const struct shim_data *d = shim_data_ptr();

	if (a[0] >= d->ram_bytes || a[0] % 8 || level_get(a[0]))
		return SHIM_SLOW;
	*(volatile uint64_t *)(d->direct_map + a[0]) = a[1];
	return SHIM_DONE;
}

/* One hypercall; on SHIM_SLOW `a` holds what is left to do. */
static int call_one(uint64_t nr, uint64_t *a)
{
	switch (nr) {
	case HC_MMU_UPDATE:
		return mmu_update(a);
	case HC_MMUEXT_OP:
		return mmuext_op(a);
	case HC_UPDATE_VA_MAPPING:
		return update_va_mapping(a);
	case HC_STACK_SWITCH:
		shim_data_ptr()->kernel_sp = a[1];
		return SHIM_DONE;
	case HC_FPU_TASKSWITCH:
		return SHIM_DONE;
	case HC_UPDATE_DESCRIPTOR:
		return update_descriptor(a);
	case HC_SET_SEGMENT_BASE:
		return set_segment_base(a);
	case HC_SCHED_OP:
		return a[0] == SCHEDOP_YIELD ? SHIM_DONE : SHIM_SLOW;
	default:
		return SHIM_SLOW;
	}
}

/* struct multicall_entry: op, result, args[6]. */
static int multicall(struct shim_regs *regs)
{
	if (regs->rsi > MULTICALL_MAX)
		return SHIM_SLOW;
	for (; regs->rsi; regs->rsi--, regs->rdi += 64) {
		volatile uint64_t *e = (volatile uint64_t *)regs->rdi;
		uint64_t a[4] = { e[2], e[3], e[4], e[5] };

		if (call_one(e[0], a)) {
			e[2] = a[0];
			e[3] = a[1];
			return SHIM_SLOW;
		}
		e[1] = 0;
	}
	return SHIM_DONE;
}

int shim_hypercall(struct shim_regs *regs)
{
	const struct shim_vcpu_info *info = shim_vcpu_info();
	uint64_t a[4] = { regs->rdi, regs->rsi, regs->rdx, regs->r10 };
	uint64_t nr = (uint32_t)regs->rax;

	/* An event that may be delivered is: the VMM does so after any hypercall. */
	if (info->pending && !info->mask)
		return SHIM_SLOW;
	if (nr == HC_XEN_VERSION && a[0] == 0) {
		regs->rax = XEN_VERSION_ANSWER;
		return SHIM_DONE;
	}
	if (nr == HC_MULTICALL ? multicall(regs) : call_one(nr, a)) {
		if (nr == HC_MMU_UPDATE || nr == HC_MMUEXT_OP) {
			regs->rdi = a[0];
			regs->rsi = a[1];
		}
		return SHIM_SLOW;
	}
	regs->rax = 0;
	return SHIM_DONE;
}
