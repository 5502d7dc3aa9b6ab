/* One worker process: see vm.h. */
#include "engine/vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "engine/memory.h"
#include "lib/cleanup.h"
#include "lib/clock.h"
#include "lib/log.h"

static const struct vm_events no_events;

static void vm_free(struct vm *vm)
{
	TAILQ_REMOVE(&vm->engine->vms, vm, link);
	vm->engine->vm_count--;
	worker_destroy(vm->worker);
	close_fd(&vm->channel_fd);
	memory_unpin(vm);
	memory_unref(vm->memory);
	vm->step = sd_event_source_disable_unref(vm->step);
	vm->grace = sd_event_source_disable_unref(vm->grace);
	free(vm);
}

/* ---- the owner's events, from the worker's ---- */

static void on_ready(void *arg)
{
	struct vm *vm = arg;
	const struct engine *engine = vm->engine;
	struct ramet_err err;

	if (engine->host && worker_host(vm->worker, engine->host, engine->host_length, &err) < 0) {
		vm_fail(vm, &err);
		return;
	}
	if (vm->events->worker.ready)
		vm->events->worker.ready(vm->arg);
}

/* The first to find out tells all that start later. */
static void on_host(void *arg, const void *facts, size_t length)
{
	const struct vm *vm = arg;
	struct engine *engine = vm->engine;

	if (engine->host)
		return;
	engine->host = malloc(length);
	if (!engine->host)
		return; /* they can find out as well */
	memcpy(engine->host, facts, length);
	engine->host_length = length;
}

static void on_booted(void *arg)
{
	struct vm *vm = arg;

	if (vm->events->worker.booted)
		vm->events->worker.booted(vm->arg);
}

static void on_channel(void *arg)
{
	struct vm *vm = arg;

	if (vm->events->worker.channel)
		vm->events->worker.channel(vm->arg);
}

static void on_shell(void *arg)
{
	struct vm *vm = arg;

	if (vm->events->worker.shell)
		vm->events->worker.shell(vm->arg);
}

static void on_restored(void *arg, const struct control_restored *restored, const int *uffds,
			size_t count)
{
	struct vm *vm = arg;

	if (vm->events->worker.restored)
		vm->events->worker.restored(vm->arg, restored, uffds, count);
}

static void on_paused(void *arg, const struct control_paused *paused)
{
	struct vm *vm = arg;

	if (vm->events->worker.paused)
		vm->events->worker.paused(vm->arg, paused);
}

static void on_filled(void *arg, const struct control_filled *filled)
{
	struct vm *vm = arg;

	if (vm->events->worker.filled)
		vm->events->worker.filled(vm->arg, filled);
}

static void on_refused(void *arg, uint32_t request, const struct ramet_err *err)
{
	struct vm *vm = arg;

	if (vm->events->worker.refused)
		vm->events->worker.refused(vm->arg, request, err);
}

static void vm_arm(struct vm *vm)
{
	(void)sd_event_source_set_enabled(vm->step, SD_EVENT_ONESHOT);
}

static void on_drained(void *arg)
{
	struct vm *vm = arg;

	if (vm->released)
		vm_arm(vm);
}

static void on_lost(void *arg, const struct ramet_err *err)
{
	struct vm *vm = arg;

	vm_fail(vm, err);
	if (vm->released)
		vm_arm(vm);
}

void vm_fail(struct vm *vm, const struct ramet_err *cause)
{
	if (vm->events->worker.lost)
		vm->events->worker.lost(vm->arg, cause);
}

/* ---- birth ---- */

static int vm_attach(struct vm *vm, const struct worker_process *process, struct ramet_err *err)
{
	static const struct worker_callbacks callbacks = {
		.ready = on_ready,
		.host = on_host,
		.booted = on_booted,
		.channel = on_channel,
		.shell = on_shell,
		.restored = on_restored,
		.paused = on_paused,
		.filled = on_filled,
		.refused = on_refused,
		.drained = on_drained,
		.lost = on_lost,
	};
	cleanup_close int control = process->control_fd;
	int r;

	vm->channel_fd = process->channel_fd;
	r = worker_create(vm->engine->loop, &vm->engine->limits, control, &callbacks, vm,
			  &vm->worker, err);
	if (r == 0)
		control = -1;
	return r;
}

static void vm_started(void *arg, const struct worker_process *process, const struct ramet_err *err)
{
	struct vm *vm = arg;
	struct ramet_err cause;

	vm->spawning = false;
	if (err) {
		vm_fail(vm, err);
		if (vm->events->gone)
			vm->events->gone(vm->arg);
		vm_arm(vm);
		return;
	}
	vm->alive = true;
	vm->pid = process->pid;
	if (vm->released || vm->killed) { /* its kill is under way */
		(void)close(process->control_fd);
		(void)close(process->channel_fd);
		return;
	}
	if (vm_attach(vm, process, &cause) < 0)
		vm_fail(vm, &cause);
}

static int vm_on_grace(sd_event_source *source, uint64_t usec, void *arg)
{
	(void)source;
	(void)usec;
	vm_kill(arg);
	return 0;
}

/* It is killed unless it ends within `ns` from now. */
static void vm_limit_end(struct vm *vm, uint64_t ns)
{
	if (vm_gone(vm) || vm->killed)
		return;
	vm->grace = sd_event_source_disable_unref(vm->grace);
	if (sd_event_add_time_relative(vm->engine->loop, &vm->grace, CLOCK_MONOTONIC, ns / 1000,
				       TIMER_ACCURACY, vm_on_grace, vm) < 0)
		vm_kill(vm);
}

void vm_expect_end(struct vm *vm)
{
	vm_limit_end(vm, vm->engine->limits.end_grace);
}

/* What is left of a released vm goes as soon as its process is gone. */
static int vm_on_step(sd_event_source *source, void *arg)
{
	struct vm *vm = arg;

	(void)source;
	if (!vm->released)
		return 0;
	if (vm_gone(vm)) {
		vm_free(vm);
		return 0;
	}
	if (vm->worker && worker_waiting(vm->worker)) {
		vm_limit_end(vm, vm->engine->limits.close_deadline);
		return 0;
	}
	worker_destroy(take_ptr(vm->worker));
	close_fd(&vm->channel_fd);
	vm_expect_end(vm);
	return 0;
}

static struct vm *vm_alloc(struct engine *engine, struct ramet_err *err)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int r;

	if (!vm) {
		(void)err_set(err, ENOMEM, "no memory for a worker");
		return NULL;
	}
	vm->engine = engine;
	vm->channel_fd = -1;
	vm->events = &no_events;
	vm->started_ns = clock_monotonic_ns();
	vm->number = ++engine->vm_serial;
	(void)snprintf(vm->name, sizeof(vm->name), "vm%u", vm->number);
	TAILQ_INSERT_TAIL(&engine->vms, vm, link);
	engine->vm_count++;
	r = sd_event_add_defer(engine->loop, &vm->step, vm_on_step, vm);
	if (r >= 0)
		r = sd_event_source_set_enabled(vm->step, SD_EVENT_OFF);
	if (r < 0) {
		(void)err_errno(err, -r, "cannot add a worker to the event loop");
		vm_free(vm);
		return NULL;
	}
	return vm;
}

int vm_start(struct engine *engine, uint64_t memory_bytes, const struct vm_events *events,
	     void *arg, struct vm **vm, struct ramet_err *err)
{
	const struct limits *limits = &engine->limits;
	/* A worker that was retired by a fork holds its guest's changes twice
	 * until its layer is filled. */
	const struct worker_limits worker = {
		.memory_bytes = 2 * memory_bytes + limits->worker_memory_extra +
				memory_bytes / limits->worker_memory_fraction,
		.pids = limits->worker_pids,
		.cpu_percent = limits->worker_cpu_percent,
	};
	struct vm *v = vm_alloc(engine, err);
	int r;

	if (!v)
		return -ENOMEM;
	r = spawner_start(engine->spawner, v->name, &worker, vm_started, v, err);
	if (r < 0) {
		vm_free(v);
		return r;
	}
	v->spawning = true;
	vm_set_owner(v, events, arg);
	*vm = v;
	return 0;
}

void vm_set_owner(struct vm *vm, const struct vm_events *events, void *arg)
{
	vm->events = events ? events : &no_events;
	vm->arg = arg;
}

/* ---- end ---- */

void vm_set_weight(const struct vm *vm, unsigned int percent)
{
	if (vm->alive)
		(void)cgroup_weight_set(spawner_cgroups(vm->engine->spawner), vm->name, percent);
}

void vm_kill(struct vm *vm)
{
	if (vm_gone(vm))
		return;
	vm->killed = true;
	(void)spawner_kill(vm->engine->spawner, vm->name); /* ESRCH: its exit is on the way */
}

bool vm_loss(struct vm *vm, const struct ramet_err *err, struct ramet_err *cause)
{
	char words[sizeof(cause->msg)];

	*cause = *err;
	if (err->code != ECONNRESET)
		return true;
	if (!vm_gone(vm)) {
		vm_expect_end(vm);
		return false;
	}
	vm_describe_end(vm, words, sizeof(words));
	(void)err_set(cause, EIO, "%s", words);
	return true;
}

void vm_release(struct vm *vm)
{
	if (!vm || vm->released)
		return;
	vm->released = true;
	vm_set_owner(vm, NULL, NULL);
	memory_unpin(vm);
	if (vm->spawning)
		vm_kill(vm);
	vm_arm(vm);
}

struct vm *vm_find(struct engine *engine, const char *name)
{
	struct vm *vm;

	TAILQ_FOREACH(vm, &engine->vms, link)
	if (!strcmp(vm->name, name))
		return vm;
	return NULL;
}

void vm_exited(struct vm *vm, int wait_status, bool oom_killed)
{
	vm->alive = false;
	vm->wait_status = wait_status;
	vm->oom_killed = oom_killed;
	if (vm->events->gone)
		vm->events->gone(vm->arg);
	if (vm->released)
		vm_arm(vm);
}

void vm_destroy_all(struct engine *engine)
{
	struct vm *vm;

	/* A guest's memory may own its donor, which is another vm. */
	TAILQ_FOREACH(vm, &engine->vms, link)
	{
		memory_unpin(vm);
		memory_unref(take_ptr(vm->memory));
	}
	while ((vm = TAILQ_FIRST(&engine->vms)))
		vm_free(vm);
}

void vm_describe_end(struct vm *vm, char *out, size_t size)
{
	const struct worker_end end = {
		.reaped = vm_gone(vm),
		.wait_status = vm->wait_status,
		.oom_killed = vm->oom_killed,
		.killed = vm->killed,
	};

	worker_describe_end(vm->worker, &end, out, size);
}
