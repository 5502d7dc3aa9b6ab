/* Stopping a sandbox's guest for good, so that copies of it can run: execs and
 * output are held at a frame boundary, the guest is paused, what it changed
 * becomes a new layer with its worker as donor. Until the worker is told to
 * donate, any failure lets the guest go on as if nothing had been. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/fork.h"
#include "engine/hot.h"
#include "engine/internal.h"
#include "lib/cleanup.h"
#include "lib/clock.h"
#include "lib/log.h"
#include "vmm/layout.h"

/* Ranges that one fork adds at most, where the limit of extents has room. */
#define RANGES_LEAST 16u
#define RANGES_MOST  48u

/* Each child maps each range, but the pages between are copied once. */
#define CHILDREN_MANY 8u
#define RANGES_FEW    32u

/* An image has fewer: every guest there ever is maps each of them, and the zero
 * pages between cost memory once. */
#define IMAGE_RANGES    24u
#define IMAGE_GAP_PAGES 256u

struct freeze {
	struct sandbox *sandbox;
	freeze_cb done;
	void *arg;
	bool full; /* the new layer holds everything */
	bool stay; /* only paused: it keeps its worker and may be resumed */
	bool sent; /* CONTROL_PAUSE */
	struct quiet *quiet;
	int bundle_fd;
	sd_event_source *deadline;
	sd_event_source *start; /* deferred: callbacks come only from the loop */
	uint64_t start_ns;
	struct freeze_timings timings;
};

/* An answer of the agent that outlives whoever waited for it. */
struct quiet {
	struct freeze *freeze; /* NULL: it came too late */
};

/* What a bundle holds, copied out: the worker can still write to it. */
struct bundle {
	uint8_t *bytes;
};

static void freeze_free(struct freeze *freeze)
{
	freeze->deadline = sd_event_source_disable_unref(freeze->deadline);
	freeze->start = sd_event_source_disable_unref(freeze->start);
	close_fd(&freeze->bundle_fd);
	if (freeze->quiet)
		freeze->quiet->freeze = NULL;
	free(freeze);
}

void sandbox_unhold(struct sandbox *sandbox)
{
	if (!sandbox->agent)
		return;
	agent_release(sandbox->agent);
	exec_queue_release(&sandbox->execs);
	agent_kick(sandbox->agent);
}

/* The guest runs on, if it still can. */
static void freeze_fail(struct freeze *freeze, const struct ramet_err *err)
{
	struct sandbox *s = freeze->sandbox;
	struct ramet_err cause = *err;
	freeze_cb done = freeze->done;
	void *arg = freeze->arg;

	s->freeze = NULL;
	freeze_free(freeze);
	sandbox_unhold(s);
	done(arg, NULL, NULL, &cause);
}

void freeze_abort(struct sandbox *sandbox, const struct ramet_err *cause)
{
	if (sandbox->freeze)
		freeze_fail(sandbox->freeze, cause);
}

/* A guest that may be stopped, or about to be, when nobody wants it any more:
 * only its worker's answer could tell. */
static int freeze_on_deadline(sd_event_source *source, uint64_t usec, void *arg)
{
	struct freeze *freeze = arg;
	struct sandbox *s = freeze->sandbox;
	struct ramet_err err;

	(void)source;
	(void)usec;
	(void)err_set(&err, ETIMEDOUT, "the guest did not %s within %.1f s (limit pause_deadline)",
		      freeze->sent ? "stop" : "take its input",
		      (double)s->engine->limits.pause_deadline / SECONDS_NS);
	if (freeze->sent)
		sandbox_fail(s, &err);
	else
		freeze_fail(freeze, &err);
	return 0;
}

/* Memory that is spread too far is gathered by this fork's donor in the new
 * layer, all but the image at the bottom. */
static bool freeze_gathers(const struct sandbox *s)
{
	const struct memory *memory = s->vm->memory;
	const struct limits *limits = &s->engine->limits;

	return memory->layer_count > 1 &&
	       (memory->layer_count + 1 >= limits->fork_layers ||
		memory->map->count + 2 * RANGES_MOST >= limits->fork_extents);
}

static size_t freeze_ranges_most(const struct sandbox *s)
{
	return s->fork && s->fork->count >= CHILDREN_MANY ? RANGES_FEW : RANGES_MOST;
}

static void freeze_pause(struct freeze *freeze)
{
	struct sandbox *s = freeze->sandbox;
	const struct limits *limits = &s->engine->limits;
	const struct memory *memory = s->vm->memory;
	size_t used = memory ? memory->map->count : 1;
	size_t room = limits->fork_extents > used ? (limits->fork_extents - used) / 2 : 0;
	size_t most = freeze_ranges_most(s);
	struct control_pause pause = { .gap_pages = limits->fork_gap_pages };
	struct ramet_err err;
	int r = 0;

	freeze->full = !freeze->stay && !memory;
	if (freeze->full) {
		pause.full = 1;
		pause.gap_pages = IMAGE_GAP_PAGES;
		room = IMAGE_RANGES;
	}
	if (memory && freeze_gathers(s)) {
		pause.keep_layers = 1;
		room = most; /* in the place of what it gathers */
	}
	if (room > most)
		room = most;
	pause.ranges_max = room < RANGES_LEAST ? RANGES_LEAST : (uint32_t)room;
	freeze->timings.quiesce_ns = clock_monotonic_ns() - freeze->start_ns;
	freeze->bundle_fd = memfd_create("ramet-pause", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (freeze->bundle_fd < 0 || ftruncate(freeze->bundle_fd, CONTROL_BUNDLE_MAX) < 0 ||
	    fcntl(freeze->bundle_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
		r = err_errno(&err, errno, "cannot make a bundle");
	freeze->timings.paused_at = clock_monotonic_ns();
	if (r == 0)
		r = worker_pause(s->vm->worker, &pause, freeze->bundle_fd, &err);
	freeze->sent = r == 0;
	if (r < 0)
		freeze_fail(freeze, &err);
}

static void freeze_on_quiet(void *arg, const struct ramet_err *err)
{
	struct quiet *quiet = arg;
	struct freeze *freeze = quiet->freeze;

	free(quiet);
	if (!freeze)
		return;
	freeze->quiet = NULL;
	if (err)
		freeze_fail(freeze, err);
	else
		freeze_pause(freeze);
}

/* No exec is half sent: the guest shall have what was sent so far. */
static void freeze_on_drained(void *arg)
{
	struct freeze *freeze = arg;
	struct quiet *quiet = calloc(1, sizeof(*quiet));
	struct ramet_err err;
	int r = quiet ? agent_quiesce(freeze->sandbox->agent, freeze_on_quiet, quiet, &err)
		      : err_set(&err, ENOMEM, "no memory to stop a sandbox");

	if (quiet && r == 0) {
		quiet->freeze = freeze;
		freeze->quiet = quiet;
		return;
	}
	free(quiet);
	if (r > 0)
		freeze_pause(freeze);
	else
		freeze_fail(freeze, &err);
}

static int freeze_on_start(sd_event_source *source, void *arg)
{
	struct freeze *freeze = arg;

	(void)source;
	if (exec_queue_hold(&freeze->sandbox->execs, freeze_on_drained, freeze))
		freeze_on_drained(freeze);
	return 0;
}

int sandbox_freeze(struct sandbox *sandbox, bool stay, freeze_cb done, void *arg,
		   struct ramet_err *err)
{
	struct freeze *freeze;
	int r;

	if (sandbox->phase != PHASE_RUN || sandbox->freeze || sandbox->state != SANDBOX_READY)
		return err_set(err, EBUSY, "sandbox %s cannot be stopped now", sandbox->id);
	freeze = calloc(1, sizeof(*freeze));
	if (!freeze)
		return err_set(err, ENOMEM, "no memory to stop a sandbox");
	freeze->sandbox = sandbox;
	freeze->stay = stay;
	freeze->done = done;
	freeze->arg = arg;
	freeze->bundle_fd = -1;
	freeze->start_ns = clock_monotonic_ns();
	r = sd_event_add_time_relative(sandbox->engine->loop, &freeze->deadline, CLOCK_MONOTONIC,
				       sandbox->engine->limits.pause_deadline / 1000,
				       TIMER_ACCURACY, freeze_on_deadline, freeze);
	if (r >= 0)
		r = sd_event_add_defer(sandbox->engine->loop, &freeze->start, freeze_on_start,
				       freeze);
	if (r < 0) {
		freeze_free(freeze);
		return err_errno(err, -r, "no timer to stop a sandbox");
	}
	sandbox->freeze = freeze;
	return 0;
}

/* ---- the guest is stopped ---- */

static void bundle_free(struct bundle *bundle)
{
	free(bundle->bytes);
}

static int bundle_read(const struct freeze *freeze, const struct control_paused *paused,
		       struct bundle *bundle, struct ramet_err *err)
{
	uint64_t size = paused->state_bytes + paused->range_count * sizeof(struct range);
	ssize_t n;

	if (!paused->state_bytes || paused->state_bytes > CONTROL_BUNDLE_MAX ||
	    paused->range_count > RANGES_MAX || size > CONTROL_BUNDLE_MAX)
		return err_set(err, EPROTO, "the worker sent a bundle of impossible size");
	bundle->bytes = malloc(size);
	if (!bundle->bytes)
		return err_set(err, ENOMEM, "no memory for the state of a guest");
	n = pread(freeze->bundle_fd, bundle->bytes, size, 0);
	if (n != (ssize_t)size)
		return err_set(err, EIO, "cannot read the state of a guest");
	return 0;
}

/* Pairs of uint64_t behind a state of any length. */
static struct range *bundle_ranges(const struct bundle *bundle, const struct control_paused *paused)
{
	struct range *ranges = calloc(paused->range_count + 1u, sizeof(*ranges));

	if (ranges)
		memcpy(ranges, bundle->bytes + paused->state_bytes,
		       paused->range_count * sizeof(*ranges));
	return ranges;
}

/* The memory of the stopped guest. One that changed nothing has what it had. */
static int freeze_memory(const struct freeze *freeze, const struct control_paused *paused,
			 const struct bundle *bundle, struct memory **memory, struct ramet_err *err)
{
	struct sandbox *s = freeze->sandbox;
	struct memory *below = s->vm->memory;
	cleanup_free struct range *ranges = bundle_ranges(bundle, paused);

	if (!ranges)
		return err_set(err, ENOMEM, "no memory for the state of a guest");
	if (!paused->range_count && below) {
		*memory = memory_ref(below);
		return 0;
	}
	return memory_derive(s->engine, freeze->full ? NULL : below,
			     guest_memory_bytes(s->memory_bytes), ranges, paused->range_count,
			     memory, err);
}

static int freeze_copy(struct freeze *freeze, const struct control_paused *paused,
		       struct frozen **frozen, struct ramet_err *err)
{
	struct sandbox *s = freeze->sandbox;
	struct bundle bundle = { 0 };
	struct frozen *f = NULL;
	struct memory *memory;
	int r = bundle_read(freeze, paused, &bundle, err);

	if (r == 0)
		r = freeze_memory(freeze, paused, &bundle, &memory, err);
	if (r == 0)
		r = frozen_create(memory, bundle.bytes, paused->state_bytes, &f, err);
	bundle_free(&bundle);
	if (r == 0)
		r = agent_settle(s->agent, paused->channel_to_host, paused->channel_to_guest, err);
	if (r == 0)
		r = agent_snapshot(s->agent, &f->agent, err);
	if (r == 0)
		r = exec_queue_snapshot(&s->execs, &f->execs, err);
	if (r < 0) {
		frozen_unref(f);
		return r;
	}
	f->handle_count = file_set_handles(&s->files, f->handles);
	f->hot = hot_ref(s->hot_pages);
	*frozen = f;
	return 0;
}

/* Its worker is the sandbox's no more. */
static int freeze_donate(struct sandbox *s, const struct frozen *frozen, struct ramet_err *err)
{
	struct vm *vm = s->vm;

	if (frozen->memory == vm->memory) {
		vm_release(vm);
	} else {
		/* Several children, as they start, have work for all processors. */
		bool hurry = !s->fork || s->fork->count == 1;
		int r = memory_donate(frozen->memory, vm, frozen->hot, hurry, err);

		if (r < 0)
			return r;
	}
	s->vm = NULL;
	return 0;
}

static void freeze_measure(struct freeze *freeze, const struct control_paused *paused,
			   uint64_t answered)
{
	struct freeze_timings *timings = &freeze->timings;

	timings->pause_ns = answered - timings->paused_at;
	timings->state_ns = paused->state_ns;
	timings->map_ns = clock_monotonic_ns() - answered;
	timings->dirty_pages = paused->dirty_pages;
	timings->range_pages = paused->range_pages;
	timings->ranges = paused->range_count;
}

void freeze_paused(struct sandbox *sandbox, const struct control_paused *paused)
{
	struct freeze *freeze = sandbox->freeze;
	uint64_t answered = clock_monotonic_ns();
	struct freeze_timings timings;
	struct frozen *frozen = NULL;
	struct ramet_err err, lost;
	freeze_cb done = freeze->done;
	void *arg = freeze->arg;
	int r;

	if (freeze->stay) {
		frozen = NULL;
		r = agent_settle(sandbox->agent, paused->channel_to_host, paused->channel_to_guest,
				 &err);
	} else {
		r = freeze_copy(freeze, paused, &frozen, &err);
	}
	if (r == 0 && frozen) {
		r = freeze_donate(sandbox, frozen, &err);
		if (r < 0)
			frozen_unref(frozen);
	}
	if (r < 0) {
		if (worker_resume(sandbox->vm->worker, &lost) < 0)
			sandbox_fail(sandbox, &lost);
		else
			freeze_fail(freeze, &err);
		return;
	}
	freeze_measure(freeze, paused, answered);
	timings = freeze->timings;
	sandbox->freeze = NULL;
	freeze_free(freeze);
	done(arg, frozen, &timings, NULL);
}

void freeze_refused(struct sandbox *sandbox, const struct ramet_err *err)
{
	struct ramet_err cause = *err;

	(void)err_prefix(&cause, "the worker cannot stop the guest");
	freeze_fail(sandbox->freeze, &cause);
}
