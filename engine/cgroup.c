/* Worker groups: create, limits, attach, usage, remove. Detection is in
 * cgroup_host.c, killing in cgroup_kill.c. */
#include "engine/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/cgroup_file.h"
#include "lib/cleanup.h"

#define CPU_PERIOD_US 100000u /* the kernel's default */

int cgroup_name_check(const char *name, struct ramet_err *err)
{
	size_t len = strlen(name);

	if (len == 0 || len >= CGROUP_NAME_MAX || strchr(name, '/') || name[0] == '.')
		return err_set(err, EINVAL,
			       "cgroup name '%.80s': one directory name of 1 to %d characters that "
			       "does not begin with a dot",
			       name, CGROUP_NAME_MAX - 1);
	return 0;
}

int cgroup_path(const struct cgroup_host *host, enum cgroup_controller controller,
		const char *worker, const char *file, char *path, size_t size)
{
	int len = snprintf(path, size, "%s/%s%s%s%s%s", host->places[controller].mount, host->name,
			   worker ? "/" : "", worker ? worker : "", file ? "/" : "",
			   file ? file : "");

	return len < 0 || (size_t)len >= size ? -ENAMETOOLONG : 0;
}

int cgroup_file_write(const char *path, const char *text)
{
	cleanup_close int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = write(fd, text, strlen(text));
	return n < 0 ? -errno : 0;
}

ssize_t cgroup_file_read(const char *path, char *text, size_t size)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, text, size - 1);
	if (n < 0)
		return -errno;
	text[n] = '\0';
	return n;
}

/* Controllers on v2 share one directory: is `c` the first that lives in its own? */
bool cgroup_is_first(const struct cgroup_host *host, enum cgroup_controller c)
{
	if (!host->places[c].version)
		return false;
	for (enum cgroup_controller d = 0; d < c; d++)
		if (host->places[d].version &&
		    !strcmp(host->places[d].mount, host->places[c].mount))
			return false;
	return true;
}

/* ---- limits ---- */

struct setting {
	const char *file;
	char value[48];
	bool optional; /* files that only some kernels have */
};

static size_t memory_settings(const struct cgroup_limits *limits, int version, struct setting *s)
{
	if (!limits->memory_bytes)
		return 0;
	for (int i = 0; i < 2; i++)
		(void)snprintf(s[i].value, sizeof(s[i].value), "%" PRIu64, limits->memory_bytes);
	if (version == 1) {
		s[0].file = "memory.limit_in_bytes";
		s[1].file = "memory.memsw.limit_in_bytes"; /* memory + swap */
	} else {
		s[0].file = "memory.max";
		s[1].file = "memory.swap.max"; /* swap alone */
		(void)strcpy(s[1].value, "0");
	}
	s[1].optional = true; /* needs a kernel that accounts swap */
	return 2;
}

static size_t cpu_settings(const struct cgroup_limits *limits, int version, struct setting *s)
{
	uint64_t quota = (uint64_t)limits->cpu_percent * (CPU_PERIOD_US / 100u);

	if (!limits->cpu_percent)
		return 0;
	if (version == 2) {
		s[0].file = "cpu.max";
		(void)snprintf(s[0].value, sizeof(s[0].value), "%" PRIu64 " %u", quota,
			       CPU_PERIOD_US);
		return 1;
	}
	s[0].file = "cpu.cfs_period_us";
	(void)snprintf(s[0].value, sizeof(s[0].value), "%u", CPU_PERIOD_US);
	s[1].file = "cpu.cfs_quota_us";
	(void)snprintf(s[1].value, sizeof(s[1].value), "%" PRIu64, quota);
	return 2;
}

static size_t pids_settings(const struct cgroup_limits *limits, struct setting *s)
{
	if (!limits->pids)
		return 0;
	s[0].file = "pids.max";
	(void)snprintf(s[0].value, sizeof(s[0].value), "%" PRIu32, limits->pids);
	return 1;
}

int cgroup_limits_set(const struct cgroup_host *host, enum cgroup_controller c, const char *name,
		      const struct cgroup_limits *limits, struct ramet_err *err)
{
	int version = host->places[c].version;
	struct setting settings[2] = { 0 };
	size_t count = c == CGROUP_MEMORY ? memory_settings(limits, version, settings)
		       : c == CGROUP_CPU  ? cpu_settings(limits, version, settings)
					  : pids_settings(limits, settings);

	for (size_t i = 0; i < count; i++) {
		char path[CGROUP_PATH_MAX * 2];
		int ret = cgroup_path(host, c, name, settings[i].file, path, sizeof(path));

		if (ret == 0)
			ret = cgroup_file_write(path, settings[i].value);
		if (ret == -ENOENT && settings[i].optional)
			continue;
		if (ret < 0)
			return err_errno(err, -ret, "cannot set %s to %s for worker %s",
					 settings[i].file, settings[i].value, name);
	}
	return 0;
}

/* ---- groups ---- */

static int directories_make(const struct cgroup_host *host, const char *name,
			    const struct cgroup_limits *limits, bool *made, struct ramet_err *err)
{
	for (enum cgroup_controller c = 0; c < CGROUP_CONTROLLERS; c++) {
		char path[CGROUP_PATH_MAX * 2];
		int ret;

		if (!host->places[c].version)
			continue;
		ret = cgroup_path(host, c, name, NULL, path, sizeof(path));
		if (ret == 0 && cgroup_is_first(host, c)) {
			ret = mkdir(path, 0755) < 0 ? -errno : 0;
			*made |= ret == 0;
		}
		if (ret < 0)
			return err_errno(err, -ret, "cannot make the cgroup %s", path);
		ret = cgroup_limits_set(host, c, name, limits, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int cgroup_create(const struct cgroup_host *host, const char *name,
		  const struct cgroup_limits *limits, struct ramet_err *err)
{
	bool made = false;
	int ret = cgroup_name_check(name, err);

	if (ret < 0)
		return ret;
	ret = directories_make(host, name, limits, &made, err);
	/* The first directory decides whether the name was free, so what exists
	 * once it was made is this call's to remove. */
	if (ret < 0 && made)
		(void)cgroup_remove(host, name, NULL);
	return ret;
}

int cgroup_attach(const struct cgroup_host *host, const char *name, pid_t pid,
		  struct ramet_err *err)
{
	char text[16];

	(void)snprintf(text, sizeof(text), "%d", pid);
	for (enum cgroup_controller c = 0; c < CGROUP_CONTROLLERS; c++) {
		char path[CGROUP_PATH_MAX * 2];
		int ret;

		if (!cgroup_is_first(host, c))
			continue;
		ret = cgroup_path(host, c, name, "cgroup.procs", path, sizeof(path));
		if (ret == 0)
			ret = cgroup_file_write(path, text);
		if (ret < 0)
			return err_errno(err, -ret, "cannot move process %d to %s", pid, path);
	}
	return 0;
}

int cgroup_weight_set(const struct cgroup_host *host, const char *name, unsigned int percent)
{
	int version = host->places[CGROUP_CPU].version;
	char path[CGROUP_PATH_MAX * 2], text[16];

	if (!version)
		return -ENOENT;
	if (cgroup_path(host, CGROUP_CPU, name, version == 1 ? "cpu.shares" : "cpu.weight", path,
			sizeof(path)) < 0)
		return -ENAMETOOLONG;
	(void)snprintf(text, sizeof(text), "%u", version == 1 ? percent * 1024 / 100 : percent);
	return cgroup_file_write(path, text);
}

int cgroup_open_unified(const struct cgroup_host *host, const char *name)
{
	for (enum cgroup_controller c = 0; c < CGROUP_CONTROLLERS; c++) {
		char path[CGROUP_PATH_MAX * 2];
		int fd, ret;

		if (host->places[c].version != 2)
			continue;
		ret = cgroup_path(host, c, name, NULL, path, sizeof(path));
		if (ret < 0)
			return ret;
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		return fd < 0 ? -errno : fd;
	}
	return -ENOENT;
}

int cgroup_open_joins(const struct cgroup_host *host, const char *name, int *fds, size_t *count,
		      struct ramet_err *err)
{
	size_t n = 0;

	for (enum cgroup_controller c = 0; c < CGROUP_CONTROLLERS; c++) {
		char path[CGROUP_PATH_MAX * 2];
		int ret;

		if (host->places[c].version != 1 || !cgroup_is_first(host, c))
			continue;
		ret = cgroup_path(host, c, name, "cgroup.procs", path, sizeof(path));
		if (ret == 0) {
			fds[n] = open(path, O_WRONLY | O_CLOEXEC);
			ret = fds[n] < 0 ? -errno : 0;
		}
		if (ret < 0) {
			while (n)
				(void)close(fds[--n]);
			return err_errno(err, -ret, "cannot open %s", path);
		}
		n++;
	}
	*count = n;
	return 0;
}

int cgroup_remove(const struct cgroup_host *host, const char *name, struct ramet_err *err)
{
	int first = 0;

	for (enum cgroup_controller c = 0; c < CGROUP_CONTROLLERS; c++) {
		char path[CGROUP_PATH_MAX * 2];
		int ret;

		if (!cgroup_is_first(host, c))
			continue;
		ret = cgroup_path(host, c, name, NULL, path, sizeof(path));
		if (ret == 0 && rmdir(path) < 0 && errno != ENOENT)
			ret = -errno;
		if (ret < 0 && first == 0)
			first = err_errno(err, -ret, "cannot remove the cgroup %s", path);
	}
	return first;
}

/* ---- usage ---- */

/* The number in `file`, or behind "<key> " in it; 0 when there is none. */
static uint64_t number_read(const struct cgroup_host *host, const char *name, const char *file,
			    const char *key)
{
	char path[CGROUP_PATH_MAX * 2], text[1024];

	if (cgroup_path(host, CGROUP_MEMORY, name, file, path, sizeof(path)) < 0 ||
	    cgroup_file_read(path, text, sizeof(text)) < 0)
		return 0;
	return key ? cgroup_key_value(text, key) : strtoull(text, NULL, 10);
}

uint64_t cgroup_key_value(const char *text, const char *key)
{
	size_t len = strlen(key);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, key, len) && line[len] == ' ')
			return strtoull(line + len, NULL, 10);
	}
	return 0;
}

void cgroup_usage_read(const struct cgroup_host *host, const char *name, struct cgroup_usage *usage)
{
	int version = host->places[CGROUP_MEMORY].version;

	*usage = (struct cgroup_usage){ .memory_known = version != 0 };
	if (version == 1) {
		usage->memory_bytes = number_read(host, name, "memory.usage_in_bytes", NULL);
		usage->memory_peak_bytes =
			number_read(host, name, "memory.max_usage_in_bytes", NULL);
		usage->oom_kills = number_read(host, name, "memory.oom_control", "oom_kill");
	} else if (version == 2) {
		usage->memory_bytes = number_read(host, name, "memory.current", NULL);
		usage->memory_peak_bytes = number_read(host, name, "memory.peak", NULL);
		usage->oom_kills = number_read(host, name, "memory.events", "oom_kill");
	}
}
