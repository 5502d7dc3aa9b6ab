/* Microbenchmarks of what a guest costs its programs; the same program on the
 * host is the comparison. Prints one JSON object per line:
 *   {"name":..,"unit":..,"n":..,"ops":..,"min":..,"p50":..,"p90":..,"p99":..,"max":..}
 * where n counts batches of `ops` operations and each value is a batch's mean per
 * operation.
 *
 * Parameters: budget_ms=N bounds each benchmark's time (default 900); only=NAME
 * runs one of them; ops=N sets the operations per batch, so that what a batch
 * needs around them loses its weight; once=1 runs one batch and no other before
 * it. Unknown arguments are refused. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE          4096u
#define BATCHES_MAX   400u
#define BATCHES_MIN   5u
#define ROUND_TRIPS   40u
#define EXIT_ARGUMENT "--exit"

/* A benchmark performs `ops` operations in one batch and returns their time in
 * nanoseconds, without its own preparation, or a negative number: -errno, or
 * -ENOENT when this system cannot run it. */
struct bench {
	const char *name, *unit;
	double unit_ns;
	unsigned ops;
	int64_t (*batch)(unsigned ops);
};

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Waits for a child; true when it ended with exit code 0. */
static bool child_ended(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return false;
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int64_t getpid_batch(unsigned ops)
{
	int64_t start = now_ns();

	for (unsigned i = 0; i < ops; i++)
		syscall(SYS_getpid);
	return now_ns() - start;
}

static int64_t clock_batch(unsigned ops)
{
	struct timespec t;
	int64_t start = now_ns();

	for (unsigned i = 0; i < ops; i++)
		clock_gettime(CLOCK_REALTIME, &t);
	return now_ns() - start;
}

static void pages_touch(volatile uint8_t *p, unsigned pages, uint8_t value)
{
	for (unsigned i = 0; i < pages; i++)
		p[(size_t)i * PAGE] = value;
}

static int64_t fault_batch(unsigned ops)
{
	uint8_t *p = mmap(NULL, (size_t)ops * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	madvise(p, (size_t)ops * PAGE, MADV_NOHUGEPAGE);
	int64_t start = now_ns();

	pages_touch(p, ops, 1);
	int64_t spent = now_ns() - start;

	munmap(p, (size_t)ops * PAGE);
	return spent;
}

/* The child breaks the sharing and reports its own time through a page that
 * stays shared. */
static int64_t cow_batch(unsigned ops)
{
	int64_t *spent =
		mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint8_t *p = mmap(NULL, (size_t)ops * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (spent == MAP_FAILED || p == MAP_FAILED)
		return -ENOMEM;
	madvise(p, (size_t)ops * PAGE, MADV_NOHUGEPAGE);
	pages_touch(p, ops, 1);
	pid_t pid = fork();

	if (pid == 0) {
		int64_t start = now_ns();

		pages_touch(p, ops, 2);
		*spent = now_ns() - start;
		_exit(0);
	}
	int64_t result = pid > 0 && child_ended(pid) ? *spent : -ECHILD;

	munmap(p, (size_t)ops * PAGE);
	munmap(spent, PAGE);
	return result;
}

static int64_t fork_batch(unsigned ops)
{
	int64_t start = now_ns();

	for (unsigned i = 0; i < ops; i++) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(0);
		if (pid < 0 || !child_ended(pid))
			return -ECHILD;
	}
	return now_ns() - start;
}

/* The program that exec starts, in its own words: argv[0] is of no use when it
 * was found through PATH. */
static int64_t exec_batch(unsigned ops)
{
	int64_t start = now_ns();

	for (volatile unsigned i = 0; i < ops; i++) {
		pid_t pid = vfork();

		if (pid == 0) {
			execl("/proc/self/exe", "guest_bench", EXIT_ARGUMENT, (char *)NULL);
			_exit(1);
		}
		if (pid < 0 || !child_ended(pid))
			return -ECHILD;
	}
	return now_ns() - start;
}

/* Echoes bytes until the other end closes. */
static void echo_run(int in, int out)
{
	char byte;

	while (read(in, &byte, 1) == 1) {
		if (write(out, &byte, 1) != 1)
			break;
	}
	_exit(0);
}

/* One byte there and back between two processes. */
static int64_t pipe_batch(unsigned ops)
{
	int to[2], from[2];
	char byte = 1;
	bool good = true;

	if (pipe(to))
		return -errno;
	if (pipe(from)) {
		close(to[0]);
		close(to[1]);
		return -EMFILE;
	}
	pid_t pid = fork();

	if (pid == 0) {
		close(to[1]);
		close(from[0]);
		echo_run(to[0], from[1]);
	}
	close(to[0]);
	close(from[1]);
	/* The first round trip pays for the child's start. */
	good = pid > 0 && write(to[1], &byte, 1) == 1 && read(from[0], &byte, 1) == 1;
	int64_t start = now_ns();

	for (unsigned i = 0; i < ops && good; i++)
		good = write(to[1], &byte, 1) == 1 && read(from[0], &byte, 1) == 1;
	int64_t spent = now_ns() - start;

	close(to[1]);
	close(from[0]);
	return pid > 0 && child_ended(pid) && good ? spent : -EPIPE;
}

static int64_t switches_now(void)
{
	struct rusage r;

	getrusage(RUSAGE_SELF, &r);
	return r.ru_nvcsw + r.ru_nivcsw;
}

/* With a real-time policy every yield leads to a switch while another process of
 * the same priority can run; otherwise the scheduler decides. */
static void switch_policy_set(void)
{
	struct sched_param param = { .sched_priority = 1 };

	(void)sched_setscheduler(0, SCHED_FIFO, &param);
}

static void switch_policy_reset(void)
{
	struct sched_param param = { 0 };

	(void)sched_setscheduler(0, SCHED_OTHER, &param);
}

/* This process and its child give way to each other. The switches away from here
 * are counted, each comes with one back, and the time of `ops` single switches is
 * the result. */
static int64_t switches_time(unsigned ops)
{
	/* A new process has to wait for its first turn. */
	int64_t switches = switches_now();
	int64_t start = now_ns();

	while (switches_now() < switches + 4 && now_ns() - start < 200000000)
		sched_yield();
	switches = switches_now();
	start = now_ns();
	for (unsigned i = 0; i < ops; i++)
		sched_yield();
	int64_t spent = now_ns() - start;

	switches = switches_now() - switches;
	return switches > 0 ? spent * ops / (2 * switches) : -EAGAIN;
}

static int64_t switch_batch(unsigned ops)
{
	cpu_set_t was, one;

	if (sched_getaffinity(0, sizeof(was), &was))
		return -errno;
	CPU_ZERO(&one);
	for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (CPU_ISSET(cpu, &was)) {
			CPU_SET(cpu, &one);
			break;
		}
	}
	sched_setaffinity(0, sizeof(one), &one);
	switch_policy_set(); /* first, so that the child has it too */
	pid_t pid = fork();

	if (pid == 0) {
		for (;;)
			sched_yield();
	}
	int64_t result = pid > 0 ? switches_time(ops) : -ECHILD;

	if (pid > 0) {
		kill(pid, SIGKILL);
		child_ended(pid);
	}
	switch_policy_reset(); /* not earlier: the child would have the CPU for itself */
	sched_setaffinity(0, sizeof(was), &was);
	return result;
}

/* Waits until the shared word has the given parity, then moves it on. */
static void futex_turn(uint32_t *word, uint32_t parity)
{
	uint32_t v;

	while ((v = __atomic_load_n(word, __ATOMIC_ACQUIRE)) % 2 != parity)
		syscall(SYS_futex, word, FUTEX_WAIT, v, NULL, NULL, 0);
	__atomic_store_n(word, v + 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static int64_t futex_batch(unsigned ops)
{
	uint32_t *word =
		mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (word == MAP_FAILED)
		return -errno;
	pid_t pid = fork();

	if (pid == 0) {
		for (unsigned i = 0; i < ops + 1; i++)
			futex_turn(word, 1);
		_exit(0);
	}
	if (pid < 0)
		return -errno;
	futex_turn(word, 0);
	int64_t start = now_ns();

	for (unsigned i = 0; i < ops; i++)
		futex_turn(word, 0);
	int64_t spent = now_ns() - start;
	bool good = child_ended(pid);

	munmap(word, PAGE);
	return good ? spent : -ECHILD;
}

static int64_t mmap_batch(unsigned ops)
{
	int64_t start = now_ns();

	for (unsigned i = 0; i < ops; i++) {
		void *p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			       -1, 0);

		if (p == MAP_FAILED || munmap(p, 16 * PAGE))
			return -ENOMEM;
	}
	return now_ns() - start;
}

static int64_t python_batch(unsigned ops)
{
	static const char python[] = "/usr/bin/python3";
	int64_t start = now_ns();

	if (access(python, X_OK))
		return -ENOENT;
	for (unsigned i = 0; i < ops; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

			if (null >= 0)
				dup2(null, STDOUT_FILENO);
			execl(python, python, "-c", "print(1)", (char *)NULL);
			_exit(1);
		}
		if (pid < 0 || !child_ended(pid))
			return -ECHILD;
	}
	return now_ns() - start;
}

/* `ops` times a million dependent additions and multiplications. */
static int64_t cpu_batch(unsigned ops)
{
	volatile uint64_t sink;
	uint64_t x = 1;
	int64_t start = now_ns();

	for (unsigned i = 0; i < ops * 1000000u; i++)
		x = x * 6364136223846793005u + 1442695040888963407u;
	sink = x;
	(void)sink;
	return now_ns() - start;
}

static const struct bench benches[] = {
	{ "getpid", "us", 1e3, 200, getpid_batch },
	{ "clock_gettime", "us", 1e3, 2000, clock_batch },
	{ "anon_page_fault", "us", 1e3, 256, fault_batch },
	{ "cow_break", "us", 1e3, 256, cow_batch },
	{ "fork_exit", "us", 1e3, 2, fork_batch },
	{ "vfork_exec_exit", "us", 1e3, 1, exec_batch },
	{ "pipe_round_trip", "us", 1e3, ROUND_TRIPS, pipe_batch },
	{ "context_switch", "us", 1e3, ROUND_TRIPS, switch_batch },
	{ "futex_round_trip", "us", 1e3, ROUND_TRIPS, futex_batch },
	{ "mmap_munmap", "us", 1e3, 50, mmap_batch },
	{ "cpu_1m_steps", "us", 1e3, 5, cpu_batch },
	{ "python3_print", "ms", 1e6, 1, python_batch },
};

static int double_compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Nearest rank: the smallest value with at least `percent` of all at or
 * below it. */
static double percentile(const double *sorted, unsigned n, unsigned percent)
{
	unsigned rank = (n * percent + 99) / 100;

	return sorted[rank ? rank - 1 : 0];
}

/* Batches until the budget is used up; the first one only warms up. With no
 * budget one batch that counts. Returns 0, 1 when it was skipped, or -errno. */
static int bench_run(const struct bench *b, unsigned ops, int64_t budget_ns)
{
	static double values[BATCHES_MAX];
	const unsigned min = budget_ns ? BATCHES_MIN : 1, max = budget_ns ? BATCHES_MAX : 1;
	int64_t until = now_ns() + budget_ns;
	int64_t spent = budget_ns ? b->batch(ops) : 0;
	unsigned n = 0;

	while (spent >= 0 && n < max && (n < min || now_ns() < until)) {
		spent = b->batch(ops);
		if (spent >= 0)
			values[n++] = (double)spent / ops / b->unit_ns;
	}
	if (spent == -ENOENT)
		return 1;
	if (spent < 0) {
		fprintf(stderr, "%s: %s\n", b->name, strerror((int)-spent));
		return (int)spent;
	}
	qsort(values, n, sizeof(values[0]), double_compare);
	printf("{\"name\":\"%s\",\"unit\":\"%s\",\"n\":%u,\"ops\":%u,\"min\":%.3f,\"p50\":%.3f,"
	       "\"p90\":%.3f,\"p99\":%.3f,\"max\":%.3f}\n",
	       b->name, b->unit, n, ops, values[0], percentile(values, n, 50),
	       percentile(values, n, 90), percentile(values, n, 99), values[n - 1]);
	return 0;
}

/* "NAME=number" within bounds. Returns false when `argument` is something else. */
static bool number_take(const char *argument, const char *name, long max, long *value)
{
	size_t len = strlen(name);
	char *end;
	long number;

	if (strncmp(argument, name, len) != 0 || argument[len] != '=')
		return false;
	errno = 0;
	number = strtol(argument + len + 1, &end, 10);
	if (errno || *end || end == argument + len + 1 || number < 1 || number > max)
		return false;
	*value = number;
	return true;
}

int main(int argc, char **argv)
{
	const char *only = NULL;
	long budget_ms = 900, ops = 0, once = 0;
	unsigned ran = 0;
	int failed = 0;

	if (argc == 2 && !strcmp(argv[1], EXIT_ARGUMENT))
		return 0;
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i < argc; i++) {
		if (!strncmp(argv[i], "only=", 5)) {
			only = argv[i] + 5;
		} else if (!number_take(argv[i], "budget_ms", 600000, &budget_ms) &&
			   !number_take(argv[i], "ops", 100000, &ops) &&
			   !number_take(argv[i], "once", 1, &once)) {
			fprintf(stderr,
				"%s: give budget_ms=1..600000, ops=1..100000, once=1 or "
				"only=NAME\n",
				argv[i]);
			return 2;
		}
	}
	for (size_t i = 0; i < sizeof(benches) / sizeof(benches[0]); i++) {
		if (only && strcmp(only, benches[i].name) != 0)
			continue;
		ran++;
		failed += bench_run(&benches[i], ops ? (unsigned)ops : benches[i].ops,
				    once ? 0 : budget_ms * 1000000) < 0;
	}
	if (!ran)
		fprintf(stderr, "%s: no such benchmark\n", only);
	return failed || !ran;
}
