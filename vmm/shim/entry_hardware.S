/* The fast path on a KVM with hardware virtualisation: all of it runs at CPL 0.
 * System calls and gates arrive here in the page tables of whoever was
 * interrupted; this code, its data page and the exception stack lie at the same
 * place in both. An `out` hands over to the VMM, which comes back through code
 * of its own (backend_hardware.c), never to the instruction behind it.
 *
 * Until a stack is known the stack pointer is the caller's: nothing is pushed,
 * and what may arrive there (#DB, NMI) has a stack of its own. Frames are those
 * of Xen's PV ABI. */
#include "vmm/shim/entry.h"

/* For exceptions: the guest kernel's page tables, if they are not active. */
.macro KERNEL_ROOT scratch
	cmpq $0, D(SHIM_KERNEL_MODE)
	jne 99f
	mov D(SHIM_KERNEL_CR3), \scratch
	mov \scratch, %cr3
99:
.endm

	.section .text.entry, "ax", @progbits
	.globl shim_entry
shim_entry: /* LSTAR: rcx = return address, r11 = flags */
	jmp syscall

	.org SHIM_OFFSET_FAULT
	jmp fault
	.org SHIM_OFFSET_BREAK
	jmp breakpoint
	.org SHIM_OFFSET_GP
	jmp general_protection

	.text
syscall:
	mov %rsp, D(SHIM_USER_RSP)
	cmpq $0, D(SHIM_KERNEL_MODE)
	je user_syscall

/* ---- hypercalls of the guest kernel ---- */
	cmp $HYPERVISOR_IRET, %eax
	je iret
	lea shim_stack(%rip), %rsp
	REGS_PUSH
	mov %rsp, %rdi
	call shim_hypercall
	test %eax, %eax
	REGS_POP
	mov D(SHIM_USER_RSP), %rsp
	jnz slow
	sysretq
slow: /* the VMM takes it from the registers */
	out %al, $PORT_SYSCALL
	ud2

/* ---- system calls of user space ---- */
user_syscall:
	cmpq $0, D(SHIM_SYSCALL_CB)
	je slow
	mov %rax, D(SHIM_SCRATCH)
	mov D(SHIM_KERNEL_CR3), %rax
	mov %rax, %cr3
	swapgs
	mov D(SHIM_KERNEL_SP), %rsp
	and $-16, %rsp
	push $SEL_USER_SS
	push D(SHIM_USER_RSP)
	mov %r11, %rax
	and $RFLAGS_GUEST, %eax
	or $RFLAGS_FIXED, %eax
	push %rax
	push $SEL_USER_CS
	push %rcx
	push %r11
	push %rcx
	movq $1, D(SHIM_KERNEL_MODE)
	cmpq $0, D(SHIM_SYSCALL_MASK)
	je 1f
	mov D(SHIM_VCPU_INFO), %rax
	movb $1, VCPU_INFO_MASK(%rax)
1:	incq D(SHIM_STAT_SYSCALL)
	mov D(SHIM_SCRATCH), %rax
	mov D(SHIM_SYSCALL_CB), %rcx
	mov $RFLAGS_FIXED, %r11d
	sysretq

/* ---- page faults and breakpoints ---- */
fault: /* rsp: error rip cs rflags rsp ss */
	testb $3, 16(%rsp)
	jz fault_slow
	cld
	REGS_PUSH
	mov %cr2, %rax
	mov %rax, D(SHIM_FAULT_CR2)
	KERNEL_ROOT %rax
	mov %rsp, %rdi
	call shim_fault
	test %rax, %rax
	jnz exception_go
	REGS_POP
fault_slow:
	out %al, $14
	ud2

exception_go: /* rax = the kernel stack with the frame, which has rcx and r11 */
	mov %rax, D(SHIM_USER_RSP)
	REGS_POP
	mov D(SHIM_USER_RSP), %rsp
	mov D(SHIM_TARGET), %rcx
	mov $RFLAGS_FIXED, %r11d
	sysretq

breakpoint: /* rsp: rip cs rflags rsp ss */
	testb $3, 8(%rsp)
	jz breakpoint_slow
	cld
	REGS_PUSH
	KERNEL_ROOT %rax
	mov %rsp, %rdi
	call shim_break
	test %rax, %rax
	jnz exception_go
	REGS_POP
breakpoint_slow:
	out %al, $3
	ud2

/* ---- #GP of the guest kernel: cli is the one that is hot ---- */
general_protection: /* rsp: error rip cs rflags rsp ss */
	push %rax
	testb $3, 24(%rsp)
	jz 1f
	cmpq $0, D(SHIM_KERNEL_MODE)
	je 1f
	cmpq $0, 8(%rsp)
	jne 1f
	mov 16(%rsp), %rax
	sar $47, %rax /* after a wild jump it cannot be read */
	cmp $-1, %rax
	jne 1f
	mov 16(%rsp), %rax
	cmpb $0xfa, (%rax)
	jne 1f
	mov D(SHIM_VCPU_INFO), %rax
	movb $1, VCPU_INFO_MASK(%rax)
	incq 16(%rsp)
	pop %rax
	add $8, %rsp
	iretq
1:	pop %rax
	out %al, $13
	ud2

/* ---- HYPERVISOR_iret ---- */
iret: /* rsp is the guest kernel's; rax, rcx, r11 are free */
	mov D(SHIM_VCPU_INFO), %rcx
	cmpb $0, VCPU_INFO_PENDING(%rcx)
	jne iret_slow
	testb $3, IRET_CS(%rsp)
	jz iret_kernel
	cmpw $SEL_USER_CS, IRET_CS(%rsp)
	jne iret_slow
	cmpq $0, D(SHIM_USER_CR3)
	je iret_slow
	mov IRET_RIP(%rsp), %rax
	shr $47, %rax
	jnz iret_slow
	mov IRET_RFLAGS(%rsp), %r11
	test $RFLAGS_IF, %r11d
	jz iret_slow
	and $RFLAGS_GUEST, %r11d
	or $RFLAGS_FIXED, %r11d
	testl $VGCF_IN_SYSCALL, IRET_FLAGS(%rsp)
	jz iret_full
	test $RFLAGS_TF_RF, %r11d /* sysret would trap too early, or drop it */
	jnz iret_slow
	movb $0, VCPU_INFO_MASK(%rcx)
	movq $0, D(SHIM_KERNEL_MODE)
	incq D(SHIM_STAT_IRET_USER)
	mov IRET_RAX(%rsp), %rax
	mov %rax, D(SHIM_SCRATCH)
	mov IRET_RIP(%rsp), %rcx
	mov IRET_RSP(%rsp), %rsp
	mov D(SHIM_USER_CR3), %rax
	mov %rax, %cr3
	swapgs
	mov D(SHIM_SCRATCH), %rax
	sysretq
iret_full: /* every register; the frame must be in both page tables */
	movb $0, VCPU_INFO_MASK(%rcx)
	movq $0, D(SHIM_KERNEL_MODE)
	incq D(SHIM_STAT_IRET_USER)
	mov %r11, D(SHIM_FRAME + 16)
	mov IRET_RIP(%rsp), %rax
	mov %rax, D(SHIM_FRAME)
	movq $SEL_USER_CS, D(SHIM_FRAME + 8)
	mov IRET_RSP(%rsp), %rax
	mov %rax, D(SHIM_FRAME + 24)
	movq $SEL_USER_SS, D(SHIM_FRAME + 32)
	mov IRET_RAX(%rsp), %rax
	mov %rax, D(SHIM_SCRATCH)
	mov IRET_R11(%rsp), %r11
	mov IRET_RCX(%rsp), %rcx
	lea D(SHIM_FRAME), %rsp
	mov D(SHIM_USER_CR3), %rax
	mov %rax, %cr3
	swapgs
	mov D(SHIM_SCRATCH), %rax
	iretq
iret_kernel:
	mov IRET_RIP(%rsp), %rax
	sar $47, %rax
	add $1, %rax
	cmp $1, %rax
	ja iret_slow
	testl $RFLAGS_IF, IRET_RFLAGS(%rsp)
	setz VCPU_INFO_MASK(%rcx)
	incq D(SHIM_STAT_IRET_KERNEL)
	mov IRET_RFLAGS(%rsp), %rax
	and $RFLAGS_GUEST, %eax
	or $RFLAGS_FIXED, %eax
	mov %rax, IRET_RFLAGS(%rsp)
	movq $SEL_USER_CS, IRET_CS(%rsp)
	movq $SEL_USER_SS, IRET_SS(%rsp)
	mov IRET_RAX(%rsp), %rax
	mov IRET_R11(%rsp), %r11
	mov IRET_RCX(%rsp), %rcx
	add $IRET_RIP, %rsp
	iretq
iret_slow: /* the VMM takes everything from the stack, but needs the number */
	mov $HYPERVISOR_IRET, %eax
	out %al, $PORT_SYSCALL
	ud2

	.globl shim_data, shim_stack
	.set shim_data, shim_entry + (SHIM_DATA_VA - SHIM_ENTRY_VA)
	.set shim_stack, shim_entry + (SHIM_STACK_VA - SHIM_ENTRY_VA)
	.section .note.GNU-stack, "", @progbits
