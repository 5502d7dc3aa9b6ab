/* A walk through files, in a process of its own: see tree.h and struct msg_tree.
 * Nothing here touches the agent. */
#ifndef RAMET_GUEST_TREE_WALK_H
#define RAMET_GUEST_TREE_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "guest/protocol.h"

struct tree_job {
	uint32_t root_count;
	const char *roots[TREE_ROOTS_MAX];
	const char *leave_out; /* a directory that is not walked; NULL: none */
};

/* Walks and sends datagrams to `fd` until the end or an error, either being the
 * last of them. Exits when nobody reads. */
void tree_walk(int fd, const struct tree_job *job);

/* ---- tree_content.c ---- */

/* Hashes what is open at `fd` up to st->st_size; *size is how far that was.
 * `buffer` has TREE_READ_SIZE bytes. 0 or -errno. */
#define TREE_READ_SIZE (4 * TREE_BLOCK)
int tree_hash_file(int fd, const struct stat *st, uint8_t *buffer, uint64_t *size,
		   uint64_t hash[2]);
void tree_hash_bytes(const void *data, size_t length, uint64_t hash[2]);

/* ---- tree_mounts.c ---- */

/* File systems that hold no files of the guest's own, by device number. */
struct tree_mounts {
	size_t count, room;
	struct tree_mount {
		dev_t device;
		char type[32];
	} * virtual;
};

/* Reads /proc/self/mountinfo. 0 or -errno. */
int tree_mounts_read(struct tree_mounts *mounts);
/* The type of the virtual file system on `device`; NULL: it is none. */
const char *tree_mounts_virtual(const struct tree_mounts *mounts, dev_t device);

#endif
