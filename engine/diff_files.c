/* Merging the walks through the files of two guests: see diff.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/diff.h"
#include "lib/cleanup.h"
#include "lib/clock.h"

#define PERMISSIONS 07777u

static struct diff_side side_of(const struct tree_entry *entry)
{
	return (struct diff_side){
		.size = entry->size,
		.mtime_ns = entry->mtime_ns,
		.mode = entry->mode,
		.uid = entry->uid,
		.gid = entry->gid,
	};
}

/* What differs; 0: nothing. Times do not count. */
static unsigned int what_differs(const struct tree_entry *a, const struct tree_entry *b)
{
	unsigned int what = 0;

	if ((a->mode & S_IFMT) != (b->mode & S_IFMT))
		return DIFF_KIND;
	if ((a->flags | b->flags) & TREE_UNREADABLE)
		what |= DIFF_UNREADABLE;
	else if (a->size != b->size || memcmp(a->hash, b->hash, sizeof(a->hash)) != 0)
		what |= DIFF_CONTENT;
	if ((a->mode & PERMISSIONS) != (b->mode & PERMISSIONS))
		what |= DIFF_MODE;
	if (a->uid != b->uid || a->gid != b->gid)
		what |= DIFF_OWNER;
	return what;
}

static int entry_add(struct diff *diff, const struct walk_entry *a, const struct walk_entry *b,
		     unsigned int what, struct ramet_err *err)
{
	const struct limits *limits = &diff->engine->limits;
	const struct walk_entry *any = a ? a : b;
	struct diff_entry *entry;
	char *path;

	if (!any)
		return 0; /* there is always one */
	diff->path_bytes += any->entry.path_length;
	if (diff->count >= limits->diff_changes || diff->path_bytes > limits->diff_change_bytes)
		return err_set(
			err, E2BIG,
			"more than %zu files differ, or their paths take more than %zu MiB "
			"(limits diff_changes, diff_change_bytes): name the paths that matter",
			limits->diff_changes, limits->diff_change_bytes / MIB);
	if (diff->count == diff->room) {
		size_t room = diff->room ? 2 * diff->room : 64;
		struct diff_entry *grown = realloc(diff->entries, room * sizeof(*grown));

		if (!grown)
			return err_set(err, ENOMEM, "no memory to compare sandboxes");
		diff->entries = grown;
		diff->room = room;
	}
	path = strndup(any->path, any->entry.path_length);
	if (!path)
		return err_set(err, ENOMEM, "no memory to compare sandboxes");
	entry = &diff->entries[diff->count++];
	*entry = (struct diff_entry){ .path = path, .what = what };
	entry->change = !a ? DIFF_ADDED : !b ? DIFF_REMOVED : DIFF_MODIFIED;
	if (a)
		entry->sides[0] = side_of(&a->entry);
	if (b)
		entry->sides[1] = side_of(&b->entry);
	return 0;
}

/* Takes one entry of the walk in; -E2BIG. */
static int walk_pass(struct diff_guest *guest, const struct walk_entry *entry,
		     struct ramet_err *err)
{
	const struct walk_roots *roots = &guest->diff->roots;
	uint64_t most = guest->diff->engine->limits.diff_entries;

	if (entry->entry.path_length == strlen(roots->paths[entry->root]))
		guest->diff->root_seen[entry->root] = true;
	walk_next(guest->walk);
	if (++guest->walked > most)
		return err_set(err, E2BIG,
			       "sandbox %s has more than %llu files (limit diff_entries): name the "
			       "paths that matter",
			       guest->id, (unsigned long long)most);
	return 0;
}

/* One step of the merge: the smaller path of the two, or both. */
static int merge_step(struct diff *diff, const struct walk_entry *a, const struct walk_entry *b,
		      struct ramet_err *err)
{
	int order = !a ? 1 : !b ? -1 : 0;
	unsigned int what = 0;
	int r = 0;

	if (a && b)
		order = walk_compare(a->path, a->entry.path_length, b->path, b->entry.path_length);
	if (order < 0)
		b = NULL;
	else if (order > 0)
		a = NULL;
	if (a && b)
		what = what_differs(&a->entry, &b->entry);
	if (!a || !b || what)
		r = entry_add(diff, a, b, what, err);
	if (r == 0 && a)
		r = walk_pass(&diff->guests[0], a, err);
	if (r == 0 && b)
		r = walk_pass(&diff->guests[1], b, err);
	return r;
}

/* The sandboxes that were compared are still those of these ids. */
static int guests_check(struct diff *diff, struct ramet_err *err)
{
	for (size_t i = 0; i < 2; i++) {
		const struct diff_guest *guest = &diff->guests[i];
		const struct sandbox *s = engine_sandbox_find(diff->engine, guest->id);

		if (!s || memcmp(s->generation, guest->generation, sizeof(s->generation)) != 0)
			return err_set(err, ECANCELED,
				       "sandbox %s was closed or merged while it was compared",
				       guest->id);
	}
	return 0;
}

static void files_finish(struct diff *diff)
{
	uint64_t now = clock_monotonic_ns();
	struct diff_result result = {
		.count = diff->count,
		.entries = diff->entries,
		.walked = { diff->guests[0].walked, diff->guests[1].walked },
		.memory = diff->memory,
		.memory_ns = diff->files_ns - diff->start_ns,
		.files_ns = now - diff->files_ns,
		.total_ns = now - diff->start_ns,
	};
	struct ramet_err err;
	int r = guests_check(diff, &err);

	for (size_t i = 0; r == 0 && i < diff->roots.count; i++)
		if (!diff->root_seen[i])
			r = err_set(&err, ENOENT, "%.400s is in neither of the sandboxes",
				    diff->roots.paths[i]);
	diff_end(diff, r < 0 ? NULL : &result, r < 0 ? &err : NULL);
}

static void files_arrived(void *arg)
{
	struct diff_guest *from = arg;
	struct diff *diff = from->diff;
	struct ramet_err err;
	int r = 0;

	if (!diff->guests[0].walk || !diff->guests[1].walk)
		return;
	while (r == 0) {
		struct walk_entry entries[2];
		enum walk_state a = walk_peek(diff->guests[0].walk, &entries[0]);
		enum walk_state b = walk_peek(diff->guests[1].walk, &entries[1]);

		if (a == WALK_WAIT || b == WALK_WAIT)
			return;
		if (a == WALK_END && b == WALK_END) {
			files_finish(diff);
			return;
		}
		r = merge_step(diff, a == WALK_ENTRY ? &entries[0] : NULL,
			       b == WALK_ENTRY ? &entries[1] : NULL, &err);
	}
	diff_end(diff, NULL, &err);
}

static void files_failed(void *arg, const struct ramet_err *err)
{
	diff_fail(arg, err);
}

int diff_files_start(struct diff *diff, struct ramet_err *err)
{
	static const struct walk_callbacks callbacks = { files_arrived, files_failed };
	int r = guests_check(diff, err);

	diff->files_ns = clock_monotonic_ns();
	for (size_t i = 0; r == 0 && i < 2; i++) {
		struct diff_guest *guest = &diff->guests[i];
		struct sandbox *s = engine_sandbox_find(diff->engine, guest->id);

		r = sandbox_check_ready(s, err);
		if (r == 0)
			r = walk_start(s->agent, &diff->roots, &callbacks, guest, &guest->walk,
				       err);
	}
	return r;
}
