/* The probe's guest code. Everything is relative to the instruction pointer;
 * operands come in registers. Each entry ends in an `out` that stops the VM. */
#include "vmm/probe_guest.h"

/* clang-format off */
#define STR_(x) #x
#define STR(x) STR_(x)
#define REPORT(port) "	outb %al, $" STR(port) "\n"
#define ENTRY(name)                         \
	"	.balign 16\n"               \
	"	.globl probe_" name "\n"    \
	"	.hidden probe_" name "\n"   \
	"probe_" name ":\n"

__asm__("	.pushsection .rodata.probe_guest, \"a\"\n"
	"	.balign 4096\n"
	ENTRY("image")
	"	.set vector, 0\n"
	"	.rept 32\n"
	"	.balign 16\n"
	"	outb %al, $vector\n"
	"	jmp .\n"
	"	.set vector, vector + 1\n"
	"	.endr\n"

	ENTRY("c0_loop")
	"1:	decl %ecx\n"
	"	jnz 1b\n"
	REPORT(PROBE_PORT_DONE)
	ENTRY("c0_cr3")
	"	movq %cr3, %rax\n"
	"	movq %rax, %cr3\n"
	REPORT(PROBE_PORT_DONE)
	ENTRY("c0_touch")
	"	orb $0, (%rsi)\n"
	"	invlpg (%rbx)\n"
	REPORT(PROBE_PORT_DONE)
	ENTRY("c0_iret")
	"	iretq\n"
	ENTRY("c0_switch")
	"	movq %rbx, %cr3\n"
	"	iretq\n"
	ENTRY("c0_sysret")
	"	sysretq\n"

	"	.balign 4096\n"
	ENTRY("lstar")
	REPORT(PROBE_PORT_SYSCALL)
	"	jmp .\n"

	"	.balign 4096\n"
	ENTRY("u_open")
	REPORT(PROBE_PORT_OPEN)
	"	jmp .\n"
	ENTRY("u_closed")
	REPORT(PROBE_PORT_CLOSED)
	"	jmp .\n"
	ENTRY("u_syscall")
	"	syscall\n"
	"	jmp .\n"
	ENTRY("u_int3")
	"	int3\n"
	REPORT(PROBE_PORT_DONE)
	ENTRY("u_gate")
	REPORT(PROBE_PORT_GATE)
	"	jmp .\n"
	ENTRY("u_read")
	"	movb (%rsi), %al\n"
	REPORT(PROBE_PORT_DONE)
	ENTRY("u_bases")
	"	wrgsbase %rbx\n"
	"	rdgsbase %rcx\n"
	"	rdfsbase %rdx\n"
	REPORT(PROBE_PORT_DONE)
	ENTRY("u_cpuid")
	"	cpuid\n"
	REPORT(PROBE_PORT_DONE)
	ENTRY("u_tick")
	"1:" REPORT(PROBE_PORT_TICK)
	"	jmp 1b\n"
	ENTRY("u_spin")
	"	jmp .\n"
	ENTRY("u_slot")
	"	movl 1f(%rip), %eax\n"
	REPORT(PROBE_PORT_DONE)
	"1:	.long " STR(PROBE_SLOT_MARK) "\n"
	"	.balign 4096\n"
	ENTRY("image_end")
	"	.byte 0\n"
	"	.popsection\n");
