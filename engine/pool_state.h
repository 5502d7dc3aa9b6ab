/* What engine/pool*.c share about a pool and its shells. */
#ifndef RAMET_ENGINE_POOL_STATE_H
#define RAMET_ENGINE_POOL_STATE_H

#include "engine/pool.h"

/* More at once only slow each other down. */
#define POOL_STARTING_MAX 32u

struct shell {
	TAILQ_ENTRY(shell) link;
	struct pool *pool;
	struct vm *vm;
	struct pool_request *request; /* that holds it */
	bool ready;
	bool based; /* has the image of its pool, or does without */
};

/* ---- pool_shell.c ---- */

/* Starts a worker, which is listed in pool->starting until it is a shell. */
int shell_start(struct pool *pool, struct ramet_err *err);
/* One that is on no list. */
void shell_free(struct shell *shell);
/* Takes it off whatever list it is on. */
void shell_remove(struct shell *shell);
/* It waits for a request from now on: see pool_hand_out(). */
void shell_make_idle(struct shell *shell);

/* ---- pool_refill.c ---- */

/* Starts shells until `wanted` are idle or on their way, at most `most` at once. */
int pool_start(struct pool *pool, unsigned int wanted, unsigned int most, struct ramet_err *err);
/* Starts what is missing for those who wait and for the pool's level. */
void pool_refill(struct pool *pool);
/* More than its level is only for those who wait: the others go. */
void pool_trim(struct pool *pool);

/* ---- pool.c ---- */

/* Idle shells go to those who wait, in order. */
void pool_hand_out(struct pool *pool);
/* A request that waits has what it wants, or hears why not. */
void pool_settle(struct pool_request *request, const struct ramet_err *err);

#endif
