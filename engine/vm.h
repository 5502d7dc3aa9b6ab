/* One worker process: from the request to the spawner until it is reaped.
 *
 * A vm belongs to one owner at a time (a sandbox, a pool, a fork, a layer that
 * it fills) and changes hands with vm_set_owner(). Whoever needs it no more
 * calls vm_release(): the process ends in the background, and the vm with it. */
#ifndef RAMET_ENGINE_VM_H
#define RAMET_ENGINE_VM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <systemd/sd-event.h>

#include "engine/spawner.h"
#include "engine/worker.h"

struct engine;
struct memory;
struct vm;

/* Called from the loop. NULL members are not called. Between `lost` and `gone`
 * nothing else comes. */
struct vm_events {
	struct worker_callbacks worker; /* as there; `lost` also when it could not be started */
	/* The process was reaped, or never was. Last, once. */
	void (*gone)(void *arg);
};

struct vm {
	struct engine *engine;
	TAILQ_ENTRY(vm) link;

	char name[WORKER_NAME_MAX];
	uint32_t number; /* in its name */
	const struct vm_events *events;
	void *arg;
	pid_t pid;     /* of the process, while it is alive */
	bool spawning; /* the spawner has not answered yet */
	bool alive;    /* the spawner has not reported the exit yet */
	bool killed;   /* by us */
	bool released; /* nobody's; freed once gone */
	bool oom_killed;
	int wait_status;
	struct worker *worker;
	int channel_fd;        /* the agent's bytes, until someone takes it */
	struct memory *memory; /* what it was restored from; NULL: it booted */
	uint64_t memory_at;    /* where the worker has its guest's memory; set when restored */
	uint64_t pinned;       /* layers of it whose donors do not know this guest yet */
	sd_event_source *step; /* deferred: the end of a released vm */
	sd_event_source *grace;
	uint64_t started_ns;
};

TAILQ_HEAD(vm_list, vm);

/* Starts a worker for guests of `memory_bytes`. */
int vm_start(struct engine *engine, uint64_t memory_bytes, const struct vm_events *events,
	     void *arg, struct vm **vm, struct ramet_err *err);

void vm_set_owner(struct vm *vm, const struct vm_events *events, void *arg);

/* The process is reaped, or never came to be. */
static inline bool vm_gone(const struct vm *vm)
{
	return !vm->spawning && !vm->alive;
}

/* How much processor time it gets beside others, see cgroup_weight_set(). Where
 * that cannot be set it stays equal. */
#define VM_WEIGHT_EQUAL  100u
#define VM_WEIGHT_URGENT 800u /* the parent of a fork, and what it waits for */
#define VM_WEIGHT_DONOR  20u  /* filling what nobody waits for */
void vm_set_weight(const struct vm *vm, unsigned int percent);

/* SIGKILLs it; `gone` follows. */
void vm_kill(struct vm *vm);

/* It closed its connection: it is killed unless it exits within
 * limits.end_grace. `gone` follows. */
void vm_expect_end(struct vm *vm);

/* Why it is lost, in `cause`, from what `lost` or `gone` said. False while more
 * will be known soon: then `gone` follows. */
bool vm_loss(struct vm *vm, const struct ramet_err *err, struct ramet_err *cause);

/* The owner lets go; no more events. When all that was to be sent has been, the
 * control socket is closed, which ends the worker; it is killed if that takes
 * longer than limits.end_grace, or limits.close_deadline if it does not read.
 * NULL is fine. Callable from anywhere. */
void vm_release(struct vm *vm);

/* The owner hears that the vm is lost, with `cause`. */
void vm_fail(struct vm *vm, const struct ramet_err *cause);

/* What the engine's owner of the spawner hands on. */
void vm_exited(struct vm *vm, int wait_status, bool oom_killed);
struct vm *vm_find(struct engine *engine, const char *name);

/* Frees all at once, when the spawner is about to kill them. */
void vm_destroy_all(struct engine *engine);

/* A sentence about its end, see worker_describe_end(). */
void vm_describe_end(struct vm *vm, char *out, size_t size);

#endif
