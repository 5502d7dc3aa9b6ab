/* Files of the guest, opened, moved in pieces and listed for the host.
 *
 * Only regular files are read and written. Relative paths start at the home
 * directory. A write goes to a temporary name in the target's directory and
 * takes the target's name at a successful close, so that others see the old
 * content or the new and never a part; a symbolic link stays and the file it
 * leads to is replaced; an existing file keeps its permission bits. */
#ifndef RAMET_GUEST_FILES_H
#define RAMET_GUEST_FILES_H

#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "guest/agent/frame.h"

struct agent;

struct file {
	int fd; /* -1: the slot is free */
	bool writes;
	int failed;      /* -errno of a failed write; such a file cannot be kept */
	uint64_t size;   /* bytes read or written so far */
	char *target;    /* writes: where it goes */
	char *temporary; /* writes: what it is called until then */
	XXH3_state_t hash;
};

struct files {
	struct file slots[FILE_HANDLES_MAX];
};

void files_init(struct agent *agent);

/* Requests; each sends its answer. */
void file_open(struct agent *agent, const struct frame *frame);
void file_read(struct agent *agent, const struct frame *frame);
void file_write(struct agent *agent, const struct frame *frame);
void file_close(struct agent *agent, const struct frame *frame);

/* Closes everything; unfinished writes leave no trace. */
void files_close_all(struct agent *agent);

/* Copies the path that ends the payload at `offset`. Returns it (the caller's
 * to free), or NULL with MSG_ERROR sent. */
char *file_path(struct agent *agent, const struct frame *frame, size_t offset);

/* A listing that is being sent; one at a time. */
struct listing {
	DIR *dir; /* NULL: none */
	uint32_t id;
};

void listing_start(struct agent *agent, const struct frame *frame);

/* Sends entries while there is room; further requests wait until it is done. */
void listing_progress(struct agent *agent);
void listing_abandon(struct agent *agent);

#endif
