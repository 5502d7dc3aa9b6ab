/* The end of a sandbox: failure, close, and what has to be waited for.
 *
 * However it begins, it goes on in the same way: the worker is killed or left
 * a moment to exit; when the spawner has reported its exit, sandbox_step()
 * finds out why, ends everything that waits, and tells the callers. A failed
 * sandbox then stays listed until it is closed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/hot.h"
#include "engine/internal.h"
#include "engine/text.h"
#include "lib/log.h"

#define CONSOLE_LOGGED 400 /* bytes; fits one line of the log */

int sandbox_set_deadline(struct sandbox *sandbox, uint64_t ns, sd_event_time_handler_t handler)
{
	sandbox->deadline = sd_event_source_disable_unref(sandbox->deadline);
	return sd_event_add_time_relative(sandbox->engine->loop, &sandbox->deadline,
					  CLOCK_MONOTONIC, ns / 1000, TIMER_ACCURACY, handler,
					  sandbox);
}

void sandbox_arm(struct sandbox *sandbox)
{
	(void)sd_event_source_set_enabled(sandbox->step, SD_EVENT_ONESHOT);
}

/* The worker outlived its SIGKILL: it hangs in the kernel. The callers do not
 * have to wait for that. */
static int end_on_unkillable(sd_event_source *source, uint64_t usec, void *arg)
{
	struct sandbox *s = arg;

	(void)source;
	(void)usec;
	log_error("the worker of sandbox %s does not die", s->id);
	s->given_up = true;
	sandbox_arm(s);
	return 0;
}

static void end_kill(struct sandbox *s)
{
	if (!s->vm || vm_gone(s->vm))
		return;
	vm_kill(s->vm);
	if (sandbox_set_deadline(s, s->engine->limits.close_deadline, end_on_unkillable) < 0)
		log_error("no timer for the end of sandbox %s", s->id);
}

static int end_on_grace(sd_event_source *source, uint64_t usec, void *arg)
{
	(void)source;
	(void)usec;
	end_kill(arg);
	return 0;
}

/* A fork of it, or its pausing, cannot go on. */
static void end_unfork(struct sandbox *s, const struct ramet_err *cause)
{
	struct ramet_err err;

	if (cause)
		err = *cause;
	else
		(void)err_set(&err, EIO, "sandbox %s has failed", s->id);
	if (s->fork)
		fork_parent_ended(s->fork, &err);
	freeze_abort(s, &err);
}

/* Common to failing and closing: no further input, worker on its way out. */
static void end_begin(struct sandbox *s, const struct ramet_err *cause)
{
	bool wait = !cause && s->vm && s->vm->alive;

	s->phase = PHASE_END;
	if (cause)
		s->cause = *cause;
	s->deadline = sd_event_source_disable_unref(s->deadline);
	image_cancel(&s->awaits);
	pool_cancel(&s->shell);
	if (s->agent)
		agent_stop(s->agent);
	if (s->freeze || s->fork)
		end_unfork(s, cause);
	if (wait && sandbox_set_deadline(s, s->engine->limits.end_grace, end_on_grace) < 0)
		wait = false;
	if (!wait)
		end_kill(s);
	sandbox_arm(s);
}

void sandbox_fail(struct sandbox *sandbox, const struct ramet_err *cause)
{
	if (sandbox->phase >= PHASE_END)
		return;
	if (sandbox->state == SANDBOX_READY || sandbox->state == SANDBOX_PAUSED)
		sandbox->state = SANDBOX_FAILED;
	end_begin(sandbox, cause);
}

/* When a connection merely closed, the process's end tells more. */
void sandbox_vm_lost(void *arg, const struct ramet_err *err)
{
	sandbox_fail(arg, err->code == ECONNRESET ? NULL : err);
}

void sandbox_vm_gone(void *arg)
{
	sandbox_fail(arg, NULL);
	sandbox_arm(arg);
}

/* Nothing is to be waited for. */
static bool end_complete(const struct sandbox *s)
{
	return s->given_up || !s->vm || vm_gone(s->vm);
}

/* Which errors callers are promised (engine.h). */
static int end_code(int code)
{
	switch (code) {
	case ENOMEM:
	case EAGAIN:
	case ETIMEDOUT:
	case ECANCELED:
		return code;
	default:
		return EIO;
	}
}

static void end_log(const struct sandbox *s)
{
	char console[CONSOLE_LOGGED], text[CONSOLE_LOGGED];
	size_t n = sandbox_console(s, console, sizeof(console));

	if (s->cause.code == ECANCELED)
		return;
	log_warn("sandbox %s failed: %s", s->id, s->cause.msg);
	if (text_printable(text, sizeof(text), console, n))
		log_warn("sandbox %s, end of its console: %s", s->id, text);
}

/* Settles s->cause and takes everything down that waits for this guest. */
static void end_settle(struct sandbox *s)
{
	char words[sizeof(s->cause.msg)];
	struct agent *agent = s->agent;
	struct ramet_err err;

	if (s->vm)
		vm_describe_end(s->vm, words, sizeof(words));
	if (!s->cause.code)
		(void)err_set(&s->cause, EIO, "%s",
			      s->vm ? words : "the sandbox's worker went away");
	s->cause.code = end_code(s->cause.code);
	end_log(s);
	s->deadline = sd_event_source_disable_unref(s->deadline);
	template_close(&s->image);
	frozen_unref(s->frozen);
	s->frozen = NULL;
	err = s->cause; /* callbacks get one that stays */
	exec_queue_end(&s->execs, &err);
	file_set_end(&s->files, &err);
	s->agent = NULL;
	agent_destroy(agent, &err);
}

/* Tells those who wait for the end; `err` is what the creator hears. */
static void end_tell(struct sandbox *s, const struct ramet_err *err, const struct ramet_err *closed)
{
	sandbox_cb created = s->created;
	struct sandbox_waiter *waiter;

	s->created = NULL;
	if (created)
		created(s->created_arg, NULL, err);
	sandbox_cool(s);
	while ((waiter = TAILQ_FIRST(&s->closers))) {
		TAILQ_REMOVE(&s->closers, waiter, link);
		waiter->done(waiter->arg, NULL, closed);
		free(waiter);
	}
}

void sandbox_free(struct sandbox *sandbox)
{
	vm_release(sandbox->vm);
	image_cancel(&sandbox->awaits);
	pool_cancel(&sandbox->shell);
	frozen_unref(sandbox->frozen);
	hot_unref(sandbox->hot_pages);
	sandbox->deadline = sd_event_source_disable_unref(sandbox->deadline);
	sandbox->step = sd_event_source_disable_unref(sandbox->step);
	sandbox_free_params(sandbox);
	free(sandbox);
}

/* Out of the list, callers told, and freed. */
static void end_finish(struct sandbox *s)
{
	bool hangs = s->vm && !vm_gone(s->vm);
	struct ramet_err err = s->cause, stuck;

	(void)err_set(&stuck, ETIMEDOUT, "the worker of sandbox %s does not die; it is left alone",
		      s->id);
	sandbox_delist(s);
	end_tell(s, &err, hangs ? &stuck : NULL);
	sandbox_free(s);
}

int sandbox_step(sd_event_source *source, void *arg)
{
	struct sandbox *s = arg;

	(void)source;
	if (s->phase == PHASE_END && end_complete(s)) {
		s->phase = PHASE_DEAD;
		end_settle(s);
	}
	if (s->phase == PHASE_DEAD && (s->state == SANDBOX_CLOSING || s->state == SANDBOX_CREATING))
		end_finish(s);
	return 0;
}

int sandbox_close(struct sandbox *sandbox, sandbox_cb done, void *arg, struct ramet_err *err)
{
	struct ramet_err cause;

	if (done) {
		struct sandbox_waiter *waiter = calloc(1, sizeof(*waiter));

		if (!waiter)
			return err_set(err, ENOMEM, "no memory to close a sandbox");
		waiter->done = done;
		waiter->arg = arg;
		TAILQ_INSERT_TAIL(&sandbox->closers, waiter, link);
	}
	sandbox->state = SANDBOX_CLOSING;
	(void)err_set(&cause, ECANCELED, "the sandbox was closed");
	if (sandbox->phase < PHASE_END)
		end_begin(sandbox, &cause);
	sandbox_arm(sandbox);
	return 0;
}

void sandbox_destroy(struct sandbox *sandbox)
{
	struct ramet_err err;

	(void)err_set(&err, ECANCELED, "the daemon is stopping");
	sandbox->state = SANDBOX_CLOSING;
	sandbox_delist(sandbox);
	if (sandbox->phase < PHASE_END && (sandbox->freeze || sandbox->fork))
		end_unfork(sandbox, &err);
	if (sandbox->phase < PHASE_DEAD) {
		sandbox->phase = PHASE_DEAD;
		sandbox->cause = err;
		end_settle(sandbox);
	}
	end_tell(sandbox, &err, &err);
	sandbox_free(sandbox);
}
