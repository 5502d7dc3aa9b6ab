/* Serving the faults of children. What a child says is checked: it may be in
 * the hands of its guest, and must not hold up its siblings. */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "uffd/donor_internal.h"
#include "uffd/userfault.h"

#define READY_MAX    64 /* children looked at in one call, by turns */
#define MESSAGES_MAX 16 /* of one child in one call */

/* Never waits, also when the child made its end of the descriptor blocking;
 * kernels before 6.10 know only the descriptor's own O_NONBLOCK. */
static ssize_t messages_read(int uffd, struct uffd_msg *messages)
{
	struct iovec to = { .iov_base = messages, .iov_len = MESSAGES_MAX * sizeof(*messages) };
	ssize_t n = preadv2(uffd, &to, 1, -1, RWF_NOWAIT);

	if (n < 0 && (errno == EOPNOTSUPP || errno == ESPIPE))
		n = read(uffd, to.iov_base, to.iov_len);
	return n;
}

static void child_fail(struct donor *donor, struct donor_child *child, const struct ramet_err *err)
{
	donor->stats.failed++;
	if (donor->p.child_failed)
		donor->p.child_failed(donor->p.arg, child->id, err);
	donor_child_drop(donor, child);
}

/* The pages to bring for a fault: those around it in the same range. */
static struct range cluster_of(const struct range *r, uint64_t gpa)
{
	struct range c = { gpa & ~(CLUSTER_BYTES - 1), (gpa | (CLUSTER_BYTES - 1)) + 1 };

	if (c.start < r->start)
		c.start = r->start;
	if (c.end > r->end)
		c.end = r->end;
	return c;
}

/* Brings the page at `gpa`, and its neighbours, and wakes who waits there. */
static int page_serve(struct donor *donor, struct donor_child *child, const struct range *r,
		      uint64_t gpa, struct ramet_err *err)
{
	struct range cluster = cluster_of(r, gpa);
	uint64_t before = donor->stats.filled;
	int rc;

	donor->stats.events++;
	if (donor_page_done(donor, gpa))
		donor->stats.late++;
	else if (donor->demanded_count < DONOR_DEMANDED_MAX)
		donor->demanded[donor->demanded_count++] = gpa;
	rc = donor_fill(donor, cluster.start, cluster.end, err);
	donor->stats.demanded += donor->stats.filled - before;
	if (rc == 0)
		(void)userfault_wake(child->uffd, child->base + cluster.start,
				     cluster.end - cluster.start);
	return rc;
}

/* Returns the range that a message asks for a page of, or NULL. */
static const struct range *message_check(const struct donor_child *child,
					 const struct uffd_msg *message, uint64_t *gpa,
					 struct ramet_err *err)
{
	uint64_t address = message->arg.pagefault.address;
	const struct range *r = NULL;

	if (message->event != UFFD_EVENT_PAGEFAULT ||
	    message->arg.pagefault.flags & (UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_MINOR)) {
		(void)err_set(err, EPROTO, "child %u sent an event of kind %u that it must not",
			      child->id, message->event);
		return NULL;
	}
	*gpa = (address - child->base) & ~(RANGE_PAGE - 1);
	if (address >= child->base)
		r = ranges_find(child->ranges, child->count, *gpa);
	if (!r)
		(void)err_set(err, EPROTO,
			      "child %u waits at %#llx, which is not in its part of the layer",
			      child->id, (unsigned long long)address);
	return r;
}

/* 0 also when the child was dropped. */
static int child_serve(struct donor *donor, struct donor_child *child, struct ramet_err *err)
{
	struct uffd_msg messages[MESSAGES_MAX];
	ssize_t n = messages_read(child->uffd, messages);
	struct ramet_err reason;

	/* The event of an interrupted fault is gone until it is raised again. */
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < 0 || (size_t)n % sizeof(messages[0])) {
		(void)err_set(&reason, EPROTO, "the userfaultfd of child %u cannot be read",
			      child->id);
		child_fail(donor, child, &reason);
		return 0;
	}
	for (size_t i = 0; i < (size_t)n / sizeof(messages[0]); i++) {
		uint64_t gpa;
		const struct range *r = message_check(child, &messages[i], &gpa, &reason);
		int rc;

		if (!r) {
			child_fail(donor, child, &reason);
			return 0;
		}
		rc = page_serve(donor, child, r, gpa, err);
		if (rc)
			return rc;
	}
	return 0;
}

int donor_serve(struct donor *donor, struct ramet_err *err)
{
	struct epoll_event ready[READY_MAX];
	int n = epoll_wait(donor->epoll, ready, READY_MAX, 0);

	if (n < 0 && errno != EINTR)
		return err_errno(err, errno, "cannot wait for children");
	donor->busy = n > 0;
	for (int i = 0; i < n; i++) {
		struct donor_child *child = ready[i].data.ptr;
		int rc;

		/* Faults of a blocking descriptor cannot be waited for: poll says error. */
		if (!(ready[i].events & EPOLLIN)) {
			struct ramet_err reason;

			(void)err_set(&reason, EPROTO, "child %u spoiled its userfaultfd",
				      child->id);
			child_fail(donor, child, &reason);
			continue;
		}
		rc = child_serve(donor, child, err);
		if (rc)
			return rc;
	}
	return 0;
}

int donor_step(struct donor *donor, struct ramet_err *err)
{
	int rc = donor_serve(donor, err);

	return rc ? rc : donor_fill_ahead(donor, donor->busy ? RUN_BYTES_BUSY : RUN_BYTES, err);
}
