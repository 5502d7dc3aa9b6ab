/* CONTROL_DONATE: the guest is retired and its memory, which no longer changes,
 * fills a new layer (uffd/donor.h). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/clock.h"
#include "lib/log.h"
#include "uffd/donor.h"
#include "uffd/layer.h"
#include "vmm/worker_internal.h"

#define TOUCHED_FIRST 256u

/* For so long, unless it shall hurry, it uses no more of a processor than 1 / (1 + REST_SHARE)
 * for what nobody waits for. */
#define GENTLE_NS  300000000u
#define REST_SHARE 7u

/* A child that breaks the protocol is the daemon's to end: it finds it hanging. */
static void child_failed(void *arg, uint32_t child, const struct ramet_err *err)
{
	(void)arg;
	log_error("child %u: %s", child, err->msg);
}

/* What the VMM works with, its successors need to restore the machine, before
 * their guests run; and they will ask for the hot pages, to copy them ahead. */
static size_t ranges_first(const struct worker *w, const struct control_donate *donate,
			   struct range *first)
{
	const struct guest_memory *mem = &w->machine.mem;
	size_t count = 0;

	for (uint64_t word = 0; word < mem->size / PAGE_SIZE / 64; word++)
		for (uint64_t bits = mem->touched[word]; bits && count < TOUCHED_FIRST;
		     bits &= bits - 1) {
			uint64_t page = word * 64 + (unsigned int)__builtin_ctzll(bits);

			first[count++] = (struct range){ page * PAGE_SIZE, (page + 1) * PAGE_SIZE };
		}
	for (uint32_t i = 0; i < donate->hot_count; i++) {
		uint64_t start = (uint64_t)donate->hot[i].first * PAGE_SIZE;

		first[count++] =
			(struct range){ start, start + (uint64_t)donate->hot[i].count * PAGE_SIZE };
	}
	return count;
}

int handle_donate(struct worker *w, struct worker_message *message, struct ramet_err *err)
{
	const struct control_donate *donate = &message->u.donate;
	struct range first[TOUCHED_FIRST + CONTROL_HOT_MAX];
	struct donor_params params = {
		.device = message->fds[1],
		.layer = message->fds[0],
		.size = w->machine.mem.size,
		.source = w->machine.mem.base,
		.ranges = w->ranges->ranges,
		.range_count = w->ranges->count,
		.source_layers = message->fds + 2,
		.source_layer_count = message->fd_count - 2,
		.child_failed = child_failed,
	};
	int rc;

	if (donate->source_layers != message->fd_count - 2 || donate->hot_count > CONTROL_HOT_MAX)
		return err_set(err, EPROTO,
			       "donate message with %u layers and %u hot ranges came with %zu "
			       "descriptors",
			       donate->source_layers, donate->hot_count, message->fd_count);
	params.first = first;
	params.first_count = ranges_first(w, donate, first);
	rc = donor_create(&w->donor, &params, err);
	if (rc)
		return rc;
	w->donor_layer = take_fd(&message->fds[0]);
	w->donor_start_ns = clock_monotonic_ns();
	w->donor_gentle_ns = w->donor_start_ns + (donate->hurry ? 0 : GENTLE_NS);
	/* The guest never runs again. Its virtual machine goes with this process: to
	 * end it takes milliseconds, in which children would wait. */
	w->phase = WORKER_DONOR;
	return 0;
}

int handle_child(struct worker *w, struct worker_message *message, struct ramet_err *err)
{
	const struct control_child *child = &message->u.child;
	struct range ranges[CONTROL_CHILD_RANGES_MAX];
	size_t head = offsetof(struct control_child, ranges);
	struct ramet_err local = { 0 };

	if (message->length < head || child->range_count > CONTROL_CHILD_RANGES_MAX ||
	    message->length != head + child->range_count * sizeof(child->ranges[0]))
		return err_set(err, EPROTO, "child message of %zu bytes", message->length);
	for (uint32_t i = 0; i < child->range_count; i++)
		ranges[i] = (struct range){ child->ranges[i].start, child->ranges[i].end };
	/* A child that is gone already, say: the others still want their memory. */
	if (donor_add_child(w->donor, child->id, message->fds[0], child->base, ranges,
			    child->range_count, &local))
		log_error("child %u cannot be served: %s", child->id, local.msg);
	else
		message->fds[0] = -1;
	return 0;
}

static int filled(struct worker *w, struct ramet_err *err)
{
	struct control_filled reply = { .header = { CONTROL_VERSION, CONTROL_FILLED } };
	struct donor_stats stats;
	int rc = donor_finish(w->donor, err);

	if (!rc)
		rc = layer_seal(w->donor_layer, err);
	/* Many guests at once may have hold of a page for a moment. Without the
	 * seal, too, nobody can write once this process is gone: the others'
	 * descriptors are for reading. */
	if (rc && rc != -EBUSY)
		return rc;
	close_fd(&w->donor_layer);
	donor_stats(w->donor, &stats);
	reply.pages = stats.bytes / PAGE_SIZE;
	reply.demanded_pages = stats.demanded / PAGE_SIZE;
	reply.fill_ns = clock_monotonic_ns() - w->donor_start_ns;
	return control_reply(w, &reply, sizeof(reply), NULL, 0);
}

/* A donor that nobody waits for leaves the processor to those who just started. */
static void donation_rest(struct worker *w, uint64_t began)
{
	uint64_t now = clock_monotonic_ns();

	if (now < w->donor_gentle_ns && !donor_wanted(w->donor))
		w->donor_rest_ns = now + REST_SHARE * (now - began);
}

int donation_step(struct worker *w, struct ramet_err *err)
{
	uint64_t began = clock_monotonic_ns();
	int rc;

	if (w->donor_layer < 0)
		return 0; /* finished: children are only freed of their watch */
	if (began < w->donor_rest_ns) {
		rc = donor_serve(w->donor, err);
		if (donor_wanted(w->donor))
			w->donor_rest_ns = 0;
	} else {
		rc = donor_step(w->donor, err);
		if (!rc)
			donation_rest(w, began);
	}
	if (!rc && donor_done(w->donor))
		rc = filled(w, err);
	return rc;
}

int donation_wait_ms(const struct worker *w)
{
	uint64_t now;

	if (w->phase != WORKER_DONOR || w->donor_layer < 0)
		return -1;
	now = clock_monotonic_ns();
	return now < w->donor_rest_ns ? (int)((w->donor_rest_ns - now) / 1000000) + 1 : 0;
}

int donation_fd(const struct worker *w)
{
	return w->donor ? donor_fd(w->donor) : -1;
}

void donation_end(struct worker *w)
{
	donor_destroy(w->donor);
	close_fd(&w->donor_layer);
}
