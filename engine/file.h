/* File transfers of one sandbox: downloads, uploads, listings.
 *
 * A transfer lives until the guest answered everything that was asked for it,
 * also when its caller abandoned it or was told of an error before: handles in
 * the guest are always closed. engine/file.c holds what the kinds share. */
#ifndef RAMET_ENGINE_FILE_H
#define RAMET_ENGINE_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <systemd/sd-event.h>
#include <xxhash.h>

#include "engine/agent.h"
#include "engine/engine.h"
#include "engine/limits.h"

LIST_HEAD(file_list, file_transfer);

struct file_set {
	sd_event *loop;
	const struct limits *limits;
	struct agent *agent;
	struct file_list transfers;
	unsigned int count;
};

void file_set_init(struct file_set *set, sd_event *loop, const struct limits *limits);
void file_set_connect(struct file_set *set, struct agent *agent); /* borrowed */
/* Ends all with `err`. Needs the agent alive (stopped or not). */
void file_set_end(struct file_set *set, const struct ramet_err *err);

/* As sandbox_download(), sandbox_upload(), sandbox_list(). */
int file_download(struct file_set *set, const char *path, const struct file_callbacks *callbacks,
		  void *arg, struct file_transfer **transfer, struct ramet_err *err);
int file_upload(struct file_set *set, const char *path, uint32_t mode,
		const struct file_callbacks *callbacks, void *arg, struct file_transfer **transfer,
		struct ramet_err *err);
int file_list(struct file_set *set, const char *path, const struct file_callbacks *callbacks,
	      void *arg, struct file_transfer **transfer, struct ramet_err *err);

/* ---- pausing and forking: engine/file_fork.c ---- */

/* Handles that a guest stopped by agent_quiesce() holds open for transfers; room
 * for FILE_HANDLES_MAX. Returns how many. */
size_t file_set_handles(const struct file_set *set, uint32_t *handles);
/* The guest is stopped, or goes on: its time for an answer begins anew. */
void file_set_suspend(struct file_set *set, bool suspended);

/* ---- between engine/file*.c ---- */

/* One outstanding read or write. */
struct file_slot {
	struct agent_request request; /* first */
	struct file_transfer *transfer;
	uint32_t length;
};

struct file_kind_ops {
	const char *name;
	/* The handle is open. */
	void (*opened)(struct file_transfer *transfer, const struct msg_file_opened *opened);
	/* The answer to a slot; it is no longer outstanding. */
	int (*answered)(struct file_transfer *transfer, struct file_slot *slot,
			const struct frame *frame, struct ramet_err *err);
	/* Goes on wherever it can; called from the loop. */
	void (*proceed)(struct file_transfer *transfer);
};

struct file_transfer {
	struct agent_waiter waiter;   /* first */
	struct agent_request control; /* open, close or list */
	struct file_set *set;
	const struct file_kind_ops *ops;
	LIST_ENTRY(file_transfer) link;
	struct file_callbacks callbacks;
	void *arg;
	bool abandoned;         /* no callback any more */
	bool ending;            /* `done` is being called */
	bool open;              /* the guest holds `handle` */
	bool closing;           /* MSG_FILE_CLOSE went out */
	struct ramet_err error; /* the first; the handle is closed without effect */
	uint32_t handle;
	uint64_t start_ns;
	sd_event_source *stall;

	struct file_slot slots[FILE_REQUESTS_MAX]; /* a ring, oldest at slot_first */
	unsigned int slot_first, slot_count;

	XXH3_state_t *hash;
	uint64_t size;     /* download: announced; list: entries so far */
	uint64_t asked;    /* download: bytes asked for */
	uint64_t moved;    /* bytes received, or sent; hashed */
	uint64_t consumed; /* download: by the caller */

	char *chunk; /* upload: bytes not yet sent */
	size_t chunk_used;
	bool finished;       /* upload: file_finish() was called */
	bool wants_writable; /* upload: file_write() took less than offered */
};

/* Checks the path and the number of transfers and makes one. */
int file_make(struct file_set *set, const struct file_kind_ops *ops, const char *path,
	      const struct file_callbacks *callbacks, void *arg, struct file_transfer **transfer,
	      struct ramet_err *err);
void file_unmake(struct file_transfer *transfer);

/* Sends MSG_FILE_OPEN. */
int file_open(struct file_transfer *transfer, const char *path, uint32_t flags, uint32_t mode,
	      struct ramet_err *err);

/* Sends a read or write in the next free slot; there must be one. A failure
 * ends the connection, as the conversation cannot go on. */
void file_slot_send(struct file_transfer *transfer, uint8_t type, uint32_t length,
		    const void *fixed, size_t fixed_length, const void *data);
bool file_slot_free(const struct file_transfer *transfer);

/* Notes an error; the transfer ends with it once the handle is closed. */
void file_fail(struct file_transfer *transfer, const struct ramet_err *err);

/* Closes the handle: with the hash when all went well, else without effect. */
void file_close_handle(struct file_transfer *transfer);

/* Tells the caller, once, and frees. */
void file_end(struct file_transfer *transfer, const struct file_result *result,
	      const struct ramet_err *err);

/* Restarts the time the guest has for the next answer. */
void file_progress(struct file_transfer *transfer);

#endif
