/* Time: clocks never go back, whether read through the vDSO or a system call;
 * sleeps and timers are neither early nor absurdly late, and sleeping costs no
 * CPU time. */
#include "check.h"
#include "suite.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000L

static int64_t clock_ns(clockid_t id, bool by_syscall)
{
	struct timespec t = { 0 };

	if (by_syscall)
		syscall(SYS_clock_gettime, id, &t);
	else
		clock_gettime(id, &t);
	return (int64_t)t.tv_sec * NS + t.tv_nsec;
}

/* Reads in alternation by vDSO and system call; each at least the last. */
static void monotonic_check(struct check *c, clockid_t id, const char *name, unsigned n)
{
	int64_t last = clock_ns(id, false), worst = 0;
	unsigned back = 0;

	for (unsigned i = 0; i < n; i++) {
		int64_t t = clock_ns(id, i % 8 == 0);

		if (t < last) {
			back++;
			worst = last - t > worst ? last - t : worst;
		}
		last = t;
	}
	check_that(c, back == 0, name, "went back %u of %u times, at most %ld ns", back, n, worst);
}

static uint64_t tsc_read(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}

/* Over two halves of `ms`, all clocks advance alike, and so does the TSC. */
static void rates_check(struct check *c, long ms)
{
	int64_t mono[3], real[3], raw[3];
	uint64_t tsc[3];
	struct timespec half = { ms / 2000, ms / 2 % 1000 * 1000000 };

	for (unsigned i = 0; i < 3; i++) {
		mono[i] = clock_ns(CLOCK_MONOTONIC, false);
		real[i] = clock_ns(CLOCK_REALTIME, true);
		raw[i] = clock_ns(CLOCK_MONOTONIC_RAW, false);
		tsc[i] = tsc_read();
		if (i < 2)
			clock_nanosleep(CLOCK_MONOTONIC, 0, &half, NULL);
	}
	double span = (double)(mono[2] - mono[0]);
	double real_off = (double)(real[2] - real[0]) / span - 1;
	double raw_off = (double)(raw[2] - raw[0]) / span - 1;
	double rate1 = (double)(tsc[1] - tsc[0]) / (double)(mono[1] - mono[0]);
	double rate2 = (double)(tsc[2] - tsc[1]) / (double)(mono[2] - mono[1]);

	check_that(c, real_off < 0.01 && real_off > -0.01, "realtime-rate", "%.2f%% off",
		   real_off * 100);
	check_that(c, raw_off < 0.01 && raw_off > -0.01, "raw-rate", "%.2f%% off", raw_off * 100);
	check_that(c, rate1 / rate2 < 1.02 && rate1 / rate2 > 0.98, "tsc-rate-steady",
		   "%.4f then %.4f per ns", rate1, rate2);
	check_that(c, real[0] > 1600000000L * NS, "realtime-is-set", "it says %ld s", real[0] / NS);
}

static int long_compare(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static void sleep_check(struct check *c, long us, long late_max_us)
{
	struct timespec want = { 0, us * 1000 };
	int64_t late[15];
	char name[48];

	for (unsigned i = 0; i < ARRAY_SIZE(late); i++) {
		int64_t start = clock_ns(CLOCK_MONOTONIC, false);

		nanosleep(&want, NULL);
		late[i] = (clock_ns(CLOCK_MONOTONIC, false) - start) / 1000 - us;
	}
	qsort(late, ARRAY_SIZE(late), sizeof(late[0]), long_compare);
	snprintf(name, sizeof(name), "sleep-%ldus", us);
	check_that(c, late[0] >= 0 && late[ARRAY_SIZE(late) / 2] <= late_max_us, name,
		   "late by %ld us at least, %ld in the median", late[0],
		   late[ARRAY_SIZE(late) / 2]);
	printf("# %s late by: min %ld, median %ld, max %ld us\n", name, late[0],
	       late[ARRAY_SIZE(late) / 2], late[ARRAY_SIZE(late) - 1]);
}

static void idle_check(struct check *c)
{
	int64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID, true);
	struct timespec want = { 0, 300000000 };

	nanosleep(&want, NULL);
	cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID, true) - cpu;
	check_that(c, cpu < 60000000, "sleep-costs-no-cpu", "%ld us of CPU time", cpu / 1000);
}

static void timerfd_check(struct check *c)
{
	struct itimerspec it = { { 0, 5000000 }, { 0, 5000000 } };
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	int64_t start = clock_ns(CLOCK_MONOTONIC, false), spent = 0;
	uint64_t sum = 0, got;

	if (fd < 0 || timerfd_settime(fd, 0, &it, NULL)) {
		check_that(c, false, "timerfd", "errno %d", errno);
		return;
	}
	while (sum < 100 && spent < 10 * NS) {
		struct pollfd p = { .fd = fd, .events = POLLIN };

		if (poll(&p, 1, 5000) != 1 || read(fd, &got, sizeof(got)) != sizeof(got))
			break;
		sum += got;
		spent = clock_ns(CLOCK_MONOTONIC, false) - start;
	}
	int64_t want = spent / 5000000;

	check_that(c, sum >= 100 && (int64_t)sum <= want && (int64_t)sum >= want - 2, "timerfd",
		   "%lu expirations, the clock says %ld", sum, want);
	close(fd);
}

/* Shared with the handler. */
static volatile unsigned tick_count;

static void tick_handler(int sig)
{
	(void)sig;
	tick_count++;
}

static void itimer_check(struct check *c, enum __itimer_which which, int sig, const char *name)
{
	struct itimerval it = { { 0, 10000 }, { 0, 10000 } }, off = { { 0, 0 }, { 0, 0 } };
	struct sigaction sa = { .sa_handler = tick_handler, .sa_flags = SA_RESTART };
	clockid_t clock = which == ITIMER_REAL ? CLOCK_MONOTONIC : CLOCK_PROCESS_CPUTIME_ID;

	sigaction(sig, &sa, NULL);
	tick_count = 0;
	int64_t wall = now_us(), start = clock_ns(clock, false);

	setitimer(which, &it, NULL);
	while (now_us() - wall < 600000)
		;
	int64_t want = (clock_ns(clock, false) - start) / 10000000;

	setitimer(which, &off, NULL);
	check_that(c, tick_count <= (unsigned)want + 2 && tick_count * 4 >= want, name,
		   "%u signals, the clock says %ld", tick_count, want);
}

static int later_child(void *arg)
{
	return clock_ns(CLOCK_MONOTONIC, false) < *(int64_t *)arg;
}

static void fork_check(struct check *c)
{
	unsigned bad = 0;

	for (unsigned i = 0; i < 20; i++) {
		int64_t before = clock_ns(CLOCK_MONOTONIC, false);
		struct outcome o = child_run(later_child, &before, 10000);

		bad += o.kind != OUTCOME_EXIT || o.value != 0;
	}
	check_that(c, bad == 0, "clock-across-fork", "%u of 20 children saw an earlier time", bad);
}

int stress_time_main(int argc, char **argv)
{
	unsigned n = (unsigned)param_get(argc, argv, "n", 100000, 1, 1000000000);
	long late = param_get(argc, argv, "late_us", 20000, 100, 10000000);
	struct check c = { 0 };

	monotonic_check(&c, CLOCK_MONOTONIC, "monotonic", n);
	monotonic_check(&c, CLOCK_REALTIME, "realtime", n);
	monotonic_check(&c, CLOCK_MONOTONIC_RAW, "monotonic-raw", n);
	monotonic_check(&c, CLOCK_BOOTTIME, "boottime", n);
	monotonic_check(&c, CLOCK_MONOTONIC_COARSE, "monotonic-coarse", n);
	rates_check(&c, 1000);
	sleep_check(&c, 100, late);
	sleep_check(&c, 1000, late);
	sleep_check(&c, 20000, late);
	idle_check(&c);
	timerfd_check(&c);
	itimer_check(&c, ITIMER_REAL, SIGALRM, "itimer-real");
	itimer_check(&c, ITIMER_VIRTUAL, SIGVTALRM, "itimer-virtual");
	itimer_check(&c, ITIMER_PROF, SIGPROF, "itimer-prof");
	fork_check(&c);
	return check_finish(&c);
}
