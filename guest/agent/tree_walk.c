/* The walk itself: see tree_walk.h. One level per directory that is open; the
 * names of each are in memory, sorted. */
#include "guest/agent/tree_walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/agent/tree_level.h"
#include "guest/agent/util.h"

/* A path is at most 4095 bytes, so no deeper than this; one descriptor each. */
#define DEPTH_MAX (PATH_LENGTH_MAX / 2 + 2)

struct page {
	uint32_t type;
	uint8_t payload[TREE_PAGE_MAX];
};

struct walk {
	int fd;
	const char *leave_out;
	struct tree_mounts mounts;
	struct tree_level levels[DEPTH_MAX];
	size_t depth;
	size_t names; /* bytes held by all levels */
	char path[PATH_LENGTH_MAX + 1];
	size_t length;
	struct page page;
	size_t used;    /* of the page's payload */
	uint32_t count; /* entries in it */
	uint8_t buffer[TREE_READ_SIZE];
};

/* ---- to the agent ---- */

static void page_send(struct walk *walk, uint32_t type, size_t length)
{
	walk->page.type = type;
	if (send(walk->fd, &walk->page, sizeof(walk->page.type) + length, MSG_NOSIGNAL) < 0)
		_exit(1); /* the agent is gone */
}

static void page_flush(struct walk *walk)
{
	struct msg_tree_entries head = { .count = walk->count };

	memcpy(walk->page.payload, &head, sizeof(head));
	page_send(walk, MSG_TREE_ENTRIES, walk->used);
	walk->used = sizeof(head);
	walk->count = 0;
}

/* The walk ends with this. */
__attribute__((format(printf, 3, 4))) _Noreturn static void walk_fail(struct walk *walk, int code,
								      const char *fmt, ...)
{
	struct msg_error error = { .code = (uint32_t)code };
	char *text = (char *)walk->page.payload + sizeof(error);
	va_list ap;

	memcpy(walk->page.payload, &error, sizeof(error));
	va_start(ap, fmt);
	(void)vsnprintf(text, 512, fmt, ap);
	va_end(ap);
	page_send(walk, MSG_ERROR, sizeof(error) + strlen(text));
	_exit(0);
}

static void entry_put(struct walk *walk, const struct stat *st, const struct tree_entry *content)
{
	struct tree_entry entry = *content;

	entry.mtime_ns = st->st_mtim.tv_sec * (int64_t)NS_PER_S + st->st_mtim.tv_nsec;
	entry.mode = st->st_mode;
	entry.uid = st->st_uid;
	entry.gid = st->st_gid;
	entry.path_length = (uint16_t)walk->length;
	if (walk->used + sizeof(entry) + walk->length > TREE_PAGE_MAX)
		page_flush(walk);
	memcpy(walk->page.payload + walk->used, &entry, sizeof(entry));
	walk->used += sizeof(entry);
	memcpy(walk->page.payload + walk->used, walk->path, walk->length);
	walk->used += walk->length;
	walk->count++;
}

/* ---- one entry ---- */

/* Not to be seen in the times of the files; only their owner and root may. */
static int open_quietly(int dir, const char *name, int flags)
{
	int fd;

	flags |= O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
	fd = openat(dir, name, flags | O_NOATIME);
	return fd < 0 && errno == EPERM ? openat(dir, name, flags) : fd;
}

static void link_put(struct walk *walk, int dir, const char *name, const struct stat *st)
{
	struct tree_entry content = { 0 };
	ssize_t n = readlinkat(dir, name, (char *)walk->buffer, sizeof(walk->buffer));

	if (n < 0 && errno == ENOENT)
		return;
	if (n < 0)
		content.flags = TREE_UNREADABLE;
	else
		tree_hash_bytes(walk->buffer, (size_t)n, content.hash);
	entry_put(walk, st, &content);
}

/* Regular files that did not open, and all that is no directory. */
static void other_put(struct walk *walk, int dir, const char *name)
{
	struct tree_entry content = { 0 };
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return; /* gone */
	if (S_ISLNK(st.st_mode)) {
		link_put(walk, dir, name, &st);
		return;
	}
	if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode))
		content.flags = TREE_UNREADABLE;
	if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode))
		tree_hash_bytes(&st.st_rdev, sizeof(st.st_rdev), content.hash);
	entry_put(walk, &st, &content);
}

static void file_put(struct walk *walk, int dir, const char *name)
{
	cleanup_close int fd = open_quietly(dir, name, 0);
	struct tree_entry content = { 0 };
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		other_put(walk, dir, name);
		return;
	}
	if (tree_hash_file(fd, &st, walk->buffer, &content.size, content.hash) < 0)
		content = (struct tree_entry){ .flags = TREE_UNREADABLE };
	entry_put(walk, &st, &content);
}

/* Whether what is below the directory of `st` belongs to the walk. */
static bool enters(const struct walk *walk, const struct stat *st)
{
	if (walk->depth && st->st_dev == walk->levels[walk->depth - 1].device)
		return true;
	return !tree_mounts_virtual(&walk->mounts, st->st_dev);
}

static void directory_put(struct walk *walk, int dir, const char *name)
{
	cleanup_close int fd = open_quietly(dir, name, O_DIRECTORY);
	struct tree_level level = { .fd = -1 };
	struct tree_entry content = { 0 };
	struct stat st;
	int err;

	if (fd < 0 || fstat(fd, &st) < 0) {
		other_put(walk, dir, name);
		return;
	}
	if (!enters(walk, &st)) {
		entry_put(walk, &st, &content);
		return;
	}
	err = tree_level_read(&level, fd, walk->names);
	if (err == -E2BIG)
		walk_fail(walk, E2BIG, "%.300s: the names in it and above it take more than %u MiB",
			  walk->path, TREE_NAMES_MAX >> 20);
	if (err == -ENOMEM)
		walk_fail(walk, ENOMEM, "%.300s: no memory in the guest", walk->path);
	if (err)
		content.flags = TREE_UNREADABLE;
	entry_put(walk, &st, &content);
	level.fd = take_fd(&fd);
	level.device = st.st_dev;
	level.path_length = walk->length;
	walk->names += level.bytes;
	walk->levels[walk->depth++] = level;
}

/* walk->path is the entry's, `name` the end of it below `dir`. */
static void visit(struct walk *walk, int dir, const char *name, uint8_t type)
{
	struct stat st;

	if (walk->depth && walk->leave_out && !strcmp(walk->path, walk->leave_out))
		return;
	if (type == DT_UNKNOWN) {
		if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return;
		type = (uint8_t)IFTODT(st.st_mode);
	}
	if (type == DT_DIR)
		directory_put(walk, dir, name);
	else if (type == DT_REG)
		file_put(walk, dir, name);
	else
		other_put(walk, dir, name);
}

/* ---- all of them ---- */

static void path_set(struct walk *walk, size_t parent_length, const char *name)
{
	size_t length = strlen(name);

	if (parent_length == 1) /* "/" */
		parent_length = 0;
	if (parent_length + 1 + length > PATH_LENGTH_MAX)
		walk_fail(walk, ENAMETOOLONG, "%.300s...: below it are paths longer than %u bytes",
			  walk->path, PATH_LENGTH_MAX);
	walk->path[parent_length] = '/';
	memcpy(walk->path + parent_length + 1, name, length + 1);
	walk->length = parent_length + 1 + length;
}

static void levels_walk(struct walk *walk)
{
	while (walk->depth) {
		struct tree_level *level = &walk->levels[walk->depth - 1];

		walk->path[level->path_length] = '\0';
		if (level->next < level->count) {
			const char *name = level->names[level->next++];

			path_set(walk, level->path_length, name);
			visit(walk, level->fd, name, tree_level_type(name));
		} else {
			walk->names -= level->bytes;
			tree_level_free(level);
			walk->depth--;
		}
	}
}

static void root_walk(struct walk *walk, const char *root)
{
	const char *type;
	struct stat st;

	walk->length = strlen(root);
	memcpy(walk->path, root, walk->length + 1);
	if (lstat(root, &st) < 0) {
		if (errno == ENOENT || errno == ENOTDIR)
			return;
		walk_fail(walk, errno, "%.300s: %s", root, strerror(errno));
	}
	type = tree_mounts_virtual(&walk->mounts, st.st_dev);
	if (type)
		walk_fail(walk, EINVAL, "%.300s is on a virtual file system (%s)", root, type);
	visit(walk, AT_FDCWD, root, DT_UNKNOWN);
	levels_walk(walk);
}

void tree_walk(int fd, const struct tree_job *job)
{
	struct walk *walk = calloc(1, sizeof(*walk));
	struct rlimit files;
	int err;

	if (!walk)
		_exit(1); /* which the agent reports */
	walk->fd = fd;
	walk->leave_out = job->leave_out;
	walk->used = sizeof(struct msg_tree_entries);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	err = tree_mounts_read(&walk->mounts);
	if (err)
		walk_fail(walk, -err, "cannot read the list of mounts: %s", strerror(-err));
	for (uint32_t i = 0; i < job->root_count; i++)
		root_walk(walk, job->roots[i]);
	if (walk->count)
		page_flush(walk);
	page_flush(walk);
}
