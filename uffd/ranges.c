/* Lists of page ranges: see ranges.h.
 *
 * The n ranges that cover all dirty pages with the fewest clean ones leave out
 * the n - 1 largest gaps. So one pass over the bitmap keeps the largest gaps
 * in a heap whose root is the smallest kept. */
#include "uffd/ranges.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

struct scan {
	uint64_t join;       /* gaps up to here are not worth a range */
	uint64_t first, end; /* of everything dirty so far; end 0 = nothing yet */
	uint64_t dirty;      /* pages */
	size_t count, max;   /* of gaps */
	struct range *gaps;
};

static uint64_t range_length(const struct range *r)
{
	return r->end - r->start;
}

/* Lets gaps[at] sink to where both below it are at least as long. */
static void gap_sink(struct scan *s, size_t at)
{
	struct range moving = s->gaps[at];

	for (;;) {
		size_t next = 2 * at + 1;

		if (next >= s->count)
			break;
		if (next + 1 < s->count &&
		    range_length(&s->gaps[next + 1]) < range_length(&s->gaps[next]))
			next++;
		if (range_length(&moving) <= range_length(&s->gaps[next]))
			break;
		s->gaps[at] = s->gaps[next];
		at = next;
	}
	s->gaps[at] = moving;
}

static void gap_offer(struct scan *s, uint64_t start, uint64_t end)
{
	struct range gap = { start, end };

	if (s->count < s->max) {
		s->gaps[s->count++] = gap;
		if (s->count == s->max)
			for (size_t i = s->count / 2; i-- > 0;)
				gap_sink(s, i);
	} else if (s->max && range_length(&gap) > range_length(&s->gaps[0])) {
		s->gaps[0] = gap;
		gap_sink(s, 0);
	}
}

static void run_add(struct scan *s, uint64_t first_page, uint64_t pages)
{
	uint64_t start = first_page << RANGE_SHIFT;

	if (!s->end)
		s->first = start;
	else if (start - s->end > s->join)
		gap_offer(s, s->end, start);
	s->end = start + (pages << RANGE_SHIFT);
	s->dirty += pages;
}

static void word_add(struct scan *s, uint64_t page, uint64_t word)
{
	while (word) {
		unsigned int skip = (unsigned int)__builtin_ctzll(word);
		uint64_t rest = ~(word >> skip);
		unsigned int run = rest ? (unsigned int)__builtin_ctzll(rest) : 64;

		run_add(s, page + skip, run);
		if (skip + run >= 64)
			return;
		word &= ~0ull << (skip + run);
	}
}

static int range_compare(const void *a, const void *b)
{
	uint64_t x = ((const struct range *)a)->start, y = ((const struct range *)b)->start;

	return x < y ? -1 : x > y;
}

/* What is left between the gaps. */
static struct range_list *scan_result(struct scan *s)
{
	struct range_list *list;
	uint64_t start = s->first;

	list = malloc(sizeof(*list) + (s->count + 1) * sizeof(list->ranges[0]));
	if (!list)
		return NULL;
	list->count = 0;
	if (!s->end)
		return list;
	qsort(s->gaps, s->count, sizeof(s->gaps[0]), range_compare);
	for (size_t i = 0; i < s->count; i++) {
		list->ranges[list->count++] = (struct range){ start, s->gaps[i].start };
		start = s->gaps[i].end;
	}
	list->ranges[list->count++] = (struct range){ start, s->end };
	return list;
}

int ranges_size_check(uint64_t size, struct ramet_err *err)
{
	if (!size || size % RANGE_PAGE || size > RANGES_SIZE_MAX)
		return err_set(err, EINVAL, "memory of %llu bytes is not in whole pages up to %llu",
			       (unsigned long long)size, RANGES_SIZE_MAX);
	return 0;
}

int ranges_from_bitmap(struct range_list **list, const uint64_t *words, uint64_t size,
		       const struct range_policy *policy, uint64_t *dirty, struct ramet_err *err)
{
	uint64_t pages = size >> RANGE_SHIFT, whole = pages / 64;
	cleanup_free struct range *gaps = NULL;
	struct range_list *result;
	struct scan s = { .join = policy->gap };
	int rc = ranges_size_check(size, err);

	if (rc)
		return rc;
	if (!policy->max || policy->max > RANGES_MAX)
		return err_set(err, EINVAL, "a list of %zu ranges is not possible: use 1 to %u",
			       policy->max, RANGES_MAX);
	gaps = calloc(policy->max, sizeof(*gaps));
	if (!gaps)
		return err_set(err, ENOMEM, "no memory for a list of ranges");
	s.gaps = gaps;
	s.max = policy->max - 1;
	for (uint64_t i = 0; i < whole; i++)
		if (words[i])
			word_add(&s, i * 64, words[i]);
	if (pages % 64)
		word_add(&s, whole * 64, words[whole] & ~(~0ull << pages % 64));
	result = scan_result(&s);
	if (!result)
		return err_set(err, ENOMEM, "no memory for a list of ranges");
	*list = result;
	if (dirty)
		*dirty = s.dirty;
	return 0;
}

int ranges_check(const struct range *ranges, size_t count, uint64_t size, struct ramet_err *err)
{
	uint64_t last = 0;

	if (count > RANGES_MAX)
		return err_set(err, EINVAL, "%zu ranges are more than %u", count, RANGES_MAX);
	for (size_t i = 0; i < count; i++) {
		const struct range *r = &ranges[i];

		if (r->start >= r->end || r->end > size || (r->start | r->end) % RANGE_PAGE ||
		    (i && r->start <= last))
			return err_set(err, EINVAL,
				       "range %zu, %#llx to %#llx, is not a page range of %#llx "
				       "bytes after the one before it",
				       i, (unsigned long long)r->start, (unsigned long long)r->end,
				       (unsigned long long)size);
		last = r->end;
	}
	return 0;
}

const struct range *ranges_find(const struct range *ranges, size_t count, uint64_t at)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (ranges[mid].end <= at)
			low = mid + 1;
		else
			high = mid;
	}
	return low < count && ranges[low].start <= at ? &ranges[low] : NULL;
}

uint64_t ranges_bytes(const struct range *ranges, size_t count)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < count; i++)
		sum += range_length(&ranges[i]);
	return sum;
}
