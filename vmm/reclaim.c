/* Giving unused memory back: see reclaim.h. */
#include "vmm/reclaim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "vmm/dirty_log.h"

#define WORDS_MAX (FREE_PAGES_MAX / 64)

struct reclaim {
	size_t words;      /* of each bitmap: a bit per frame of RAM */
	uint64_t *armed;   /* named, and cleared in the dirty log */
	uint64_t *changed; /* the guest's own, whatever the dirty log says */
	uint64_t bits[];
};

static int reclaim_start(struct machine *m)
{
	size_t words = guest_frames(&m->mem) / 64;
	bool booted = !m->logged;
	struct ramet_err err;
	struct reclaim *r;

	if (m->reclaim)
		return 0;
	if (dirty_log_start(m, &err)) {
		log_error("%s", err.msg);
		return -EIO;
	}
	r = calloc(1, sizeof(*r) + 2 * words * sizeof(r->bits[0]));
	if (!r)
		return -ENOMEM;
	r->words = words;
	r->armed = r->bits;
	r->changed = r->bits + words;
	if (booted)
		memset(r->changed, 0xff, words * sizeof(r->bits[0]));
	m->reclaim = r;
	return 0;
}

void reclaim_destroy(struct machine *m)
{
	free(m->reclaim);
	m->reclaim = NULL;
}

void reclaim_changed_add(const struct machine *m, uint64_t *bitmap)
{
	for (size_t i = 0; m->reclaim && i < m->reclaim->words; i++)
		bitmap[i] |= m->reclaim->changed[i];
}

/* Frames to be dropped and to be armed, from the word `first` of the bitmaps. */
struct verdict {
	uint64_t drop[WORDS_MAX], arm[WORDS_MAX];
};

static void judge(const struct reclaim *r, size_t first, size_t words, const uint64_t *free,
		  const uint64_t *written, struct verdict *v)
{
	for (size_t i = 0; i < words; i++) {
		size_t w = first + i;

		v->drop[i] = free[i] & r->armed[w] & ~written[w];
		v->arm[i] = free[i] & ~v->drop[i] & (r->changed[w] | written[w]);
	}
}

static void arm(struct reclaim *r, size_t first, size_t words, const uint64_t *written,
		const struct verdict *v)
{
	for (size_t i = 0; i < words; i++) {
		size_t w = first + i;

		r->armed[w] = (r->armed[w] & ~written[w] & ~v->drop[i]) | v->arm[i];
		r->changed[w] |= v->arm[i];
	}
}

static int drop_run(struct machine *m, uint64_t first, uint64_t end)
{
	if (madvise(m->mem.base + first * PAGE_SIZE, (end - first) * PAGE_SIZE, MADV_DONTNEED))
		return -errno;
	for (uint64_t page = first; page < end; page++)
		m->reclaim->changed[page / 64] &= ~(1ull << (page % 64));
	return 0;
}

/* Pages that could not be dropped stay as they are: changed. */
static int64_t drop(struct machine *m, uint64_t first, uint64_t count, const uint64_t *mask)
{
	uint64_t page = 0, dropped = 0;

	while (page < count) {
		uint64_t start;
		int rc;

		if (!(mask[page / 64] >> (page % 64))) {
			page = (page / 64 + 1) * 64;
			continue;
		}
		page += (uint64_t)__builtin_ctzll(mask[page / 64] >> (page % 64));
		start = page;
		while (page < count && (mask[page / 64] >> (page % 64) & 1))
			page++;
		rc = drop_run(m, first + start, first + page);
		if (rc)
			return rc;
		dropped += page - start;
	}
	return (int64_t)dropped;
}

int64_t reclaim_pages(struct machine *m, uint64_t first, uint64_t count, const uint64_t *free)
{
	cleanup_free uint64_t *written = NULL;
	struct ramet_err err;
	struct verdict v;
	int rc;

	if (first % 64 || count % 64 || count > FREE_PAGES_MAX || first > guest_frames(&m->mem) ||
	    count > guest_frames(&m->mem) - first)
		return -EINVAL;
	if (!count)
		return 0;
	rc = reclaim_start(m);
	if (rc)
		return rc;
	written = calloc(m->mem.size / PAGE_SIZE / 64, sizeof(*written));
	if (!written)
		return -ENOMEM;
	rc = dirty_log_read(m, written, &err);
	if (!rc) {
		judge(m->reclaim, first / 64, count / 64, free, written, &v);
		rc = dirty_log_clear(m, first, (uint32_t)count, v.arm, &err);
	}
	if (rc) {
		log_error("%s", err.msg);
		return -EIO;
	}
	arm(m->reclaim, first / 64, count / 64, written, &v);
	return drop(m, first, count, v.drop);
}

int64_t reclaim_changed_count(struct machine *m)
{
	cleanup_free uint64_t *bitmap = calloc(m->mem.size / PAGE_SIZE / 64, sizeof(*bitmap));
	int64_t count = 0;
	struct ramet_err err;

	if (!m->logged)
		return (int64_t)guest_frames(&m->mem);
	if (!bitmap)
		return -ENOMEM;
	if (machine_dirty_pages(m, bitmap, &err)) {
		log_error("%s", err.msg);
		return -EIO;
	}
	for (size_t i = 0; i < guest_frames(&m->mem) / 64; i++)
		count += __builtin_popcountll(bitmap[i]);
	return count;
}
