/* What the entry code of the fast path shares, whatever the kind of KVM. */
#ifndef RAMET_VMM_SHIM_ENTRY_H
#define RAMET_VMM_SHIM_ENTRY_H

#include "vmm/layout.h"
#include "vmm/shim/shim_data.h"

#define D(field) shim_data + field(% rip)

#define VCPU_INFO_PENDING 0
#define VCPU_INFO_MASK    1
#define HYPERVISOR_IRET   23
#define VGCF_IN_SYSCALL   0x100
#define RFLAGS_GUEST      0x254dd5
#define RFLAGS_FIXED      0x202
#define RFLAGS_IF         0x200
#define RFLAGS_TF_RF      0x10100

/* struct iret_context, from rsp at the hypercall */
#define IRET_RAX    0
#define IRET_R11    8
#define IRET_RCX    16
#define IRET_FLAGS  24
#define IRET_RIP    32
#define IRET_CS     40
#define IRET_RFLAGS 48
#define IRET_RSP    56
#define IRET_SS     64

/* Assembly from here on. */
/* clang-format off */
.macro REGS_PUSH
	push %rcx
	push %r11
	push %r9
	push %r8
	push %r10
	push %rdx
	push %rsi
	push %rdi
	push %rax
.endm

/* Leaves the flags alone. */
.macro REGS_POP
	pop %rax
	pop %rdi
	pop %rsi
	pop %rdx
	pop %r10
	pop %r8
	pop %r9
	pop %r11
	pop %rcx
.endm
/* clang-format on */

#endif
