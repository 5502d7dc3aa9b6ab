/* The parent of a fork goes on in a new worker: the heir. The same sandbox, the
 * same connection to the agent, at the byte where the old worker stopped. What
 * is frozen stays, so a worker that fails is replaced by another. */
#include <errno.h>

#include "engine/fork.h"
#include "lib/cleanup.h"
#include "lib/clock.h"
#include "lib/log.h"

#define ATTEMPTS_MAX 3u

static void heir_failed(struct fork *fork, const struct ramet_err *err);

void fork_heir_drop(struct fork *fork)
{
	fork->deadline = sd_event_source_disable_unref(fork->deadline);
	pool_cancel(&fork->spare);
	vm_release(take_ptr(fork->heir));
}

static void heir_restored(void *arg, const struct control_restored *restored, const int *uffds,
			  size_t count)
{
	struct fork *fork = arg;
	struct ramet_err err;
	int r = frozen_restored(fork->heir, restored, uffds, count, &err);

	if (r == 0)
		r = worker_run(fork->heir->worker, &err);
	if (r < 0)
		heir_failed(fork, &err);
}

/* It runs, or is just about to: nothing that it does is lost from here on. */
static void heir_booted(void *arg)
{
	struct fork *fork = arg;
	struct sandbox *s = fork->parent;
	struct vm *vm = fork->heir;
	struct ramet_err err;

	if (agent_switch(s->agent, vm->channel_fd, &err) < 0) {
		sandbox_fail(s, &err);
		return;
	}
	vm->channel_fd = -1;
	vm_set_weight(vm, VM_WEIGHT_EQUAL);
	fork->heir = NULL;
	fork_heir_drop(fork);
	s->vm = vm;
	s->fork = NULL;
	vm_set_owner(vm, &sandbox_running_events, s);
	log_debug("sandbox %s has worker %s", s->id, vm->name);
	fork->timings.parent_ns = clock_monotonic_ns() - fork->paused_at;
	sandbox_unhold(s);
	fork->parent = NULL; /* its part is over */
	fork_start_children(fork);
	fork_check(fork);
}

static void heir_refused(void *arg, uint32_t request, const struct ramet_err *err)
{
	(void)request;
	heir_failed(arg, err);
}

static void heir_lost(void *arg, const struct ramet_err *err)
{
	struct fork *fork = arg;
	struct ramet_err cause;

	if (vm_loss(fork->heir, err, &cause))
		heir_failed(fork, &cause);
}

static void heir_gone(void *arg)
{
	struct ramet_err err;

	(void)err_set(&err, ECONNRESET, "the worker is gone");
	heir_lost(arg, &err);
}

static int heir_on_deadline(sd_event_source *source, uint64_t usec, void *arg)
{
	struct ramet_err err;

	(void)source;
	(void)usec;
	(void)err_set(&err, ETIMEDOUT,
		      "its new worker did not run it in time (limit "
		      "pause_deadline)");
	heir_failed(arg, &err);
	return 0;
}

static int heir_restore(struct fork *fork, struct vm *vm, struct ramet_err *err)
{
	static const struct vm_events events = {
		.worker = { .restored = heir_restored,
			    .booted = heir_booted,
			    .refused = heir_refused,
			    .lost = heir_lost },
		.gone = heir_gone,
	};
	int r;

	fork->heir = vm;
	vm_set_owner(vm, &events, fork);
	vm_set_weight(vm, VM_WEIGHT_URGENT);
	r = sd_event_add_time_relative(fork->engine->loop, &fork->deadline, CLOCK_MONOTONIC,
				       fork->engine->limits.pause_deadline / 1000, TIMER_ACCURACY,
				       heir_on_deadline, fork);
	if (r < 0)
		return err_errno(err, -r, "no timer for a fork");
	return frozen_restore(fork->frozen, vm, false, err);
}

static void heir_on_spare(void *arg, const struct ramet_err *err)
{
	struct fork *fork = arg;
	struct ramet_err cause;
	struct vm *vm = err ? NULL : pool_take(&fork->spare);
	int r;

	pool_cancel(&fork->spare);
	if (vm)
		r = heir_restore(fork, vm, &cause);
	else if (err)
		r = err_set(&cause, err->code, "%s", err->msg);
	else
		r = err_set(&cause, EIO, "a worker died before it was used");
	if (r < 0)
		heir_failed(fork, &cause);
}

/* Tries with another worker; what it needs is all still there. */
static void heir_failed(struct fork *fork, const struct ramet_err *err)
{
	struct ramet_err cause = *err;
	int r = -EIO;

	fork_heir_drop(fork);
	fork_start_children(fork);
	log_warn("the worker for sandbox %s after its fork failed: %s", fork->parent->id,
		 cause.msg);
	if (memory_check(fork->frozen->memory, &cause) == 0 && ++fork->attempts < ATTEMPTS_MAX)
		r = pool_reserve(fork->engine, &fork->kind, &fork->spare, 1, heir_on_spare, fork,
				 &cause);
	if (r > 0)
		heir_on_spare(fork, NULL);
	if (r < 0) {
		(void)err_prefix(&cause, "the sandbox cannot go on after its fork");
		sandbox_fail(fork->parent, &cause);
	}
}

void fork_heir_start(struct fork *fork)
{
	struct vm *vm = pool_take(&fork->shells);
	struct ramet_err err;
	int r = vm ? heir_restore(fork, vm, &err)
		   : err_set(&err, EIO, "a worker died before it was used");

	if (r < 0)
		heir_failed(fork, &err);
}
