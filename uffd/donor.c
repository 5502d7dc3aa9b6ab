/* Donors: their life and their children. See donor.h. */
#include "uffd/donor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include "lib/cleanup.h"
#include "uffd/donor_internal.h"
#include "uffd/layer.h"
#include "uffd/userfault.h"

static int params_check(const struct donor_params *p, struct ramet_err *err)
{
	struct layer_stat layer, source;
	bool sealed = false;
	int rc = ranges_size_check(p->size, err);

	if (rc == 0)
		rc = ranges_check(p->ranges, p->range_count, p->size, err);
	if (rc == 0)
		rc = layer_stat(p->layer, &layer, err);
	if (rc == 0)
		rc = layer_sealed(p->layer, &sealed, err);
	if (rc)
		return rc;
	if (sealed)
		return err_set(err, EBUSY, "the memory layer to fill is sealed already");
	if (layer.size < p->size)
		return err_set(err, EINVAL, "a memory layer of %llu bytes cannot hold %llu",
			       (unsigned long long)layer.size, (unsigned long long)p->size);
	for (size_t i = 0; i < p->source_layer_count; i++) {
		rc = layer_stat(p->source_layers[i], &source, err);
		if (rc)
			return rc;
		if (source.dev == layer.dev && source.ino == layer.ino)
			return err_set(err, ELOOP,
				       "a memory layer cannot be filled from itself: its donor "
				       "would wait for its own answer");
	}
	return 0;
}

static int target_map(struct donor *donor, struct ramet_err *err)
{
	void *target = mmap(NULL, donor->p.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
			    donor->p.layer, 0);

	if (target == MAP_FAILED)
		return err_errno(err, errno, "cannot map the memory layer to fill");
	donor->target = target;
	donor->uffd = userfault_new(donor->p.device, err);
	if (donor->uffd < 0)
		return donor->uffd;
	return userfault_register(donor->uffd, (uint64_t)target, donor->p.size, err);
}

static int range_compare_size(const void *a, const void *b)
{
	const struct range *x = a, *y = b;
	uint64_t size_x = x->end - x->start, size_y = y->end - y->start;

	return size_x < size_y ? -1 : size_x > size_y;
}

/* What the caller names; then the small ranges before the large: what a guest needs
 * at once lies scattered (its kernel's and its processes' own data), large ranges
 * are bulk. */
static int ahead_plan(struct donor *d, struct ramet_err *err)
{
	const struct donor_params *params = &d->p;
	size_t room = params->first_count + params->range_count;

	d->ahead = calloc(room + 1, sizeof(*d->ahead));
	if (!d->ahead)
		return err_set(err, ENOMEM, "no memory to fill a memory layer");
	for (size_t i = 0; i < params->first_count; i++) {
		const struct range *first = &params->first[i];
		const struct range *r = ranges_find(d->ranges, params->range_count, first->start);

		if (r && first->end > first->start)
			d->ahead[d->ahead_count++] =
				(struct range){ first->start,
						first->end < r->end ? first->end : r->end };
	}
	d->ahead_first = d->ahead_count;
	if (!params->range_count)
		return 0;
	memcpy(d->ahead + d->ahead_count, d->ranges, params->range_count * sizeof(*d->ranges));
	qsort(d->ahead + d->ahead_count, params->range_count, sizeof(*d->ahead),
	      range_compare_size);
	d->ahead_count += params->range_count;
	return 0;
}

static int donor_alloc(struct donor *d, struct ramet_err *err)
{
	uint64_t pages = d->p.size >> RANGE_SHIFT;

	d->ranges = calloc(d->p.range_count + 1, sizeof(*d->ranges));
	d->done = calloc(pages / 64 + 1, sizeof(*d->done));
	d->demanded = calloc(DONOR_DEMANDED_MAX, sizeof(*d->demanded));
	if (!d->ranges || !d->done || !d->demanded)
		return err_set(err, ENOMEM, "no memory to fill a memory layer");
	if (d->p.range_count)
		memcpy(d->ranges, d->p.ranges, d->p.range_count * sizeof(*d->ranges));
	d->p.ranges = d->ranges;
	if (ahead_plan(d, err))
		return -ENOMEM;
	d->p.first = NULL; /* the caller's */
	d->stats.bytes = ranges_bytes(d->ranges, d->p.range_count);
	d->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (d->epoll < 0)
		return err_errno(err, errno, "cannot wait for children");
	return 0;
}

int donor_create(struct donor **donor, const struct donor_params *params, struct ramet_err *err)
{
	struct donor *d;
	int rc = params_check(params, err);

	if (rc)
		return rc;
	d = calloc(1, sizeof(*d));
	if (!d)
		return err_set(err, ENOMEM, "no memory to fill a memory layer");
	d->p = *params;
	d->uffd = -1;
	d->epoll = -1;
	rc = donor_alloc(d, err);
	if (rc == 0)
		rc = target_map(d, err);
	if (rc) {
		donor_destroy(d);
		return rc;
	}
	*donor = d;
	return 0;
}

static void target_unmap(struct donor *donor)
{
	if (donor->target)
		(void)munmap(donor->target, donor->p.size);
	donor->target = NULL;
	close_fd(&donor->uffd);
}

void donor_destroy(struct donor *donor)
{
	if (!donor)
		return;
	while (donor->children)
		donor_child_drop(donor, donor->children);
	target_unmap(donor);
	close_fd(&donor->epoll);
	free(donor->demanded);
	free(donor->done);
	free(donor->ahead);
	free(donor->ranges);
	free(donor);
}

int donor_fd(const struct donor *donor)
{
	return donor->epoll;
}

bool donor_wanted(const struct donor *donor)
{
	return donor->busy || donor->at_range < donor->ahead_first;
}

bool donor_done(const struct donor *donor)
{
	return donor->stats.filled == donor->stats.bytes;
}

void donor_stats(const struct donor *donor, struct donor_stats *stats)
{
	*stats = donor->stats;
}

const uint64_t *donor_demanded(const struct donor *donor, size_t *count)
{
	*count = donor->demanded_count;
	return donor->demanded;
}

/* ---- children ---- */

static int child_check(const struct donor *donor, int uffd, uint64_t base,
		       const struct range *ranges, size_t count, struct ramet_err *err)
{
	int rc = ranges_check(ranges, count, donor->p.size, err);

	if (rc)
		return rc;
	if (!count || base % RANGE_PAGE || base + donor->p.size < base)
		return err_set(err, EINVAL, "a child with %zu ranges at %#llx cannot be served",
			       count, (unsigned long long)base);
	for (size_t i = 0; i < count; i++) {
		const struct range *r =
			ranges_find(donor->ranges, donor->p.range_count, ranges[i].start);

		if (!r || r->end < ranges[i].end)
			return err_set(err, EINVAL,
				       "a child needs %#llx to %#llx, which this donor does not "
				       "fill",
				       (unsigned long long)ranges[i].start,
				       (unsigned long long)ranges[i].end);
	}
	/* Anything that is not a userfaultfd does not know this request. */
	rc = userfault_wake(uffd, base + ranges[0].start, RANGE_PAGE);
	if (rc)
		return err_errno(err, EINVAL, "descriptor %d is not a child's userfaultfd", uffd);
	return 0;
}

static void child_release_or_report(struct donor *donor, const struct donor_child *child)
{
	struct ramet_err reason;

	if (userfault_release(child->uffd, child->base, child->ranges, child->count, &reason) == 0)
		return;
	(void)err_prefix(&reason, "child %u", child->id);
	donor->stats.failed++;
	if (donor->p.child_failed)
		donor->p.child_failed(donor->p.arg, child->id, &reason);
}

int donor_add_child(struct donor *donor, uint32_t id, int uffd, uint64_t base,
		    const struct range *ranges, size_t count, struct ramet_err *err)
{
	struct epoll_event event = { .events = EPOLLIN };
	struct donor_child *child;
	int rc = child_check(donor, uffd, base, ranges, count, err);

	if (rc)
		return rc;
	if (donor->stats.children >= DONOR_CHILDREN_MAX)
		return err_set(err, EUSERS, "a donor serves at most %u children",
			       DONOR_CHILDREN_MAX);
	child = malloc(sizeof(*child) + count * sizeof(child->ranges[0]));
	if (!child)
		return err_set(err, ENOMEM, "no memory for a child");
	*child = (struct donor_child){ .id = id, .uffd = uffd, .base = base, .count = count };
	memcpy(child->ranges, ranges, count * sizeof(*ranges));
	event.data.ptr = child;
	if (donor->target && epoll_ctl(donor->epoll, EPOLL_CTL_ADD, uffd, &event) < 0) {
		rc = err_errno(err, errno, "cannot wait for child %u", id);
		free(child);
		return rc;
	}
	child->next = donor->children;
	donor->children = child;
	donor->stats.children++;
	if (!donor->target) {
		child_release_or_report(donor, child);
		donor_child_drop(donor, child);
	}
	return 0;
}

void donor_child_drop(struct donor *donor, struct donor_child *child)
{
	struct donor_child **link = &donor->children;

	while (*link != child)
		link = &(*link)->next;
	*link = child->next;
	donor->stats.children--;
	/* Others have the descriptor too, so closing it would not take it out of
	 * the set. It may not be in it (ENOENT). */
	(void)epoll_ctl(donor->epoll, EPOLL_CTL_DEL, child->uffd, NULL);
	close_fd(&child->uffd);
	free(child);
}

void donor_remove_child(struct donor *donor, uint32_t id)
{
	struct donor_child *child = donor->children;

	while (child && child->id != id)
		child = child->next;
	if (child)
		donor_child_drop(donor, child);
}

int donor_finish(struct donor *donor, struct ramet_err *err)
{
	if (!donor_done(donor))
		return err_set(err, EAGAIN, "a memory layer still lacks %llu bytes",
			       (unsigned long long)(donor->stats.bytes - donor->stats.filled));
	while (donor->children) {
		child_release_or_report(donor, donor->children);
		donor_child_drop(donor, donor->children);
	}
	target_unmap(donor);
	return 0;
}
