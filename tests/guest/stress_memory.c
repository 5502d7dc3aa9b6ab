/* Fills most of the free memory with a pattern that depends on the address,
 * verifies it, gives half of it back, verifies again, and frees it all. */
#include "check.h"
#include "suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE  4096u
#define BLOCK (8u << 20)

static size_t memory_available(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long kib = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "MemAvailable: %lu kB", &kib) == 1)
			break;
	}
	if (f)
		fclose(f);
	return (size_t)kib << 10;
}

static void block_fill(uint64_t *p, uint64_t salt)
{
	for (size_t i = 0; i < BLOCK / sizeof(*p); i++)
		p[i] = ((uintptr_t)&p[i] + salt) * 0x9e3779b97f4a7c15u;
}

/* With `holes`, every other page must be zero instead. */
static bool block_holds(const uint64_t *p, uint64_t salt, bool holes)
{
	for (size_t i = 0; i < BLOCK / sizeof(*p); i++) {
		bool hole = holes && (i * sizeof(*p) / PAGE) % 2;

		if (p[i] != (hole ? 0 : ((uintptr_t)&p[i] + salt) * 0x9e3779b97f4a7c15u))
			return false;
	}
	return true;
}

static void block_punch(uint8_t *p)
{
	for (size_t at = PAGE; at < BLOCK; at += 2 * PAGE)
		madvise(p + at, PAGE, MADV_DONTNEED);
}

static size_t blocks_verify(uint8_t *base, size_t blocks, bool holes)
{
	size_t bad = 0;

	for (size_t i = 0; i < blocks; i++)
		bad += !block_holds((void *)(base + i * BLOCK), i, holes);
	return bad;
}

int stress_memory_main(int argc, char **argv)
{
	size_t percent = (size_t)param_get(argc, argv, "percent", 75, 1, 95);
	size_t max_mib = (size_t)param_get(argc, argv, "max_mib", 1024, 8, 1 << 20);
	int64_t seconds = param_get(argc, argv, "seconds", 8, 1, 86400);
	size_t want = memory_available() / 100 * percent;
	struct check c = { 0 };
	size_t filled = 0;

	if (want > max_mib << 20)
		want = max_mib << 20;
	size_t blocks = want / BLOCK ? want / BLOCK : 1;
	uint8_t *base = mmap(NULL, blocks * BLOCK, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (base == MAP_FAILED)
		return 1;
	int64_t start = now_us();

	while (filled < blocks && now_us() - start < seconds * 1000000) {
		block_fill((void *)(base + filled * BLOCK), filled);
		filled++;
	}
	printf("# filled %zu of %zu MiB in %.2f s\n", filled * BLOCK >> 20, blocks * BLOCK >> 20,
	       (double)(now_us() - start) / 1e6);
	size_t bad = blocks_verify(base, filled, false);

	check_that(&c, bad == 0, "memory-filled", "%zu of %zu blocks differ", bad, filled);
	for (size_t i = 0; i < filled && i < 32; i++)
		block_punch(base + i * BLOCK);
	bad = blocks_verify(base, filled < 32 ? filled : 32, true);
	check_that(&c, bad == 0, "memory-half-discarded", "%zu blocks differ", bad);
	if (filled > 32) {
		bad = 0;
		for (size_t i = 32; i < filled; i++)
			bad += !block_holds((void *)(base + i * BLOCK), i, false);
		check_that(&c, bad == 0, "memory-rest-unchanged", "%zu blocks differ", bad);
	}
	size_t before = memory_available();

	munmap(base, blocks * BLOCK);
	size_t after = memory_available();

	check_that(&c, filled < 8 || after > before, "memory-freed",
		   "available went %zu -> %zu MiB", before >> 20, after >> 20);
	return check_finish(&c);
}
