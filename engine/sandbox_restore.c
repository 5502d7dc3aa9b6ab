/* A sandbox on its way to ready as a copy of a stopped guest: template, shell,
 * memory and state, identity. See sandbox_boot.c for the other way. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/hot.h"
#include "engine/internal.h"
#include "lib/cleanup.h"
#include "lib/clock.h"
#include "lib/log.h"

/* The connection to the guest's agent goes on where the original's stopped. */
static int restore_connect(struct sandbox *s, struct ramet_err *err)
{
	static const struct agent_callbacks callbacks = { .failed = sandbox_agent_failed };
	const struct frozen *frozen = s->frozen;
	int r = agent_create_copy(s->engine->loop, &s->engine->limits, s->vm->channel_fd,
				  frozen->agent, &callbacks, s, &s->agent, err);

	if (r < 0)
		return r;
	s->vm->channel_fd = -1;
	exec_queue_connect(&s->execs, s->agent);
	file_set_connect(&s->files, s->agent);
	r = exec_queue_adopt(&s->execs, frozen->execs, err);
	for (size_t i = 0; r == 0 && i < frozen->handle_count; i++)
		r = agent_close_handle(s->agent, frozen->handles[i], err);
	return r;
}

/* The guest may answer before the worker says that it runs. */
static void restore_restored(void *arg, const struct control_restored *restored, const int *uffds,
			     size_t count)
{
	struct sandbox *s = arg;
	struct ramet_err err;
	int r;

	if (s->phase != PHASE_STITCH)
		return;
	r = frozen_restored(s->vm, restored, uffds, count, &err);
	if (r == 0)
		r = worker_run(s->vm->worker, &err);
	s->timings.stitch_ns = clock_monotonic_ns() - s->restored_ns;
	s->restored_ns += s->timings.stitch_ns;
	s->phase = PHASE_RESEED;
	if (r == 0)
		r = restore_connect(s, &err);
	if (r == 0)
		r = sandbox_identify(s, &err);
	if (r < 0)
		sandbox_fail(s, &err);
}

static void restore_booted(void *arg)
{
	struct sandbox *s = arg;

	if (s->restored_ns)
		s->timings.state_ns = clock_monotonic_ns() - s->restored_ns;
}

static void restore_refused(void *arg, uint32_t request, const struct ramet_err *err)
{
	struct ramet_err cause = *err;

	(void)request;
	(void)err_prefix(&cause, "the worker cannot restore the guest");
	sandbox_fail(arg, &cause);
}

int sandbox_restore(struct sandbox *sandbox, struct frozen *frozen, struct vm *vm,
		    struct ramet_err *err)
{
	const struct engine *engine = sandbox->engine;

	sandbox->frozen = frozen_ref(frozen);
	sandbox->hot_pages = hot_ref(frozen->hot);
	sandbox->vm = vm;
	sandbox->phase = PHASE_STITCH;
	sandbox->restored_ns = clock_monotonic_ns();
	sandbox->timings.reserve_ns = sandbox->restored_ns - sandbox->created_ns;
	vm_set_owner(vm, &sandbox_running_events, sandbox);
	log_debug("sandbox %s has worker %s", sandbox->id, vm->name);
	return frozen_restore(frozen, vm, engine->count <= engine->limits.heat_sandboxes, err);
}

static void restore_start(struct sandbox *s)
{
	struct frozen *frozen = s->frozen;
	struct vm *vm = pool_take(&s->shell);
	struct ramet_err err;
	int r;

	pool_cancel(&s->shell);
	s->frozen = NULL;
	if (vm)
		r = sandbox_restore(s, frozen, vm, &err);
	else
		r = err_set(&err, EIO, "the sandbox's worker died before it was used");
	frozen_unref(frozen);
	if (r < 0)
		sandbox_fail(s, &err);
}

static void restore_on_shell(void *arg, const struct ramet_err *err)
{
	struct sandbox *s = arg;

	if (s->phase != PHASE_RESERVE)
		return;
	if (err)
		sandbox_fail(s, err);
	else
		restore_start(s);
}

int sandbox_restore_image(struct sandbox *s, struct image *image, struct ramet_err *err)
{
	const struct pool_kind kind = { s->memory_bytes, s->isolation, s->plain };
	int r;

	s->phase = PHASE_RESERVE;
	s->frozen = frozen_ref(image_frozen(image));
	(void)snprintf(s->kernel, sizeof(s->kernel), "%s", image_kernel(image));
	r = pool_reserve(s->engine, &kind, &s->shell, 1, restore_on_shell, s, err);
	if (r > 0)
		restore_start(s);
	return r < 0 ? r : 0;
}

static void restore_on_image(void *arg, struct image *image, const struct ramet_err *err)
{
	struct sandbox *s = arg;
	struct ramet_err cause;

	if (s->phase != PHASE_TEMPLATE)
		return;
	if (err)
		sandbox_fail(s, err);
	else if (sandbox_restore_image(s, image, &cause) < 0)
		sandbox_fail(s, &cause);
}

int sandbox_create_restored(struct sandbox *sandbox, struct ramet_err *err)
{
	const struct pool_kind kind = { sandbox->memory_bytes, sandbox->isolation, sandbox->plain };
	struct image *image;
	int r;

	sandbox->phase = PHASE_TEMPLATE;
	sandbox->reseed_python = true;
	r = image_get(sandbox->engine, sandbox->template_name, &kind, &sandbox->image,
		      &sandbox->awaits, restore_on_image, sandbox, &image, err);
	if (r > 0)
		r = sandbox_restore_image(sandbox, image, err);
	return r;
}

/* ---- once it runs ---- */

static void running_paused(void *arg, const struct control_paused *paused)
{
	struct sandbox *s = arg;

	if (s->freeze) /* else it ends already */
		freeze_paused(s, paused);
}

static void running_refused(void *arg, uint32_t request, const struct ramet_err *err)
{
	struct sandbox *s = arg;

	if (s->freeze)
		freeze_refused(s, err);
	else
		restore_refused(arg, request, err);
}

const struct vm_events sandbox_running_events = {
	.worker = { .restored = restore_restored,
		    .booted = restore_booted,
		    .paused = running_paused,
		    .refused = running_refused,
		    .lost = sandbox_vm_lost },
	.gone = sandbox_vm_gone,
};
