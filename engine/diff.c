/* One comparison of two sandboxes, from its request to its answer: see diff.h. */
#include "engine/diff.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/clock.h"

static void diff_free(struct diff *diff)
{
	for (size_t i = 0; i < 2; i++) {
		diff_memory_clear(&diff->guests[i]);
		walk_free(diff->guests[i].walk);
	}
	for (size_t i = 0; i < diff->count; i++)
		free((char *)(uintptr_t)diff->entries[i].path);
	free(diff->entries);
	walk_roots_free(&diff->roots);
	diff->deadline = sd_event_source_disable_unref(diff->deadline);
	diff->engine->diffs--;
	free(diff);
}

void diff_end(struct diff *diff, const struct diff_result *result, const struct ramet_err *err)
{
	diff->done(diff->arg, result, err);
	diff_free(diff);
}

void diff_fail(struct diff_guest *guest, const struct ramet_err *err)
{
	struct ramet_err cause = *err;

	(void)err_prefix(&cause, "sandbox %s", guest->id);
	diff_end(guest->diff, NULL, &cause);
}

void diff_abandon(struct diff *diff)
{
	diff_free(diff);
}

static int diff_on_deadline(sd_event_source *source, uint64_t usec, void *arg)
{
	struct diff *diff = arg;
	struct ramet_err err;

	(void)source;
	(void)usec;
	(void)err_set(&err, ETIMEDOUT,
		      "the sandboxes were not compared within %llu s (limit diff_deadline); "
		      "name the paths that matter",
		      (unsigned long long)(diff->engine->limits.diff_deadline / SECONDS_NS));
	diff_end(diff, NULL, &err);
	return 0;
}

/* While it is stopped there is no telling how long it takes; a parent of a fork
 * is between two workers then. */
static int diff_check_still(const struct sandbox *s, struct ramet_err *err)
{
	if (s->freeze || !s->vm)
		return err_set(err, EBUSY, "sandbox %s is being forked or paused; try again later",
			       s->id);
	return 0;
}

static int diff_check(const struct sandbox *a, const struct sandbox *b, struct ramet_err *err)
{
	const struct limits *limits = &a->engine->limits;
	int r = sandbox_check_ready(a, err);

	if (r == 0)
		r = sandbox_check_ready(b, err);
	if (r < 0)
		return r;
	if (a == b)
		return err_set(err, EINVAL, "sandbox %s cannot be compared with itself", a->id);
	r = diff_check_still(a, err);
	if (r == 0)
		r = diff_check_still(b, err);
	if (r < 0)
		return r;
	if (a->engine->diffs >= limits->diffs)
		return err_set(err, EAGAIN,
			       "%u comparisons run already (limit diffs); try again later",
			       a->engine->diffs);
	return 0;
}

static struct diff *diff_make(struct sandbox *const sandboxes[2], diff_cb done, void *arg)
{
	struct diff *diff = calloc(1, sizeof(*diff));

	if (!diff)
		return NULL;
	diff->engine = sandboxes[0]->engine;
	diff->engine->diffs++;
	diff->done = done;
	diff->arg = arg;
	diff->start_ns = clock_monotonic_ns();
	for (size_t i = 0; i < 2; i++) {
		struct diff_guest *guest = &diff->guests[i];

		guest->diff = diff;
		guest->bitmap_fd = -1;
		memcpy(guest->id, sandboxes[i]->id, sizeof(guest->id));
		memcpy(guest->generation, sandboxes[i]->generation, sizeof(guest->generation));
	}
	return diff;
}

int sandbox_diff(struct sandbox *a, struct sandbox *b, const struct diff_params *params,
		 diff_cb done, void *arg, struct diff **diff, struct ramet_err *err)
{
	struct sandbox *const sandboxes[2] = { a, b };
	struct diff *d;
	int r = diff_check(a, b, err);

	if (r < 0)
		return r;
	d = diff_make(sandboxes, done, arg);
	if (!d)
		return err_set(err, ENOMEM, "no memory to compare sandboxes");
	r = walk_roots_set(&d->roots, params->paths, params->path_count, &d->engine->limits, err);
	if (r == 0) {
		r = sd_event_add_time_relative(d->engine->loop, &d->deadline, CLOCK_MONOTONIC,
					       d->engine->limits.diff_deadline / 1000,
					       TIMER_ACCURACY, diff_on_deadline, d);
		if (r < 0)
			r = err_errno(err, -r, "no timer for a comparison");
	}
	if (r >= 0)
		r = diff_memory_start(d, sandboxes, err);
	if (r < 0) {
		diff_free(d);
		return r;
	}
	*diff = d;
	return 0;
}
