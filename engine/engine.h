/* The engine: sandboxes and their lifetimes, behind one asynchronous interface.
 *
 * Everything runs on the sd_event loop it was created with; nothing blocks and
 * no callback is called before the function that took it has returned. A
 * callback is called exactly once unless said otherwise. Strings and buffers
 * passed to callbacks live until the callback returns; those passed to
 * functions are copied. */
#ifndef RAMET_ENGINE_ENGINE_H
#define RAMET_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "lib/err.h"

#define SANDBOX_ID_MAX 32 /* with NUL: "sbx_" and 20 characters of base32 */
#define METADATA_MAX   16 /* pairs per sandbox */

struct engine;
struct sandbox;
struct exec;
struct file_transfer;

struct engine_config {
	const char *state_dir;      /* absolute; created when missing */
	const char *image_dir;      /* where template images and the kernel are */
	const char *worker_path;    /* ramet-vmm */
	unsigned int max_sandboxes; /* 0: the default of engine/limits.h */
	unsigned int pool_size;     /* idle shells of a kind; 0: the default */
	bool use_templates;         /* sandboxes are copies of a frozen template; else each boots */
};

/* Prepares the state directory (cleans what a killed daemon left), starts the
 * spawner. Must be called before the process has other threads. */
int engine_create(sd_event *loop, const struct engine_config *config, struct engine **engine,
		  struct ramet_err *err);

/* Ends every sandbox and waits (bounded) until nothing is left. Everything that
 * is under way ends with ECANCELED; its callbacks are called before this
 * returns. Not to be called from a callback. NULL is fine. */
void engine_destroy(struct engine *engine);

/* How many sandboxes there are, by state. */
struct engine_counts {
	unsigned int creating, ready, failed, closing, paused;
	unsigned int total; /* what counts against max_sandboxes */
	unsigned int max_sandboxes;
	unsigned int shells_ready, shells_starting; /* idle, for creates and forks to come */
};

void engine_counts(const struct engine *engine, struct engine_counts *counts);

/* A directory for the caller's own short-lived files; it is emptied whenever a
 * daemon starts on this state directory, and removed by engine_destroy(). */
const char *engine_run_dir(const struct engine *engine);

/* ---- sandboxes ---- */

enum sandbox_state {
	SANDBOX_CREATING,
	SANDBOX_READY,
	SANDBOX_FAILED,
	SANDBOX_CLOSING,
	SANDBOX_PAUSED, /* see sandbox_pause() */
};

struct sandbox_params {
	const char *template_name; /* NULL: "python" */
	uint64_t memory_bytes;     /* 0: default */
	int isolation;             /* enum isolation_mode; 0: full */
	bool plain;                /* reference path, for tests */
	size_t metadata_count;
	const char *metadata[METADATA_MAX][2];
};

/* Phase timings of a create, in nanoseconds. One that boots has the first
 * three, a copy the others. */
struct sandbox_timings {
	uint64_t spawn_ns; /* worker started and jailed */
	uint64_t setup_ns; /* kernel and image loaded */
	uint64_t boot_ns;  /* first instruction to agent ready */

	uint64_t reserve_ns; /* until there was a shell; of a fork: with the parent's pause */
	uint64_t stitch_ns;  /* memory in place */
	uint64_t state_ns;   /* registers and devices in place */
	uint64_t answer_ns;  /* memory in place to the guest's first answer, state included */
	uint64_t total_ns;
};

struct sandbox_info {
	const char *id;
	const char *template_name;
	enum sandbox_state state;
	const char *reason; /* SANDBOX_FAILED: a sentence; else NULL */
	uint64_t memory_bytes;
	int isolation;
	const char *kernel; /* "" until ready */
	uint64_t created_wall_ns;
	struct sandbox_timings timings;
	unsigned int exec_running; /* 0 or 1 */
	unsigned int exec_waiting;
	size_t metadata_count;
	const char *metadata[METADATA_MAX][2];

	const char *parent_id;   /* whose fork it is; NULL: none's. It may be gone */
	unsigned int fork_index; /* from 0, among the children of that fork */
	unsigned int depth;      /* forks since the first of its line was created */
	unsigned int children;   /* that still exist */
	uint8_t generation[16];  /* UUID of this incarnation of its guest */
	unsigned int layers;     /* that its memory is made of, beside its own changes */
	unsigned int extents;    /* pieces that these are mapped in */
	uint64_t shared_bytes;   /* memory of these layers, shared with others */
};

typedef void (*sandbox_cb)(void *arg, struct sandbox *sandbox, const struct ramet_err *err);

/* Creates a sandbox; `done` gets it when the agent is ready, or the error
 * (EINVAL bad parameter, ENOENT no such template, EAGAIN too many sandboxes,
 * ENOMEM, EIO worker failed, ETIMEDOUT not ready in time, ECANCELED closed
 * meanwhile). On error nothing is left behind. It is listed, and can be
 * closed, from the moment this returns. */
int engine_sandbox_create(struct engine *engine, const struct sandbox_params *params,
			  sandbox_cb done, void *arg, struct ramet_err *err);

/* Finds by id; NULL when there is none. The pointer is valid until the next
 * return to the event loop. */
struct sandbox *engine_sandbox_find(struct engine *engine, const char *id);

/* Visits all sandboxes, oldest first; stops when `visit` returns false. */
void engine_sandbox_each(struct engine *engine, bool (*visit)(void *arg, struct sandbox *),
			 void *arg);

void sandbox_info(const struct sandbox *sandbox, struct sandbox_info *info);

/* Copies the last console output (at most `size` bytes); returns its length. */
size_t sandbox_console(const struct sandbox *sandbox, char *buf, size_t size);

/* Destroys a sandbox: running execs end with ECANCELED; `done` (may be NULL)
 * is called, with a NULL sandbox, when its worker and files are gone. Closing
 * twice is fine: each `done` is called. ETIMEDOUT: its worker hangs in the
 * host's kernel and was left alone. */
int sandbox_close(struct sandbox *sandbox, sandbox_cb done, void *arg, struct ramet_err *err);

/* ---- forks ---- */

struct fork_params {
	unsigned int count;    /* children; 1 .. limit fork_children */
	bool keep_random;      /* Python's random modules go on like the parent's */
	size_t metadata_count; /* of the children; none: the parent's */
	const char *metadata[METADATA_MAX][2];
};

/* What a fork took, in nanoseconds. */
struct fork_timings {
	uint64_t reserve_ns;  /* shells for all */
	uint64_t quiesce_ns;  /* the guest took the input that was under way */
	uint64_t pause_ns;    /* asked to stop, to stopped with its state saved */
	uint64_t state_ns;    /* of this, saving the state */
	uint64_t map_ns;      /* new layer and maps */
	uint64_t parent_ns;   /* asked to stop, to running on */
	uint64_t stitch_ns;   /* memory in place, of the slowest child */
	uint64_t first_ns;    /* from the call to the first child's answer */
	uint64_t total_ns;    /* from the call to the last child's answer */
	uint64_t dirty_pages; /* changed since the last fork */
	uint64_t range_pages; /* with the pages between, which the new layer holds */
};

struct fork_child {
	struct sandbox *sandbox; /* NULL when err is set */
	struct ramet_err err;    /* code 0: none */
};

struct fork_result {
	unsigned int count;
	const struct fork_child *children; /* in the order of their fork_index */
	struct fork_timings timings;
};

/* `result` is NULL when there is no child because the parent could not be
 * stopped; then err says why and the parent runs on, if it was not its end. */
typedef void (*fork_cb)(void *arg, const struct fork_result *result, const struct ramet_err *err);

/* Copies a running sandbox `count` times at one moment: memory, processes, open
 * files. The parent goes on at once, in a new worker, with the execs that it
 * runs. In the children these go on as well, but nobody hears of them, and execs
 * that waited are cancelled. Children share all memory that is not written to.
 * `done` is called when each child has confirmed its new identity or failed.
 * -EINVAL: bad parameters; -EAGAIN: too many sandboxes or workers, not enough
 * memory, or the sandbox is not ready; -EBUSY: it is being forked already;
 * -ENODEV: the host has no userfaultfd. */
int sandbox_fork(struct sandbox *parent, const struct fork_params *params, fork_cb done, void *arg,
		 struct ramet_err *err);

/* From now on the id of `parent` is that of `winner`'s guest: the winner, with
 * its worker, execs and children, takes over the parent's id, metadata and place
 * in the tree. The parent's own guest ends; its execs end with ECANCELED. The
 * winner's id is an alias then, see engine_merged_into(). `done` gets the
 * surviving sandbox when its guest has taken the name. Both must be ready and
 * of one fork tree (else -EINVAL, -EAGAIN). */
int sandbox_merge(struct sandbox *parent, struct sandbox *winner, sandbox_cb done, void *arg,
		  struct ramet_err *err);

/* The id that a merged sandbox's id stands for, or NULL. The last 1024 merges
 * are known, as long as what they merged into exists. */
const char *engine_merged_into(struct engine *engine, const char *id);

/* Stops a sandbox's guest where it is, until sandbox_resume(). Execs and files
 * are refused with EAGAIN meanwhile; those under way go on afterwards. The
 * guest's clocks go on. -EAGAIN: not ready; -EBUSY: being forked. */
int sandbox_pause(struct sandbox *sandbox, sandbox_cb done, void *arg, struct ramet_err *err);
/* -EINVAL: it is not paused. */
int sandbox_resume(struct sandbox *sandbox, struct ramet_err *err);

/* `bytes`: what the host has got back of this sandbox's own memory; `err` is NULL
 * on success. */
typedef void (*reclaim_cb)(void *arg, uint64_t bytes, const struct ramet_err *err);

/* Has the guest give back memory that is not in use inside of it. Guests also do
 * that by themselves, after execs. What they share with others is not affected.
 * Work in the guest goes on meanwhile. Errors: as sandbox_exec(); to `done` also
 * EOPNOTSUPP: this guest cannot; EBUSY: it is doing it already; ETIMEDOUT. */
int sandbox_reclaim(struct sandbox *sandbox, reclaim_cb done, void *arg, struct ramet_err *err);

/* Visits the fork tree, parents before their children, oldest first; a sandbox
 * whose parent is gone is at depth 0. Stops when `visit` returns false. */
void engine_tree(struct engine *engine,
		 bool (*visit)(void *arg, struct sandbox *sandbox, unsigned int depth), void *arg);

/* ---- exec ---- */

struct exec_params {
	int language; /* enum exec_language */
	const char *code;
	size_t code_length;
	uint32_t timeout_ms;   /* 0: none */
	uint64_t output_limit; /* 0: default */
};

struct exec_exit {
	int exit_code;
	uint32_t flags; /* enum exit_flags of guest/protocol.h */
	uint64_t dropped;
	uint64_t queue_ns, run_ns; /* measured in the guest */
	uint64_t total_ns;         /* measured here, from sandbox_exec() */
};

struct exec_callbacks {
	/* Any number of times. `stream`: enum output_stream. The consumer must
	 * return the bytes with exec_consumed() or output stops. NULL: output is
	 * thrown away. */
	void (*output)(void *arg, int stream, uint64_t time_ns, const char *data, size_t len);
	/* Once, last; `exit` is NULL when err is set (sandbox died, queue full, ...). The
	 * exec handle is gone after it returns. */
	void (*done)(void *arg, const struct exec_exit *exit, const struct ramet_err *err);
};

/* -EINVAL, -E2BIG: a parameter beyond a limit; -EBUSY: too many wait; -EAGAIN:
 * not ready yet; -EIO: the sandbox failed; -ECANCELED: it is being closed. The
 * same goes for files. `output` may call anything here; after exec_abandon()
 * the handle is gone. */
int sandbox_exec(struct sandbox *sandbox, const struct exec_params *params,
		 const struct exec_callbacks *callbacks, void *arg, struct exec **exec,
		 struct ramet_err *err);
void exec_consumed(struct exec *exec, size_t bytes);
/* The caller lost interest: interrupts the code; callbacks are not called again. */
void exec_abandon(struct exec *exec);

/* ---- files ---- */

struct file_info {
	const char *name;
	uint64_t size;
	int64_t mtime_ns;
	uint32_t mode;
	int kind; /* enum file_kind */
};

struct file_result {
	uint64_t size; /* bytes; of a list: entries */
	uint64_t xxh3; /* of the content, equal on both sides; of a list: 0 */
	uint64_t total_ns;
};

struct file_callbacks {
	/* Download: `size` first (UINT64_MAX: unknown), then data in order. */
	void (*opened)(void *arg, uint64_t size, uint32_t mode);
	void (*data)(void *arg, const char *data, size_t len);
	/* Upload: the transfer can take more data again, after file_write() took
	 * less than it was given. */
	void (*writable)(void *arg);
	/* List: one entry. */
	void (*entry)(void *arg, const struct file_info *info);
	/* Once, last; `result` is NULL when err is set. The handle is gone after
	 * it returns. Callbacks that a kind of transfer does not use may be NULL. */
	void (*done)(void *arg, const struct file_result *result, const struct ramet_err *err);
};

int sandbox_download(struct sandbox *sandbox, const char *path, const struct file_callbacks *cb,
		     void *arg, struct file_transfer **transfer, struct ramet_err *err);
/* Download flow control: data of this many bytes was passed on. */
void file_consumed(struct file_transfer *transfer, size_t bytes);

int sandbox_upload(struct sandbox *sandbox, const char *path, uint32_t mode,
		   const struct file_callbacks *cb, void *arg, struct file_transfer **transfer,
		   struct ramet_err *err);
/* Takes up to `len` bytes; returns how many (0: wait for `writable`). */
size_t file_write(struct file_transfer *transfer, const char *data, size_t len);
void file_finish(struct file_transfer *transfer); /* no more data: verify and rename */

int sandbox_list(struct sandbox *sandbox, const char *path, const struct file_callbacks *cb,
		 void *arg, struct file_transfer **transfer, struct ramet_err *err);

/* The caller lost interest: no further callback; a partial upload leaves no trace. */
void file_abandon(struct file_transfer *transfer);

/* ---- comparing two sandboxes ---- */

struct diff;

struct diff_params {
	size_t path_count; /* 0: everything; <= TREE_ROOTS_MAX of guest/protocol.h */
	const char *const *paths;
};

enum diff_change { DIFF_ADDED, DIFF_REMOVED, DIFF_MODIFIED };

/* What differs of something modified. */
enum diff_what {
	DIFF_KIND = 1u << 0, /* a file has become a directory, ...; else: */
	DIFF_CONTENT = 1u << 1,
	DIFF_MODE = 1u << 2, /* permission bits */
	DIFF_OWNER = 1u << 3,
	DIFF_UNREADABLE = 1u << 4, /* perhaps the content: one of both could not be read */
};

struct diff_side {
	uint64_t size; /* of a regular file; else 0 */
	int64_t mtime_ns;
	uint32_t mode; /* as in stat(2); 0: it is not there */
	uint32_t uid, gid;
};

struct diff_entry {
	const char *path;
	enum diff_change change; /* from the first sandbox to the second */
	unsigned int what;       /* DIFF_MODIFIED: enum diff_what */
	struct diff_side sides[2];
};

/* In pages of 4 KiB. A page counts when one of both may have changed it since
 * their memory was the same; it may hold the same bytes for all that. */
struct diff_memory {
	bool known;      /* false: a guest was booted, not copied, and its writes are not logged */
	uint64_t pages;  /* not shared by both */
	uint64_t own[2]; /* that each wrote to since it was last forked or created */
};

struct diff_result {
	size_t count;
	const struct diff_entry *entries; /* by path, in the order of walk_compare() */
	uint64_t walked[2];               /* files and directories looked at */
	struct diff_memory memory;
	uint64_t memory_ns, files_ns, total_ns;
};

typedef void (*diff_cb)(void *arg, const struct diff_result *result, const struct ramet_err *err);

/* Compares the files below some paths, by content, and counts the pages of
 * memory in which two sandboxes differ. Any two: they need not be related. Both
 * go on meanwhile, so a file that changes at that time counts as it was when it
 * was read. `done` is called once, `result` is NULL when err is set; the handle
 * is gone after it returns. -EINVAL: bad paths, or twice the same sandbox;
 * -ENOENT: a path is in neither; -E2BIG: limits diff_entries, diff_changes;
 * -EAGAIN: limit diffs; -EBUSY: one of both is being forked, or compared too
 * often at a time; else as sandbox_exec(). */
int sandbox_diff(struct sandbox *a, struct sandbox *b, const struct diff_params *params,
		 diff_cb done, void *arg, struct diff **diff, struct ramet_err *err);
/* The caller lost interest: `done` is not called. */
void diff_abandon(struct diff *diff);

#endif
