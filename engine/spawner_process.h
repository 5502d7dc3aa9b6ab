/* Between rametd's side of the spawner (spawner.c) and the process itself
 * (spawner_process.c, spawner_clone.c): one SOCK_SEQPACKET datagram per message.
 * Both ends are one binary, so there is no version. */
#ifndef RAMET_ENGINE_SPAWNER_PROCESS_H
#define RAMET_ENGINE_SPAWNER_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

#include "engine/cgroup.h"
#include "engine/spawner.h"
#include "lib/err.h"

#define SPAWNER_NAME         "ramet-spawner"
#define SPAWNER_SHUTDOWN_SEC 3u /* for orderly shutdown before it is killed */

enum spawner_request_type { SPAWNER_START = 1, SPAWNER_KILL };

/* rametd to spawner; SPAWNER_START carries the worker's control and channel fds. */
struct spawner_request {
	uint32_t type;
	uint32_t slot;   /* < WORKERS_MAX, chosen by rametd, free until the exit event */
	uint64_t serial; /* tells one tenant of a slot from the next */
	struct worker_limits limits;
	char name[WORKER_NAME_MAX];
};

enum spawner_event_type { SPAWNER_STARTED = 1, SPAWNER_FAILED, SPAWNER_EXITED };

/* Spawner to rametd. */
struct spawner_event {
	uint32_t type;
	uint32_t slot;
	uint64_t serial;
	int32_t pid;
	int32_t wait_status;     /* SPAWNER_EXITED */
	uint64_t spawn_ns;       /* SPAWNER_STARTED */
	struct worker_exit exit; /* SPAWNER_EXITED */
	struct ramet_err err;    /* SPAWNER_FAILED */
};

struct spawner_process {
	int socket;       /* to rametd */
	int worker_fd;    /* the worker's binary */
	int claim_fds[2]; /* hold the claims on the block of uids and on the cgroup */
	unsigned int uid_block;
	pid_t parent; /* rametd */
	const struct cgroup_host *cgroups;
};

/* The forked process's life; ends with _exit(2) when rametd is gone. */
_Noreturn void spawner_process_run(const struct spawner_process *process);

/* Everything one worker is started with; the fds stay the caller's. */
struct worker_start {
	int worker_fd;
	int control_fd, channel_fd, kvm_fd;
	int unified_fd;      /* v2 directory to be cloned into, or -1 */
	const int *join_fds; /* files to write "0" to */
	size_t join_count;
	uid_t uid;
};

/* Clones and executes a worker. Returns when it runs its own program; *pidfd is
 * the caller's. Fails with -errno and nothing left. */
int spawner_clone(const struct worker_start *start, pid_t *pid, int *pidfd, struct ramet_err *err);

#endif
