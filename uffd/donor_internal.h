/* What the parts of the donor share: donor.c (life, children), donor_fill.c
 * (pages), donor_serve.c (faults). */
#ifndef RAMET_UFFD_DONOR_INTERNAL_H
#define RAMET_UFFD_DONOR_INTERNAL_H

#include "uffd/donor.h"

/* Copied around a demanded page: a fault costs as much as about 30 copies. */
#define CLUSTER_BYTES (16 * RANGE_PAGE)

/* Copied ahead between looks at the children: 50 and 25 us, where the source is in
 * the cache; ten times that where it is not. */
#define RUN_BYTES      (1ull << 17)
#define RUN_BYTES_BUSY (1ull << 16)

struct donor_child {
	struct donor_child *next;
	uint32_t id;
	int uffd;
	uint64_t base;
	size_t count;
	struct range ranges[];
};

struct donor {
	struct donor_params p; /* `ranges` is a copy; descriptors are not kept */
	struct range *ranges;
	struct range *ahead;             /* parts of ranges, in the order in which to copy them */
	size_t ahead_count, ahead_first; /* all, and those that the caller named */
	uint8_t *target;                 /* the layer, shared; NULL once finished */
	int uffd;                        /* watches `target`, so that pages can be put there */
	int epoll;                       /* children's userfaultfds */
	uint64_t *done;                  /* one bit for each page of the layer */
	size_t at_range;                 /* where to go on copying ahead: index into ahead */
	uint64_t at;
	bool busy; /* children were waiting at the last look */
	struct donor_child *children;
	uint64_t *demanded;
	size_t demanded_count;
	struct donor_stats stats;
};

/* Whether the page at `gpa` is in the layer. */
bool donor_page_done(const struct donor *donor, uint64_t gpa);

/* Puts all pages of [start, end) that are missing into the layer. */
int donor_fill(struct donor *donor, uint64_t start, uint64_t end, struct ramet_err *err);

/* Copies up to `bytes` ahead. */
int donor_fill_ahead(struct donor *donor, uint64_t bytes, struct ramet_err *err);

/* Takes a child out and frees it. */
void donor_child_drop(struct donor *donor, struct donor_child *child);

#endif
