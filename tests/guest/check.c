/* Reporting, parameters and child processes of the guest test programs. */
#include "check.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

bool check_that(struct check *c, bool good, const char *name, const char *why, ...)
{
	va_list ap;

	if (good) {
		c->passed++;
		printf("ok %s\n", name);
		return true;
	}
	c->failed++;
	printf("not ok %s: ", name);
	va_start(ap, why);
	vprintf(why, ap);
	va_end(ap);
	putchar('\n');
	return false;
}

void check_skip(struct check *c, const char *name, const char *why)
{
	c->passed++;
	printf("ok %s # SKIP %s\n", name, why);
}

int check_finish(const struct check *c)
{
	printf("# %u ok, %u not ok\n", c->passed, c->failed);
	fflush(stdout);
	return c->failed || !c->passed;
}

long param_get(int argc, char **argv, const char *name, long fallback, long min, long max)
{
	size_t len = strlen(name);

	for (int i = 1; i < argc; i++) {
		if (strncmp(argv[i], name, len) != 0 || argv[i][len] != '=')
			continue;
		char *end;
		const char *text = argv[i] + len + 1;
		long value = strtol(text, &end, 0);

		if (!*text || *end || value < min || value > max) {
			fprintf(stderr, "%s: give a number from %ld to %ld\n", argv[i], min, max);
			exit(2);
		}
		return value;
	}
	return fallback;
}

int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

uint64_t sum_bytes(uint64_t sum, const void *data, size_t len)
{
	const uint8_t *p = data;
	uint64_t word;

	sum ^= 0xcbf29ce484222325u;
	for (; len >= sizeof(word); p += sizeof(word), len -= sizeof(word)) {
		memcpy(&word, p, sizeof(word));
		sum = (sum ^ word) * 0x100000001b3u;
		sum ^= sum >> 29;
	}
	for (; len; p++, len--)
		sum = (sum ^ *p) * 0x100000001b3u;
	return sum;
}

struct outcome child_wait(pid_t pid, int timeout_ms)
{
	struct outcome out = { OUTCOME_TIMEOUT, 0 };
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	int64_t deadline = now_us() + (int64_t)timeout_ms * 1000;
	int status = 0;

	while (fd >= 0) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		int64_t left = (deadline - now_us()) / 1000;
		int n = poll(&p, 1, left > 0 ? (int)left : 0);

		if (n > 0) {
			out.kind = OUTCOME_EXIT;
			break;
		}
		if (n == 0 || errno != EINTR)
			break;
	}
	if (out.kind == OUTCOME_TIMEOUT)
		kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (fd >= 0)
		close(fd);
	if (out.kind == OUTCOME_TIMEOUT)
		return out;
	out.kind = WIFSIGNALED(status) ? OUTCOME_SIGNAL : OUTCOME_EXIT;
	out.value = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
	return out;
}

struct outcome child_run(int (*fn)(void *arg), void *arg, int timeout_ms)
{
	struct rlimit no_core = { 0, 0 };

	fflush(NULL);
	pid_t pid = fork();

	if (pid < 0)
		return (struct outcome){ OUTCOME_NONE, errno };
	if (pid == 0) {
		setrlimit(RLIMIT_CORE, &no_core);
		int code = fn(arg);

		fflush(NULL);
		_exit(code);
	}
	return child_wait(pid, timeout_ms);
}

const char *outcome_text(struct outcome o, char *buf, size_t size)
{
	static const char *const kinds[] = { "exit", "signal", "no end within the time limit",
					     "not started: errno" };

	if (o.kind == OUTCOME_TIMEOUT)
		snprintf(buf, size, "%s", kinds[o.kind]);
	else
		snprintf(buf, size, "%s %d", kinds[o.kind], o.value);
	return buf;
}

int fd_read_all(int fd, void *buf, size_t len)
{
	for (uint8_t *p = buf; len;) {
		ssize_t n = read(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EPIPE;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int fd_write_all(int fd, const void *buf, size_t len)
{
	for (const uint8_t *p = buf; len;) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Lives behind the thread pointer, so a wrong FS base shows in it. */
static __thread uint64_t sanity_tls;

int sanity_init(struct sanity *s)
{
	uint64_t state = 0x5a17;

	s->data = mmap(NULL, SANITY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		       0);
	if (s->data == MAP_FAILED)
		return -errno;
	for (size_t i = 0; i < SANITY_BYTES; i += sizeof(uint64_t)) {
		uint64_t word = rng_next(&state);

		memcpy(s->data + i, &word, sizeof(word));
	}
	s->sum = sum_bytes(0, s->data, SANITY_BYTES);
	s->pid = (pid_t)syscall(SYS_getpid);
	s->last_us = now_us();
	sanity_tls = s->sum;
	return 0;
}

static int child_of_nothing(void *arg)
{
	return *(int *)arg;
}

const char *sanity_check(struct sanity *s)
{
	int code = 42;
	int64_t was = s->last_us;

	if (sum_bytes(0, s->data, SANITY_BYTES) != s->sum)
		return "own memory changed";
	if (sanity_tls != s->sum)
		return "thread-local data changed";
	if (syscall(SYS_getpid) != s->pid)
		return "getpid is wrong";
	struct outcome o = child_run(child_of_nothing, &code, 10000);

	if (o.kind != OUTCOME_EXIT || o.value != code)
		return "a plain child process went wrong";
	s->last_us = now_us();
	if (s->last_us <= was)
		return "the clock does not move";
	return NULL;
}
