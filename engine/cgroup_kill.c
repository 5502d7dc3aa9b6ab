/* Killing what is in a group and waiting for it; removing whole directories of
 * groups that a killed daemon left. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/cgroup.h"
#include "engine/cgroup_file.h"
#include "lib/cleanup.h"
#include "lib/clock.h"

/* Waits until `fd` has one of `events`, or the deadline. 0 or -errno. */
static int event_wait(int fd, short events, uint64_t deadline_ns)
{
	struct pollfd p = { .fd = fd, .events = events };
	int ret;

	do {
		uint64_t now = clock_monotonic_ns();
		uint64_t left = now < deadline_ns ? deadline_ns - now : 0;
		struct timespec ts = { .tv_sec = (time_t)(left / 1000000000u),
				       .tv_nsec = (long)(left % 1000000000u) };

		ret = ppoll(&p, 1, &ts, NULL);
	} while (ret < 0 && errno == EINTR);
	return ret < 0 ? -errno : ret == 0 ? -ETIMEDOUT : 0;
}

/* Does `procs` (a cgroup.procs file) list `pid`? */
static bool procs_has(const char *procs, pid_t pid)
{
	cleanup_file FILE *file = fopen(procs, "re");
	int listed;

	while (file && fscanf(file, "%d", &listed) == 1)
		if (listed == pid)
			return true;
	return false;
}

/* Kills one listed process. The pidfd pins it; being listed still, after the
 * pidfd was opened, proves that its number was not reused. */
static int process_kill(const char *procs, pid_t pid, uint64_t deadline_ns)
{
	cleanup_close int pidfd = pidfd_open(pid, 0);

	if (pidfd < 0)
		return errno == ESRCH ? 0 : -errno;
	if (!procs_has(procs, pid))
		return 0;
	if (pidfd_send_signal(pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
		return -errno;
	return event_wait(pidfd, POLLIN, deadline_ns);
}

/* Kills what a cgroup.procs file lists until it is empty: a process may fork
 * until it dies, hence the loop; each round waits for a death. */
static int procs_kill(const char *procs, uint64_t deadline_ns)
{
	for (;;) {
		cleanup_file FILE *file = fopen(procs, "re");
		int pid, ret;

		if (!file)
			return errno == ENOENT ? 0 : -errno;
		if (fscanf(file, "%d", &pid) != 1)
			return 0;
		if (pid == 0) /* in a pid namespace that we cannot see into */
			return -EPERM;
		ret = process_kill(procs, pid, deadline_ns);
		if (ret < 0)
			return ret;
		if (clock_monotonic_ns() >= deadline_ns)
			return -ETIMEDOUT;
	}
}

/* v2: one write kills all at once; cgroup.events tells when they are gone. */
static int unified_kill(const char *directory, uint64_t deadline_ns)
{
	char path[CGROUP_PATH_MAX * 2 + 32], text[256];
	cleanup_close int events = -1;
	int ret;

	(void)snprintf(path, sizeof(path), "%s/cgroup.kill", directory);
	ret = cgroup_file_write(path, "1");
	if (ret < 0)
		return ret;
	(void)snprintf(path, sizeof(path), "%s/cgroup.events", directory);
	events = open(path, O_RDONLY | O_CLOEXEC);
	for (;;) {
		ssize_t n = events < 0 ? -1 : pread(events, text, sizeof(text) - 1, 0);

		if (n < 0)
			return -errno;
		text[n] = '\0';
		if (cgroup_key_value(text, "populated") == 0)
			return 0;
		ret = event_wait(events, POLLPRI, deadline_ns);
		if (ret < 0)
			return ret;
	}
}

/* Kills all in one directory of one hierarchy. */
static int directory_kill(int version, const char *directory, uint64_t deadline_ns)
{
	char path[CGROUP_PATH_MAX * 2 + 32];
	int ret = version == 2 ? unified_kill(directory, deadline_ns) : -ENOENT;

	if (ret != -ENOENT)
		return ret;
	/* v1, or v2 before cgroup.kill (5.14). */
	(void)snprintf(path, sizeof(path), "%s/cgroup.procs", directory);
	return procs_kill(path, deadline_ns);
}

int cgroup_kill(const struct cgroup_host *host, const char *name, uint64_t deadline_ns,
		struct ramet_err *err)
{
	for (enum cgroup_controller c = 0; c < CGROUP_CONTROLLERS; c++) {
		char directory[CGROUP_PATH_MAX * 2];
		int ret;

		if (!cgroup_is_first(host, c))
			continue;
		ret = cgroup_path(host, c, name, NULL, directory, sizeof(directory));
		if (ret == 0)
			ret = directory_kill(host->places[c].version, directory, deadline_ns);
		if (ret < 0)
			return err_errno(err, -ret, "cannot kill what is in %s", directory);
	}
	return 0;
}

/* Empties and removes each child of one common directory, then the directory. */
static int tree_remove(int version, const char *directory, uint64_t deadline_ns,
		       struct ramet_err *err)
{
	DIR *dir = opendir(directory);
	const struct dirent *entry;
	int ret = 0;

	if (!dir)
		return errno == ENOENT ? 0 : err_errno(err, errno, "cannot read %s", directory);
	while (ret == 0 && (entry = readdir(dir))) {
		char path[CGROUP_PATH_MAX * 2 + 260];

		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		(void)snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
		if (strlen(path) >= CGROUP_PATH_MAX * 2)
			ret = err_set(err, ENAMETOOLONG, "%s is too long", path);
		else
			ret = directory_kill(version, path, deadline_ns);
		if (ret == 0 && rmdir(path) < 0 && errno != ENOENT)
			ret = -errno;
		if (ret < 0)
			(void)err_errno(err, -ret, "cannot empty and remove the cgroup %s", path);
	}
	(void)closedir(dir);
	if (ret == 0 && rmdir(directory) < 0 && errno != ENOENT)
		ret = err_errno(err, errno, "cannot remove the cgroup %s", directory);
	return ret;
}

int cgroup_host_remove(const struct cgroup_host *host, uint64_t deadline_ns, struct ramet_err *err)
{
	int first = 0;

	for (enum cgroup_controller c = 0; c < CGROUP_CONTROLLERS; c++) {
		char directory[CGROUP_PATH_MAX * 2];
		int ret;

		if (!cgroup_is_first(host, c))
			continue;
		ret = cgroup_path(host, c, NULL, NULL, directory, sizeof(directory));
		if (ret == 0)
			ret = tree_remove(host->places[c].version, directory, deadline_ns,
					  first ? NULL : err);
		if (ret < 0 && first == 0)
			first = ret;
	}
	return first;
}
