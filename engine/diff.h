/* Comparing two sandboxes, between engine/diff*.c. First their memory, because
 * looking at files changes some; then their files, as two walks (walk.h) that
 * are merged as they come in. */
#ifndef RAMET_ENGINE_DIFF_H
#define RAMET_ENGINE_DIFF_H

#include "engine/internal.h"
#include "engine/walk.h"

/* One of the two sandboxes. Neither is held on to: it may end or be merged. */
struct diff_guest {
	struct diff *diff;
	char id[SANDBOX_ID_MAX];
	uint8_t generation[16];
	struct worker_stats stats;
	struct memory *memory; /* of the moment when its worker was asked */
	int bitmap_fd;         /* -1: its memory is not compared */
	bool counted;          /* its worker has answered */
	uint64_t own_pages;
	struct walk *walk;
	uint64_t walked;
};

struct diff {
	struct engine *engine;
	struct diff_guest guests[2];
	struct walk_roots roots;
	bool root_seen[TREE_ROOTS_MAX];
	diff_cb done;
	void *arg;
	sd_event_source *deadline;
	struct diff_memory memory;
	struct diff_entry *entries;
	size_t count, room;
	size_t path_bytes;
	uint64_t start_ns, files_ns; /* when each part began */
};

/* Tells the caller, once, and frees. */
void diff_end(struct diff *diff, const struct diff_result *result, const struct ramet_err *err);
/* The same with an error about one of the two. */
void diff_fail(struct diff_guest *guest, const struct ramet_err *err);

/* Asks both workers; diff_files_start() follows. engine/diff_memory.c */
int diff_memory_start(struct diff *diff, struct sandbox *const sandboxes[2], struct ramet_err *err);
void diff_memory_clear(struct diff_guest *guest);

/* Walks both; the end follows. engine/diff_files.c */
int diff_files_start(struct diff *diff, struct ramet_err *err);

#endif
