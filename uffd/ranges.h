/* Sorted lists of page ranges: which part of memory a layer holds.
 *
 * A list is made from a dirty bitmap with few, slightly too large ranges,
 * because every range costs each child a mapping of its own: about 4 us to map
 * against 1.4 us to copy one page that was not dirty. Pure logic. */
#ifndef RAMET_UFFD_RANGES_H
#define RAMET_UFFD_RANGES_H

#include <stddef.h>
#include <stdint.h>

#include "lib/cleanup.h"
#include "lib/err.h"

#define RANGE_SHIFT 12
#define RANGE_PAGE  4096ull

#define RANGES_MAX      1024u        /* of one list */
#define RANGES_SIZE_MAX (1ull << 44) /* bytes that lists and maps can describe */

/* Bytes [start, end): not empty, page aligned. */
struct range {
	uint64_t start, end;
};

/* Sorted, disjoint, not touching each other. Free with free(). */
struct range_list {
	size_t count;
	struct range ranges[];
};

#define cleanup_ranges cleanup_free

struct range_policy {
	uint64_t gap; /* ranges at most this many bytes apart become one */
	size_t max;   /* 1..RANGES_MAX; the smallest gaps go until it is kept */
};

/* Collects the set bits of `words` (bit n of word w = page 64 * w + n) for
 * memory of `size` bytes; bits beyond it are ignored. With more than
 * policy->max runs it keeps the largest gaps, so the fewest clean pages are
 * taken in. *dirty (may be NULL) is the number of bits that were set. Time is
 * proportional to the words and runs, memory to policy->max.
 * -EINVAL: bad size or policy; -ENOMEM. */
int ranges_from_bitmap(struct range_list **list, const uint64_t *words, uint64_t size,
		       const struct range_policy *policy, uint64_t *dirty, struct ramet_err *err);

/* -EINVAL with a sentence unless the ranges are what a range_list must be,
 * at most RANGES_MAX and all below `size`. */
int ranges_check(const struct range *ranges, size_t count, uint64_t size, struct ramet_err *err);

/* The range that `at` is in, or NULL. */
const struct range *ranges_find(const struct range *ranges, size_t count, uint64_t at);

/* Sum of lengths. */
uint64_t ranges_bytes(const struct range *ranges, size_t count);

/* 0, or -EINVAL unless 0 < size <= RANGES_SIZE_MAX and size is in whole pages. */
int ranges_size_check(uint64_t size, struct ramet_err *err);

#endif
