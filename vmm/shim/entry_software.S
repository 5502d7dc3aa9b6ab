/* The fast path on a KVM without hardware virtualisation: everything here runs
 * at CPL 3, natively, with the guest kernel's page tables. Where CPL 0 is
 * needed (CR3, INVLPG), an int3 at a known address reaches an emulated stub
 * (backend_software_shim.c).
 *
 * System calls of user space come in by `syscall` when it shares the kernel's
 * page tables; when it has its own, the entry page there holds one int3 and
 * they come in through shim_break. Frames are those of Xen's PV ABI. */
#include "vmm/shim/entry.h"

.macro GS_SWAP scratch
	rdgsbase \scratch
	xchg \scratch, D(SHIM_GS_OTHER)
	wrgsbase \scratch
.endm

	.section .text.entry, "ax", @progbits
	.globl shim_entry
shim_entry: /* LSTAR: rcx = return address, r11 = flags */
	bt $63, %rcx
	jc hypercall
	jmp user_syscall

	.org SHIM_OFFSET_FAULT
	jmp fault
	.org SHIM_OFFSET_BREAK
	jmp break_user
	.org SHIM_OFFSET_GP
	jmp general_protection
	.org SHIM_OFFSET_CR3
	.globl shim_request_cr3
shim_request_cr3:
	int3
	.org SHIM_OFFSET_INVLPG
	.globl shim_request_invlpg
shim_request_invlpg:
	int3

	.text
/* ---- hypercalls of the guest kernel ---- */
hypercall:
	cmp $HYPERVISOR_IRET, %eax
	je iret
	mov %rsp, D(SHIM_USER_RSP)
	lea shim_stack(%rip), %rsp
	REGS_PUSH
	mov %rsp, %rdi
	call shim_hypercall
	test %eax, %eax
	REGS_POP
	mov D(SHIM_USER_RSP), %rsp
	jnz slow
	jmp *%rcx
slow: /* the VMM takes it from the registers */
	out %al, $PORT_SYSCALL
	ud2

/* ---- system calls of user space ---- */
user_syscall:
	cmpq $0, D(SHIM_SYSCALL_CB)
	je slow
	mov %rsp, D(SHIM_USER_RSP)
	mov %rax, D(SHIM_SCRATCH)
syscall_bounce: /* user rax in scratch, rsp in user_rsp */
	GS_SWAP %rax
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
	jmp *D(SHIM_SYSCALL_CB)

/* #BP while user page tables were active; the stub saved rax and switched to
 * the kernel's. The frame is on the CPL-0 stack. */
break_user:
	cmpl $(SHIM_ENTRY_VA + 1) & 0xffffffff, trap_frame(%rip)
	jne break_real
	cmpl $SHIM_ENTRY_VA >> 32, trap_frame + 4(%rip)
	jne break_real
	cmpq $0, D(SHIM_SYSCALL_CB)
	je break_slow
	mov trap_frame + 24(%rip), %rax
	mov %rax, D(SHIM_USER_RSP)
	mov D(SHIM_FAULT_RAX), %rax
	mov %rax, D(SHIM_SCRATCH)
	jmp syscall_bounce
break_real:
	mov D(SHIM_FAULT_RAX), %rax
	REGS_PUSH
	mov %rsp, %rdi
	call shim_break
	test %rax, %rax
	jnz exception_go
	REGS_POP
break_slow:
	out %al, $PORT_BP
	ud2

/* ---- page faults ---- */
fault:
	mov D(SHIM_FAULT_RAX), %rax
	REGS_PUSH
	mov %rsp, %rdi
	call shim_fault
	test %rax, %rax
	jz fault_slow
exception_go: /* rax = the kernel stack with the frame */
	mov %rax, D(SHIM_USER_RSP)
	REGS_POP
	mov D(SHIM_USER_RSP), %rsp
	jmp *D(SHIM_TARGET)
fault_slow:
	REGS_POP
	out %al, $PORT_FAULT
	ud2

/* ---- #GP of the guest kernel: cli is the one that is hot ---- */
general_protection: /* rsp: error rip cs rflags rsp ss, on the IST stack */
	push %rax
	cmpq $0, D(SHIM_KERNEL_MODE)
	je 1f
	cmpq $0, 8(%rsp)
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
	out %al, $PORT_GP
	ud2

/* ---- HYPERVISOR_iret ---- */
iret:
	mov D(SHIM_VCPU_INFO), %rcx
	cmpb $0, VCPU_INFO_PENDING(%rcx)
	jne iret_slow
	testb $3, IRET_CS(%rsp)
	jz iret_kernel
	cmpw $SEL_USER_CS, IRET_CS(%rsp)
	jne iret_slow
	testl $RFLAGS_IF, IRET_RFLAGS(%rsp)
	jz iret_slow
	mov IRET_RIP(%rsp), %rax
	shr $47, %rax
	jnz iret_slow
	mov IRET_RSP(%rsp), %rax
	shr $47, %rax
	jnz iret_slow
	mov IRET_RFLAGS(%rsp), %rax
	and $RFLAGS_GUEST, %eax
	or $RFLAGS_FIXED, %eax
	cmpq $0, D(SHIM_SPLIT_ROOTS)
	jne iret_split
	movb $0, VCPU_INFO_MASK(%rcx)
	movq $0, D(SHIM_KERNEL_MODE)
	incq D(SHIM_STAT_IRET_USER)
	mov %rax, IRET_RFLAGS(%rsp)
	GS_SWAP %rax
	movq $SEL_USER_SS, IRET_SS(%rsp)
	mov IRET_RAX(%rsp), %rax
	mov IRET_R11(%rsp), %r11
	mov IRET_RCX(%rsp), %rcx
	add $IRET_RIP, %rsp
	iretq
iret_split: /* user space has page tables of its own */
	cmpq $0, D(SHIM_USER_CR3)
	je iret_slow
	movb $0, VCPU_INFO_MASK(%rcx)
	movq $0, D(SHIM_KERNEL_MODE)
	incq D(SHIM_STAT_IRET_USER)
	mov %rax, D(SHIM_FRAME + 16)
	GS_SWAP %rax
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
	mov D(SHIM_USER_CR3), %rax
	jmp shim_request_cr3
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

	.globl shim_data, shim_stack, trap_frame
	.set shim_data, shim_entry + (SHIM_DATA_VA - SHIM_ENTRY_VA)
	.set shim_stack, shim_entry + (SHIM_STACK_VA - SHIM_ENTRY_VA)
	.set trap_frame, shim_entry + (SHIM_TRAP_STACK_VA - 40 - SHIM_ENTRY_VA)
	.section .note.GNU-stack, "", @progbits
