/* rametd's state of the spawner, shared by spawner.c (requests and events) and
 * spawner_create.c (birth and death). */
#ifndef RAMET_ENGINE_SPAWNER_STATE_H
#define RAMET_ENGINE_SPAWNER_STATE_H

#include "engine/spawner_process.h"

enum spawner_worker_state { WORKER_FREE, WORKER_STARTING, WORKER_RUNNING };

struct spawner_worker {
	enum spawner_worker_state state;
	bool killed; /* the request is queued or sent: once is enough */
	uint64_t serial;
	int far_fds[2];  /* control and channel, the worker's ends, until sent */
	int near_fds[2]; /* rametd's ends, until handed over */
	spawner_started_cb started;
	void *arg;
	struct worker_limits limits;
	char name[WORKER_NAME_MAX];
};

/* Requests that the socket did not take yet. A slot has at most one of each
 * type waiting, which bounds the queue. */
struct queued {
	uint32_t slot, type;
	uint64_t serial;
};
#define QUEUE_MAX (2 * WORKERS_MAX)

struct spawner {
	int socket, pidfd;
	pid_t pid;
	sd_event_source *io;
	unsigned int uid_block; /* of engine/worker_ids.h */
	struct cgroup_host cgroups;
	spawner_exited_cb exited;
	void *arg;
	struct worker_exit last_exit;
	uint64_t next_serial;
	struct spawner_worker workers[WORKERS_MAX];
	struct queued queue[QUEUE_MAX];
	size_t queue_head, queue_count;
};

/* Closes what the slot still owns and frees it. */
void spawner_worker_free(struct spawner_worker *worker);

/* sd-event handler of the socket to the spawner process. */
int spawner_socket_ready(sd_event_source *source, int fd, uint32_t revents, void *arg);

#endif
