/* What the tests of uffd/ share: recognisable pages, counting what a process
 * holds, and a deadline for everything. */
#ifndef RAMET_TESTS_UFFD_FIXTURE_H
#define RAMET_TESTS_UFFD_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/clock.h"
#include "uffd/extent_map.h"
#include "uffd/ranges.h"
#include "uffd/userfault.h"

#define PAGE        4096u
#define WORDS       (PAGE / 8)
#define MIB         (1ull << 20)
#define DEADLINE_MS 60000

static inline uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

/* The next of a sequence of random numbers below `limit`. */
static inline uint64_t random_below(uint64_t *state, uint64_t limit)
{
	return mix(++*state) % limit;
}

/* Page `page` in `version`; version 0 is all zeros. */
static inline void page_write(void *at, uint64_t page, uint32_t version)
{
	uint64_t *words = at, seed = mix(page << 32 | version);

	for (unsigned int i = 0; i < WORDS; i++)
		words[i] = version ? seed + i * 0x9e3779b97f4a7c15u : 0;
}

static inline bool page_is(const void *at, uint64_t page, uint32_t version)
{
	const volatile uint64_t *words = at;
	uint64_t seed = mix(page << 32 | version);

	for (unsigned int i = 0; i < WORDS; i++)
		if (words[i] != (version ? seed + i * 0x9e3779b97f4a7c15u : 0))
			return false;
	return true;
}

/* What every map must be. */
static inline void map_is_sound(const struct extent_map *map)
{
	uint64_t at = 0;

	for (size_t i = 0; i < map->count; i++) {
		assert_int_equal(map->extents[i].start, at);
		assert_true(map->extents[i].end > at);
		assert_int_equal(map->extents[i].end % PAGE, 0);
		if (i)
			assert_int_not_equal(map->extents[i].layer, map->extents[i - 1].layer);
		at = map->extents[i].end;
	}
	assert_int_equal(at, map->size);
}

static inline unsigned int fds_open(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int count = 0;

	if (!dir)
		abort();
	while (readdir(dir))
		count++;
	(void)closedir(dir);
	return count;
}

/* Mappings that contain `name`, or all with NULL. */
static inline unsigned int mappings(const char *name)
{
	char line[512];
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned int count = 0;

	if (!f)
		abort();
	while (fgets(line, sizeof(line), f))
		count += !name || strstr(line, name);
	(void)fclose(f);
	return count;
}

/* Waits until `fd` is readable; false when `ms` passed first. */
static inline bool readable_within(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, ms) == 1;
}

/* The exit status of a child process, 128 + signal when one ended it. It is
 * killed at the deadline. */
static inline int child_exit_status(pid_t pid)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), status;

	if (pidfd < 0)
		abort();
	if (!readable_within(pidfd, DEADLINE_MS))
		(void)kill(pid, SIGKILL);
	(void)close(pidfd);
	if (waitpid(pid, &status, 0) != pid)
		abort();
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* /dev/userfaultfd, or the program ends as skipped. */
static inline int device_or_skip(void)
{
	struct ramet_err err;
	int device = userfault_device_open(&err);
	int uffd = device < 0 ? device : userfault_new(device, &err);

	if (uffd < 0) {
		print_message("skipped: %s\n", err.msg);
		exit(77);
	}
	(void)close(uffd);
	return device;
}

#endif
