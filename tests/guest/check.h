/* What the guest test programs share: reporting, parameters, random numbers,
 * and running something dangerous in a child process. */
#ifndef RAMET_TESTS_GUEST_CHECK_H
#define RAMET_TESTS_GUEST_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

struct check {
	unsigned passed, failed;
};

/* One line per check on stdout: "ok <name>" or "not ok <name>: <why>" (the
 * printf-style why is only read when `good` is false). Returns `good`. */
bool check_that(struct check *c, bool good, const char *name, const char *why, ...)
	__attribute__((format(printf, 4, 5)));

/* A check that this machine cannot make: "ok <name> # SKIP <why>". */
void check_skip(struct check *c, const char *name, const char *why);

/* Prints "# <passed> ok, <failed> not ok" and returns the exit status: 0 when
 * at least one check was made and none failed, otherwise 1. */
int check_finish(const struct check *c);

/* The value of a "name=value" argument, or `fallback`. Exits with 2 and a
 * message when it is no number or outside [min, max]. */
long param_get(int argc, char **argv, const char *name, long fallback, long min, long max);

/* Microseconds of CLOCK_MONOTONIC. */
int64_t now_us(void);

/* splitmix64: a full-period generator whose state is one word. */
static inline uint64_t rng_next(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* FNV-1a over 64-bit words with a finaliser; `len` is in bytes. */
uint64_t sum_bytes(uint64_t sum, const void *data, size_t len);

enum outcome_kind {
	OUTCOME_EXIT,    /* value = exit code */
	OUTCOME_SIGNAL,  /* value = signal number */
	OUTCOME_TIMEOUT, /* killed at the deadline */
	OUTCOME_NONE,    /* could not be started; value = errno */
};

struct outcome {
	enum outcome_kind kind;
	int value;
};

/* Runs fn(arg) in a child process without core dumps; its return value is the
 * exit code. Waits at most `timeout_ms`. */
struct outcome child_run(int (*fn)(void *arg), void *arg, int timeout_ms);

/* Waits for a child of the caller's own in the same way. */
struct outcome child_wait(pid_t pid, int timeout_ms);

/* "exit 3", "signal 11", ... in a caller's buffer, which it returns. */
const char *outcome_text(struct outcome o, char *buf, size_t size);

/* Reads or writes exactly `len` bytes through short transfers and EINTR.
 * Returns 0, -errno, or -EPIPE at an early end of file. */
int fd_read_all(int fd, void *buf, size_t len);
int fd_write_all(int fd, const void *buf, size_t len);

/* What must still be true of the machine after something hostile was tried. */
struct sanity {
	uint8_t *data; /* SANITY_BYTES of a known pattern */
	uint64_t sum;
	pid_t pid;
	int64_t last_us;
};

#define SANITY_BYTES (256u << 10)

/* Returns 0 or -errno. The memory lives until the process ends. */
int sanity_init(struct sanity *s);

/* NULL when all is well: own memory unchanged, getpid right, thread pointer
 * and callee state intact, clock moving on, fork works. Otherwise the reason. */
const char *sanity_check(struct sanity *s);

#endif
