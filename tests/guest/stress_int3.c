/* A million breakpoints: the handler checks the saved RIP and registers of
 * every one, half of them while a fast interval timer interrupts. */
#include "check.h"
#include "suite.h"

#include <signal.h>
#include <stdio.h>
#include <sys/time.h>
#include <ucontext.h>

/* Shared with the handlers: signals bring no argument with them. */
static struct {
	volatile unsigned long traps, bad_rip, bad_regs, bad_info, ticks;
} seen;

/* The trapping code leaves the address after the int3 in RAX and the number of
 * the trap in RBX and, inverted, in R15. */
static void trap_handler(int sig, siginfo_t *info, void *context)
{
	const greg_t *g = ((const ucontext_t *)context)->uc_mcontext.gregs;

	(void)sig;
	seen.bad_rip += g[REG_RIP] != g[REG_RAX];
	seen.bad_regs += g[REG_RBX] != (greg_t)seen.traps || g[REG_R15] != ~g[REG_RBX];
	seen.bad_info += info->si_code != SI_KERNEL || g[REG_TRAPNO] != 3;
	seen.traps++;
}

static void tick_handler(int sig)
{
	(void)sig;
	seen.ticks++;
}

static void trap_once(unsigned long i)
{
	__asm__ volatile("leaq 1f(%%rip), %%rax\n\t"
			 "movq %0, %%r15\n\t"
			 "notq %%r15\n\t"
			 "int3\n\t"
			 "1:"
			 :
			 : "b"(i)
			 : "rax", "r15", "memory", "cc");
}

/* Returns how many were made before the time was up. */
static unsigned long traps_make(unsigned long n, int64_t until)
{
	unsigned long start = seen.traps;

	for (unsigned long i = 0; i < n; i++) {
		if (i % 256 == 0 && now_us() > until)
			return i;
		trap_once(start + i);
		if (seen.traps != start + i + 1)
			return i + 1;
	}
	return n;
}

static void phase_check(struct check *c, const char *name, unsigned long n, int64_t seconds)
{
	unsigned long before = seen.traps;
	unsigned long made = traps_make(n, now_us() + seconds * 1000000);

	check_that(c, seen.traps - before == made && made > 0, name, "%lu int3s, %lu traps", made,
		   seen.traps - before);
	if (made < n)
		printf("# %s: stopped by the time limit after %lu of %lu\n", name, made, n);
}

int stress_int3_main(int argc, char **argv)
{
	unsigned long n = (unsigned long)param_get(argc, argv, "n", 1000000, 2, 1000000000);
	long seconds = param_get(argc, argv, "seconds", 20, 2, 86400);
	long period = param_get(argc, argv, "timer_us", 997, 50, 1000000);
	struct sigaction trap = { .sa_sigaction = trap_handler, .sa_flags = SA_SIGINFO };
	struct sigaction tick = { .sa_handler = tick_handler, .sa_flags = SA_RESTART };
	struct itimerval storm = { { 0, period }, { 0, period } }, quiet = { { 0, 0 }, { 0, 0 } };
	struct check c = { 0 };

	storm.it_interval.tv_sec = storm.it_value.tv_sec = period / 1000000;
	storm.it_interval.tv_usec = storm.it_value.tv_usec = period % 1000000;
	sigaction(SIGTRAP, &trap, NULL);
	sigaction(SIGALRM, &tick, NULL);
	phase_check(&c, "int3-quiet", n / 2, seconds / 2);
	setitimer(ITIMER_REAL, &storm, NULL);
	phase_check(&c, "int3-under-timer", n - n / 2, seconds / 2);
	setitimer(ITIMER_REAL, &quiet, NULL);
	check_that(&c, !seen.bad_rip, "int3-rip", "%lu wrong", seen.bad_rip);
	check_that(&c, !seen.bad_regs, "int3-registers", "%lu wrong", seen.bad_regs);
	check_that(&c, !seen.bad_info, "int3-siginfo", "%lu wrong", seen.bad_info);
	printf("# %lu int3s, %lu timer signals\n", seen.traps, seen.ticks);
	return check_finish(&c);
}
