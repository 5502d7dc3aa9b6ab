/* One open directory of a walk: its names, sorted. */
#ifndef RAMET_GUEST_TREE_LEVEL_H
#define RAMET_GUEST_TREE_LEVEL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TREE_NAMES_MAX (32u << 20) /* bytes, of all open directories of a walk */

struct tree_level {
	int fd; /* owned; for openat(2) */
	dev_t device;
	size_t path_length; /* of the directory's path */
	char *text;         /* a type and a name with NUL, again and again */
	char **names;       /* into it, sorted by their bytes */
	size_t count, next; /* next: not visited yet */
	size_t bytes;       /* memory that text and names take */
};

/* Reads the names in the directory `fd`, which stays the caller's. `held`: bytes
 * of names already in memory. 0, -E2BIG beyond TREE_NAMES_MAX, -ENOMEM, or what
 * getdents64(2) says, and then the names that it gave before. */
int tree_level_read(struct tree_level *level, int fd, size_t held);

/* The DT_ type of one of level->names, which may be DT_UNKNOWN. */
static inline uint8_t tree_level_type(const char *name)
{
	return (uint8_t)name[-1];
}

void tree_level_free(struct tree_level *level);

#endif
