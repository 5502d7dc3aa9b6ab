/* How many shells a pool has: those that are missing are started, at once for those
 * who wait and else when the engine is quiet (see pool.h); those too many go. */
#include "engine/internal.h"
#include "engine/pool_state.h"
#include "lib/log.h"

/* Nobody waits for these: they take turns with what the guests do. */
#define STARTING_BACKGROUND_MAX 2u

int pool_start(struct pool *pool, unsigned int wanted, unsigned int most, struct ramet_err *err)
{
	while (pool->idle_count + pool->starting_count < wanted && pool->starting_count < most) {
		int r = shell_start(pool, err);

		if (r < 0)
			return r;
	}
	return 0;
}

void pool_refill(struct pool *pool)
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
		most = POOL_STARTING_MAX;
	if (pool_start(pool, wanted, most, &err) == 0)
		return;
	log_warn("cannot start a shell: %s", err.msg);
	pool->level = 0;
	while (TAILQ_FIRST(&pool->requests) && !pool->starting_count)
		pool_settle(TAILQ_FIRST(&pool->requests), &err);
}

void pool_trim(struct pool *pool)
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
