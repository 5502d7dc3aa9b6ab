/* Signals from outside the running code: timer storms against known register
 * contents, nesting, queueing, jumping out of handlers, interrupted calls. */
#include "signals.h"

#include "check.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

/* Shared with the handlers: signals bring no argument with them. */
static struct {
	volatile unsigned ticks, depth, deepest, order_errors, queued;
	volatile bool rewrote;
	sigjmp_buf out;
} seen;

static void timer_set(long us)
{
	struct itimerval it = { { 0, us }, { 0, us } };

	setitimer(ITIMER_REAL, &it, NULL);
}

/* Overwrites what the interrupted code keeps in registers. */
static void storm_handler(int sig)
{
	(void)sig;
	seen.ticks++;
	__asm__ volatile("xorl %%eax, %%eax; xorl %%ecx, %%ecx; xorl %%edx, %%edx;"
			 "xorl %%esi, %%esi; xorl %%edi, %%edi; xorl %%r8d, %%r8d;"
			 "xorl %%r9d, %%r9d; xorl %%r10d, %%r10d; xorl %%r11d, %%r11d;"
			 "xorl %%r12d, %%r12d; xorl %%r13d, %%r13d; xorl %%r14d, %%r14d;"
			 "xorl %%r15d, %%r15d; std; cld" ::
				 : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11",
				   "r12", "r13", "r14", "r15", "cc");
}

/* Holds values in fourteen registers for `n` turns of a loop. Returns their
 * sum, which is known. */
static uint64_t registers_hold(uint64_t n)
{
	uint64_t sum;

	__asm__ volatile("movq $1, %%rcx; movq $2, %%rdx; movq $3, %%rsi; movq $4, %%rdi;"
			 "movq $5, %%r8; movq $6, %%r9; movq $7, %%r10; movq $8, %%r11;"
			 "movq $9, %%r12; movq $10, %%r13; movq $11, %%r14; movq $12, %%r15;"
			 "1: decq %%rax; jnz 1b;"
			 "addq %%rcx, %%rax; addq %%rdx, %%rax; addq %%rsi, %%rax;"
			 "addq %%rdi, %%rax; addq %%r8, %%rax; addq %%r9, %%rax;"
			 "addq %%r10, %%rax; addq %%r11, %%rax; addq %%r12, %%rax;"
			 "addq %%r13, %%rax; addq %%r14, %%rax; addq %%r15, %%rax;"
			 : "=a"(sum)
			 : "0"(n)
			 : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
			   "r14", "r15", "cc");
	return sum;
}

static void storm_check(struct check *c, unsigned ms)
{
	struct sigaction sa = { .sa_handler = storm_handler, .sa_flags = SA_RESTART };
	int64_t until = now_us() + (int64_t)ms * 1000;
	unsigned long bad = 0, turns = 0;

	sigaction(SIGALRM, &sa, NULL);
	seen.ticks = 0;
	timer_set(500);
	for (; now_us() < until; turns++)
		bad += registers_hold(20000) != 78;
	timer_set(0);
	check_that(c, bad == 0, "timer-storm-registers", "%lu of %lu turns wrong", bad, turns);
	check_that(c, seen.ticks >= ms / 50, "timer-storm-arrives", "%u signals in %u ms",
		   seen.ticks, ms);
	printf("# %u timer signals in %u ms\n", seen.ticks, ms);
}

/* Each level raises the next signal from inside its handler. */
static void nest_handler(int sig)
{
	seen.depth++;
	if (seen.depth > seen.deepest)
		seen.deepest = seen.depth;
	if (sig < SIGRTMIN + 10)
		raise(sig + 1);
	seen.depth--;
}

static void nest_check(struct check *c)
{
	struct sigaction sa = { .sa_handler = nest_handler };

	for (int s = SIGRTMIN; s <= SIGRTMIN + 10; s++)
		sigaction(s, &sa, NULL);
	seen.deepest = seen.depth = 0;
	raise(SIGRTMIN);
	check_that(c, seen.deepest == 11 && seen.depth == 0, "nested-handlers", "depth %u, left %u",
		   seen.deepest, seen.depth);
}

static void queue_handler(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	seen.order_errors += info->si_value.sival_int != (int)seen.queued;
	seen.queued++;
}

static void queue_check(struct check *c)
{
	struct sigaction sa = { .sa_sigaction = queue_handler, .sa_flags = SA_SIGINFO };
	sigset_t set, was;
	int sent = 0;

	sigaction(SIGRTMIN + 5, &sa, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 5);
	sigprocmask(SIG_BLOCK, &set, &was);
	seen.queued = seen.order_errors = 0;
	for (; sent < 200; sent++) {
		if (sigqueue(getpid(), SIGRTMIN + 5, (union sigval){ .sival_int = sent }))
			break;
	}
	bool early = seen.queued != 0;

	sigprocmask(SIG_SETMASK, &was, NULL);
	check_that(c, sent == 200 && !early && seen.queued == 200 && !seen.order_errors,
		   "queued-signals", "sent %d, got %u, %u out of order%s", sent, seen.queued,
		   seen.order_errors, early ? ", delivered while blocked" : "");
}

static void jump_handler(int sig)
{
	siglongjmp(seen.out, sig);
}

static void jump_check(struct check *c)
{
	struct sigaction sa = { .sa_handler = jump_handler };
	volatile unsigned bad = 0;
	sigset_t now;

	sigaction(SIGUSR1, &sa, NULL);
	for (volatile unsigned i = 0; i < 300; i++) {
		int got = sigsetjmp(seen.out, 1);

		if (!got) {
			raise(SIGUSR1);
			bad++;
		}
		sigprocmask(SIG_BLOCK, NULL, &now);
		bad += sigismember(&now, SIGUSR1) != 0;
	}
	check_that(c, bad == 0, "jump-out-of-handler", "%u of 300 wrong", bad);
}

static void interrupted_check(struct check *c)
{
	struct sigaction sa = { .sa_handler = storm_handler };
	struct timespec want = { .tv_nsec = 20000000 }, left = { 0 };
	struct pollfd p;
	int fds[2];
	char byte = 0;

	if (pipe(fds)) {
		check_that(c, false, "pipe", "%s", strerror(errno));
		return;
	}
	sigaction(SIGALRM, &sa, NULL);
	timer_set(2000);
	ssize_t n = read(fds[0], &byte, 1);

	check_that(c, n < 0 && errno == EINTR, "read-interrupted", "read %zd errno %d", n, errno);
	p = (struct pollfd){ .fd = fds[0], .events = POLLIN };
	int r = poll(&p, 1, 10000);

	check_that(c, r < 0 && errno == EINTR, "poll-interrupted", "poll %d errno %d", r, errno);
	r = nanosleep(&want, &left);
	check_that(c, r < 0 && errno == EINTR && left.tv_nsec > 0 && left.tv_nsec <= want.tv_nsec,
		   "nanosleep-remaining", "result %d, %ld ns left", r, left.tv_nsec);
	timer_set(0);
	close(fds[0]);
	close(fds[1]);
}

/* After some restarts of the read the handler itself provides the data. */
static int restart_fd;

static void restart_handler(int sig)
{
	(void)sig;
	if (++seen.ticks == 10 && write(restart_fd, "x", 1) == 1)
		seen.rewrote = true;
}

static void restart_check(struct check *c)
{
	struct sigaction sa = { .sa_handler = restart_handler, .sa_flags = SA_RESTART };
	int fds[2];
	char byte = 0;

	if (pipe(fds)) {
		check_that(c, false, "pipe", "%s", strerror(errno));
		return;
	}
	restart_fd = fds[1];
	seen.ticks = 0;
	seen.rewrote = false;
	sigaction(SIGALRM, &sa, NULL);
	timer_set(2000);
	ssize_t n = read(fds[0], &byte, 1);

	timer_set(0);
	check_that(c, n == 1 && byte == 'x' && seen.rewrote, "read-restarted",
		   "read %zd after %u signals", n, seen.ticks);
	close(fds[0]);
	close(fds[1]);
}

/* A handler may change the interrupted code's registers through its context. */
static void edit_handler(int sig, siginfo_t *info, void *context)
{
	greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)sig;
	(void)info;
	g[REG_R12] = 0x1212;
	g[REG_R15] = g[REG_R14] * 2;
}

static void edit_check(struct check *c)
{
	struct sigaction sa = { .sa_sigaction = edit_handler, .sa_flags = SA_SIGINFO };
	unsigned bad = 0;

	sigaction(SIGUSR2, &sa, NULL);
	for (uint64_t i = 0; i < 200; i++) {
		uint64_t a, b;

		/* tgkill of the own thread: delivered before the call returns. */
		__asm__ volatile(
			"movq %[i], %%r14\n\tsyscall\n\tmovq %%r12, %[a]\n\tmovq %%r15, %[b]"
			: [a] "=r"(a), [b] "=r"(b)
			: [i] "r"(i), "a"(62L), "D"((long)getpid()), "S"((long)SIGUSR2)
			: "rcx", "r11", "r12", "r14", "r15", "memory", "cc");
		bad += a != 0x1212 || b != 2 * i;
	}
	check_that(c, bad == 0, "handler-edits-registers", "%u of 200 wrong", bad);
}

void signals_async_check(struct check *c, unsigned ms)
{
	storm_check(c, ms);
	nest_check(c);
	queue_check(c);
	jump_check(c);
	interrupted_check(c);
	restart_check(c);
	edit_check(c);
}
