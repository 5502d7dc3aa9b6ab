/* A fork under way, between engine/fork.c and engine/fork_heir.c. */
#ifndef RAMET_ENGINE_FORK_H
#define RAMET_ENGINE_FORK_H

#include "engine/internal.h"

struct fork_slot {
	struct fork *fork;
	char id[SANDBOX_ID_MAX];
	struct sandbox *sandbox; /* until it is settled */
	bool started;
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
	unsigned int started;       /* children that were started, or found gone */
	unsigned int answering;     /* of those, not settled yet */
	bool parent_done;           /* it runs on, or has ended */
	struct frozen *frozen;      /* NULL: the parent has not stopped */
	struct ramet_err failure;   /* code 0: it did */

	/* The parent's next worker, until it runs. */
	struct vm *heir;
	struct pool_request spare; /* after one failed */
	unsigned int attempts;
	sd_event_source *deadline;

	sd_event_source *finish; /* deferred: all is settled */
	sd_event_source *stall;  /* children take long to answer */
	uint64_t start_ns, paused_at;
	struct fork_timings timings;
	unsigned int count, settled;
	struct fork_slot slots[];
};

/* Runs the parent's copy in the next reserved shell. engine/fork_heir.c */
void fork_heir_start(struct fork *fork);
/* Nobody needs it any more. */
void fork_heir_drop(struct fork *fork);

/* Makes child `i`, listed and waiting for its shell. engine/fork_children.c */
int fork_add_child(struct fork *fork, unsigned int i, const struct fork_params *params,
		   struct ramet_err *err);

/* The parent runs, or has ended: the children follow. */
void fork_start_children(struct fork *fork);

/* Ends the fork when everything is settled. engine/fork.c */
void fork_check(struct fork *fork);

#endif
