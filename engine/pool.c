/* Shells: see pool.h. */
#include "engine/pool.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/internal.h"
#include "lib/cleanup.h"
#include "lib/log.h"

/* More at once only slow each other down. */
#define STARTING_MAX 32u

/* As many deaths in a row are no accident: others would most likely die as well. */
#define FAILURES_MAX 3u

/* Nobody waits for these: they take turns with what the guests do. */
#define STARTING_BACKGROUND_MAX 2u

struct shell {
	TAILQ_ENTRY(shell) link;
	struct pool *pool;
	struct vm *vm;
	struct pool_request *request; /* that holds it */
	bool ready;
	bool based; /* has the image of its pool, or does without */
};

static void pool_refill(struct pool *pool);
static void pool_trim(struct pool *pool);

static void shell_free(struct shell *shell)
{
	vm_release(shell->vm);
	free(shell);
}

/* Takes it off whatever list it is on. */
static void shell_remove(struct shell *shell)
{
	struct pool *pool = shell->pool;

	if (shell->request) {
		TAILQ_REMOVE(&shell->request->shells, shell, link);
		shell->request->got--;
	} else if (shell->ready) {
		TAILQ_REMOVE(&pool->idle, shell, link);
		pool->idle_count--;
	} else {
		TAILQ_REMOVE(&pool->starting, shell, link);
		pool->starting_count--;
	}
}

static void shell_give(struct shell *shell, struct pool_request *request)
{
	shell_remove(shell);
	shell->request = request;
	TAILQ_INSERT_TAIL(&request->shells, shell, link);
	request->got++;
}

static void request_settle(struct pool_request *request, const struct ramet_err *err)
{
	TAILQ_REMOVE(&request->pool->requests, request, link);
	request->waiting = false;
	request->done(request->arg, err);
}

/* Idle shells go to those who wait, in order. */
static void pool_hand_out(struct pool *pool)
{
	struct pool_request *request;

	while ((request = TAILQ_FIRST(&pool->requests)) && !TAILQ_EMPTY(&pool->idle)) {
		shell_give(TAILQ_FIRST(&pool->idle), request);
		if (request->got == request->wanted)
			request_settle(request, NULL);
	}
}

static void shell_on_ready(void *arg)
{
	struct shell *shell = arg;
	struct pool *pool = shell->pool;
	const struct pool_kind *kind = &pool->kind;
	struct worker_shell params = {
		.ram_bytes = kind->memory_bytes,
		.isolation = kind->isolation,
		.plain = kind->plain,
		.uffd_fd = pool->engine->uffd_fd,
	};
	struct ramet_err err;

	params.m2p_fd = m2p_fd(&pool->engine->m2p, kind->memory_bytes, &err);
	if (params.m2p_fd < 0 || worker_shell(shell->vm->worker, &params, &err) < 0)
		vm_fail(shell->vm, &err);
}

static void shell_on_shell(void *arg)
{
	struct shell *shell = arg;
	struct pool *pool = shell->pool;
	struct ramet_err err;

	if (pool->base && !shell->based && TAILQ_EMPTY(&pool->requests)) {
		shell->based = true;
		if (frozen_give_base(pool->base, shell->vm, &err) < 0)
			vm_fail(shell->vm, &err);
		return;
	}
	shell_remove(shell);
	shell->ready = true;
	TAILQ_INSERT_TAIL(&pool->idle, shell, link);
	pool->idle_count++;
	pool_hand_out(pool);
	pool_refill(pool);
	pool_trim(pool);
}

/* One that died before it was of use is replaced; its holder waits for that, or
 * finds fewer than it asked for. */
static void shell_failed(struct shell *shell, const struct ramet_err *err)
{
	struct pool *pool = shell->pool;
	struct pool_request *request = TAILQ_FIRST(&pool->requests);
	struct ramet_err cause = *err;

	log_warn("a shell of %llu MiB failed: %s",
		 (unsigned long long)(pool->kind.memory_bytes / MIB), err->msg);
	shell_remove(shell);
	shell_free(shell);
	if (++pool->failures >= FAILURES_MAX && request) {
		(void)err_prefix(&cause, "no worker could be made ready for it");
		request_settle(request, &cause);
	} else if (pool->failures >= FAILURES_MAX) {
		pool->level = 0; /* until it is used again */
	}
	pool_refill(pool);
}

static void shell_on_lost(void *arg, const struct ramet_err *err)
{
	struct shell *shell = arg;
	struct ramet_err cause;

	/* Nobody shall get one that is on its way out; of one that was not ready
	 * yet its end tells why. */
	if (vm_loss(shell->vm, err, &cause) || shell->ready)
		shell_failed(shell, &cause);
}

static void shell_on_gone(void *arg)
{
	struct ramet_err err;

	(void)err_set(&err, ECONNRESET, "the worker is gone");
	shell_on_lost(arg, &err);
}

static void shell_on_refused(void *arg, uint32_t request, const struct ramet_err *err)
{
	(void)request;
	shell_failed(arg, err);
}

static int shell_start(struct pool *pool, struct ramet_err *err)
{
	static const struct vm_events events = {
		.worker = { .ready = shell_on_ready,
			    .shell = shell_on_shell,
			    .refused = shell_on_refused,
			    .lost = shell_on_lost },
		.gone = shell_on_gone,
	};
	struct shell *shell = calloc(1, sizeof(*shell));
	int r;

	if (!shell)
		return err_set(err, ENOMEM, "no memory for a shell");
	shell->pool = pool;
	r = vm_start(pool->engine, pool->kind.memory_bytes, &events, shell, &shell->vm, err);
	if (r < 0) {
		free(shell);
		return r;
	}
	TAILQ_INSERT_TAIL(&pool->starting, shell, link);
	pool->starting_count++;
	return 0;
}

static void pool_refill(struct pool *pool)
{
	const struct pool_request *request;
	unsigned int most = STARTING_BACKGROUND_MAX, needed = 0, wanted;
	struct ramet_err err;

	TAILQ_FOREACH(request, &pool->requests, link)
	needed += request->wanted - request->got;
	wanted = needed;
	if (!pool->engine->hot && !pool->engine->busy) {
		wanted += pool->level;
	} else { /* it is never quiet: one at a time */
		wanted += pool->level / 2;
		most = 1;
	}
	if (needed > pool->idle_count)
		most = STARTING_MAX;
	while (pool->idle_count + pool->starting_count < wanted && pool->starting_count < most) {
		if (shell_start(pool, &err) == 0)
			continue;
		log_warn("cannot start a shell: %s", err.msg);
		pool->level = 0;
		while (TAILQ_FIRST(&pool->requests) && !pool->starting_count)
			request_settle(TAILQ_FIRST(&pool->requests), &err);
		break;
	}
}

/* More than its level is only for those who wait. */
static void pool_trim(struct pool *pool)
{
	while (pool->idle_count > pool->level && TAILQ_EMPTY(&pool->requests)) {
		struct shell *shell = TAILQ_FIRST(&pool->idle);

		shell_remove(shell);
		shell_free(shell);
	}
}

static int pool_on_quiet(sd_event_source *source, uint64_t usec, void *arg)
{
	struct engine *engine = arg;
	struct pool *pool;

	(void)source;
	(void)usec;
	engine->busy = false;
	LIST_FOREACH(pool, &engine->pools, link)
	pool_refill(pool);
	return 0;
}

void pool_refill_soon(struct engine *engine)
{
	uint64_t delay = engine->limits.pool_delay;
	int r;

	if (engine->destroying)
		return;
	engine->busy = true;
	if (engine->refill) {
		r = sd_event_source_set_time_relative(engine->refill, delay / 1000 + 1);
		if (r >= 0)
			r = sd_event_source_set_enabled(engine->refill, SD_EVENT_ONESHOT);
	} else {
		r = sd_event_add_time_relative(engine->loop, &engine->refill, CLOCK_MONOTONIC,
					       delay / 1000 + 1, TIMER_ACCURACY, pool_on_quiet,
					       engine);
	}
	if (r < 0)
		(void)pool_on_quiet(NULL, 0, engine);
}

/* ---- pools ---- */

static void shells_free(struct shell_list *shells)
{
	struct shell *shell;

	while ((shell = TAILQ_FIRST(shells))) {
		TAILQ_REMOVE(shells, shell, link);
		shell_free(shell);
	}
}

static int pool_on_idle(sd_event_source *source, uint64_t usec, void *arg)
{
	struct pool *pool = arg;

	(void)source;
	(void)usec;
	pool->level = 0;
	shells_free(&pool->idle);
	pool->idle_count = 0;
	return 0;
}

bool pool_kind_equal(const struct pool_kind *a, const struct pool_kind *b)
{
	return a->memory_bytes == b->memory_bytes && a->isolation == b->isolation &&
	       a->plain == b->plain;
}

static struct pool *pool_find(const struct engine *engine, const struct pool_kind *kind)
{
	struct pool *pool;

	LIST_FOREACH(pool, &engine->pools, link)
	if (pool_kind_equal(&pool->kind, kind))
		return pool;
	return NULL;
}

/* Finds or makes it, and notes that it is used. */
static struct pool *pool_get(struct engine *engine, const struct pool_kind *kind)
{
	struct pool *pool = pool_find(engine, kind);
	uint64_t usec = engine->limits.pool_idle / 1000;
	int r;

	if (!pool) {
		pool = calloc(1, sizeof(*pool));
		if (!pool)
			return NULL;
		pool->engine = engine;
		pool->kind = *kind;
		TAILQ_INIT(&pool->idle);
		TAILQ_INIT(&pool->starting);
		TAILQ_INIT(&pool->requests);
		LIST_INSERT_HEAD(&engine->pools, pool, link);
	}
	pool->level = engine->limits.pool_size;
	pool->failures = 0;
	if (pool->timer)
		r = sd_event_source_set_time_relative(pool->timer, usec);
	else
		r = sd_event_add_time_relative(engine->loop, &pool->timer, CLOCK_MONOTONIC, usec, 0,
					       pool_on_idle, pool);
	if (r >= 0)
		r = sd_event_source_set_enabled(pool->timer, SD_EVENT_ONESHOT);
	if (r < 0)
		log_warn("no timer for a pool of shells");
	return pool;
}

void pool_touch(struct engine *engine, const struct pool_kind *kind)
{
	struct pool *pool = pool_get(engine, kind);

	if (pool)
		pool_refill(pool);
}

void pool_set_base(struct engine *engine, const struct pool_kind *kind, struct frozen *frozen)
{
	struct pool *pool = pool_get(engine, kind);

	if (!pool || pool->base == frozen)
		return;
	frozen_unref(pool->base);
	pool->base = frozen_ref(frozen);
}

void pool_drop_base(struct engine *engine, const struct frozen *frozen)
{
	struct pool *pool;

	LIST_FOREACH(pool, &engine->pools, link)
	{
		if (!frozen || pool->base != frozen)
			continue;
		frozen_unref(pool->base);
		pool->base = NULL;
	}
}

unsigned int pool_ready(const struct engine *engine, const struct pool_kind *kind)
{
	const struct pool *pool = pool_find(engine, kind);

	return pool ? pool->idle_count : 0;
}

void pool_count_all(const struct engine *engine, unsigned int *ready, unsigned int *starting)
{
	const struct pool *pool;

	*ready = *starting = 0;
	LIST_FOREACH(pool, &engine->pools, link)
	{
		*ready += pool->idle_count;
		*starting += pool->starting_count;
	}
}

int pool_reserve(struct engine *engine, const struct pool_kind *kind, struct pool_request *request,
		 unsigned int count, pool_cb done, void *arg, struct ramet_err *err)
{
	struct pool *pool = pool_get(engine, kind);

	if (!pool)
		return err_set(err, ENOMEM, "no memory for a pool of shells");
	*request = (struct pool_request){
		.pool = pool,
		.wanted = count,
		.done = done,
		.arg = arg,
	};
	TAILQ_INIT(&request->shells);
	/* First come, first served. */
	while (TAILQ_EMPTY(&pool->requests) && request->got < count && !TAILQ_EMPTY(&pool->idle))
		shell_give(TAILQ_FIRST(&pool->idle), request);
	if (request->got == count)
		return 1;
	request->waiting = true;
	TAILQ_INSERT_TAIL(&pool->requests, request, link);
	while (pool->idle_count + pool->starting_count < count - request->got &&
	       pool->starting_count < STARTING_MAX) {
		int r = shell_start(pool, err);

		if (r < 0 && !pool->starting_count) {
			pool_cancel(request);
			return r;
		}
		if (r < 0)
			break;
	}
	return 0;
}

struct vm *pool_take(struct pool_request *request)
{
	struct shell *shell = request->pool ? TAILQ_FIRST(&request->shells) : NULL;
	struct vm *vm;

	if (!shell)
		return NULL;
	vm = shell->vm;
	shell->pool->failures = 0;
	shell_remove(shell);
	free(shell);
	vm_set_owner(vm, NULL, NULL);
	return vm;
}

void pool_cancel(struct pool_request *request)
{
	struct pool *pool = request->pool;
	struct shell *shell;

	if (!pool)
		return;
	if (request->waiting)
		TAILQ_REMOVE(&pool->requests, request, link);
	request->waiting = false;
	while ((shell = TAILQ_FIRST(&request->shells))) {
		shell_remove(shell);
		shell->request = NULL;
		TAILQ_INSERT_TAIL(&pool->idle, shell, link);
		pool->idle_count++;
	}
	request->pool = NULL;
	pool_hand_out(pool);
	pool_trim(pool);
}

void pool_destroy_all(struct engine *engine)
{
	struct pool *pool;

	engine->refill = sd_event_source_disable_unref(engine->refill);

	while ((pool = LIST_FIRST(&engine->pools))) {
		LIST_REMOVE(pool, link);
		shells_free(&pool->idle);
		shells_free(&pool->starting);
		pool->timer = sd_event_source_disable_unref(pool->timer);
		frozen_unref(pool->base);
		free(pool);
	}
}
