/* One control group per worker, on cgroup v1, v2 and hosts that mix both.
 *
 * Every controller is found where this host has it: on the unified hierarchy
 * when that offers it, else on a v1 mount of its own, else nowhere. All groups
 * live below one directory, `<mount>/<name>/`, one child per worker. A limit
 * whose controller is missing is not enforced, and cgroup_host says so.
 * Sources: cgroups(7), the kernel's cgroup-v2 and cgroup-v1 documents. */
#ifndef RAMET_ENGINE_CGROUP_H
#define RAMET_ENGINE_CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"

#define CGROUP_NAME_MAX  64  /* of a directory, with NUL */
#define CGROUP_PATH_MAX  512 /* of a mount point, with NUL */
#define CGROUP_MOUNTINFO "/proc/self/mountinfo"

enum cgroup_controller { CGROUP_MEMORY, CGROUP_CPU, CGROUP_PIDS, CGROUP_CONTROLLERS };

/* Where one controller is and whether its limit is enforced. */
struct cgroup_place {
	int version;                 /* 1 or 2; 0: not enforced, `reason` says why */
	char mount[CGROUP_PATH_MAX]; /* mount point of its hierarchy */
	char reason[160];            /* empty when enforced */
};

struct cgroup_host {
	char name[CGROUP_NAME_MAX]; /* directory below every mount */
	struct cgroup_place places[CGROUP_CONTROLLERS];
};

/* 0 in a field: no limit. */
struct cgroup_limits {
	uint64_t memory_bytes; /* swap included: a worker never swaps */
	uint32_t cpu_percent;  /* 100 = one core */
	uint32_t pids;
};

struct cgroup_usage {
	bool memory_known;
	uint64_t memory_bytes;      /* charged now */
	uint64_t memory_peak_bytes; /* 0: the kernel does not tell */
	uint64_t oom_kills;         /* processes killed for the memory limit */
};

/* "memory", "cpu", "pids". */
const char *cgroup_controller_name(enum cgroup_controller controller);

/* Finds the controllers in the mount table `mountinfo` (a file in the format of
 * proc_pid_mountinfo(5), normally CGROUP_MOUNTINFO). Only reads. `name` is one
 * directory name. 0 even if no controller was found; -EINVAL for a bad name,
 * -errno when the table cannot be read. */
int cgroup_host_detect(const char *mountinfo, const char *name, struct cgroup_host *host,
		       struct ramet_err *err);

/* Makes the directories below the mounts and, on v2, hands the controllers down.
 * A controller that refuses becomes "not enforced" with its reason. */
void cgroup_host_prepare(struct cgroup_host *host);

/* Removes the directories that cgroup_host_prepare() made, with what is in
 * them; processes still there are killed and waited for until `deadline_ns` of
 * the monotonic clock. Nothing there is success. */
int cgroup_host_remove(const struct cgroup_host *host, uint64_t deadline_ns, struct ramet_err *err);

/* Makes worker `name`'s group in each usable hierarchy and sets the limits. On
 * failure nothing is left. -EEXIST: the name is in use. */
int cgroup_create(const struct cgroup_host *host, const char *name,
		  const struct cgroup_limits *limits, struct ramet_err *err);

/* Moves process `pid` (0: the caller) into the group. */
int cgroup_attach(const struct cgroup_host *host, const char *name, pid_t pid,
		  struct ramet_err *err);

/* How much processor time the group gets when others want it too, 100 being
 * what each has at first. 0, -ENOENT when the controller is missing, -errno. */
int cgroup_weight_set(const struct cgroup_host *host, const char *name, unsigned int percent);

/* Opens the v2 directory for CLONE_INTO_CGROUP, or returns -ENOENT when no
 * controller is on v2. The caller closes it. */
int cgroup_open_unified(const struct cgroup_host *host, const char *name);

/* Opens the v1 files that a process writes "0" to in order to join, at most
 * CGROUP_CONTROLLERS; *count says how many. The caller closes them. */
int cgroup_open_joins(const struct cgroup_host *host, const char *name, int *fds, size_t *count,
		      struct ramet_err *err);

/* What the group used; fields it cannot tell are 0. */
void cgroup_usage_read(const struct cgroup_host *host, const char *name,
		       struct cgroup_usage *usage);

/* SIGKILLs all processes in the group (cgroup.kill, or pid by pid through
 * pidfds) and waits until they are gone or -ETIMEDOUT at `deadline_ns`. */
int cgroup_kill(const struct cgroup_host *host, const char *name, uint64_t deadline_ns,
		struct ramet_err *err);

/* Removes the group, which must be empty (else -EBUSY). A missing one is fine. */
int cgroup_remove(const struct cgroup_host *host, const char *name, struct ramet_err *err);

#endif
