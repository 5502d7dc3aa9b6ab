/* The state directory: see state.h. */
#include "engine/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "lib/cleanup.h"
#include "lib/log.h"

#define RUN_NAME        "run"
#define LOCK_NAME       "lock"
/* Nothing the daemon makes nests deeper; a bound for what it finds. */
#define CLEAN_DEPTH_MAX 16

struct state {
	int dir_fd;
	int run_fd;
	int lock_fd;
	char cgroup_name[32];
	char *run_dir;
};

/* The start time of a process (field 22 of /proc/<pid>/stat, proc(5)), which
 * together with its pid names it for good. 0 when there is no such process. */
static unsigned long long process_start(int pid)
{
	unsigned long long start = 0;
	cleanup_file FILE *file = NULL;
	char path[40], line[1024];
	char *field;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	if (!file || !fgets(line, sizeof(line), file))
		return 0;
	field = strrchr(line, ')'); /* the name before it may hold anything */
	for (int i = 2; field && i < 22; i++)
		field = strchr(field + 1, ' ');
	if (field)
		start = strtoull(field + 1, NULL, 10);
	return start;
}

/* Says who holds the lock, if the one who wrote the file is still the same. */
static int lock_refused(int fd, const char *dir, struct ramet_err *err)
{
	unsigned long long start = 0;
	char text[64] = "";
	int pid = 0;

	if (pread(fd, text, sizeof(text) - 1, 0) > 0 &&
	    sscanf(text, "%d %llu", &pid, &start) == 2 && pid > 0 && start &&
	    process_start(pid) == start)
		return err_set(err, EBUSY,
			       "state directory %s is in use by the daemon with pid %d; stop it or "
			       "choose another directory",
			       dir, pid);
	return err_set(err, EBUSY,
		       "state directory %s is in use by another daemon; stop it or choose another "
		       "directory",
		       dir);
}

static int state_lock(struct state *state, const char *dir, struct ramet_err *err)
{
	char text[64];
	int n;

	state->lock_fd =
		openat(state->dir_fd, LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (state->lock_fd < 0)
		return err_errno(err, errno, "cannot open %s/%s", dir, LOCK_NAME);
	if (flock(state->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno == EWOULDBLOCK)
			return lock_refused(state->lock_fd, dir, err);
		return err_errno(err, errno, "cannot lock %s/%s", dir, LOCK_NAME);
	}
	n = snprintf(text, sizeof(text), "%d %llu\n", (int)getpid(), process_start(getpid()));
	if (ftruncate(state->lock_fd, 0) < 0 || pwrite(state->lock_fd, text, (size_t)n, 0) != n)
		return err_errno(err, errno, "cannot write %s/%s", dir, LOCK_NAME);
	return 0;
}

static int clean_directory(int parent_fd, const char *name, int depth, unsigned int *removed);

/* Removes one entry, whatever it is. */
static int clean_entry(int dir_fd, const char *name, int depth, unsigned int *removed)
{
	if (unlinkat(dir_fd, name, 0) == 0) {
		(*removed)++;
		return 0;
	}
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	if (depth >= CLEAN_DEPTH_MAX)
		return -ELOOP;
	if (clean_directory(dir_fd, name, depth + 1, removed) < 0)
		return -EIO;
	return unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

/* Empties a directory below `parent_fd`; never follows a link. */
static int clean_directory(int parent_fd, const char *name, int depth, unsigned int *removed)
{
	int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct dirent *entry;
	int r = 0;
	DIR *dir;

	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir) {
		(void)close(fd);
		return -ENOMEM;
	}
	while (r == 0 && (entry = readdir(dir))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (depth == 0 && !strncmp(entry->d_name, "sbx_", 4))
			log_warn("sandbox %s of the previous daemon is gone", entry->d_name);
		r = clean_entry(fd, entry->d_name, depth, removed);
	}
	(void)closedir(dir);
	return r;
}

static int state_open_run(struct state *state, const char *dir, struct ramet_err *err)
{
	unsigned int removed = 0;
	int r;

	if (mkdirat(state->dir_fd, RUN_NAME, 0700) < 0 && errno != EEXIST)
		return err_errno(err, errno, "cannot make %s/%s", dir, RUN_NAME);
	r = clean_directory(state->dir_fd, RUN_NAME, 0, &removed);
	if (r < 0)
		return err_errno(err, -r, "cannot clean %s/%s", dir, RUN_NAME);
	state->run_fd =
		openat(state->dir_fd, RUN_NAME, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (state->run_fd < 0)
		return err_errno(err, errno, "cannot open %s/%s", dir, RUN_NAME);
	return 0;
}

/* The name must stay the same over restarts and differ between directories,
 * also between equal paths in different mount namespaces. */
static int state_name(struct state *state, const char *dir, struct ramet_err *err)
{
	char real[PATH_MAX];
	struct stat st;
	uint64_t hash;

	if (!realpath(dir, real) || fstat(state->dir_fd, &st) < 0)
		return err_errno(err, errno, "cannot resolve %s", dir);
	hash = XXH64(real, strlen(real), (uint64_t)st.st_ino ^ ((uint64_t)st.st_dev << 32));
	(void)snprintf(state->cgroup_name, sizeof(state->cgroup_name), "ramet-%016llx",
		       (unsigned long long)hash);
	if (asprintf(&state->run_dir, "%s/%s", real, RUN_NAME) < 0) {
		state->run_dir = NULL;
		return err_set(err, ENOMEM, "no memory for the state directory");
	}
	return 0;
}

int state_open(const char *dir, struct state **state, struct ramet_err *err)
{
	struct state *s;
	int r;

	if (!dir || dir[0] != '/')
		return err_set(err, EINVAL, "the state directory must be an absolute path");
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(err, ENOMEM, "no memory for the state directory");
	s->run_fd = -1;
	s->lock_fd = -1;
	if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
		r = err_errno(err, errno, "cannot make the state directory %s", dir);
		free(s);
		return r;
	}
	s->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = s->dir_fd < 0 ? err_errno(err, errno, "cannot open the state directory %s", dir) : 0;
	if (r == 0)
		r = state_lock(s, dir, err);
	if (r == 0)
		r = state_name(s, dir, err);
	if (r == 0)
		r = state_open_run(s, dir, err);
	if (r < 0) {
		state_close(s);
		return r;
	}
	*state = s;
	return 0;
}

void state_close(struct state *state)
{
	unsigned int removed = 0;

	if (!state)
		return;
	if (state->run_fd >= 0) {
		(void)clean_directory(state->dir_fd, RUN_NAME, 1, &removed);
		(void)unlinkat(state->dir_fd, RUN_NAME, AT_REMOVEDIR);
	}
	close_fd(&state->run_fd);
	close_fd(&state->lock_fd); /* unlocks */
	close_fd(&state->dir_fd);
	free(state->run_dir);
	free(state);
}

const char *state_cgroup_name(const struct state *state)
{
	return state->cgroup_name;
}

const char *state_run_dir(const struct state *state)
{
	return state->run_dir;
}

int state_record(struct state *state, const char *id, struct ramet_err *err)
{
	if (linkat(state->dir_fd, LOCK_NAME, state->run_fd, id, 0) < 0)
		return err_errno(err, errno, "cannot record sandbox %s", id);
	return 0;
}

void state_forget(struct state *state, const char *id)
{
	if (unlinkat(state->run_fd, id, 0) < 0 && errno != ENOENT)
		log_warn("cannot remove the record of sandbox %s", id);
}
