/* Entering the kernel with a state that trips a careless entry path: system
 * calls, exceptions and interrupts with wild stack pointers and flags, at the
 * edge of the address space, from compatibility mode, behind MOV SS and with
 * single-stepping on; and hypercall numbers called from user space. */
#include "fault.h"
#include "hostile.h"
#include "hostile_compat.h"
#include "suite.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE      4096u
#define USER_LAST 0x7fffffffe000u /* the last page that user space may map */
#define ALT_STACK (64u << 10)

/* getpid with the stack pointer at `arg`: a system call must not care. */
static int syscall_stack_child(void *arg)
{
	long result, self = getpid();

	__asm__ volatile("movq %%rsp, %%rbx\n\t"
			 "movq %2, %%rsp\n\t"
			 "syscall\n\t"
			 "movq %%rbx, %%rsp"
			 : "=a"(result)
			 : "0"((long)SYS_getpid), "r"(arg)
			 : "rbx", "rcx", "r11", "memory");
	return result == self ? 0 : 1;
}

/* A first touch of memory with that stack pointer: the fault is resolvable. */
static int fault_stack_child(void *arg)
{
	volatile uint8_t *p =
		mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return EXIT_UNABLE;
	__asm__ volatile("movq %%rsp, %%rbx\n\t"
			 "movq %1, %%rsp\n\t"
			 "movb $7, (%0)\n\t"
			 "movq %%rbx, %%rsp"
			 :
			 : "r"(p), "r"(arg)
			 : "rbx", "memory");
	return p[0] == 7 ? 0 : 1;
}

static int trap_stack_child(void *arg)
{
	__asm__ volatile("movq %0, %%rsp\n\tud2" : : "r"(arg) : "memory");
	return 0;
}

static int int3_stack_child(void *arg)
{
	__asm__ volatile("movq %0, %%rsp\n\tint3" : : "r"(arg) : "memory");
	return 0;
}

static int divide_stack_child(void *arg)
{
	__asm__ volatile("movq %0, %%rsp\n\txorl %%edx, %%edx\n\txorl %%ecx, %%ecx\n\tdivl %%ecx"
			 :
			 : "r"(arg)
			 : "rax", "rcx", "rdx", "memory");
	return 0;
}

/* Spins on the bad stack long enough for timer interrupts to arrive there. */
static int interrupt_stack_child(void *arg)
{
	__asm__ volatile("movq %%rsp, %%rbx\n\t"
			 "movq %1, %%rsp\n\t"
			 "1: decq %0\n\t"
			 "jnz 1b\n\t"
			 "movq %%rbx, %%rsp"
			 :
			 : "r"(30000000L), "r"(arg)
			 : "rbx", "memory", "cc");
	return 0;
}

/* getpid with the given flags set before and looked at afterwards. */
static int syscall_flags_child(void *arg)
{
	long result, self = getpid();
	uint64_t after;

	__asm__ volatile("subq $128, %%rsp\n\t"
			 "pushfq\n\t"
			 "orq %[flags], (%%rsp)\n\t"
			 "popfq\n\t"
			 "syscall\n\t"
			 "pushfq\n\t"
			 "popq %[after]\n\t"
			 "pushq $0x202\n\t"
			 "popfq\n\t"
			 "addq $128, %%rsp"
			 : "=a"(result), [after] "=&r"(after)
			 : "0"((long)SYS_getpid), [flags] "r"(arg)
			 : "rcx", "r11", "memory", "cc");
	if (after & 0x3000)
		return EXIT_BREACH;
	return result == self ? 0 : 1;
}

/* Single-stepping into a system call: the trap comes after it, in user space. */
static int syscall_step_child(void *arg)
{
	volatile uintptr_t next = 0; /* written before a jump out */

	(void)arg;
	fault_catch(0);
	FAULT_TRY(__asm__ volatile("leaq 1f(%%rip), %%rax\n\t"
				   "movq %%rax, %0\n\t"
				   "subq $128, %%rsp\n\t"
				   "movl $39, %%eax\n\t"
				   "pushfq\n\t"
				   "orq $0x100, (%%rsp)\n\t"
				   "popfq\n\t"
				   "syscall\n\t"
				   "1: nop\n\t"
				   "addq $128, %%rsp"
				   : "=m"(next)
				   :
				   : "rax", "rcx", "r11", "memory", "cc"));
	if (fault_last.sig != SIGTRAP)
		return 1;
	return fault_last.rip < 0x00007ffffffff000u && fault_last.rip - next <= 1 ? 0 : EXIT_BREACH;
}

/* A system call whose return address is the first one past user space. */
static int edge_child(void *arg)
{
	uint8_t *p = mmap((void *)USER_LAST, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	const uint8_t *code = arg;
	size_t len = code[0] == 0xcc ? 1 : 2;

	if (p == MAP_FAILED)
		return EXIT_UNABLE;
	memcpy(p + PAGE - len, code, len);
	/* getpid, which has another number for int $0x80 */
	long number = code[0] == 0xcd ? 20 : SYS_getpid;

	__asm__ volatile("jmp *%1" : : "a"(number), "r"(p + PAGE - len) : "memory");
	return EXIT_BREACH;
}

/* Returning to such places from user space itself, with a kernel's own means. */
struct frame {
	uint64_t rip, cs, flags, rsp, ss;
};

static int iretq_child(void *arg)
{
	struct frame f = *(const struct frame *)arg;

	if (!low_page())
		return EXIT_UNABLE;
	__asm__ volatile("leaq %0, %%rsp\n\tiretq" : : "m"(f) : "memory");
	return EXIT_BREACH;
}

static int retf_child(void *arg)
{
	if (!low_page())
		return EXIT_UNABLE;
	__asm__ volatile("pushq %0\n\tpushq %1\n\tlretq" : : "r"(arg), "r"(LOW_PAGE) : "memory");
	return EXIT_BREACH;
}

/* The numbers of hypercalls, from user space: they are Linux's, here. RDI to R9
 * and the stack hold what would be a frame into the kernel at CPL 0. */
static int hypercall_child(void *arg)
{
	/* Large enough for what the namesakes may write to it. */
	uint64_t frame[512] = { 0,
				0x246,
				LOW_PAGE,
				0,
				0xffffffff81000000u,
				0xe030,
				0x3202,
				0xffffffff81000000u,
				0xe02b,
				0 };
	register uint64_t r10 __asm__("r10") = 0x7ff0;
	register uint64_t r8 __asm__("r8") = 0;
	register uint64_t r9 __asm__("r9") = 0;
	long result;

	close(STDIN_FILENO); /* number 0 is read */
	if (!low_page())
		return EXIT_UNABLE;
	__asm__ volatile("movq %%rsp, %%rbx\n\t"
			 "movq %[frame], %%rsp\n\t"
			 "syscall\n\t"
			 "movq %%rbx, %%rsp"
			 : "=a"(result)
			 : "0"(arg), [frame] "r"(frame), "D"(0L), "S"(frame), "d"(1L), "r"(r10),
			   "r"(r8), "r"(r9)
			 : "rbx", "rcx", "r11", "memory");
	return (int)(result & 0x3f);
}

static bool address_canonical(uintptr_t addr)
{
	return (uint64_t)((int64_t)(addr << 16) >> 16) == addr;
}

static void stacks_try(struct check *c, struct sanity *s, bool verbose)
{
	static const struct {
		const char *name;
		int (*run)(void *arg);
		enum expect expect;
	} kinds[] = {
		{ "syscall", syscall_stack_child, WANT_DONE },
		{ "page-fault", fault_stack_child, WANT_DONE },
		{ "timer", interrupt_stack_child, WANT_DONE },
		{ "ud2", trap_stack_child, WANT_FAULT },
		{ "int3", int3_stack_child, WANT_FAULT },
		{ "divide", divide_stack_child, WANT_FAULT },
	};
	static const uintptr_t stacks[] = { 0,
					    1,
					    0x7ffffffff000u,
					    0x800000000000u,
					    0x8000000000000000u,
					    0xffff808000000ff8u,
					    0xffff888000001000u,
					    0xffffffff81000000u,
					    0xffffffffff5fe000u,
					    ~(uintptr_t)0 };
	char name[80];

	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		for (size_t i = 0; i < ARRAY_SIZE(stacks); i++) {
			struct attack a = { name, kinds[k].run, stacks[i], kinds[k].expect };

			/* No program has such a stack: a fault is an answer as well. */
			if (!address_canonical(stacks[i]) && a.expect == WANT_DONE)
				a.expect = WANT_ANY;

			snprintf(name, sizeof(name), "%s-with-stack-%lx", kinds[k].name, stacks[i]);
			attack_run(c, &a, s, verbose);
		}
	}
}

static void flags_try(struct check *c, struct sanity *s, bool verbose)
{
	static const struct attack attacks[] = {
		{ "syscall-flags-nt", syscall_flags_child, 0x4000, WANT_DONE },
		{ "syscall-flags-df", syscall_flags_child, 0x400, WANT_DONE },
		{ "syscall-flags-ac", syscall_flags_child, 0x40000, WANT_DONE },
		{ "syscall-flags-iopl", syscall_flags_child, 0x3000, WANT_DONE },
		{ "syscall-flags-id", syscall_flags_child, 0x200000, WANT_DONE },
		{ "syscall-flags-all-but-tf", syscall_flags_child, 0x244cd5, WANT_DONE },
		{ "syscall-flags-tf-unhandled", syscall_flags_child, 0x100, WANT_FAULT },
		{ "syscall-flags-tf-nt-ac", syscall_flags_child, 0x44100, WANT_FAULT },
		{ "syscall-single-step", syscall_step_child, 0, WANT_DONE },
	};

	attacks_run(c, attacks, ARRAY_SIZE(attacks), s, verbose);
}

static void edges_try(struct check *c, struct sanity *s, bool verbose)
{
	static const struct {
		const char *name;
		uint8_t code[2];
	} edges[] = {
		{ "edge-syscall", { 0x0f, 0x05 } }, { "edge-sysenter", { 0x0f, 0x34 } },
		{ "edge-int80", { 0xcd, 0x80 } },   { "edge-int3", { 0xcc, 0 } },
		{ "edge-ud2", { 0x0f, 0x0b } },     { "edge-int-3", { 0xcd, 0x03 } },
	};
	static const struct frame frames[] = {
		{ LOW_PAGE, 0x33, 0x202, LOW_PAGE + 0x800, 0x2b },
		{ 0x8000000000000000u, 0x33, 0x202, LOW_PAGE + 0x800, 0x2b },
		{ 0x00007ffffffff000u, 0x33, 0x202, LOW_PAGE + 0x800, 0x2b },
		{ 0xffffffff81000000u, 0x33, 0x202, LOW_PAGE + 0x800, 0x2b },
		{ 0xffffffff81000000u, 0x10, 0x3202, 0xffffffff82000000u, 0x18 },
		{ LOW_PAGE, 0x10, 0x202, LOW_PAGE + 0x800, 0x18 },
		{ LOW_PAGE, 0xe030, 0x202, LOW_PAGE + 0x800, 0xe02b },
		{ LOW_PAGE, 0xe033, 0x202, LOW_PAGE + 0x800, 0xe02b },
		{ LOW_PAGE, 0x33, 0x17f302, 0x8000000000000000u, 0x2b },
		{ LOW_PAGE, 0x23, 0x202, 0xffffffff00000800u, 0x2b },
		{ LOW_PAGE, 0x33, 0x202, LOW_PAGE + 0x800, 0 },
		{ LOW_PAGE, 0, 0x202, LOW_PAGE + 0x800, 0x2b },
	};
	char name[64];

	for (size_t i = 0; i < ARRAY_SIZE(edges); i++) {
		struct attack a = { edges[i].name, edge_child, (uintptr_t)edges[i].code,
				    WANT_FAULT };

		attack_run(c, &a, s, verbose);
	}
	for (size_t i = 0; i < ARRAY_SIZE(frames); i++) {
		struct attack a = { name, iretq_child, (uintptr_t)&frames[i], WANT_FAULT };

		snprintf(name, sizeof(name), "iretq-%zu-cs-%lx", i, frames[i].cs);
		attack_run(c, &a, s, verbose);
	}
	for (uintptr_t cs = 0; cs < 0x100; cs++) {
		struct attack a = { name, retf_child, cs, WANT_FAULT };

		snprintf(name, sizeof(name), "retf-cs-%lx", cs);
		attack_run(c, &a, s, verbose);
	}
}

static void hypercalls_try(struct check *c, struct sanity *s, bool verbose)
{
	/* Those whose Linux namesakes neither wait nor create processes. */
	static const uint8_t numbers[] = { 0,  1,  2,  3,  4,  5,  6,  8,  9,  10, 11, 12,
					   13, 14, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25,
					   26, 28, 29, 30, 31, 32, 33, 36, 38, 39, 40, 41,
					   44, 48, 49, 50, 51, 52, 53, 54, 55, 59, 63 };
	char name[48];

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		struct attack a = { name, hypercall_child, numbers[i], WANT_ANY };

		snprintf(name, sizeof(name), "hypercall-%u-from-user", numbers[i]);
		attack_run(c, &a, s, verbose);
	}
}

int hostile_entry_main(int argc, char **argv)
{
	bool verbose = param_get(argc, argv, "verbose", 0, 0, 1);
	struct check c = { 0 };
	struct sanity s;

	if (sanity_init(&s))
		return 1;
	stacks_try(&c, &s, verbose);
	flags_try(&c, &s, verbose);
	edges_try(&c, &s, verbose);
	hypercalls_try(&c, &s, verbose);
	compat_try(&c, &s, verbose);
	return check_finish(&c);
}
