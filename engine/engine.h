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
	unsigned int creating, ready, failed, closing;
	unsigned int total; /* what counts against max_sandboxes */
	unsigned int max_sandboxes;
};

void engine_counts(const struct engine *engine, struct engine_counts *counts);

/* A directory for the caller's own short-lived files; it is emptied whenever a
 * daemon starts on this state directory, and removed by engine_destroy(). */
const char *engine_run_dir(const struct engine *engine);

/* ---- sandboxes ---- */

enum sandbox_state { SANDBOX_CREATING, SANDBOX_READY, SANDBOX_FAILED, SANDBOX_CLOSING };

struct sandbox_params {
	const char *template_name; /* NULL: "python" */
	uint64_t memory_bytes;     /* 0: default */
	int isolation;             /* enum isolation_mode; 0: full */
	bool plain;                /* reference path, for tests */
	size_t metadata_count;
	const char *metadata[METADATA_MAX][2];
};

/* Phase timings of a create, in nanoseconds. */
struct sandbox_timings {
	uint64_t spawn_ns; /* worker started and jailed */
	uint64_t setup_ns; /* kernel and image loaded */
	uint64_t boot_ns;  /* first instruction to agent ready */
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
	 * return the bytes with exec_consumed() or output stops. */
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

#endif
