/* Paths and small files of the cgroup hierarchies. Internal to engine/cgroup*.c. */
#ifndef RAMET_ENGINE_CGROUP_FILE_H
#define RAMET_ENGINE_CGROUP_FILE_H

#include "engine/cgroup.h"

/* -EINVAL unless `name` is one plain directory name. */
int cgroup_name_check(const char *name, struct ramet_err *err);

/* "<mount>/<host name>[/<worker>][/<file>]"; worker and file may be NULL. */
int cgroup_path(const struct cgroup_host *host, enum cgroup_controller controller,
		const char *worker, const char *file, char *path, size_t size);

/* Is the controller the first of those that share its hierarchy? */
bool cgroup_is_first(const struct cgroup_host *host, enum cgroup_controller controller);

/* Writes the limits of one controller to the group's files. */
int cgroup_limits_set(const struct cgroup_host *host, enum cgroup_controller controller,
		      const char *name, const struct cgroup_limits *limits, struct ramet_err *err);

/* Writes `text` with one write(2). 0 or -errno. */
int cgroup_file_write(const char *path, const char *text);

/* Reads at most size - 1 bytes and a NUL. The length or -errno. */
ssize_t cgroup_file_read(const char *path, char *text, size_t size);

/* The number behind "<key> " at the start of a line of `text`; 0 without one. */
uint64_t cgroup_key_value(const char *text, const char *key);

#endif
