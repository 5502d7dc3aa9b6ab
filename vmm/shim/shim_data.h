/* What the VMM and the in-guest fast path share: one page of the hypervisor
 * area. The guest kernel can write to it where the fast path runs at CPL 3, so
 * the VMM trusts nothing here more than any other guest register.
 *
 * Included by C and by assembly (offsets; checked below). */
#ifndef RAMET_VMM_SHIM_DATA_H
#define RAMET_VMM_SHIM_DATA_H

#define SHIM_KERNEL_MODE      0x00
#define SHIM_GS_OTHER         0x08
#define SHIM_KERNEL_SP        0x10
#define SHIM_SYSCALL_CB       0x18
#define SHIM_VCPU_INFO        0x20
#define SHIM_FAULT_RAX        0x28
#define SHIM_FAULT_CR2        0x30
#define SHIM_KERNEL_CR3       0x38
#define SHIM_USER_CR3         0x40
#define SHIM_USER_RSP         0x48
#define SHIM_SCRATCH          0x50
#define SHIM_TARGET           0x58
#define SHIM_FRAME            0x60 /* rip cs rflags rsp ss, for the CPL-0 stubs' iretq */
#define SHIM_SYSCALL_MASK     0x88
#define SHIM_SPLIT_ROOTS      0xb8
#define SHIM_STAT_SYSCALL     0x100
#define SHIM_STAT_IRET_USER   0x108
#define SHIM_STAT_IRET_KERNEL 0x110
#define SHIM_STAT_FAULT       0x118

/* Addresses that assembly needs; backend_software_shim.c checks them against
 * vmm/layout.h. */
#define SHIM_DATA_VA       0xffff80804000e000
#define SHIM_ENTRY_VA      0xffff808040020000
#define SHIM_STACK_VA      0xffff808040014000 /* end of the fast path's stack */
#define SHIM_TRAP_STACK_VA 0xffff808040008000 /* end of the CPL-0 stack */
#define SHIM_IST_STACK_VA  0xffff80804000a000

/* Entry points at fixed places behind SHIM_ENTRY_VA. */
#define SHIM_OFFSET_FAULT  0x10 /* page fault: rax and cr2 saved, on the fast path's stack */
#define SHIM_OFFSET_BREAK  0x20 /* #BP in user page tables: a system call or a real one */
#define SHIM_OFFSET_GP     0x30 /* #GP of the guest kernel, frame on the IST stack */
#define SHIM_OFFSET_CR3    0x40 /* int3: load cr3 from rax, rax from scratch, iretq to frame */
#define SHIM_OFFSET_INVLPG 0x48 /* int3: invlpg (rax), iretq to frame */

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

struct shim_data {
	uint64_t kernel_mode; /* which mode the vCPU is in */
	uint64_t gs_other;    /* GS base of the inactive mode */
	uint64_t kernel_sp;   /* stack for entries from user mode */
	uint64_t syscall_cb;  /* the guest kernel's entry; 0: not registered */
	uint64_t vcpu_info;   /* linear address; 0: fast path off */
	uint64_t fault_rax;   /* saved by the CPL-0 stubs */
	uint64_t fault_cr2;
	uint64_t kernel_cr3;
	uint64_t user_cr3;
	uint64_t user_rsp;
	uint64_t scratch;
	uint64_t target; /* where a handler of the fast path goes on */
	uint64_t frame[5];
	uint64_t syscall_mask; /* the entry wants events masked */
	uint64_t fault_cb;     /* the guest kernel's page-fault handler; 0: none */
	uint64_t fault_mask;
	uint64_t ram_bytes;
	uint64_t levels;      /* linear address of the level table */
	uint64_t direct_map;  /* linear address of gpa 0 */
	uint64_t split_roots; /* user space has root tables of its own */
	uint64_t break_cb;    /* the guest kernel's #BP handler; 0: none */
	uint64_t break_mask;
	uint64_t quiet_map; /* as direct_map, for stores that need not be seen */
	uint64_t reserved[5];
	uint64_t stat_syscall; /* handled without an exit */
	uint64_t stat_iret_user;
	uint64_t stat_iret_kernel;
	uint64_t stat_fault;
	uint64_t stat_hypercall[64];
};

_Static_assert(offsetof(struct shim_data, fault_rax) == SHIM_FAULT_RAX, "shim ABI");
_Static_assert(offsetof(struct shim_data, user_cr3) == SHIM_USER_CR3, "shim ABI");
_Static_assert(offsetof(struct shim_data, frame) == SHIM_FRAME, "shim ABI");
_Static_assert(offsetof(struct shim_data, syscall_mask) == SHIM_SYSCALL_MASK, "shim ABI");
_Static_assert(offsetof(struct shim_data, split_roots) == SHIM_SPLIT_ROOTS, "shim ABI");
_Static_assert(offsetof(struct shim_data, stat_syscall) == SHIM_STAT_SYSCALL, "shim ABI");
_Static_assert(sizeof(struct shim_data) <= 4096, "one page");
#endif

#endif
