/* System calls and traps from 32-bit compatibility mode, reached by a far jump
 * that needs no permission, and instructions behind MOV SS and POP SS, which
 * hold back debug traps until the kernel has been entered. */
#include "hostile_compat.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define COMPAT_CS   0x23u
#define CODE_MAX    8u
#define POINTER_AT  0x800u
#define SS_AT       0x900u
#define DR7_DATA_RW ((3ul << 16) | (1ul << 18) | 1ul) /* DR0: 2 bytes, read or write */

struct code {
	const char *name;
	uint8_t len, bytes[CODE_MAX];
};

/* Runs `code` in compatibility mode with EAX=20 (getpid there) and the stack
 * pointer `rsp`; UD2 follows in the page. */
static int compat_run(const struct code *code, uint64_t rsp)
{
	uint8_t *p = low_page();
	uint32_t offset = LOW_PAGE;
	uint16_t cs = COMPAT_CS;

	if (!p)
		return EXIT_UNABLE;
	memcpy(p, code->bytes, code->len);
	memcpy(p + POINTER_AT, &offset, sizeof(offset));
	memcpy(p + POINTER_AT + 4, &cs, sizeof(cs));
	__asm__ volatile("movq %1, %%rsp\n\t"
			 "ljmp *(%0)"
			 :
			 : "r"(p + POINTER_AT), "r"(rsp), "a"(20L), "c"(0xffffffff81000000u),
			   "b"(0L)
			 : "memory");
	return EXIT_BREACH;
}

static int compat_child(void *arg)
{
	return compat_run(arg, LOW_PAGE + 0xf00);
}

/* A pointer whose upper half is junk, which compatibility mode ignores. */
static int compat_wild_child(void *arg)
{
	return compat_run(arg, 0xffff808000000f00u);
}

static const struct code compat_codes[] = {
	{ "compat-syscall", 2, { 0x0f, 0x05 } },
	{ "compat-sysenter", 2, { 0x0f, 0x34 } },
	{ "compat-int80", 2, { 0xcd, 0x80 } },
	{ "compat-ud2", 2, { 0x0f, 0x0b } },
	{ "compat-int3", 1, { 0xcc } },
	{ "compat-into", 3, { 0x70, 0x00, 0xce } },
	{ "compat-icebp", 1, { 0xf1 } },
	{ "compat-push", 1, { 0x50 } },
	{ "compat-hlt", 1, { 0xf4 } },
	{ "compat-far-jump-kernel-cs", 7, { 0xea, 0, 0, 0, 0x20, 0x10, 0x00 } },
	{ "compat-call-gate", 7, { 0x9a, 0, 0, 0, 0, 0x08, 0x00 } },
	{ "compat-mov-ss-syscall", 4, { 0x8e, 0xd2, 0x0f, 0x05 } },
	{ "compat-pop-ds-es", 2, { 0x1f, 0x07 } },
	{ "compat-in", 2, { 0xe4, 0x60 } },
	{ "compat-vmmcall", 3, { 0x0f, 0x01, 0xd9 } },
};

/* After "mov (%rbx), %ss", in 64-bit mode. */
static const struct code shadow_codes[] = {
	{ "mov-ss-syscall", 2, { 0x0f, 0x05 } },
	{ "mov-ss-int3", 1, { 0xcc } },
	{ "mov-ss-ud2", 2, { 0x0f, 0x0b } },
	{ "mov-ss-icebp", 1, { 0xf1 } },
	{ "mov-ss-int80", 2, { 0xcd, 0x80 } },
	{ "mov-ss-sysenter", 2, { 0x0f, 0x34 } },
	{ "mov-ss-int-3", 2, { 0xcd, 0x03 } },
	{ "mov-ss-int-1", 2, { 0xcd, 0x01 } },
	{ "mov-ss-mov-ss", 2, { 0x8e, 0x13 } },
	{ "mov-ss-hlt", 1, { 0xf4 } },
	{ "mov-ss-vmmcall", 3, { 0x0f, 0x01, 0xd9 } },
	{ "mov-ss-page-fault", 3, { 0x48, 0x8b, 0x00 } },
};

/* Runs the code behind MOV SS; with TF when `step`. RAX is getpid's number, so
 * that a page fault hits low memory. */
static int shadow_run(const struct code *code, bool step)
{
	uint8_t *p = low_page();
	uint64_t tf = step ? 0x100 : 0;
	/* getpid, which has another number for int $0x80 */
	long number = code->bytes[0] == 0xcd ? 20 : 39;

	if (!p)
		return EXIT_UNABLE;
	p[SS_AT] = 0x2b;
	p[SS_AT + 1] = 0;
	p[0] = 0x8e; /* mov (%rbx), %ss */
	p[1] = 0x13;
	memcpy(p + 2, code->bytes, code->len);
	/* mov %r12, %rsp; ret */
	memcpy(p + 2 + code->len, "\x4c\x89\xe4\xc3", 4);
	__asm__ volatile("subq $256, %%rsp\n\t"
			 "leaq 1f(%%rip), %%rcx\n\t"
			 "pushq %%rcx\n\t"
			 "movq %%rsp, %%r12\n\t"
			 "pushfq\n\t"
			 "orq %[tf], (%%rsp)\n\t"
			 "popfq\n\t"
			 "jmp *%[page]\n\t"
			 "1: addq $256, %%rsp"
			 :
			 : [tf] "r"(tf), [page] "r"(p), "a"(number), "b"(p + SS_AT)
			 : "rcx", "rdx", "r11", "r12", "memory", "cc");
	return 0;
}

static int shadow_child(void *arg)
{
	return shadow_run(arg, false);
}

static int shadow_step_child(void *arg)
{
	return shadow_run(arg, true);
}

/* The traced side: stops so that its debug registers can be set. */
static int watched_child(const struct code *code)
{
	if (ptrace(PTRACE_TRACEME, 0, 0, 0) < 0)
		return EXIT_UNABLE;
	raise(SIGSTOP);
	return shadow_run(code, false);
}

/* A data breakpoint on the word that MOV SS loads: the debug trap is held back
 * and comes on the kernel's first instruction. Passes signals on until the
 * watched process ends, in the same way. */
static int shadow_watch_child(void *arg)
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0)
		_exit(watched_child(arg));
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
		return EXIT_UNABLE;
	if (ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[0]), LOW_PAGE + SS_AT) ||
	    ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[7]), DR7_DATA_RW)) {
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		return EXIT_UNABLE;
	}
	for (int sig = 0, stops = 0; stops < 20; stops++) {
		if (ptrace(PTRACE_CONT, pid, 0, sig) < 0 || waitpid(pid, &status, 0) != pid)
			return 1;
		if (!WIFSTOPPED(status))
			return WIFEXITED(status) && WEXITSTATUS(status) == EXIT_BREACH ? EXIT_BREACH
										       : 0;
		sig = WSTOPSIG(status) == SIGTRAP && stops < 10 ? 0 : WSTOPSIG(status);
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return 0;
}

void compat_try(struct check *c, struct sanity *s, bool verbose)
{
	char name[80];

	for (size_t i = 0; i < ARRAY_SIZE(compat_codes); i++) {
		struct attack a = { compat_codes[i].name, compat_child, (uintptr_t)&compat_codes[i],
				    WANT_FAULT };

		attack_run(c, &a, s, verbose);
		snprintf(name, sizeof(name), "%s-wild-stack", compat_codes[i].name);
		a.name = name;
		a.run = compat_wild_child;
		attack_run(c, &a, s, verbose);
	}
	for (size_t i = 0; i < ARRAY_SIZE(shadow_codes); i++) {
		const char *base = shadow_codes[i].name;
		struct attack a = { base, shadow_child, (uintptr_t)&shadow_codes[i], WANT_ANY };

		attack_run(c, &a, s, verbose);
		snprintf(name, sizeof(name), "%s-stepping", base);
		a.name = name;
		a.run = shadow_step_child;
		attack_run(c, &a, s, verbose);
		snprintf(name, sizeof(name), "%s-watched", base);
		a.run = shadow_watch_child;
		if (inside_xen())
			attack_run(c, &a, s, verbose);
		else
			check_skip(c, name, "debug registers are only tried in guests");
	}
}
