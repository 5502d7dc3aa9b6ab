/* The spawner's birth and death, and what a dead one left. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/spawner_claim.h"
#include "engine/spawner_state.h"
#include "lib/cleanup.h"
#include "lib/clock.h"
#include "lib/log.h"

#define CLAIM_MS (2 * (int)SPAWNER_SHUTDOWN_SEC * 1000)
#define CLEAN_NS 3000000000ull /* for killing what is left in cgroups */

static int worker_open(const char *path, struct ramet_err *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(err, errno, "cannot open the worker program %s", path);
	if (!S_ISREG(st.st_mode) || !(st.st_mode & 0111))
		return err_set(err, EACCES, "the worker program %s is not an executable file",
			       path);
	return take_fd(&fd);
}

/* The claim on the cgroup becomes the spawner's. */
static int process_fork(struct spawner *spawner, const char *worker_path, int cgroup_claim,
			struct ramet_err *err)
{
	cleanup_close int worker_fd = worker_open(worker_path, err), near = -1, far = -1;
	cleanup_close int uid_claim = -1, held = -1, gate = -1;
	struct spawner_process process = { .parent = getpid(), .cgroups = &spawner->cgroups };
	int sockets[2], pipe_fds[2];
	char unused;

	if (worker_fd < 0)
		return worker_fd;
	uid_claim = claim_uid_block(&spawner->uid_block, err);
	if (uid_claim < 0)
		return uid_claim;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
		return err_errno(err, errno, "cannot make the spawner's socket");
	near = sockets[0];
	far = sockets[1];
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return err_errno(err, errno, "cannot make a pipe to the spawner");
	gate = pipe_fds[0];
	held = pipe_fds[1];
	process.socket = far;
	process.worker_fd = worker_fd;
	process.claim_fds[0] = uid_claim;
	process.claim_fds[1] = cgroup_claim;
	process.uid_block = spawner->uid_block;
	spawner->pid = fork();
	if (spawner->pid < 0)
		return err_errno(err, errno, "cannot fork the spawner");
	if (spawner->pid == 0)
		spawner_process_run(&process);
	/* The spawner closes all that it does not need, `held` too: then nothing of
	 * ours, such as the lock on the state directory, outlives this process. */
	close_fd(&held);
	while (read(gate, &unused, 1) < 0 && errno == EINTR)
		;
	spawner->socket = take_fd(&near);
	spawner->pidfd = pidfd_open(spawner->pid, 0);
	if (spawner->pidfd < 0)
		return err_errno(err, errno, "cannot watch the spawner");
	return 0;
}

static void limits_report(const struct cgroup_host *cgroups)
{
	for (enum cgroup_controller c = 0; c < CGROUP_CONTROLLERS; c++) {
		const struct cgroup_place *place = &cgroups->places[c];

		if (place->version)
			log_debug("%s limits: cgroup v%d at %s", cgroup_controller_name(c),
				  place->version, place->mount);
		else
			log_warn("%s limits of workers are not enforced: %s",
				 cgroup_controller_name(c), place->reason);
	}
}

int spawner_create(sd_event *loop, const char *worker_path, const char *cgroup_name,
		   spawner_exited_cb exited, void *arg, struct spawner **spawner,
		   struct ramet_err *err)
{
	struct spawner *new = calloc(1, sizeof(*new));
	cleanup_close int claim = -1;
	int ret;

	if (!new)
		return err_set(err, ENOMEM, "no memory for the spawner");
	new->socket = new->pidfd = -1;
	new->exited = exited;
	new->arg = arg;
	for (size_t i = 0; i < WORKERS_MAX; i++)
		for (int end = 0; end < 2; end++)
			new->workers[i].far_fds[end] = new->workers[i].near_fds[end] = -1;
	ret = cgroup_host_detect(CGROUP_MOUNTINFO, cgroup_name, &new->cgroups, err);
	if (ret < 0)
		goto fail;
	claim = ret = claim_cgroup(cgroup_name, CLAIM_MS, err);
	if (ret < 0)
		goto fail;
	cgroup_host_prepare(&new->cgroups);
	limits_report(&new->cgroups);
	ret = process_fork(new, worker_path, claim, err);
	if (ret < 0)
		goto fail;
	ret = sd_event_add_io(loop, &new->io, new->socket, EPOLLIN, spawner_socket_ready, new);
	if (ret < 0) {
		(void)err_errno(err, -ret, "cannot watch the spawner's socket");
		goto fail;
	}
	(void)sd_event_source_set_description(new->io, "spawner");
	*spawner = new;
	return 0;
fail:
	spawner_destroy(new);
	return ret;
}

/* Waits for the process, which ends when its socket closes; kills it when it
 * does not. Its workers die with it in any case. */
static void process_wait(struct spawner *spawner)
{
	struct pollfd gone = { .fd = spawner->pidfd, .events = POLLIN };
	int ret = 0;

	if (spawner->pid <= 0)
		return;
	if (spawner->pidfd >= 0)
		do
			ret = poll(&gone, 1, (int)SPAWNER_SHUTDOWN_SEC * 1000);
		while (ret < 0 && errno == EINTR);
	if (ret <= 0) {
		log_warn("the spawner does not end; killing it");
		(void)kill(spawner->pid, SIGKILL); /* not reaped yet, so its pid is its own */
	}
	(void)waitpid(spawner->pid, NULL, 0);
}

void spawner_destroy(struct spawner *spawner)
{
	struct ramet_err err;

	if (!spawner)
		return;
	spawner->io = sd_event_source_disable_unref(spawner->io);
	close_fd(&spawner->socket);
	process_wait(spawner);
	close_fd(&spawner->pidfd);
	for (size_t i = 0; i < WORKERS_MAX; i++)
		spawner_worker_free(&spawner->workers[i]);
	/* The process removed them, unless it was killed or never ran. */
	if (spawner->cgroups.name[0] &&
	    cgroup_host_remove(&spawner->cgroups, clock_monotonic_ns() + CLEAN_NS, &err) < 0)
		log_warn("%s", err.msg);
	free(spawner);
}

const struct worker_exit *spawner_last_exit(const struct spawner *spawner)
{
	return &spawner->last_exit;
}

const struct cgroup_host *spawner_cgroups(const struct spawner *spawner)
{
	return &spawner->cgroups;
}

int spawner_clean_stale(const char *cgroup_name, struct ramet_err *err)
{
	struct cgroup_host host;
	int ret = cgroup_host_detect(CGROUP_MOUNTINFO, cgroup_name, &host, err);

	if (ret < 0)
		return ret;
	return cgroup_host_remove(&host, clock_monotonic_ns() + CLEAN_NS, err);
}
