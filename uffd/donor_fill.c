/* Filling a layer: each page of its ranges is inserted exactly once, complete. */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>

#include "lib/clock.h"
#include "uffd/donor_internal.h"

bool donor_page_done(const struct donor *donor, uint64_t gpa)
{
	uint64_t page = gpa >> RANGE_SHIFT;

	return donor->done[page / 64] >> page % 64 & 1;
}

static void pages_set_done(struct donor *donor, uint64_t start, uint64_t bytes)
{
	uint64_t page = start >> RANGE_SHIFT, end = page + (bytes >> RANGE_SHIFT);

	for (; page < end; page++)
		donor->done[page / 64] |= 1ull << page % 64;
	donor->stats.filled += bytes;
}

/* A page this donor never put into the layer is there already. Whoever has a
 * descriptor of a layer can make a zero page of a hole by touching it in a
 * mapping that is not watched; children would then read zeros. */
static int page_verify(const struct donor *donor, uint64_t gpa, struct ramet_err *err)
{
	if (memcmp(donor->target + gpa, donor->p.source + gpa, RANGE_PAGE) == 0)
		return 0;
	return err_set(err, EUCLEAN,
		       "page %#llx of a memory layer was touched by somebody else before it was "
		       "filled: the sandboxes that use the layer cannot go on",
		       (unsigned long long)gpa);
}

/* Copies pages from `start` on, all missing, until something is in the way.
 * Returns the number of bytes that are in the layer now. */
static int64_t pages_copy(struct donor *donor, uint64_t start, uint64_t end, struct ramet_err *err)
{
	struct uffdio_copy copy = {
		.dst = (uint64_t)donor->target + start,
		.src = (uint64_t)donor->p.source + start,
		.len = end - start,
		.mode = UFFDIO_COPY_MODE_DONTWAKE, /* nobody waits at the donor's mapping */
	};
	int rc;

	if (ioctl(donor->uffd, UFFDIO_COPY, &copy) == 0)
		return (int64_t)(end - start);
	if (copy.copy > 0)
		return copy.copy;
	switch (errno) {
	case EAGAIN:
		return 0;
	case EEXIST:
		rc = page_verify(donor, start, err);
		return rc ? rc : (int64_t)RANGE_PAGE;
	case EFAULT:
		return err_set(err, EFAULT, "page %#llx of frozen guest memory cannot be read",
			       (unsigned long long)start);
	default:
		return err_errno(err, errno, "cannot put page %#llx into a memory layer",
				 (unsigned long long)start);
	}
}

int donor_fill(struct donor *donor, uint64_t start, uint64_t end, struct ramet_err *err)
{
	uint64_t began = clock_monotonic_ns(), stop;
	int64_t rc = 0;

	while (rc >= 0 && start < end) {
		if (donor_page_done(donor, start)) {
			start += RANGE_PAGE;
			continue;
		}
		for (stop = start; stop < end && !donor_page_done(donor, stop);)
			stop += RANGE_PAGE;
		rc = pages_copy(donor, start, stop, err);
		if (rc > 0) {
			pages_set_done(donor, start, (uint64_t)rc);
			start += (uint64_t)rc;
		}
	}
	donor->stats.copy_ns += clock_monotonic_ns() - began;
	return rc < 0 ? (int)rc : 0;
}

int donor_fill_ahead(struct donor *donor, uint64_t bytes, struct ramet_err *err)
{
	while (bytes && donor->at_range < donor->ahead_count) {
		const struct range *r = &donor->ahead[donor->at_range];
		uint64_t start = donor->at > r->start ? donor->at : r->start;
		uint64_t end = r->end - start > bytes ? start + bytes : r->end;
		int rc = donor_fill(donor, start, end, err);

		if (rc)
			return rc;
		bytes -= end - start;
		donor->at = end;
		if (end == r->end) {
			donor->at_range++;
			donor->at = 0;
		}
	}
	return 0;
}
