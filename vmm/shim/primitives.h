/* The privileged steps of the fast path, per kind of KVM. */
#ifndef RAMET_VMM_SHIM_PRIMITIVES_H
#define RAMET_VMM_SHIM_PRIMITIVES_H

#include "vmm/layout.h"
#include "vmm/shim/shim.h"

#define MSR_FS_BASE        0xc0000100u
#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u

#ifdef SHIM_SOFTWARE
/* At CPL 3: an int3 at a known address reaches a CPL-0 stub, which returns
 * through the frame in the data page. */
static inline void shim_request(uint64_t argument, uint64_t target)
{
	__asm__ volatile("lea 1f(%%rip), %%rcx\n\t"
			 "mov %%rcx, 0(%[frame])\n\t"
			 "movq $0x33, 8(%[frame])\n\t"
			 "movq $0x202, 16(%[frame])\n\t"
			 "mov %%rsp, 24(%[frame])\n\t"
			 "movq $0x2b, 32(%[frame])\n\t"
			 "jmp *%[target]\n\t"
			 "1:"
			 : "+a"(argument)
			 : [frame] "r"(shim_data_ptr()->frame), [target] "r"(target)
			 : "rcx", "memory", "cc");
}

static inline void write_cr3(uint64_t value)
{
	shim_request(value, SHIM_ENTRY_VA + SHIM_OFFSET_CR3);
}

static inline void invlpg(uint64_t va)
{
	shim_request(va, SHIM_ENTRY_VA + SHIM_OFFSET_INVLPG);
}

static inline void write_fs(uint64_t value)
{
	__asm__ volatile("wrfsbase %0" : : "r"(value));
}

static inline void write_gs_kernel(uint64_t value)
{
	__asm__ volatile("wrgsbase %0" : : "r"(value));
}

static inline void write_gs_user(uint64_t value)
{
	shim_data_ptr()->gs_other = value;
}

/* From a user-mode exception into the kernel: its GS base becomes active. */
static inline void gs_to_kernel(void)
{
	uint64_t user;

	__asm__ volatile("rdgsbase %0" : "=r"(user));
	__asm__ volatile("wrgsbase %0" : : "r"(shim_data_ptr()->gs_other));
	shim_data_ptr()->gs_other = user;
}

/* Whether the fast path itself was interrupted: it runs at CPL 3 as well, so
 * only the address tells. */
static inline bool frame_is_ours(const struct trap_frame *f)
{
	return f->rip >= HV_VA && f->rip < HV_VA + HV_SIZE;
}
#endif

#ifdef SHIM_HARDWARE
/* At CPL 0, with the architecture's own instructions. */
static inline void write_cr3(uint64_t value)
{
	__asm__ volatile("mov %0, %%cr3" : : "r"(value) : "memory");
}

static inline void invlpg(uint64_t va)
{
	__asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}

static inline void write_msr(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr"
			 :
			 : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
			 : "memory");
}

static inline void write_fs(uint64_t value)
{
	write_msr(MSR_FS_BASE, value);
}

static inline void write_gs_kernel(uint64_t value)
{
	write_msr(MSR_GS_BASE, value);
}

static inline void write_gs_user(uint64_t value)
{
	write_msr(MSR_KERNEL_GS_BASE, value);
}

/* From a user-mode exception into the kernel: its GS base becomes active. */
static inline void gs_to_kernel(void)
{
	__asm__ volatile("swapgs" : : : "memory");
}

/* The entry code hands over interrupted CPL-3 code only. */
static inline bool frame_is_ours(const struct trap_frame *f)
{
	(void)f;
	return false;
}
#endif

#endif
