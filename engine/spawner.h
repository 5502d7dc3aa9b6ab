/* The spawner: a small single-threaded process that starts and reaps workers.
 *
 * rametd forks it before it grows, so nothing ever forks from a big process.
 * Each worker is started in namespaces of its own (pid, mount, net, ipc, uts,
 * cgroup) and in a cgroup of its own with the limits given (v1 or v2), dies
 * when the spawner dies, and the spawner dies when rametd dies. */
#ifndef RAMET_ENGINE_SPAWNER_H
#define RAMET_ENGINE_SPAWNER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#include "engine/cgroup.h"
#include "lib/err.h"

#define WORKER_NAME_MAX 40 /* with NUL; one directory name */
#define WORKERS_MAX     2048u

struct spawner;

struct worker_limits {
	uint64_t memory_bytes; /* cgroup memory limit: guest RAM + the worker's own */
	uint32_t pids; /* tasks; a VM needs 2, one of them KVM's own, and the probe's VM one more */
	uint32_t cpu_percent; /* 100 = one core; 0: unlimited */
};

struct worker_process {
	pid_t pid;
	int control_fd;    /* SOCK_SEQPACKET, see vmm/control.h; both ends non-blocking */
	int channel_fd;    /* SOCK_STREAM, the agent's byte stream; the same */
	uid_t uid;         /* its alone, see engine/worker_ids.h */
	uint64_t spawn_ns; /* in the spawner: cgroup, clone and exec */
};

/* What is known of a dead worker beside its wait status. */
struct worker_exit {
	bool oom_killed;            /* the kernel killed it for its memory limit */
	uint64_t memory_peak_bytes; /* 0: unknown */
};

/* `worker` is NULL when err is set; its fds become the callee's. */
typedef void (*spawner_started_cb)(void *arg, const struct worker_process *worker,
				   const struct ramet_err *err);
/* The worker with this name is gone, reaped, and its cgroup removed.
 * `wait_status` as from waitpid(2). */
typedef void (*spawner_exited_cb)(void *arg, const char *name, int wait_status);

/* Forks the spawner. Call before the process has threads. `worker_path` is
 * opened once; `cgroup_name` is the directory made below each cgroup root. */
int spawner_create(sd_event *loop, const char *worker_path, const char *cgroup_name,
		   spawner_exited_cb exited, void *arg, struct spawner **spawner,
		   struct ramet_err *err);

/* Kills all workers, waits (bounded) for them and removes the cgroups. No
 * callback is called; fds of workers not yet handed over are closed. Must not
 * be called from a callback. NULL is fine. */
void spawner_destroy(struct spawner *spawner);

/* Starts a worker; `name` is unique among the living. `started` is called from
 * the event loop, exactly once. -EEXIST: the name is taken; -EAGAIN: WORKERS_MAX
 * live; -EINVAL: bad name or limits; -EPIPE: the spawner died. */
int spawner_start(struct spawner *spawner, const char *name, const struct worker_limits *limits,
		  spawner_started_cb started, void *arg, struct ramet_err *err);

/* SIGKILLs a worker by name; its exit is reported as usual. -ESRCH: no such. */
int spawner_kill(struct spawner *spawner, const char *name);

/* More about the exit that is being reported: valid inside the exited callback. */
const struct worker_exit *spawner_last_exit(const struct spawner *spawner);

/* Which limits this host enforces, and why not the others. */
const struct cgroup_host *spawner_cgroups(const struct spawner *spawner);

/* Removes cgroups that a killed daemon left below `cgroup_name`, killing any
 * process still in them. */
int spawner_clean_stale(const char *cgroup_name, struct ramet_err *err);

#endif
