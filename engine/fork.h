/* A fork under way, between engine/fork.c and engine/fork_heir.c. */
#ifndef RAMET_ENGINE_FORK_H
#define RAMET_ENGINE_FORK_H

#include "engine/internal.h"

struct fork_slot {
	struct fork *fork;
	char id[SANDBOX_ID_MAX];
	struct sandbox *sandbox; /* until it is settled */
	uint64_t stitch_ns;
	struct ramet_err err; /* code 0: ready */
};

struct fork {
	LIST_ENTRY(fork) link;
	struct engine *engine;
	struct sandbox *parent; /* NULL: it has ended */
	struct pool_kind kind;
	fork_cb done;
	void *arg;
	struct pool_request shells; /* the first is the parent's next */
	unsigned int restored;      /* children that were started, or found gone */
	struct frozen *frozen;      /* NULL: the parent has not stopped */
	struct ramet_err failure;   /* code 0: it did */

	/* The parent's next worker, until it runs. */
	struct vm *heir;
	struct pool_request spare; /* after one failed */
	unsigned int attempts;
	sd_event_source *deadline;

	sd_event_source *finish; /* deferred: all is settled */
	uint64_t start_ns, paused_at;
	struct fork_timings timings;
	unsigned int count, settled;
	struct fork_slot slots[];
};

/* Runs the parent's copy in the next reserved shell. engine/fork_heir.c */
void fork_heir_start(struct fork *fork);
/* Nobody needs it any more. */
void fork_heir_drop(struct fork *fork);

/* Runs up to `count` children that do not run yet. engine/fork.c */
void fork_restore_children(struct fork *fork, unsigned int count);

/* Ends the fork when everything is settled. engine/fork.c */
void fork_check(struct fork *fork);

#endif
