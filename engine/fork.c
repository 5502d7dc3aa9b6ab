/* sandbox_fork(): see engine.h.
 *
 *     reserve shells -> stop the parent -> its worker donates a new layer
 *                    -> the parent goes on in the first shell (fork_heir.c)
 *                    -> every child is restored, told who it is, and ready
 *
 * Nothing is paused before there are shells for all. A child that fails does so
 * alone; the parent goes on whatever happens to them. */
#include "engine/fork.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "lib/meminfo.h"

static void fork_free(struct fork *fork)
{
	LIST_REMOVE(fork, link);
	fork_heir_drop(fork);
	pool_cancel(&fork->shells);
	if (fork->frozen)
		memory_set_weight(fork->frozen->memory, VM_WEIGHT_DONOR);
	frozen_unref(fork->frozen);
	fork->finish = sd_event_source_disable_unref(fork->finish);
	fork->stall = sd_event_source_disable_unref(fork->stall);
	free(fork);
}

/* ---- the end ---- */

static void fork_tell(struct fork *fork)
{
	struct fork_result result = { .count = fork->count, .timings = fork->timings };
	struct fork_child *children = calloc(fork->count, sizeof(*children));
	struct ramet_err err = fork->failure;

	if (!children)
		(void)err_set(&err, ENOMEM, "no memory to answer a fork");
	for (unsigned int i = 0; !err.code && i < fork->count; i++) {
		const struct fork_slot *slot = &fork->slots[i];

		children[i].err = slot->err;
		if (slot->err.code)
			continue;
		children[i].sandbox = engine_sandbox_find(fork->engine, slot->id);
		if (!children[i].sandbox)
			(void)err_set(&children[i].err, ECANCELED, "sandbox %s was closed",
				      slot->id);
	}
	result.children = children;
	fork->done(fork->arg, err.code ? NULL : &result, err.code ? &err : NULL);
	free(children);
}

static int fork_on_finish(sd_event_source *source, void *arg)
{
	struct fork *fork = arg;
	struct engine *engine = fork->engine;

	(void)source;
	fork_tell(fork);
	fork_free(fork);
	if (--engine->hot == 0)
		pool_refill_soon(engine);
	return 0;
}

void fork_check(struct fork *fork)
{
	if (fork->settled < fork->count || fork->parent)
		return;
	(void)sd_event_source_set_enabled(fork->finish, SD_EVENT_ONESHOT);
}

/* Nothing was copied: no child can be. */
static void fork_fail(struct fork *fork, const struct ramet_err *err)
{
	if (!fork->failure.code)
		fork->failure = *err;
	if (fork->parent)
		fork->parent->fork = NULL;
	fork->parent = NULL;
	pool_cancel(&fork->shells);
	for (unsigned int i = 0; i < fork->count; i++)
		if (fork->slots[i].sandbox)
			sandbox_fail(fork->slots[i].sandbox, err);
	fork_check(fork);
}

void fork_parent_ended(struct fork *fork, const struct ramet_err *cause)
{
	fork->parent->fork = NULL;
	fork->parent = NULL;
	fork_heir_drop(fork);
	if (fork->frozen)
		fork_start_children(fork);
	if (fork->frozen)
		fork_check(fork);
	else
		fork_fail(fork, cause);
}

/* ---- the way there ---- */

static void fork_on_frozen(void *arg, struct frozen *frozen, const struct freeze_timings *timings,
			   const struct ramet_err *err)
{
	struct fork *fork = arg;

	if (err) {
		fork_fail(fork, err);
		return;
	}
	fork->frozen = frozen;
	fork->paused_at = timings->paused_at;
	fork->timings.quiesce_ns = timings->quiesce_ns;
	fork->timings.pause_ns = timings->pause_ns;
	fork->timings.state_ns = timings->state_ns;
	fork->timings.map_ns = timings->map_ns;
	fork->timings.dirty_pages = timings->dirty_pages;
	fork->timings.range_pages = timings->range_pages;
	memory_set_weight(frozen->memory, VM_WEIGHT_URGENT);
	fork_heir_start(fork);
}

static void fork_on_shells(void *arg, const struct ramet_err *err)
{
	struct fork *fork = arg;
	struct ramet_err cause;

	fork->timings.reserve_ns = clock_monotonic_ns() - fork->start_ns;
	if (err)
		fork_fail(fork, err);
	else if (sandbox_freeze(fork->parent, false, fork_on_frozen, fork, &cause) < 0)
		fork_fail(fork, &cause);
}

/* ---- the beginning ---- */

static int fork_check_room(const struct sandbox *parent, unsigned int count,
			   const struct pool_kind *kind, struct ramet_err *err)
{
	const struct engine *engine = parent->engine;
	unsigned int ready = pool_ready(engine, kind);
	unsigned int more = count + 1 > ready ? count + 1 - ready : 0;
	struct meminfo host;
	int r = sandbox_check_room(engine, count, err);

	if (r == 0 && parent->vm->memory)
		r = memory_check_served(parent->vm->memory, count + 1, err);
	if (r < 0)
		return r;
	if (more > WORKERS_MAX - engine->vm_count)
		return err_set(err, EAGAIN,
			       "a fork into %u needs %u more workers, and %u of %u run already; "
			       "close some sandboxes",
			       count, more, engine->vm_count, WORKERS_MAX);
	/* What the host does not tell stops nobody. */
	if (meminfo_read(&host) == 0 && host.available / engine->limits.fork_child_memory < count)
		return err_set(err, EAGAIN,
			       "%u children need %llu MiB of free memory, and %llu are available "
			       "(limit fork_child_memory)",
			       count,
			       (unsigned long long)(count * engine->limits.fork_child_memory / MIB),
			       (unsigned long long)(host.available / MIB));
	return 0;
}

static int fork_check_params(const struct sandbox *parent, const struct fork_params *params,
			     struct ramet_err *err)
{
	const struct limits *limits = &parent->engine->limits;
	int r = sandbox_check_ready(parent, err);

	if (r < 0)
		return r;
	if (!params->count || params->count > limits->fork_children)
		return err_set(err, EINVAL,
			       "a fork makes 1 to %u children (limit fork_children), not %u",
			       limits->fork_children, params->count);
	if (parent->fork || parent->freeze)
		return err_set(err, EBUSY,
			       "sandbox %s is being forked or paused already; try again later",
			       parent->id);
	if (parent->engine->uffd_fd < 0)
		return err_set(err, ENODEV, "this host has no /dev/userfaultfd, which forks need");
	return 0;
}

/* Takes back what a fork that does not begin has made. */
static void fork_undo(struct fork *fork)
{
	for (unsigned int i = 0; i < fork->count; i++) {
		struct sandbox *child = fork->slots[i].sandbox;

		if (!child)
			continue;
		sandbox_delist(child);
		sandbox_free(child);
	}
	fork_free(fork);
}

static struct fork *fork_make(struct sandbox *parent, const struct fork_params *params,
			      struct ramet_err *err)
{
	struct engine *engine = parent->engine;
	struct fork *fork = calloc(1, sizeof(*fork) + params->count * sizeof(fork->slots[0]));
	int r;

	if (!fork) {
		(void)err_set(err, ENOMEM, "no memory for a fork");
		return NULL;
	}
	fork->engine = engine;
	fork->parent = parent;
	fork->start_ns = clock_monotonic_ns();
	fork->count = params->count;
	LIST_INSERT_HEAD(&engine->forks, fork, link);
	r = sd_event_add_defer(engine->loop, &fork->finish, fork_on_finish, fork);
	if (r >= 0)
		r = sd_event_source_set_enabled(fork->finish, SD_EVENT_OFF);
	if (r < 0)
		(void)err_errno(err, -r, "cannot add a fork to the event loop");
	for (unsigned int i = 0; r >= 0 && i < params->count; i++)
		r = fork_add_child(fork, i, params, err);
	if (r < 0) {
		fork_undo(fork);
		return NULL;
	}
	return fork;
}

int sandbox_fork(struct sandbox *parent, const struct fork_params *params, fork_cb done, void *arg,
		 struct ramet_err *err)
{
	const struct pool_kind kind = { parent->memory_bytes, parent->isolation, parent->plain };
	struct ramet_err local = { 0 };
	struct fork *fork;
	int r = fork_check_params(parent, params, err);

	if (r == 0)
		r = fork_check_room(parent, params->count, &kind, err);
	if (r < 0)
		return r;
	fork = fork_make(parent, params, &local);
	if (!fork) {
		if (err)
			*err = local;
		return -local.code;
	}
	fork->kind = kind;
	r = pool_reserve(parent->engine, &kind, &fork->shells, params->count + 1, fork_on_shells,
			 fork, err);
	if (r > 0) {
		fork->timings.reserve_ns = clock_monotonic_ns() - fork->start_ns;
		r = sandbox_freeze(parent, false, fork_on_frozen, fork, err);
	}
	if (r < 0) {
		fork_undo(fork);
		return r;
	}
	fork->done = done;
	fork->arg = arg;
	parent->fork = fork;
	parent->engine->hot++;
	return 0;
}

void fork_destroy_all(struct engine *engine)
{
	struct ramet_err err;
	struct fork *fork;

	(void)err_set(&err, ECANCELED, "the daemon is stopping");
	while ((fork = LIST_FIRST(&engine->forks))) {
		if (fork->parent)
			freeze_abort(fork->parent, &err);
		if (fork->parent)
			fork_parent_ended(fork, &err);
		for (unsigned int i = 0; i < fork->count; i++)
			if (fork->slots[i].sandbox)
				sandbox_destroy(fork->slots[i].sandbox);
		fork->failure = err;
		fork_tell(fork);
		fork_free(fork);
	}
}
