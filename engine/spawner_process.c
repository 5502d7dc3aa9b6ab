/* The spawner process: obeys rametd, starts and reaps workers, tells rametd.
 *
 * Single-threaded; everything it waits for is in one epoll set. When rametd
 * closes its socket or dies, all workers are killed and the cgroups removed. */
#include "engine/spawner_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/worker_ids.h"
#include "lib/cleanup.h"
#include "lib/clock.h"
#include "lib/fdpass.h"
#include "lib/log.h"

#define SOCKET_TAG     UINT64_MAX /* epoll data; a slot number otherwise */
#define EVENTS_PER_RUN 32

enum { FD_SOCKET = 3, FD_WORKER, FD_UID_CLAIM, FD_CGROUP_CLAIM, FD_FREE };

struct child {
	pid_t pid; /* 0: the slot is free */
	int pidfd;
	uint64_t serial;
	char name[WORKER_NAME_MAX];
};

struct state {
	const struct cgroup_host *cgroups;
	unsigned int uid_block;
	int epoll;
	struct child children[WORKERS_MAX];
};

/* ---- becoming the spawner ---- */

/* rametd died. Its socket's end starts the orderly shutdown; if that hangs, the
 * alarm ends the spawner and with it, by their death signal, all workers. */
static void signal_orphaned(int number)
{
	(void)number;
	(void)alarm(SPAWNER_SHUTDOWN_SEC);
}

/* When to stop is rametd's decision. Not SIG_IGN: workers would inherit it. */
static void signal_pass(int number)
{
	(void)number;
}

static void signals_reset(void)
{
	sigset_t none;

	for (int i = 1; i < NSIG; i++)
		(void)signal(i, SIG_DFL);
	(void)signal(SIGUSR1, signal_orphaned);
	(void)signal(SIGTERM, signal_pass);
	(void)signal(SIGINT, signal_pass);
	(void)signal(SIGHUP, signal_pass);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static int descriptors_arrange(const struct spawner_process *process)
{
	int null = open("/dev/null", O_RDWR);
	int sock = fcntl(process->socket, F_DUPFD_CLOEXEC, FD_FREE);
	int worker = fcntl(process->worker_fd, F_DUPFD_CLOEXEC, FD_FREE);
	int uids = fcntl(process->claim_fds[0], F_DUPFD_CLOEXEC, FD_FREE);
	int cgroup = fcntl(process->claim_fds[1], F_DUPFD_CLOEXEC, FD_FREE);

	if (null < 0 || sock < 0 || worker < 0 || uids < 0 || cgroup < 0 ||
	    dup2(null, STDIN_FILENO) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0 ||
	    dup3(sock, FD_SOCKET, O_CLOEXEC) < 0 || dup3(worker, FD_WORKER, O_CLOEXEC) < 0 ||
	    dup3(uids, FD_UID_CLAIM, O_CLOEXEC) < 0 ||
	    dup3(cgroup, FD_CGROUP_CLAIM, O_CLOEXEC) < 0 || close_range(FD_FREE, ~0u, 0) < 0)
		return -errno;
	return 0;
}

static int process_become(const struct spawner_process *process)
{
	log_init(SPAWNER_NAME);
	signals_reset();
	(void)prctl(PR_SET_NAME, SPAWNER_NAME);
	/* Away from rametd's terminal and process group: an interrupt is rametd's
	 * to handle. */
	(void)setsid();
	if (prctl(PR_SET_PDEATHSIG, SIGUSR1) < 0 || chdir("/") < 0)
		return -errno;
	if (getppid() != process->parent)
		return -ESRCH;
	return descriptors_arrange(process);
}

/* ---- events ---- */

static void event_send(const struct spawner_event *event)
{
	struct pollfd room = { .fd = FD_SOCKET, .events = POLLOUT };
	int ret;

	/* rametd never waits for the spawner, so waiting for it ends. */
	while ((ret = fdpass_send(FD_SOCKET, event, sizeof(*event), NULL, 0)) == -EAGAIN)
		(void)poll(&room, 1, -1);
	if (ret < 0 && ret != -EPIPE && ret != -ECONNRESET)
		log_warn("cannot tell rametd of worker slot %u: %s", event->slot,
			 strerrordesc_np(-ret));
}

static void child_remove(struct state *state, struct child *child)
{
	struct ramet_err err;

	(void)epoll_ctl(state->epoll, EPOLL_CTL_DEL, child->pidfd, NULL);
	close_fd(&child->pidfd);
	child->pid = 0;
	if (cgroup_remove(state->cgroups, child->name, &err) < 0)
		log_warn("%s", err.msg);
}

static void child_reap(struct state *state, uint32_t slot)
{
	struct child *child = &state->children[slot];
	struct spawner_event event = {
		.type = SPAWNER_EXITED, .slot = slot, .serial = child->serial, .pid = child->pid
	};
	struct cgroup_usage usage;
	int status;

	if (waitpid(child->pid, &status, WNOHANG) != child->pid)
		return;
	cgroup_usage_read(state->cgroups, child->name, &usage);
	event.wait_status = status;
	event.exit.oom_killed = usage.oom_kills > 0;
	event.exit.memory_peak_bytes = usage.memory_peak_bytes;
	child_remove(state, child);
	event_send(&event);
}

/* ---- requests ---- */

static int child_watch(struct state *state, uint32_t slot)
{
	struct epoll_event watch = { .events = EPOLLIN, .data.u64 = slot };

	return epoll_ctl(state->epoll, EPOLL_CTL_ADD, state->children[slot].pidfd, &watch) < 0
		       ? -errno
		       : 0;
}

static int group_clone(struct state *state, const struct spawner_request *request, const int *fds,
		       pid_t *pid, int *pidfd, struct ramet_err *err)
{
	struct worker_start start = { .worker_fd = FD_WORKER,
				      .control_fd = fds[0],
				      .channel_fd = fds[1],
				      .uid = worker_uid(state->uid_block, request->slot) };
	int joins[CGROUP_CONTROLLERS], ret;
	cleanup_close int unified = cgroup_open_unified(state->cgroups, request->name);
	cleanup_close int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		return err_errno(err, errno, "cannot open /dev/kvm; `ramet doctor` says more");
	if (unified < 0 && unified != -ENOENT)
		return err_errno(err, -unified, "cannot open the cgroup of %s", request->name);
	ret = cgroup_open_joins(state->cgroups, request->name, joins, &start.join_count, err);
	if (ret < 0)
		return ret;
	start.kvm_fd = kvm;
	start.unified_fd = unified;
	start.join_fds = joins;
	ret = spawner_clone(&start, pid, pidfd, err);
	while (start.join_count)
		(void)close(joins[--start.join_count]);
	return ret;
}

static int worker_start(struct state *state, const struct spawner_request *request, const int *fds,
			struct ramet_err *err)
{
	const struct cgroup_limits limits = { .memory_bytes = request->limits.memory_bytes,
					      .cpu_percent = request->limits.cpu_percent,
					      .pids = request->limits.pids };
	struct child *child = &state->children[request->slot];
	int ret = cgroup_create(state->cgroups, request->name, &limits, err);

	if (ret < 0)
		return ret;
	ret = group_clone(state, request, fds, &child->pid, &child->pidfd, err);
	if (ret < 0) {
		(void)cgroup_remove(state->cgroups, request->name, NULL);
		return ret;
	}
	child->serial = request->serial;
	memcpy(child->name, request->name, sizeof(child->name));
	ret = child_watch(state, request->slot);
	if (ret < 0) {
		(void)pidfd_send_signal(child->pidfd, SIGKILL, NULL, 0);
		(void)waitpid(child->pid, NULL, 0);
		child_remove(state, child);
		return err_errno(err, -ret, "cannot watch worker %s", request->name);
	}
	return 0;
}

static void fds_close(const int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		(void)close(fds[i]);
}

/* The descriptors become the callee's: the worker's ends of its sockets are
 * nobody else's any more when rametd hears of it. */
static void request_start(struct state *state, const struct spawner_request *request,
			  const int *fds, size_t nfds)
{
	struct spawner_event event = { .type = SPAWNER_STARTED,
				       .slot = request->slot,
				       .serial = request->serial };
	uint64_t begin = clock_monotonic_ns();
	int ret;

	if (nfds != 2 || state->children[request->slot].pid)
		ret = err_set(&event.err, EPROTO, "rametd's request to start %s is broken",
			      request->name);
	else
		ret = worker_start(state, request, fds, &event.err);
	fds_close(fds, nfds);
	if (ret < 0)
		event.type = SPAWNER_FAILED;
	else
		event.pid = state->children[request->slot].pid;
	event.spawn_ns = clock_monotonic_ns() - begin;
	event_send(&event);
}

static void request_kill(struct state *state, const struct spawner_request *request)
{
	const struct child *child = &state->children[request->slot];

	if (child->pid && child->serial == request->serial)
		(void)pidfd_send_signal(child->pidfd, SIGKILL, NULL, 0);
}

/* False when rametd is gone. */
static bool request_take(struct state *state)
{
	struct spawner_request request;
	int fds[FDPASS_MAX];
	size_t nfds = 0;
	bool valid;
	ssize_t n = fdpass_recv(FD_SOCKET, &request, sizeof(request), fds, &nfds);

	if (n == -EAGAIN)
		return true;
	if (n <= 0)
		return false;
	valid = n == (ssize_t)sizeof(request) && request.slot < WORKERS_MAX;
	request.name[sizeof(request.name) - 1] = '\0';
	if (valid && request.type == SPAWNER_START) {
		request_start(state, &request, fds, nfds);
		return true;
	}
	fds_close(fds, nfds);
	if (valid && request.type == SPAWNER_KILL)
		request_kill(state, &request);
	else
		log_error("a request of %zd bytes from rametd makes no sense", n);
	return true;
}

/* ---- life ---- */

_Noreturn static void process_end(struct state *state)
{
	const uint64_t deadline = clock_monotonic_ns() + SPAWNER_SHUTDOWN_SEC * 1000000000u / 2;
	struct ramet_err err;

	(void)alarm(SPAWNER_SHUTDOWN_SEC);
	for (size_t i = 0; i < WORKERS_MAX; i++)
		if (state->children[i].pid)
			(void)pidfd_send_signal(state->children[i].pidfd, SIGKILL, NULL, 0);
	for (size_t i = 0; i < WORKERS_MAX; i++)
		if (state->children[i].pid)
			(void)waitpid(state->children[i].pid, NULL, 0);
	if (cgroup_host_remove(state->cgroups, deadline, &err) < 0)
		log_warn("%s", err.msg);
	_exit(0);
}

static bool events_handle(struct state *state, const struct epoll_event *events, int count)
{
	/* Exits before requests: a slot is free for rametd once it was told. */
	for (int i = 0; i < count; i++)
		if (events[i].data.u64 != SOCKET_TAG)
			child_reap(state, (uint32_t)events[i].data.u64);
	for (int i = 0; i < count; i++)
		if (events[i].data.u64 == SOCKET_TAG && !request_take(state))
			return false;
	return true;
}

_Noreturn void spawner_process_run(const struct spawner_process *process)
{
	struct epoll_event watch = { .events = EPOLLIN, .data.u64 = SOCKET_TAG };
	struct epoll_event events[EVENTS_PER_RUN];
	struct state *state = calloc(1, sizeof(*state));
	int ret = state ? process_become(process) : -ENOMEM;

	if (ret == 0) {
		state->cgroups = process->cgroups;
		state->uid_block = process->uid_block;
		state->epoll = epoll_create1(EPOLL_CLOEXEC);
		if (state->epoll < 0 ||
		    epoll_ctl(state->epoll, EPOLL_CTL_ADD, FD_SOCKET, &watch) < 0)
			ret = -errno;
	}
	if (ret < 0) {
		log_error("the spawner cannot start: %s", strerrordesc_np(-ret));
		_exit(1);
	}
	for (;;) {
		int count = epoll_wait(state->epoll, events, EVENTS_PER_RUN, -1);

		if (count < 0 && errno != EINTR) {
			log_error("the spawner cannot wait: %s", strerrordesc_np(errno));
			process_end(state);
		}
		if (count > 0 && !events_handle(state, events, count))
			process_end(state);
	}
}
