/* Shells: workers that own a virtual machine and wait for memory and state.
 *
 * There is one pool for each kind of guest. A pool in use keeps a number of
 * idle shells (limits.pool_size); it is refilled when nobody waits for an
 * answer of the engine, and gives its shells up after a while without use. */
#ifndef RAMET_ENGINE_POOL_H
#define RAMET_ENGINE_POOL_H

#include "engine/vm.h"

struct shell;
struct frozen;
TAILQ_HEAD(shell_list, shell);

struct pool_kind {
	uint64_t memory_bytes;
	int isolation;
	bool plain;
};

bool pool_kind_equal(const struct pool_kind *a, const struct pool_kind *b);

struct pool {
	struct engine *engine;
	LIST_ENTRY(pool) link;
	struct pool_kind kind;
	struct shell_list idle;     /* ready */
	struct shell_list starting; /* not yet */
	unsigned int idle_count, starting_count;
	TAILQ_HEAD(, pool_request) requests; /* that wait, oldest first */
	unsigned int level;                  /* idle shells to keep */
	struct frozen *base;                 /* the image that shells get; NULL: none. Owned */
	unsigned int failures;               /* shells that died since one was of use */
	sd_event_source *timer;
};

LIST_HEAD(pool_list, pool);

/* `err` is NULL when all shells are there. */
typedef void (*pool_cb)(void *arg, const struct ramet_err *err);

/* Someone who needs shells; embedded in what needs them, zeroed at first. */
struct pool_request {
	struct pool *pool; /* NULL: not in use */
	TAILQ_ENTRY(pool_request) link;
	bool waiting;
	unsigned int wanted, got;
	struct shell_list shells;
	pool_cb done;
	void *arg;
};

/* Reserves `count` shells. Returns 1 when they are there already, 0 when `done`
 * will be called, -errno. Ended by pool_cancel(). */
int pool_reserve(struct engine *engine, const struct pool_kind *kind, struct pool_request *request,
		 unsigned int count, pool_cb done, void *arg, struct ramet_err *err);

/* One of the reserved shells, which the caller owns from then on, or NULL. */
struct vm *pool_take(struct pool_request *request);

/* Gives back what was not taken. Harmless when not in use. */
void pool_cancel(struct pool_request *request);

/* The engine has nothing to do that somebody waits for: after limits.pool_delay
 * without any more of it, what is missing is started. What guests do next has
 * the processors to itself for that long. (Below half its level a pool is refilled
 * at any time, slowly.) */
void pool_refill_soon(struct engine *engine);

/* Makes sure that there is a pool of this kind and that it fills. */
void pool_touch(struct engine *engine, const struct pool_kind *kind);

/* Shells of this kind get the image of a template before they are used: memory that
 * is made of it is partly in place then. */
void pool_set_base(struct engine *engine, const struct pool_kind *kind, struct frozen *frozen);
/* No more shells get this one. */
void pool_drop_base(struct engine *engine, const struct frozen *frozen);

/* Counts shells that are ready now. */
unsigned int pool_ready(const struct engine *engine, const struct pool_kind *kind);

/* Counts idle shells of every kind. */
void pool_count_all(const struct engine *engine, unsigned int *ready, unsigned int *starting);

/* Ends all pools; nobody may wait any more. */
void pool_destroy_all(struct engine *engine);

#endif
