/* Pools of shells, and those who ask for some: see pool.h. */
#include "engine/pool.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/internal.h"
#include "engine/pool_state.h"
#include "lib/log.h"

static void shell_give(struct shell *shell, struct pool_request *request)
{
	shell_remove(shell);
	shell->request = request;
	TAILQ_INSERT_TAIL(&request->shells, shell, link);
	request->got++;
}

void pool_settle(struct pool_request *request, const struct ramet_err *err)
{
	TAILQ_REMOVE(&request->pool->requests, request, link);
	request->waiting = false;
	request->done(request->arg, err);
}

void pool_hand_out(struct pool *pool)
{
	struct pool_request *request;

	while ((request = TAILQ_FIRST(&pool->requests)) && !TAILQ_EMPTY(&pool->idle)) {
		shell_give(TAILQ_FIRST(&pool->idle), request);
		if (request->got == request->wanted)
			pool_settle(request, NULL);
	}
}

/* ---- pools ---- */

static int pool_on_idle(sd_event_source *source, uint64_t usec, void *arg)
{
	struct pool *pool = arg;

	(void)source;
	(void)usec;
	pool->level = 0;
	pool_trim(pool);
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
	int r;

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
	r = pool_start(pool, count - request->got, POOL_STARTING_MAX, err);
	if (r < 0 && !pool->starting_count) {
		pool_cancel(request);
		return r;
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

	if (!pool)
		return;
	if (request->waiting)
		TAILQ_REMOVE(&pool->requests, request, link);
	request->waiting = false;
	while (!TAILQ_EMPTY(&request->shells))
		shell_make_idle(TAILQ_FIRST(&request->shells));
	request->pool = NULL;
	pool_hand_out(pool);
	pool_trim(pool);
}

static void shells_free(struct shell_list *shells)
{
	struct shell *shell;

	while ((shell = TAILQ_FIRST(shells))) {
		TAILQ_REMOVE(shells, shell, link);
		shell_free(shell);
	}
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
