/* A daemon around the spawner, for its tests: an event loop with deadlines and
 * a record of what was called back. Include after cmocka.h. */
#ifndef RAMET_TESTS_FAKE_SPAWN_H
#define RAMET_TESTS_FAKE_SPAWN_H

#include <dirent.h>
#include <poll.h>
#include <stdbool.h>

#include "engine/cgroup_file.h"
#include "engine/spawner_state.h"
#include "lib/cleanup.h"
#include "tests/fake/worker.h"

#define SPAWN_DEADLINE_US 20000000u
#define SPAWN_MAX         64

struct spawned {
	bool called; /* back, as started or failed */
	struct worker_process process;
	struct ramet_err err;
};

struct exited {
	char name[WORKER_NAME_MAX];
	int wait_status;
	struct worker_exit details;
};

struct daemon {
	sd_event *loop;
	struct spawner *spawner;
	char cgroup[32];
	struct spawned started[SPAWN_MAX];
	struct exited exited[SPAWN_MAX];
	size_t exits;
};

static const struct worker_limits spawn_limits = { .memory_bytes = 512u << 20, .pids = 4 };

static inline void spawn_on_started(void *arg, const struct worker_process *worker,
				    const struct ramet_err *err)
{
	struct spawned *s = arg;

	assert_false(s->called); /* exactly once */
	s->called = true;
	if (err)
		s->err = *err;
	else
		s->process = *worker;
}

static inline void spawn_on_exited(void *arg, const char *name, int wait_status)
{
	struct daemon *d = arg;
	struct exited *e = &d->exited[d->exits++ % SPAWN_MAX];

	(void)snprintf(e->name, sizeof(e->name), "%s", name);
	e->wait_status = wait_status;
	e->details = *spawner_last_exit(d->spawner);
}

/* `worker` NULL: the test program itself. `cgroup`: of no other live daemon. */
static inline int daemon_open_as(struct daemon *d, const char *cgroup, const char *worker,
				 struct ramet_err *err)
{
	memset(d, 0, sizeof(*d));
	for (size_t i = 0; i < SPAWN_MAX; i++)
		d->started[i].process.control_fd = d->started[i].process.channel_fd = -1;
	(void)snprintf(d->cgroup, sizeof(d->cgroup), "%s", cgroup);
	if (sd_event_new(&d->loop) < 0)
		return -ENOMEM;
	return spawner_create(d->loop, worker ? worker : "/proc/self/exe", d->cgroup,
			      spawn_on_exited, d, &d->spawner, err);
}

static inline int daemon_open(struct daemon *d, const char *worker, struct ramet_err *err)
{
	char cgroup[sizeof(d->cgroup)];

	(void)snprintf(cgroup, sizeof(cgroup), "ramet-test-%d", getpid());
	return daemon_open_as(d, cgroup, worker, err);
}

static inline void spawned_close(struct spawned *s)
{
	close_fd(&s->process.control_fd);
	close_fd(&s->process.channel_fd);
	s->called = false;
}

static inline void daemon_close(struct daemon *d)
{
	spawner_destroy(d->spawner);
	(void)sd_event_unref(d->loop);
	for (size_t i = 0; i < SPAWN_MAX; i++)
		spawned_close(&d->started[i]);
}

/* Runs the loop until *condition (a bool) or until `exits` workers ended. */
static inline bool daemon_run(struct daemon *d, const bool *condition, size_t exits)
{
	uint64_t end = clock_monotonic_ns() + SPAWN_DEADLINE_US * 1000ull;

	while (condition ? !*condition : d->exits < exits) {
		uint64_t now = clock_monotonic_ns();

		if (now >= end || sd_event_run(d->loop, (end - now) / 1000) < 0)
			return false;
	}
	return true;
}

/* Starts worker number i as "w<i>" and waits for it. */
static inline struct spawned *daemon_start(struct daemon *d, size_t i,
					   const struct worker_limits *limits)
{
	struct spawned *s = &d->started[i];
	struct ramet_err err = { 0 };
	char name[16];

	(void)snprintf(name, sizeof(name), "w%zu", i);
	s->err.code = 0;
	if (spawner_start(d->spawner, name, limits, spawn_on_started, s, &err) < 0)
		fail_msg("%s", err.msg);
	assert_false(s->called); /* never before the return */
	assert_true(daemon_run(d, &s->called, 0));
	if (s->err.code)
		fail_msg("%s", s->err.msg);
	return s;
}

/* Sends a command and waits for the answer; false when the worker died of it. */
static inline bool spawned_ask(const struct spawned *s, enum worker_command command,
			       struct worker_answer *answer)
{
	struct pollfd ready = { .fd = s->process.control_fd, .events = POLLIN };
	char byte = (char)command;

	assert_int_equal(send(s->process.control_fd, &byte, 1, MSG_NOSIGNAL), 1);
	assert_int_equal(poll(&ready, 1, (int)(SPAWN_DEADLINE_US / 1000)), 1);
	return recv(s->process.control_fd, answer, sizeof(*answer), 0) == (ssize_t)sizeof(*answer);
}

static inline size_t fds_open(pid_t pid)
{
	char path[64];
	size_t n = 0;
	DIR *dir;

	(void)snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && readdir(dir))
		n++;
	if (dir)
		(void)closedir(dir);
	return n;
}

/* Is there a directory of this name on any of the host's hierarchies? */
static inline bool cgroup_left(const char *cgroup)
{
	struct cgroup_host host;
	char path[CGROUP_PATH_MAX * 2];

	assert_int_equal(cgroup_host_detect(CGROUP_MOUNTINFO, cgroup, &host, NULL), 0);
	for (int c = 0; c < CGROUP_CONTROLLERS; c++)
		if (host.places[c].version &&
		    cgroup_path(&host, (enum cgroup_controller)c, NULL, NULL, path, sizeof(path)) ==
			    0 &&
		    access(path, F_OK) == 0)
			return true;
	return false;
}

#endif
