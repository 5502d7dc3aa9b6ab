/* One guest's answer to MSG_TREE as a stream of entries, in order.
 *
 * The guest is hostile: an entry that is out of order, outside of what was asked
 * for or beyond the credit ends its connection. At most a window of pages is
 * held at a time. */
#ifndef RAMET_ENGINE_WALK_H
#define RAMET_ENGINE_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/agent.h"
#include "engine/limits.h"

/* Paths that are walked: normal, in the order of walk_compare(), none of them
 * below another. */
struct walk_roots {
	size_t count; /* 1..TREE_ROOTS_MAX */
	char *paths[TREE_ROOTS_MAX];
};

/* Takes absolute paths in any order; none at all means "/". -EINVAL: not
 * absolute, or ".." in it; -E2BIG: too many; -ENAMETOOLONG; -ENOMEM. On error
 * nothing is left to free. */
int walk_roots_set(struct walk_roots *roots, const char *const *paths, size_t count,
		   const struct limits *limits, struct ramet_err *err);
void walk_roots_free(struct walk_roots *roots);

/* The order of a walk: that of bytes, but '/' before all others. */
int walk_compare(const char *a, size_t a_length, const char *b, size_t b_length);

struct walk_entry {
	struct tree_entry entry;
	const char *path; /* not ended by NUL; until walk_next() */
	size_t root;      /* the one it is, or is below */
};

enum walk_state {
	WALK_WAIT,  /* for the guest; `arrived` follows */
	WALK_ENTRY, /* there is one */
	WALK_END,   /* there are no more */
};

struct walk;

struct walk_callbacks {
	void (*arrived)(void *arg);
	/* Once, instead of an end; then there is nothing but walk_free(). */
	void (*failed)(void *arg, const struct ramet_err *err);
};

/* `roots` must outlive the walk. */
int walk_start(struct agent *agent, const struct walk_roots *roots,
	       const struct walk_callbacks *callbacks, void *arg, struct walk **walk,
	       struct ramet_err *err);

enum walk_state walk_peek(const struct walk *walk, struct walk_entry *entry);
void walk_next(struct walk *walk); /* passes the entry that walk_peek() showed */

/* Lets go of it, at any time; the guest is told to stop. NULL is fine. */
void walk_free(struct walk *walk);

#endif
