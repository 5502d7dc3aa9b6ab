/* Debugging: single steps over a routine whose exact number of instructions
 * is known, breakpoints written into the text, register changes, system call
 * tracing. */
#include "check.h"
#include "suite.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/* uint64_t traced_routine(uint64_t turns, void *from, void *to): per turn a
 * system call, a string copy of 16 repetitions and arithmetic; returns 3 *
 * turns. Written in assembly so that its steps can be counted. */
__asm__(".pushsection .text\n"
	".globl traced_routine, traced_loop, traced_end\n"
	"traced_routine:\n"
	"	movq %rdi, %r8\n"
	"	movq %rsi, %r9\n"
	"	movq %rdx, %r10\n"
	"	xorl %edi, %edi\n"
	"	xorl %edx, %edx\n"
	"traced_loop:\n"
	"	movl $39, %eax\n" /* getpid */
	"	syscall\n"
	"	movq %r9, %rsi\n"
	"	movq %r10, %rdi\n"
	"	movl $16, %ecx\n"
	"	rep movsb\n"
	"	pushq %rcx\n"
	"	popq %rcx\n"
	"	addq $3, %rdx\n"
	"	decq %r8\n"
	"	jnz traced_loop\n"
	"traced_end:\n"
	"	movq %rdx, %rax\n"
	"	ret\n"
	".popsection\n");
uint64_t traced_routine(uint64_t turns, const void *from, void *to);
extern const char traced_loop[], traced_end[];

#define STEPS_BEFORE   5u /* up to traced_loop */
#define REP_COUNT      16u
#define STEPS_PER_TURN (10u + REP_COUNT)

static const char copied[REP_COUNT + 1] = "sixteen bytes ok";

/* Exit code: 0 when the routine's result is `want` and the copy arrived. */
static int tracee_run(uint64_t turns, uint64_t want)
{
	char to[REP_COUNT] = "";

	if (ptrace(PTRACE_TRACEME, 0, 0, 0) < 0)
		return 3;
	raise(SIGSTOP);
	uint64_t got = traced_routine(turns, copied, to);

	return got != want ? 1 : memcmp(to, copied, REP_COUNT) ? 2 : 0;
}

/* Starts a stopped tracee. Returns its pid or -1. */
static pid_t tracee_start(uint64_t turns, uint64_t want)
{
	int status;

	fflush(NULL);
	pid_t pid = fork();

	if (pid == 0)
		_exit(tracee_run(turns, want));
	if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFSTOPPED(status))
		return pid;
	return -1;
}

/* Lets the tracee go on and waits for its next stop. Returns the stop signal,
 * or -1 - exit code after its end, or -1000. */
static int tracee_resume(pid_t pid, enum __ptrace_request request)
{
	int status;

	if (ptrace(request, pid, 0, 0) < 0 || waitpid(pid, &status, 0) != pid)
		return -1000;
	if (WIFSTOPPED(status))
		return WSTOPSIG(status);
	return WIFEXITED(status) ? -1 - WEXITSTATUS(status) : -1000;
}

static uintptr_t tracee_rip(pid_t pid)
{
	errno = 0;
	long v = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), 0);

	return errno ? 0 : (uintptr_t)v;
}

static void tracee_end(pid_t pid)
{
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) > 0)
		;
}

/* Puts a breakpoint at `at`; the word that was there comes back in *was. */
static bool breakpoint_set(pid_t pid, const void *at, long *was)
{
	errno = 0;
	*was = ptrace(PTRACE_PEEKTEXT, pid, at, 0);
	return !errno && ptrace(PTRACE_POKETEXT, pid, at, (*was & ~0xffL) | 0xcc) == 0;
}

static bool breakpoint_clear(pid_t pid, const void *at, long was)
{
	struct user_regs_struct regs;

	if (ptrace(PTRACE_POKETEXT, pid, at, was) || ptrace(PTRACE_GETREGS, pid, 0, &regs))
		return false;
	regs.rip = (uintptr_t)at;
	return ptrace(PTRACE_SETREGS, pid, 0, &regs) == 0;
}

/* Runs to the routine's loop with a breakpoint. */
static bool tracee_to_loop(pid_t pid)
{
	long was;

	return pid > 0 && breakpoint_set(pid, traced_loop, &was) &&
	       tracee_resume(pid, PTRACE_CONT) == SIGTRAP &&
	       tracee_rip(pid) == (uintptr_t)traced_loop + 1 &&
	       breakpoint_clear(pid, traced_loop, was);
}

static void step_check(struct check *c, uint64_t turns, bool with_timer)
{
	const char *name = with_timer ? "single-step-two-at-once" : "single-step";
	pid_t pid = tracee_start(turns, 3 * turns);
	pid_t other = with_timer ? tracee_start(turns, 3 * turns) : 0;
	unsigned long steps = 0, want = turns * STEPS_PER_TURN;
	int stop = SIGTRAP;
	bool ready = tracee_to_loop(pid) && (!with_timer || tracee_to_loop(other));

	check_that(c, ready, "single-step-start", "cannot reach the routine");
	while (ready && stop == SIGTRAP && steps <= want) {
		stop = tracee_resume(pid, PTRACE_SINGLESTEP);
		if (with_timer && tracee_resume(other, PTRACE_SINGLESTEP) != stop)
			break;
		steps++;
		if (tracee_rip(pid) == (uintptr_t)traced_end)
			break;
	}
	check_that(c,
		   steps == want && stop == SIGTRAP &&
			   (!with_timer || tracee_rip(other) == (uintptr_t)traced_end),
		   name, "%lu steps instead of %lu, last stop %d", steps, want, stop);
	int end = ready ? tracee_resume(pid, PTRACE_CONT) : 0;

	check_that(c, end == -1, "stepped-result", "the stepped process ended with %d", -1 - end);
	if (end > -1)
		tracee_end(pid);
	if (with_timer)
		tracee_end(other);
}

static void breakpoint_check(struct check *c, uint64_t turns)
{
	pid_t pid = tracee_start(turns, 3 * turns);
	unsigned long hits = 0;
	long was = 0;
	int stop = 0;

	while (pid > 0) {
		if (!breakpoint_set(pid, traced_loop, &was))
			break;
		stop = tracee_resume(pid, PTRACE_CONT);
		if (stop != SIGTRAP || tracee_rip(pid) != (uintptr_t)traced_loop + 1)
			break;
		hits++;
		if (!breakpoint_clear(pid, traced_loop, was) ||
		    tracee_resume(pid, PTRACE_SINGLESTEP) != SIGTRAP)
			break;
	}
	check_that(c, hits == turns && stop == -1, "breakpoints", "%lu hits of %lu, ended with %d",
		   hits, turns, stop);
	if (stop > -1 && pid > 0)
		tracee_end(pid);
}

/* Changes the routine's running result and its count of turns. */
static void registers_check(struct check *c)
{
	pid_t pid = tracee_start(50, 1000 + 3 * 4);
	struct user_regs_struct regs, again;
	struct user_fpregs_struct fp, fp_again;
	bool good = tracee_to_loop(pid) && ptrace(PTRACE_GETREGS, pid, 0, &regs) == 0;

	if (good) {
		good = regs.r8 == 50 && regs.rdx == 0 && regs.cs == 0x33 && regs.ss == 0x2b;
		check_that(c, good, "registers-read", "r8 %llu rdx %llu cs %#llx ss %#llx", regs.r8,
			   regs.rdx, regs.cs, regs.ss);
		regs.r8 = 4;
		regs.rdx = 1000;
		regs.r15 = 0x1515151515151515;
		good = ptrace(PTRACE_SETREGS, pid, 0, &regs) == 0 &&
		       ptrace(PTRACE_GETREGS, pid, 0, &again) == 0 && again.r15 == regs.r15 &&
		       again.rdx == 1000;
		check_that(c, good, "registers-written", "they read back differently");
		good = ptrace(PTRACE_GETFPREGS, pid, 0, &fp) == 0;
		memset(fp.xmm_space, 0x5a, sizeof(fp.xmm_space));
		good = good && ptrace(PTRACE_SETFPREGS, pid, 0, &fp) == 0 &&
		       tracee_resume(pid, PTRACE_SINGLESTEP) == SIGTRAP &&
		       ptrace(PTRACE_GETFPREGS, pid, 0, &fp_again) == 0 &&
		       !memcmp(fp.xmm_space, fp_again.xmm_space, sizeof(fp.xmm_space));
		check_that(c, good, "vector-registers-written", "they read back differently");
		int end = tracee_resume(pid, PTRACE_CONT);

		check_that(c, end == -1, "registers-used", "the process ended with %d", -1 - end);
		if (end > -1)
			tracee_end(pid);
		return;
	}
	check_that(c, false, "registers-read", "cannot reach the routine");
}

/* Every entry and exit stop is seen; one call is swallowed and answered. */
static void syscall_check(struct check *c, uint64_t turns)
{
	pid_t pid = tracee_start(turns, 3 * turns);
	struct user_regs_struct regs;
	unsigned long entries = 0, exits = 0, wrong = 0;
	bool inside = false;
	int stop = -1000;

	if (pid > 0 && ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD) == 0)
		stop = 0;
	while (stop >= 0) {
		stop = tracee_resume(pid, PTRACE_SYSCALL);
		if (stop != (SIGTRAP | 0x80) || ptrace(PTRACE_GETREGS, pid, 0, &regs))
			continue;
		inside = !inside;
		if (regs.orig_rax != SYS_getpid && (long)regs.orig_rax != -1)
			continue;
		if (inside) {
			wrong += (long)regs.rax != -ENOSYS;
			entries++;
			regs.orig_rax = entries % 5 == 0 ? (unsigned long long)-1 : SYS_getpid;
		} else {
			exits++;
			wrong += (long)regs.rax != (exits % 5 == 0 ? -ENOSYS : pid);
			regs.rax = 4242;
		}
		wrong += ptrace(PTRACE_SETREGS, pid, 0, &regs) != 0;
	}
	check_that(c, entries == turns && exits == turns && !wrong && stop == -1, "syscall-tracing",
		   "%lu entries, %lu exits of %lu, %lu wrong, ended with %d", entries, exits, turns,
		   wrong, stop);
}

int stress_ptrace_main(int argc, char **argv)
{
	uint64_t turns = (uint64_t)param_get(argc, argv, "turns", 100, 5, 1000000);
	struct check c = { 0 };

	step_check(&c, turns, false);
	step_check(&c, turns / 5, true);
	breakpoint_check(&c, turns);
	registers_check(&c);
	syscall_check(&c, turns);
	return check_finish(&c);
}
