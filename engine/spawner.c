/* rametd's side of the spawner: workers by name, requests in order, events from
 * the process. Birth and death are in spawner_create.c, the process itself is
 * spawner_process.c. */
#include "engine/spawner.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "engine/spawner_state.h"
#include "engine/worker_ids.h"
#include "lib/cleanup.h"
#include "lib/fdpass.h"
#include "lib/log.h"

#define EVENTS_PER_WAKEUP 64 /* so that other sources get their turn */

static void fds_close(int fds[2])
{
	close_fd(&fds[0]);
	close_fd(&fds[1]);
}

void spawner_worker_free(struct spawner_worker *worker)
{
	fds_close(worker->far_fds);
	fds_close(worker->near_fds);
	worker->state = WORKER_FREE;
}

/* ---- requests ---- */

static int queued_send(struct spawner *spawner, const struct queued *queued)
{
	struct spawner_worker *worker = &spawner->workers[queued->slot];
	struct spawner_request request = { .type = queued->type,
					   .slot = queued->slot,
					   .serial = queued->serial };
	int ret;

	if (worker->state == WORKER_FREE || worker->serial != queued->serial)
		return 0; /* died before its kill was sent */
	if (queued->type == SPAWNER_KILL)
		return fdpass_send(spawner->socket, &request, sizeof(request), NULL, 0);
	request.limits = worker->limits;
	memcpy(request.name, worker->name, sizeof(request.name));
	ret = fdpass_send(spawner->socket, &request, sizeof(request), worker->far_fds, 2);
	if (ret == 0)
		fds_close(worker->far_fds);
	return ret;
}

static void queue_flush(struct spawner *spawner)
{
	while (spawner->queue_count) {
		int ret = queued_send(spawner, &spawner->queue[spawner->queue_head]);

		/* Errors other than a full socket: the spawner is gone, which
		 * the socket's next event says. */
		if (ret < 0)
			break;
		spawner->queue_head = (spawner->queue_head + 1) % QUEUE_MAX;
		spawner->queue_count--;
	}
	if (spawner->io)
		(void)sd_event_source_set_io_events(
			spawner->io, EPOLLIN | (spawner->queue_count ? (uint32_t)EPOLLOUT : 0u));
}

static void queue_add(struct spawner *spawner, uint32_t slot, uint32_t type)
{
	size_t at = (spawner->queue_head + spawner->queue_count) % QUEUE_MAX;

	spawner->queue[at] = (struct queued){ .slot = slot,
					      .type = type,
					      .serial = spawner->workers[slot].serial };
	spawner->queue_count++;
	queue_flush(spawner);
}

static struct spawner_worker *worker_find(struct spawner *spawner, const char *name)
{
	for (size_t i = 0; i < WORKERS_MAX; i++)
		if (spawner->workers[i].state != WORKER_FREE &&
		    !strcmp(spawner->workers[i].name, name))
			return &spawner->workers[i];
	return NULL;
}

static int start_check(struct spawner *spawner, const char *name,
		       const struct worker_limits *limits, struct ramet_err *err)
{
	size_t len = strlen(name);

	if (spawner->socket < 0)
		return err_set(err, EPIPE, "the process that starts workers died; restart rametd");
	if (len == 0 || len >= WORKER_NAME_MAX || strchr(name, '/') || name[0] == '.')
		return err_set(err, EINVAL, "worker name '%.60s': 1 to %d characters, no slash",
			       name, WORKER_NAME_MAX - 1);
	if (limits->memory_bytes == 0 || limits->pids == 0)
		return err_set(err, EINVAL, "worker %s has no memory or process limit", name);
	if (worker_find(spawner, name))
		return err_set(err, EEXIST, "a worker called %s is alive already", name);
	return 0;
}

static int sockets_make(struct spawner_worker *worker, struct ramet_err *err)
{
	int control[2], channel[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, control) < 0)
		return err_errno(err, errno, "cannot make a worker's control socket");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, channel) < 0) {
		int code = errno;

		fds_close(control);
		return err_errno(err, code, "cannot make a worker's channel socket");
	}
	worker->near_fds[0] = control[0];
	worker->near_fds[1] = channel[0];
	worker->far_fds[0] = control[1];
	worker->far_fds[1] = channel[1];
	return 0;
}

int spawner_start(struct spawner *spawner, const char *name, const struct worker_limits *limits,
		  spawner_started_cb started, void *arg, struct ramet_err *err)
{
	struct spawner_worker *worker = NULL;
	uint32_t slot;
	int ret = start_check(spawner, name, limits, err);

	if (ret < 0)
		return ret;
	for (slot = 0; slot < WORKERS_MAX && !worker; slot++)
		if (spawner->workers[slot].state == WORKER_FREE)
			worker = &spawner->workers[slot];
	if (!worker)
		return err_set(err, EAGAIN, "%u workers are alive, which is the limit",
			       WORKERS_MAX);
	ret = sockets_make(worker, err);
	if (ret < 0)
		return ret;
	worker->state = WORKER_STARTING;
	worker->killed = false;
	worker->serial = ++spawner->next_serial;
	worker->started = started;
	worker->arg = arg;
	worker->limits = *limits;
	(void)snprintf(worker->name, sizeof(worker->name), "%s", name);
	queue_add(spawner, (uint32_t)(worker - spawner->workers), SPAWNER_START);
	return 0;
}

int spawner_kill(struct spawner *spawner, const char *name)
{
	struct spawner_worker *worker = worker_find(spawner, name);

	if (!worker)
		return -ESRCH;
	if (!worker->killed) {
		worker->killed = true;
		queue_add(spawner, (uint32_t)(worker - spawner->workers), SPAWNER_KILL);
	}
	return 0;
}

/* ---- events ---- */

static void worker_started(const struct spawner *spawner, struct spawner_worker *worker,
			   const struct spawner_event *event)
{
	const struct worker_process process = {
		.pid = event->pid,
		.control_fd = take_fd(&worker->near_fds[0]),
		.channel_fd = take_fd(&worker->near_fds[1]),
		.uid = worker_uid(spawner->uid_block, event->slot),
		.spawn_ns = event->spawn_ns,
	};

	worker->state = WORKER_RUNNING;
	worker->started(worker->arg, &process, NULL);
}

static void worker_failed(struct spawner_worker *worker, const struct ramet_err *err)
{
	spawner_started_cb started = worker->started;
	void *arg = worker->arg;

	spawner_worker_free(worker); /* first: the callback may start another */
	started(arg, NULL, err);
}

static void worker_exited(struct spawner *spawner, struct spawner_worker *worker, int wait_status,
			  const struct worker_exit *details)
{
	char name[WORKER_NAME_MAX];

	memcpy(name, worker->name, sizeof(name));
	spawner_worker_free(worker);
	spawner->last_exit = *details;
	spawner->exited(spawner->arg, name, wait_status);
}

static void event_take(struct spawner *spawner, const struct spawner_event *event)
{
	struct spawner_worker *worker;

	if (event->slot >= WORKERS_MAX)
		return;
	worker = &spawner->workers[event->slot];
	if (worker->serial != event->serial)
		return;
	if (event->type == SPAWNER_STARTED && worker->state == WORKER_STARTING)
		worker_started(spawner, worker, event);
	else if (event->type == SPAWNER_FAILED && worker->state == WORKER_STARTING)
		worker_failed(worker, &event->err);
	else if (event->type == SPAWNER_EXITED && worker->state == WORKER_RUNNING)
		worker_exited(spawner, worker, event->wait_status, &event->exit);
}

/* The spawner died: its workers died with it. Tells everybody who waits. */
static void spawner_lost(struct spawner *spawner)
{
	const struct worker_exit unknown = { 0 };
	struct ramet_err err;

	log_error("the process that starts workers died, and all workers with it");
	spawner->io = sd_event_source_disable_unref(spawner->io);
	close_fd(&spawner->socket);
	(void)err_set(&err, EPIPE, "the process that starts workers died; restart rametd");
	for (size_t i = 0; i < WORKERS_MAX; i++) {
		struct spawner_worker *worker = &spawner->workers[i];

		if (worker->state == WORKER_STARTING)
			worker_failed(worker, &err);
		else if (worker->state == WORKER_RUNNING)
			worker_exited(spawner, worker, SIGKILL, &unknown);
	}
}

int spawner_socket_ready(sd_event_source *source, int fd, uint32_t revents, void *arg)
{
	struct spawner *spawner = arg;

	(void)source;
	(void)revents;
	for (int i = 0; i < EVENTS_PER_WAKEUP; i++) {
		struct spawner_event event;
		int fds[FDPASS_MAX];
		size_t nfds = 0;
		ssize_t n = fdpass_recv(fd, &event, sizeof(event), fds, &nfds);

		if (n == -EAGAIN)
			break;
		while (nfds) /* it never sends any */
			(void)close(fds[--nfds]);
		if (n != (ssize_t)sizeof(event)) {
			spawner_lost(spawner);
			return 0;
		}
		event_take(spawner, &event);
	}
	queue_flush(spawner);
	return 0;
}
