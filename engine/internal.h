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
#include "engine/m2p.h"
#include "engine/spawner.h"
#include "engine/state.h"
#include "engine/template.h"
#include "engine/vm.h"

#include "engine/memory.h"
#include "engine/pool.h"
#include "engine/templates.h"

struct fork;
struct alias;

TAILQ_HEAD(sandbox_list, sandbox);
LIST_HEAD(fork_list, fork);
TAILQ_HEAD(alias_list, alias);

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
	uint32_t vm_serial;
	bool use_templates;
	int uffd_fd; /* /dev/userfaultfd, for shells; -1 */
	struct m2p m2p;
	void *host; /* what the first worker found out about it; NULL */
	size_t host_length;
	struct pool_list pools;
	sd_event_source *refill;      /* of the pools, when all was quiet for a while */
	bool busy;                    /* until it fires */
	struct image_list images;     /* frozen templates, latest used first */
	struct sandbox_list builders; /* sandboxes that nobody can find */
	struct fork_list forks;       /* under way */
	struct alias_list aliases;    /* ids of sandboxes that were merged, oldest first */
	unsigned int alias_count;
	unsigned int diffs; /* under way */
	unsigned int hot;   /* creates and forks that somebody waits for */
	bool destroying;
};

/* Where a sandbox is on its way; sandbox_state is the outside view of it. */
enum sandbox_phase {
	PHASE_TEMPLATE, /* until its template is frozen */
	PHASE_RESERVE,  /* until there is a shell */
	PHASE_STITCH,   /* until CONTROL_RESTORED */

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

	bool hot;      /* counted in engine->hot */
	bool builder;  /* in engine->builders: makes a template, or was merged */
	bool given_up; /* its worker was killed, and is still not gone */
	struct vm *vm; /* its worker; NULL: none */
	struct agent *agent;
	struct template_files image; /* until they were sent */
	struct image_waiter awaits;  /* PHASE_TEMPLATE */
	struct pool_request shell;   /* PHASE_RESERVE */
	struct frozen *frozen;       /* what it is restored from, until it runs */
	struct hot *hot_pages;       /* of its template; NULL */
	struct freeze *freeze;       /* it is being stopped for a fork */
	struct fork *fork;           /* of which it is the parent */

	/* The fork tree. */
	struct sandbox *parent; /* NULL: none, or gone */
	struct sandbox_list children;
	TAILQ_ENTRY(sandbox) sibling;
	char parent_id[SANDBOX_ID_MAX]; /* "": not made by a fork */
	unsigned int fork_number;       /* 1..n; 0: not made by a fork */
	unsigned int depth;             /* forks since it was created */
	bool reseed_python;
	uint8_t generation[16];
	struct exec_queue execs;
	struct file_set files;

	sd_event_source *deadline; /* of the boot, of the end */
	sd_event_source *step;     /* deferred: sandbox_step() */
	struct ramet_err cause;    /* why it ends; code 0: the worker will say */

	char kernel[64];
	uint64_t created_wall_ns;
	uint64_t created_ns, jailed_ns, booted_ns, restored_ns;
	struct sandbox_timings timings;
};

/* Checks parameters and copies them, with defaults filled in. engine/sandbox_params.c */
int sandbox_set_params(struct sandbox *sandbox, const struct sandbox_params *params,
		       struct ramet_err *err);
void sandbox_free_params(struct sandbox *sandbox);
/* Those of another one, with its metadata unless there are some. */
int sandbox_copy_params(struct sandbox *sandbox, const struct sandbox *from, size_t metadata_count,
			const char *const metadata[METADATA_MAX][2], struct ramet_err *err);

/* The boot, from a worker that is started to ready. engine/sandbox_boot.c */
int sandbox_boot(struct sandbox *sandbox, struct ramet_err *err);

/* Makes one, in no list. engine/sandbox.c */
struct sandbox *sandbox_alloc(struct engine *engine, struct ramet_err *err);
/* Gives it an id and lists it; its creator will be called back. */
int sandbox_enlist(struct sandbox *sandbox, sandbox_cb done, void *arg, struct ramet_err *err);
/* Makes one that nobody can find, in engine->builders; what its guest is made of is
 * the caller's, until limits.boot_deadline. Undone by sandbox_delist() and
 * sandbox_free(). */
int sandbox_make_builder(struct engine *engine, const char *template_name,
			 const struct pool_kind *kind, sandbox_cb done, void *arg,
			 struct sandbox **builder, struct ramet_err *err);
/* Nobody can find it any more; its record goes. */
void sandbox_delist(struct sandbox *sandbox);
/* -EAGAIN when `more` sandboxes are above the limit. */
int sandbox_check_room(const struct engine *engine, unsigned int more, struct ramet_err *err);
/* Whether work can be given to it; the error says why not. */
int sandbox_check_ready(const struct sandbox *sandbox, struct ramet_err *err);
/* A timer until it must be ready. */
int sandbox_set_ready_deadline(struct sandbox *sandbox, uint64_t ns, struct ramet_err *err);

/* Counts a sandbox that somebody waits for; see pool_refill_soon(). */
void sandbox_heat(struct sandbox *sandbox);
void sandbox_cool(struct sandbox *sandbox);

/* Tells the guest who it is; sandbox_ready() follows. engine/sandbox_identity.c */
int sandbox_identify(struct sandbox *sandbox, struct ramet_err *err);

/* From a template: waits for it, takes a shell. engine/sandbox_restore.c */
int sandbox_create_restored(struct sandbox *sandbox, struct ramet_err *err);
/* The same once the template is ready. */
int sandbox_restore_image(struct sandbox *sandbox, struct image *image, struct ramet_err *err);
/* Runs a copy of `frozen` in the shell `vm`, which it owns from now on; ready when
 * the guest has confirmed its identity. */
int sandbox_restore(struct sandbox *sandbox, struct frozen *frozen, struct vm *vm,
		    struct ramet_err *err);

/* The connection to the guest's agent failed: an agent_callbacks member. */
void sandbox_agent_failed(void *arg, const struct ramet_err *err);

/* Stopping a sandbox's guest to copy it. engine/freeze.c */
struct freeze_timings {
	uint64_t quiesce_ns; /* until the guest had taken its input */
	uint64_t pause_ns;   /* from the request to the worker's answer */
	uint64_t state_ns;   /* of it, to save the state and the changes */
	uint64_t map_ns;     /* new layer and map */
	uint64_t paused_at;  /* clock_monotonic_ns() of the request */
	uint64_t dirty_pages;
	uint64_t range_pages;
	uint32_t ranges;
};

/* `frozen` is the callee's; NULL when err is set: then the sandbox runs on, or
 * has failed. On success its worker fills the layer and the sandbox has none;
 * output to its agent stays held. */
typedef void (*freeze_cb)(void *arg, struct frozen *frozen, const struct freeze_timings *timings,
			  const struct ramet_err *err);
/* With `stay` it is only paused in place: on success `frozen` is NULL, too, and
 * the worker waits for worker_resume(). -EBUSY: not now. */
int sandbox_freeze(struct sandbox *sandbox, bool stay, freeze_cb done, void *arg,
		   struct ramet_err *err);
/* The sandbox ends: `done` is called with `cause`. */
void freeze_abort(struct sandbox *sandbox, const struct ramet_err *cause);
/* Execs, files and output go on. */
void sandbox_unhold(struct sandbox *sandbox);

/* Handlers of a vm that runs a sandbox. engine/freeze.c */
extern const struct vm_events sandbox_running_events;
void freeze_paused(struct sandbox *sandbox, const struct control_paused *paused);
void freeze_refused(struct sandbox *sandbox, const struct ramet_err *err);

/* The parent of a fork ends. engine/fork.c */
void fork_parent_ended(struct fork *fork, const struct ramet_err *cause);
void fork_destroy_all(struct engine *engine);

/* The tree. engine/tree.c */
void tree_add(struct sandbox *parent, struct sandbox *child);
void tree_remove(struct sandbox *sandbox);
unsigned int tree_count(const struct sandbox *sandbox); /* children */
bool tree_related(const struct sandbox *a, const struct sandbox *b);
/* `into` takes the place and the children of `from`, which leaves the tree. */
void tree_replace(struct sandbox *from, struct sandbox *into);

/* Merging. engine/merge.c */
void alias_free_all(struct engine *engine);

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
