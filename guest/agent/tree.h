/* Walks through the guest's files for the host (MSG_TREE), each in a child
 * process of the agent, so that hashing holds up nothing else.
 *
 * The child sends datagrams on a socketpair, each one a frame's type and
 * payload, and waits when the socket is full; the agent passes them on as
 * credit and room allow. */
#ifndef RAMET_GUEST_TREE_H
#define RAMET_GUEST_TREE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "guest/agent/frame.h"
#include "guest/agent/loop.h"

struct agent;

struct tree {
	struct source source; /* first; fd -1: the slot is free */
	pid_t pid;            /* 0: it has ended */
	uint32_t id;
	uint64_t credit;
};

struct trees {
	struct tree slots[TREES_MAX];
};

void tree_init(struct agent *agent);

/* MSG_TREE: starts a walk, or answers why not. */
void tree_start(struct agent *agent, const struct frame *frame);

/* MSG_CREDIT and MSG_CANCEL; false: `id` is not a walk's. */
bool tree_credit(struct agent *agent, const struct frame *frame);
bool tree_cancel(struct agent *agent, uint32_t id);

/* Passes on what there is; called once per round of the event loop. */
void tree_progress(struct agent *agent);

/* A child of the agent ended. */
void tree_died(struct agent *agent, pid_t pid);

/* Ends all unanswered. */
void tree_abandon_all(struct agent *agent);

#endif
