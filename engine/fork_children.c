/* The children of a fork, from their entry in the list to their first answer.
 *
 * They start once the parent runs, which waits for nobody. By then the donor has
 * copied what they need first. They start one after the other, a few at a time: many
 * more than there are processors would only slow each other down, and everybody's
 * first answer. */
#include <errno.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "engine/fork.h"
#include "lib/clock.h"
#include "lib/log.h"

/* A child that has not answered by then, such as one whose interpreter is busy,
 * does not hold up those behind it. */
#define STALL_USEC 10000u

static unsigned int processors(void)
{
	int n = get_nprocs();

	return n > 0 ? (unsigned int)n : 1;
}

/* ---- start ---- */

static void child_start(struct fork *fork, struct sandbox *child)
{
	struct vm *vm = pool_take(&fork->shells);
	struct ramet_err err;
	int r = vm ? sandbox_restore(child, fork->frozen, vm, &err)
		   : err_set(&err, EIO, "the sandbox's worker died before it was used");

	if (r < 0)
		sandbox_fail(child, &err);
}

static void children_start(struct fork *fork, unsigned int count)
{
	while (count && fork->started < fork->count) {
		struct fork_slot *slot = &fork->slots[fork->started++];

		if (!slot->sandbox || slot->sandbox->phase != PHASE_RESERVE)
			continue; /* closed meanwhile */
		count--;
		slot->started = true;
		fork->answering++;
		child_start(fork, slot->sandbox);
	}
	if (fork->started == fork->count)
		pool_cancel(&fork->shells);
}

static int children_on_stall(sd_event_source *source, uint64_t usec, void *arg);

/* Those behind go on when one of these has answered, or after a while. */
static void children_watch(struct fork *fork)
{
	int r;

	if (fork->started == fork->count) {
		fork->stall = sd_event_source_disable_unref(fork->stall);
		return;
	}
	if (fork->stall) {
		r = sd_event_source_set_time_relative(fork->stall, STALL_USEC);
		if (r >= 0)
			r = sd_event_source_set_enabled(fork->stall, SD_EVENT_ONESHOT);
	} else {
		r = sd_event_add_time_relative(fork->engine->loop, &fork->stall, CLOCK_MONOTONIC,
					       STALL_USEC, TIMER_ACCURACY, children_on_stall, fork);
	}
	if (r < 0)
		children_start(fork, fork->count);
}

static int children_on_stall(sd_event_source *source, uint64_t usec, void *arg)
{
	struct fork *fork = arg;

	(void)source;
	(void)usec;
	children_start(fork, processors());
	children_watch(fork);
	return 0;
}

void fork_start_children(struct fork *fork)
{
	unsigned int most = 2 * processors() + 2; /* some wait for pages */

	fork->parent_done = true;
	if (fork->answering < most)
		children_start(fork, most - fork->answering);
	children_watch(fork);
}

/* ---- answer ---- */

/* A child is ready, or it failed: then its worker is gone. */
static void child_settled(void *arg, struct sandbox *sandbox, const struct ramet_err *err)
{
	struct fork_slot *slot = arg;
	struct fork *fork = slot->fork;
	uint64_t now = clock_monotonic_ns() - fork->start_ns;

	if (err) {
		slot->err = *err;
	} else {
		if (!fork->timings.first_ns) {
			fork->timings.first_ns = now;
			/* What all need at first has been filled by now. */
			memory_set_weight(fork->frozen->memory, VM_WEIGHT_DONOR);
		}
		if (sandbox->timings.stitch_ns > fork->timings.stitch_ns)
			fork->timings.stitch_ns = sandbox->timings.stitch_ns;
	}
	fork->timings.total_ns = now;
	slot->sandbox = NULL;
	if (slot->started)
		fork->answering--;
	fork->settled++;
	if (fork->parent_done && fork->started < fork->count)
		fork_start_children(fork);
	fork_check(fork);
}

int fork_add_child(struct fork *fork, unsigned int i, const struct fork_params *params,
		   struct ramet_err *err)
{
	struct sandbox *parent = fork->parent;
	struct sandbox *child = sandbox_alloc(fork->engine, err);
	struct fork_slot *slot = &fork->slots[i];
	int r;

	if (!child)
		return -ENOMEM;
	slot->fork = fork;
	child->phase = PHASE_RESERVE;
	child->depth = parent->depth + 1;
	child->fork_number = i + 1;
	child->reseed_python = !params->keep_random;
	memcpy(child->kernel, parent->kernel, sizeof(child->kernel));
	r = sandbox_copy_params(child, parent, params->metadata_count, params->metadata, err);
	if (r == 0)
		r = sandbox_set_ready_deadline(child, fork->engine->limits.fork_deadline, err);
	if (r == 0)
		r = sandbox_enlist(child, child_settled, slot, err);
	if (r < 0) {
		sandbox_free(child);
		return r;
	}
	tree_add(parent, child);
	slot->sandbox = child;
	memcpy(slot->id, child->id, sizeof(slot->id));
	return 0;
}
