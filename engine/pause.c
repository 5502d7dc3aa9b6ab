/* sandbox_pause() and sandbox_resume(): see engine.h. */
#include <errno.h>
#include <stdlib.h>

#include "engine/internal.h"

struct pausing {
	struct sandbox *sandbox;
	sandbox_cb done;
	void *arg;
};

static void pause_on_stopped(void *arg, struct frozen *frozen, const struct freeze_timings *timings,
			     const struct ramet_err *err)
{
	struct pausing *pausing = arg;
	struct sandbox *s = pausing->sandbox;
	sandbox_cb done = pausing->done;
	void *done_arg = pausing->arg;

	(void)frozen;
	(void)timings;
	free(pausing);
	if (!err) {
		s->state = SANDBOX_PAUSED;
		exec_queue_suspend(&s->execs, true);
		file_set_suspend(&s->files, true);
	}
	if (done)
		done(done_arg, err ? NULL : s, err);
}

int sandbox_pause(struct sandbox *sandbox, sandbox_cb done, void *arg, struct ramet_err *err)
{
	struct pausing *pausing;
	int r = sandbox_check_ready(sandbox, err);

	if (r < 0)
		return r;
	if (sandbox->fork)
		return err_set(err, EBUSY, "sandbox %s is being forked; try again later",
			       sandbox->id);
	pausing = malloc(sizeof(*pausing));
	if (!pausing)
		return err_set(err, ENOMEM, "no memory to pause a sandbox");
	*pausing = (struct pausing){ .sandbox = sandbox, .done = done, .arg = arg };
	r = sandbox_freeze(sandbox, true, pause_on_stopped, pausing, err);
	if (r < 0)
		free(pausing);
	return r;
}

int sandbox_resume(struct sandbox *sandbox, struct ramet_err *err)
{
	int r;

	if (sandbox->state != SANDBOX_PAUSED)
		return err_set(err, EINVAL, "sandbox %s is not paused", sandbox->id);
	r = worker_resume(sandbox->vm->worker, err);
	if (r < 0)
		return r;
	sandbox->state = SANDBOX_READY;
	exec_queue_suspend(&sandbox->execs, false);
	file_set_suspend(&sandbox->files, false);
	sandbox_unhold(sandbox);
	return 0;
}
