/* A fuzz against stale mappings: random mmap, munmap, mprotect, discard,
 * remap, write and fork on a small arena, with a model of what every page must
 * hold and allow. A translation that outlives its page shows as a wrong byte
 * or as an access that should have faulted. */
#include "check.h"
#include "fault.h"
#include "suite.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE       4096u
#define PAGES      96u
#define RUN_MAX    8u
#define TIMEOUT_MS 120000

struct model_page {
	bool mapped;
	int prot;
	uint8_t value; /* first and last byte */
};

struct arena {
	uint8_t *base;
	struct model_page model[PAGES];
	uint64_t rng;
	unsigned long ops;
	char why[128];
};

static uintptr_t page_addr(const struct arena *a, unsigned i)
{
	return (uintptr_t)a->base + (uintptr_t)i * PAGE;
}

static bool page_verify(struct arena *a, unsigned i)
{
	const struct model_page *m = &a->model[i];
	uint8_t first = 0, last = 0;
	bool got = fault_read(page_addr(a, i), &first) &&
		   fault_read(page_addr(a, i) + PAGE - 1, &last);
	bool want = m->mapped && (m->prot & PROT_READ);

	if (got == want && (!got || (first == m->value && last == m->value)))
		return true;
	snprintf(a->why, sizeof(a->why), "op %lu page %u: %s, bytes %02x %02x, expected %s %02x",
		 a->ops, i, got ? "readable" : "fault", first, last, want ? "readable" : "fault",
		 m->value);
	return false;
}

static bool arena_verify(struct arena *a)
{
	for (unsigned i = 0; i < PAGES; i++) {
		if (!page_verify(a, i))
			return false;
	}
	return true;
}

/* A write either lands or faults exactly as the model says. */
static bool page_write(struct arena *a, unsigned i, uint8_t value)
{
	struct model_page *m = &a->model[i];
	bool want = m->mapped && (m->prot & PROT_WRITE);
	bool got = fault_write(page_addr(a, i), value) &&
		   fault_write(page_addr(a, i) + PAGE - 1, value);

	if (got != want) {
		snprintf(a->why, sizeof(a->why), "op %lu page %u: write %s", a->ops, i,
			 got ? "went through" : "faulted");
		return false;
	}
	if (got)
		m->value = value;
	return true;
}

static void model_set(struct arena *a, unsigned first, unsigned n, bool mapped, int prot)
{
	for (unsigned i = first; i < first + n; i++)
		a->model[i] = (struct model_page){ .mapped = mapped, .prot = prot };
}

static bool op_protect(struct arena *a, unsigned first, unsigned n, int prot)
{
	for (unsigned i = first; i < first + n; i++) {
		if (!a->model[i].mapped)
			return true;
	}
	if (mprotect((void *)page_addr(a, first), n * PAGE, prot))
		return false;
	for (unsigned i = first; i < first + n; i++)
		a->model[i].prot = prot;
	return true;
}

static bool op_discard(struct arena *a, unsigned first, unsigned n)
{
	for (unsigned i = first; i < first + n; i++) {
		if (!a->model[i].mapped)
			continue;
		if (madvise((void *)page_addr(a, i), PAGE, MADV_DONTNEED))
			return false;
		a->model[i].value = 0;
	}
	return true;
}

/* Moves one page over another; the source is unmapped by it. */
static bool op_move(struct arena *a, unsigned from, unsigned to)
{
	if (from == to || !a->model[from].mapped)
		return true;
	if (mremap((void *)page_addr(a, from), PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		   (void *)page_addr(a, to)) == MAP_FAILED)
		return false;
	a->model[to] = a->model[from];
	model_set(a, from, 1, false, 0);
	return true;
}

static bool arena_step(struct arena *a);

/* A child goes its own way with the copy; the parent's must not change. */
static int fork_child(void *arg)
{
	struct arena *a = arg;

	if (!arena_verify(a))
		goto bad;
	for (unsigned i = 0; i < 20; i++) {
		if (!arena_step(a))
			goto bad;
	}
	if (arena_verify(a))
		return 0;
bad:
	printf("# in a child: %s\n", a->why);
	return 1;
}

static bool op_fork(struct arena *a)
{
	char text[64];
	struct outcome o = child_run(fork_child, a, TIMEOUT_MS);

	if (o.kind == OUTCOME_EXIT && o.value == 0)
		return arena_verify(a);
	snprintf(a->why, sizeof(a->why), "op %lu: child %s", a->ops,
		 outcome_text(o, text, sizeof(text)));
	return false;
}

static bool arena_step(struct arena *a)
{
	static const int prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE,
				     PROT_READ | PROT_WRITE };
	uint64_t r = rng_next(&a->rng);
	unsigned first = (unsigned)(r >> 8) % PAGES;
	unsigned n = 1 + (unsigned)(r >> 24) % RUN_MAX;
	int prot = prots[r >> 32 & 3];
	bool good = true;

	if (n > PAGES - first)
		n = PAGES - first;
	a->ops++;
	snprintf(a->why, sizeof(a->why), "op %lu: the call itself failed", a->ops);
	switch (r & 15) {
	case 0 ... 2:
		good = mmap((void *)page_addr(a, first), n * PAGE, prot,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
		model_set(a, first, n, true, prot);
		break;
	case 3:
		good = munmap((void *)page_addr(a, first), n * PAGE) == 0;
		model_set(a, first, n, false, 0);
		break;
	case 4 ... 6:
		good = op_protect(a, first, n, prot);
		break;
	case 7:
		good = op_discard(a, first, n);
		break;
	case 8:
		good = op_move(a, first, (unsigned)(r >> 40) % PAGES);
		break;
	default:
		for (unsigned i = first; good && i < first + n; i++)
			good = page_write(a, i, (uint8_t)(r >> 48));
		break;
	}
	return good && page_verify(a, first) && page_verify(a, (unsigned)(r >> 56) % PAGES);
}

int stress_stale_main(int argc, char **argv)
{
	unsigned long ops = (unsigned long)param_get(argc, argv, "ops", 8000, 1, 100000000);
	unsigned fork_every = (unsigned)param_get(argc, argv, "fork_every", 100, 1, 1 << 30);
	int64_t until = now_us() + param_get(argc, argv, "seconds", 20, 1, 86400) * 1000000;
	static struct arena a;
	struct check c = { 0 };
	bool good = true;

	a.rng = (uint64_t)param_get(argc, argv, "seed", 1, 0, 1L << 62);
	a.base = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	if (a.base == MAP_FAILED)
		return 1;
	model_set(&a, 0, PAGES, true, PROT_READ | PROT_WRITE);
	fault_catch(0);
	while (good && a.ops < ops && now_us() < until) {
		good = arena_step(&a);
		if (good && a.ops % fork_every == 0)
			good = op_fork(&a);
	}
	good = good && arena_verify(&a);
	check_that(&c, good, "stale-mappings", "%s", a.why);
	printf("# %lu operations\n", a.ops);
	return check_finish(&c);
}
