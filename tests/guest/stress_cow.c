/* fork and copy-on-write: private, shared, file-backed, moved, protected and
 * discarded memory must look right to parent, child and grandchild. */
#include "check.h"
#include "fault.h"
#include "suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE       4096u
#define TIMEOUT_MS 120000
#define NEST_DEPTH 8u

static uint8_t *pages_map(size_t pages, int flags)
{
	void *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static uint8_t pattern(size_t i, unsigned salt)
{
	return (uint8_t)(i * 7 + (i >> 12) * 13 + salt);
}

/* Bytes at multiples of `stride` carry `mark` on top of the pattern. */
static bool pattern_holds(const uint8_t *p, size_t len, unsigned salt, size_t stride, uint8_t mark)
{
	for (size_t i = 0; i < len; i++) {
		uint8_t want = (uint8_t)(pattern(i, salt) ^ (i % stride == 0 ? mark : 0));

		if (p[i] != want)
			return false;
	}
	return true;
}

static void pattern_mark(uint8_t *p, size_t len, size_t stride, uint8_t mark)
{
	for (size_t i = 0; i < len; i += stride)
		p[i] ^= mark;
}

/* Both sides change every stride-th byte in their own way, then look. */
static void diverge_check(struct check *c, const char *name, size_t len, size_t stride,
			  unsigned rounds)
{
	bool good = true;
	struct outcome o = { OUTCOME_EXIT, 0 };

	for (unsigned r = 0; r < rounds && good; r++) {
		uint8_t *p = pages_map(len / PAGE, MAP_PRIVATE);

		for (size_t i = 0; i < len; i++)
			p[i] = pattern(i, r);
		fflush(NULL);
		pid_t pid = fork();
		uint8_t mark = pid ? 0x55 : 0xaa;

		pattern_mark(p, len, stride, mark);
		good = pattern_holds(p, len, r, stride, mark);
		if (pid == 0)
			_exit(!good);
		o = child_wait(pid, TIMEOUT_MS);
		good = good && o.kind == OUTCOME_EXIT && o.value == 0 &&
		       pattern_holds(p, len, r, stride, mark);
		munmap(p, len);
	}
	check_that(c, good, name, "memory differs (child: kind %d value %d)", (int)o.kind, o.value);
}

/* Every generation writes its own page, verifies all of its ancestors' pages,
 * and checks after its child ended that nothing of the child shows. */
static int nest_run(uint8_t *p, unsigned depth)
{
	if (depth == NEST_DEPTH)
		return 0;
	memset(p + depth * PAGE, (int)(0x40 + depth), PAGE);
	pid_t pid = fork();

	if (pid < 0)
		return 1;
	if (pid == 0)
		_exit(nest_run(p, depth + 1));
	struct outcome o = child_wait(pid, TIMEOUT_MS);

	for (unsigned d = 0; d < NEST_DEPTH; d++) {
		uint8_t want = d <= depth ? (uint8_t)(0x40 + d) : 0;

		if (p[d * PAGE] != want || p[d * PAGE + PAGE - 1] != want)
			return 1;
	}
	return o.kind != OUTCOME_EXIT || o.value;
}

static int nest_child(void *arg)
{
	return nest_run(arg, 0);
}

static void nested_check(struct check *c)
{
	uint8_t *p = pages_map(NEST_DEPTH, MAP_PRIVATE);
	struct outcome o = child_run(nest_child, p, TIMEOUT_MS);

	check_that(c, o.kind == OUTCOME_EXIT && o.value == 0 && p[0] == 0, "nested-forks",
		   "a generation saw wrong memory");
	munmap(p, NEST_DEPTH * PAGE);
}

static int protect_child(void *arg)
{
	uint8_t *p = arg;

	fault_catch(0);
	if (mprotect(p, PAGE, PROT_READ) || fault_write((uintptr_t)p, 1) || p[0] != 7)
		return 1;
	if (fault_last.sig != SIGSEGV || fault_last.code != SEGV_ACCERR ||
	    fault_last.addr != (uintptr_t)p)
		return 2;
	if (mprotect(p, PAGE, PROT_NONE) || fault_read((uintptr_t)p, &(uint8_t){ 0 }))
		return 3;
	if (mprotect(p, PAGE, PROT_READ | PROT_WRITE) || !fault_write((uintptr_t)p, 9) || p[0] != 9)
		return 4;
	return 0;
}

static void protect_check(struct check *c)
{
	uint8_t *p = pages_map(1, MAP_PRIVATE);

	p[0] = 7;
	struct outcome o = child_run(protect_child, p, TIMEOUT_MS);

	check_that(c, o.kind == OUTCOME_EXIT && o.value == 0, "mprotect-in-child", "step %d",
		   o.value);
	p[1] = 1;
	check_that(c, p[0] == 7, "mprotect-parent-unchanged", "parent sees %d", p[0]);
	munmap(p, PAGE);
}

static int remap_child(void *arg)
{
	uint8_t *p = arg, byte;

	fault_catch(0);
	for (unsigned r = 0; r < 50; r++) {
		size_t grown = 16u + r;
		uint8_t *q = mremap(p, (15u + r) * PAGE, grown * PAGE, MREMAP_MAYMOVE);

		if (q == MAP_FAILED)
			return 1;
		if (q != p && fault_read((uintptr_t)p, &byte))
			return 2;
		for (unsigned i = 0; i < 15; i++) {
			if (q[i * PAGE] != i + 1)
				return 3;
		}
		if (q[(grown - 1) * PAGE] != 0)
			return 4;
		uint8_t *hole = pages_map(grown + 4, MAP_PRIVATE);

		/* Move onto another mapping: the old place must fault at once. */
		p = mremap(q, grown * PAGE, grown * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
			   hole + 2 * PAGE);
		if (p == MAP_FAILED || fault_read((uintptr_t)q, &byte) || p[0] != 1)
			return 5;
		munmap(hole, 2 * PAGE);
	}
	return 0;
}

static void remap_check(struct check *c)
{
	uint8_t *p = pages_map(15, MAP_PRIVATE);
	bool same = true;

	for (unsigned i = 0; i < 15; i++)
		p[i * PAGE] = (uint8_t)(i + 1);
	struct outcome o = child_run(remap_child, p, TIMEOUT_MS);

	for (unsigned i = 0; i < 15; i++)
		same = same && p[i * PAGE] == i + 1;
	check_that(c, o.kind == OUTCOME_EXIT && o.value == 0 && same, "mremap",
		   "step %d, parent %s", o.value, same ? "unchanged" : "changed");
	munmap(p, 15 * PAGE);
}

static int discard_child(void *arg)
{
	uint8_t *p = arg;

	if (madvise(p, 32 * PAGE, MADV_DONTNEED))
		return 1;
	for (unsigned i = 0; i < 64; i++) {
		if (p[i * PAGE] != (i < 32 ? 0 : i))
			return 2;
		p[i * PAGE] = 0xee;
	}
	return 0;
}

static void discard_check(struct check *c)
{
	uint8_t *p = pages_map(64, MAP_PRIVATE);
	bool same = true;

	for (unsigned i = 0; i < 64; i++)
		p[i * PAGE] = (uint8_t)i;
	struct outcome o = child_run(discard_child, p, TIMEOUT_MS);

	for (unsigned i = 0; i < 64; i++)
		same = same && p[i * PAGE] == i;
	check_that(c, o.kind == OUTCOME_EXIT && o.value == 0 && same, "madvise-dontneed",
		   "child step %d, parent %s", o.value, same ? "unchanged" : "changed");
	munmap(p, 64 * PAGE);
}

/* [0] shared anonymous, [1] private of a file, [2] shared of the file. */
static int sharing_child(void *arg)
{
	uint8_t *const *maps = arg;

	for (unsigned i = 0; i < 32; i++) {
		maps[0][i * PAGE] = (uint8_t)(i + 100);
		maps[1][i * PAGE] = 0xbb;
		if (maps[2][i * PAGE] != i)
			return 1;
		if (i & 1)
			maps[2][i * PAGE] = (uint8_t)(i + 50);
	}
	return 0;
}

static void sharing_check(struct check *c)
{
	int fd = memfd_create("cow", MFD_CLOEXEC);
	uint8_t *maps[3] = { pages_map(32, MAP_SHARED) };
	bool anon = true, file = true, priv = true;

	if (fd < 0 || ftruncate(fd, 32 * PAGE)) {
		check_that(c, false, "shared-and-private", "no memfd");
		return;
	}
	maps[1] = mmap(NULL, 32 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	maps[2] = mmap(NULL, 32 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (unsigned i = 0; i < 32; i++)
		maps[2][i * PAGE] = (uint8_t)i;
	for (unsigned i = 0; i < 16; i++)
		maps[1][i * PAGE] = 0xcc;
	struct outcome o = child_run(sharing_child, maps, TIMEOUT_MS);

	for (unsigned i = 0; i < 32; i++) {
		uint8_t now = (uint8_t)(i & 1 ? i + 50 : i);

		anon = anon && maps[0][i * PAGE] == i + 100;
		file = file && maps[2][i * PAGE] == now;
		priv = priv && maps[1][i * PAGE] == (i < 16 ? 0xcc : now);
	}
	check_that(c, o.kind == OUTCOME_EXIT && o.value == 0, "shared-child", "step %d", o.value);
	check_that(c, anon, "shared-anonymous", "parent misses the child's writes");
	check_that(c, file, "shared-file", "parent misses the child's writes");
	check_that(c, priv, "private-file", "private copy and file are mixed up");
	close(fd);
	munmap(maps[0], 32 * PAGE);
	munmap(maps[1], 32 * PAGE);
	munmap(maps[2], 32 * PAGE);
}

int stress_cow_main(int argc, char **argv)
{
	unsigned rounds = (unsigned)param_get(argc, argv, "rounds", 10, 1, 100000);
	size_t kib = (size_t)param_get(argc, argv, "kib", 1024, 64, 1 << 20);
	struct check c = { 0 };

	diverge_check(&c, "dense-writes", kib << 10, 97, rounds);
	diverge_check(&c, "page-writes", kib << 10, PAGE, rounds);
	diverge_check(&c, "sparse-writes", kib << 10, 17 * PAGE, rounds);
	for (unsigned r = 0; r < rounds && !c.failed; r++) {
		nested_check(&c);
		protect_check(&c);
		remap_check(&c);
		discard_check(&c);
		sharing_check(&c);
	}
	return check_finish(&c);
}
