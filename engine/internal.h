/* What the engine's own files share about engines and sandboxes. */
#ifndef RAMET_ENGINE_INTERNAL_H
#define RAMET_ENGINE_INTERNAL_H

#include <stdbool.h>
#include <sys/queue.h>
#include <systemd/sd-event.h>

#include "engine/agent.h"
#include "engine/engine.h"
#include "engine/exec.h"
#include "engine/file.h"
#include "engine/limits.h"
#include "engine/spawner.h"
#include "engine/state.h"
#include "engine/template.h"
#include "engine/vm.h"

TAILQ_HEAD(sandbox_list, sandbox);

struct engine {
	sd_event *loop;
	struct limits limits; /* may be changed before the first sandbox */
	struct state *state;
	char *image_dir;
	struct spawner *spawner;
	struct sandbox_list sandboxes; /* listed, oldest first */
	unsigned int count;            /* listed */
	struct vm_list vms;            /* every worker process */
	unsigned int vm_count;
	uint64_t vm_serial;
	bool destroying;
};

/* Where a sandbox is on its way; sandbox_state is the outside view of it. */
enum sandbox_phase {
	PHASE_JAIL,   /* until CONTROL_READY */
	PHASE_SETUP,  /* until CONTROL_BOOTED */
	PHASE_KERNEL, /* until CONTROL_CHANNEL */
	PHASE_AGENT,  /* until HELLO */
	PHASE_RESEED, /* until the agent confirmed who it is */
	PHASE_RUN,    /* in use */
	PHASE_END,    /* until the worker's exit was reported */
	PHASE_DEAD,   /* no worker */
};

/* Someone who wants to know when a sandbox is closed. */
struct sandbox_waiter {
	sandbox_cb done;
	void *arg;
	TAILQ_ENTRY(sandbox_waiter) link;
};

struct sandbox {
	struct engine *engine;
	TAILQ_ENTRY(sandbox) link;
	char id[SANDBOX_ID_MAX];
	enum sandbox_state state;
	enum sandbox_phase phase;

	/* Copies of the parameters. */
	char *template_name;
	uint64_t memory_bytes;
	int isolation;
	bool plain;
	size_t metadata_count;
	char *metadata[METADATA_MAX][2];

	sandbox_cb created; /* NULL once called */
	void *created_arg;
	TAILQ_HEAD(, sandbox_waiter) closers;

	bool given_up; /* its worker was killed, and is still not gone */
	struct vm *vm; /* its worker; NULL: none */
	struct agent *agent;
	struct template_files image; /* until they were sent */
	struct exec_queue execs;
	struct file_set files;

	sd_event_source *deadline; /* of the boot, of the end */
	sd_event_source *step;     /* deferred: sandbox_step() */
	struct ramet_err cause;    /* why it ends; code 0: the worker will say */

	char kernel[64];
	uint64_t created_wall_ns;
	uint64_t created_ns, jailed_ns, booted_ns;
	struct sandbox_timings timings;
};

/* Checks parameters and copies them, with defaults filled in. engine/sandbox_params.c */
int sandbox_set_params(struct sandbox *sandbox, const struct sandbox_params *params,
		       struct ramet_err *err);
void sandbox_free_params(struct sandbox *sandbox);

/* The boot, from a worker that is started to ready. engine/sandbox_boot.c */
int sandbox_boot(struct sandbox *sandbox, struct ramet_err *err);

/* The end. engine/sandbox_end.c */

/* Begins it: the sandbox, or its creation, fails with `cause`; when that is
 * NULL with what the worker says, which gets a moment to say it. Callable from
 * anywhere; a later cause changes nothing. */
void sandbox_fail(struct sandbox *sandbox, const struct ramet_err *cause);

/* What a sandbox does when its worker is lost or gone: members of struct
 * vm_events. */
void sandbox_vm_lost(void *arg, const struct ramet_err *err);
void sandbox_vm_gone(void *arg);

/* Ends a sandbox at once, for engine_destroy(): callers hear ECANCELED, the
 * worker is the spawner's to kill. Frees it. */
void sandbox_destroy(struct sandbox *sandbox);

/* The deferred part of the end, armed with sandbox_arm(). */
int sandbox_step(sd_event_source *source, void *arg);
void sandbox_arm(struct sandbox *sandbox);

/* Sets the one timer of a sandbox. */
int sandbox_set_deadline(struct sandbox *sandbox, uint64_t ns, sd_event_time_handler_t handler);

/* Frees one that is in no list and has no worker. */
void sandbox_free(struct sandbox *sandbox);

#endif
