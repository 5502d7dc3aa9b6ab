/* The execs of one sandbox, in the order they were asked for. The guest runs
 * one at a time and keeps the others waiting; here their code is fed into the
 * channel and their output handed out. */
#ifndef RAMET_ENGINE_EXEC_H
#define RAMET_ENGINE_EXEC_H

#include <sys/queue.h>
#include <systemd/sd-event.h>

#include "engine/agent.h"
#include "engine/engine.h"
#include "engine/limits.h"

TAILQ_HEAD(exec_list, exec);

struct exec_queue {
	struct agent_waiter waiter; /* first; to send the first unsent code */
	sd_event *loop;
	const struct limits *limits;
	struct agent *agent;
	struct exec_list execs; /* the first is the one that runs */
	unsigned int count;
	size_t code_bytes;         /* of all; the guest counts the same way */
	sd_event_source *backstop; /* the guest did not end the first in time */
	bool held;                 /* no exec is announced */
	bool suspended;            /* the guest is paused: no backstop */
	void (*drained)(void *arg);
	void *drained_arg;
};

void exec_queue_init(struct exec_queue *queue, sd_event *loop, const struct limits *limits);

/* The agent that the execs are sent to; borrowed. */
void exec_queue_connect(struct exec_queue *queue, struct agent *agent);

/* As sandbox_exec(). */
int exec_queue_add(struct exec_queue *queue, const struct exec_params *params,
		   const struct exec_callbacks *callbacks, void *arg, struct exec **exec,
		   struct ramet_err *err);

/* Ends all with `err`. Needs the agent alive (stopped or not). */
void exec_queue_end(struct exec_queue *queue, const struct ramet_err *err);

/* ---- pausing and forking: engine/exec_fork.c ---- */

/* Announces no more execs. Returns whether none is half sent; otherwise
 * `drained` is called when that is so, from the loop. */
bool exec_queue_hold(struct exec_queue *queue, void (*drained)(void *arg), void *arg);
/* Goes on; to be called after agent_release(). */
void exec_queue_release(struct exec_queue *queue);

/* The guest is stopped, or goes on: its time for an exec begins anew. */
void exec_queue_suspend(struct exec_queue *queue, bool suspended);

/* The execs that a guest stopped by agent_quiesce() knows of. */
struct exec_snapshot;
int exec_queue_snapshot(const struct exec_queue *queue, struct exec_snapshot **snapshot,
			struct ramet_err *err);
/* In a copy of that guest: what ran goes on, its output is dropped; what waited
 * is cancelled. For an empty, connected queue. */
int exec_queue_adopt(struct exec_queue *queue, const struct exec_snapshot *snapshot,
		     struct ramet_err *err);

/* Whether the parameters are within the limits and the queue has room.
 * -EINVAL, -E2BIG, -EBUSY. engine/exec_check.c */
int exec_check(const struct exec_queue *queue, const struct exec_params *params,
	       struct ramet_err *err);

#endif
