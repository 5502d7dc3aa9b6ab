/* Who dies with whom: daemon, spawner and workers, and what the next daemon finds.
 * Workers are this program itself (tests/fake/worker.h). Needs root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "engine/spawner_claim.h"
#include "tests/fake/spawn.h"

static int setup(void **state)
{
	struct daemon *d = calloc(1, sizeof(*d));
	struct ramet_err err;

	*state = d;
	if (!d || daemon_open(d, NULL, &err) < 0)
		return -1;
	(void)daemon_start(d, 0, &spawn_limits);
	return 0;
}

static int teardown(void **state)
{
	struct daemon *d = *state;

	daemon_close(d);
	free(d);
	return 0;
}

/* Waits until the process behind `pidfd` ended. */
static bool ends(int pidfd)
{
	struct pollfd gone = { .fd = pidfd, .events = POLLIN };

	return poll(&gone, 1, SPAWN_DEADLINE_US / 1000) == 1;
}

/* ---- the spawner as a process ---- */

static void spawner_has_its_own_name(void **state)
{
	const struct daemon *d = *state;
	char path[64], name[32];

	(void)snprintf(path, sizeof(path), "/proc/%d/comm", d->spawner->pid);
	assert_true(cgroup_file_read(path, name, sizeof(name)) > 0);
	assert_string_equal(name, "ramet-spawner\n");
}

static void spawner_holds_none_of_the_daemons_descriptors(void **state)
{
	const struct daemon *d = *state;

	/* 0, 1, 2, the socket, the worker program, the claims on uids and cgroup,
	 * epoll, the worker's pidfd; and "." and ".." of the directory. */
	assert_int_equal(fds_open(d->spawner->pid), 9 + 2);
}

static void spawner_leaves_stopping_to_the_daemon(void **state)
{
	struct daemon *d = *state;

	assert_int_equal(kill(d->spawner->pid, SIGTERM), 0);
	assert_int_equal(kill(d->spawner->pid, SIGINT), 0);
	assert_int_equal(kill(d->spawner->pid, SIGHUP), 0);
	(void)daemon_start(d, 1, &spawn_limits);
	assert_int_equal(d->exits, 0);
}

/* ---- the spawner dies ---- */

static void workers_die_with_the_spawner(void **state)
{
	struct daemon *d = *state;
	int pidfd = pidfd_open(d->started[0].process.pid, 0);

	assert_true(pidfd >= 0);
	assert_int_equal(kill(d->spawner->pid, SIGKILL), 0);
	assert_true(ends(pidfd));
	(void)close(pidfd);
}

static void a_jailed_worker_dies_with_the_spawner(void **state)
{
	struct daemon *d = *state;
	int pidfd = pidfd_open(d->started[0].process.pid, 0);
	struct worker_answer a;

	assert_true(spawned_ask(&d->started[0], WORKER_JAIL, &a));
	assert_int_equal(a.value, 0);
	assert_int_equal(kill(d->spawner->pid, SIGKILL), 0);
	assert_true(ends(pidfd));
	(void)close(pidfd);
}

static void the_daemon_hears_of_the_spawners_death(void **state)
{
	struct daemon *d = *state;
	struct ramet_err err;

	assert_int_equal(kill(d->spawner->pid, SIGSTOP), 0);
	assert_int_equal(spawner_start(d->spawner, "w1", &spawn_limits, spawn_on_started,
				       &d->started[1], &err),
			 0);
	assert_int_equal(kill(d->spawner->pid, SIGKILL), 0);
	assert_true(daemon_run(d, NULL, 1));
	assert_string_equal(d->exited[0].name, "w0");
	assert_int_equal(WTERMSIG(d->exited[0].wait_status), SIGKILL);
	assert_true(daemon_run(d, &d->started[1].called, 0));
	assert_int_equal(d->started[1].err.code, EPIPE);
	assert_int_equal(spawner_start(d->spawner, "w2", &spawn_limits, spawn_on_started,
				       &d->started[2], &err),
			 -EPIPE);
	assert_int_equal(spawner_kill(d->spawner, "w0"), -ESRCH);
}

static void requests_wait_for_a_busy_spawner(void **state)
{
	const int small = 4608;
	struct daemon *d = *state;
	struct ramet_err err;
	char name[16];

	assert_int_equal(kill(d->spawner->pid, SIGSTOP), 0);
	assert_int_equal(
		setsockopt(d->spawner->socket, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
	for (size_t i = 1; i < 40; i++) {
		(void)snprintf(name, sizeof(name), "w%zu", i);
		assert_int_equal(spawner_start(d->spawner, name, &spawn_limits, spawn_on_started,
					       &d->started[i], &err),
				 0);
		assert_int_equal(spawner_kill(d->spawner, name), 0);
	}
	assert_true(d->spawner->queue_count > 0); /* more than the socket takes */
	assert_int_equal(kill(d->spawner->pid, SIGCONT), 0);
	assert_true(daemon_run(d, NULL, 39));
	assert_int_equal(d->spawner->queue_count, 0);
	for (size_t i = 1; i < 40; i++)
		assert_int_equal(d->started[i].err.code, 0);
}

static unsigned int refused;

static void count_refused(void *arg, const struct worker_process *worker,
			  const struct ramet_err *err)
{
	(void)arg;
	assert_null(worker);
	assert_int_equal(err->code, EPIPE);
	refused++;
}

static void the_number_of_workers_is_bounded(void **state)
{
	struct rlimit files;
	struct daemon *d = *state;
	struct ramet_err err;
	unsigned int started = 0;
	char name[16];
	int ret = 0;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	files.rlim_cur = files.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
	if (files.rlim_cur < 4 * WORKERS_MAX + 100) {
		print_message("skipped: RLIMIT_NOFILE is %ju\n", (uintmax_t)files.rlim_cur);
		skip();
	}
	assert_int_equal(kill(d->spawner->pid, SIGSTOP), 0);
	while (ret == 0) {
		(void)snprintf(name, sizeof(name), "x%u", started);
		ret = spawner_start(d->spawner, name, &spawn_limits, count_refused, NULL, &err);
		started += ret == 0;
	}
	assert_int_equal(ret, -EAGAIN);
	assert_int_equal(started, WORKERS_MAX - 1); /* w0 is the other */
	assert_int_equal(kill(d->spawner->pid, SIGKILL), 0);
	assert_true(daemon_run(d, NULL, 1));
	assert_int_equal(refused, started);
}

static void destroy_does_not_wait_for_a_stuck_spawner(void **state)
{
	struct ramet_err err;
	struct daemon d;
	uint64_t begin;
	int pidfd;

	(void)state;
	assert_int_equal(daemon_open(&d, NULL, &err), 0);
	pidfd = pidfd_open(daemon_start(&d, 0, &spawn_limits)->process.pid, 0);
	assert_int_equal(kill(d.spawner->pid, SIGSTOP), 0);
	begin = clock_monotonic_ns();
	daemon_close(&d);
	assert_true(clock_monotonic_ns() - begin < 10000000000ull);
	assert_true(ends(pidfd));
	assert_false(cgroup_left(d.cgroup));
	(void)close(pidfd);
}

/* ---- the daemon dies ---- */

struct family {
	pid_t daemon;
	int spawner, worker; /* pidfds */
	char cgroup[32];
};

/* A daemon in a process of its own, with one worker. */
static void family_start(struct family *family, bool jailed)
{
	int fds[2], pids[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	family->daemon = fork();
	if (family->daemon == 0) {
		struct worker_answer a;
		struct ramet_err err;
		struct daemon d;

		if (daemon_open(&d, NULL, &err) < 0)
			_exit(1);
		pids[1] = daemon_start(&d, 0, &spawn_limits)->process.pid;
		pids[0] = d.spawner->pid;
		if (jailed && (!spawned_ask(&d.started[0], WORKER_JAIL, &a) || a.value < 0))
			_exit(1);
		(void)!write(fds[1], pids, sizeof(pids));
		(void)alarm(60); /* should the test fail before it kills it */
		(void)pause();
		_exit(1);
	}
	(void)close(fds[1]);
	assert_int_equal(read(fds[0], pids, sizeof(pids)), sizeof(pids));
	(void)close(fds[0]);
	family->spawner = pidfd_open(pids[0], 0);
	family->worker = pidfd_open(pids[1], 0);
	assert_true(family->spawner >= 0 && family->worker >= 0);
	(void)snprintf(family->cgroup, sizeof(family->cgroup), "ramet-test-%d", family->daemon);
}

static void family_end(struct family *family)
{
	(void)close(family->spawner);
	(void)close(family->worker);
	while (waitpid(-1, NULL, 0) > 0) /* the spawner too: see PR_SET_CHILD_SUBREAPER */
		;
}

static void all_die_with_a_killed_daemon(void **state)
{
	struct family family;

	(void)state;
	family_start(&family, true);
	assert_int_equal(kill(family.daemon, SIGKILL), 0);
	assert_true(ends(family.worker));
	assert_true(ends(family.spawner));
	assert_false(cgroup_left(family.cgroup)); /* the spawner tidied up */
	family_end(&family);
}

static void all_die_even_if_the_spawner_is_stuck(void **state)
{
	struct family family;

	(void)state;
	family_start(&family, true);
	/* Stopped, it cannot see its socket close; killed by anyone, its workers
	 * go with it. */
	assert_int_equal(pidfd_send_signal(family.spawner, SIGSTOP, NULL, 0), 0);
	assert_int_equal(kill(family.daemon, SIGKILL), 0);
	assert_int_equal(pidfd_send_signal(family.spawner, SIGKILL, NULL, 0), 0);
	assert_true(ends(family.spawner));
	assert_true(ends(family.worker));
	assert_true(cgroup_left(family.cgroup));
	assert_int_equal(spawner_clean_stale(family.cgroup, NULL), 0);
	assert_false(cgroup_left(family.cgroup));
	family_end(&family);
}

/* It removes the cgroup that the next one would use, as its last act. */
static void the_next_daemon_waits_for_the_last_ones_spawner(void **state)
{
	struct family family;
	struct ramet_err err;
	int claim;

	(void)state;
	family_start(&family, false);
	assert_int_equal(pidfd_send_signal(family.spawner, SIGSTOP, NULL, 0), 0);
	assert_int_equal(kill(family.daemon, SIGKILL), 0);
	assert_int_equal(claim_cgroup(family.cgroup, 10, &err), -EBUSY);
	assert_non_null(strstr(err.msg, family.cgroup));
	assert_int_equal(pidfd_send_signal(family.spawner, SIGCONT, NULL, 0), 0);
	claim = claim_cgroup(family.cgroup, 10000, &err);
	assert_true(claim >= 0);
	assert_false(cgroup_left(family.cgroup));
	(void)close(claim);
	family_end(&family);
}

static void stale_cgroups_are_emptied_and_removed(void **state)
{
	struct family family;
	struct cgroup_host host;
	struct ramet_err err;
	pid_t stray = fork();
	int status;

	(void)state;
	if (stray == 0) {
		(void)pause();
		_exit(0);
	}
	family_start(&family, false);
	assert_int_equal(cgroup_host_detect(CGROUP_MOUNTINFO, family.cgroup, &host, &err), 0);
	assert_int_equal(cgroup_attach(&host, "w0", stray, &err), 0);
	assert_int_equal(pidfd_send_signal(family.spawner, SIGKILL, NULL, 0), 0);
	assert_int_equal(kill(family.daemon, SIGKILL), 0);
	assert_true(ends(family.worker));
	if (spawner_clean_stale(family.cgroup, &err) < 0)
		fail_msg("%s", err.msg);
	assert_false(cgroup_left(family.cgroup));
	assert_int_equal(waitpid(stray, &status, 0), stray);
	assert_int_equal(WTERMSIG(status), SIGKILL);
	family_end(&family);
}

static void cleaning_where_nothing_is_left_is_fine(void **state)
{
	struct ramet_err err;

	(void)state;
	assert_int_equal(spawner_clean_stale("ramet-test-nobody", &err), 0);
	assert_int_equal(spawner_clean_stale("../etc", &err), -EINVAL);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv, char **envp)
{
	const struct CMUnitTest tests[] = {
		T(spawner_has_its_own_name),
		T(spawner_holds_none_of_the_daemons_descriptors),
		T(spawner_leaves_stopping_to_the_daemon),
		T(workers_die_with_the_spawner),
		T(a_jailed_worker_dies_with_the_spawner),
		T(the_daemon_hears_of_the_spawners_death),
		T(requests_wait_for_a_busy_spawner),
		T(the_number_of_workers_is_bounded),
		cmocka_unit_test(destroy_does_not_wait_for_a_stuck_spawner),
		cmocka_unit_test(all_die_with_a_killed_daemon),
		cmocka_unit_test(all_die_even_if_the_spawner_is_stuck),
		cmocka_unit_test(the_next_daemon_waits_for_the_last_ones_spawner),
		cmocka_unit_test(stale_cgroups_are_emptied_and_removed),
		cmocka_unit_test(cleaning_where_nothing_is_left_is_fine),
	};

	if (!strcmp(argv[0], "ramet-vmm"))
		worker_main(argc, argv, envp);
	if (geteuid() != 0 || access("/dev/kvm", R_OK | W_OK) < 0) {
		print_message("skipped: workers are started by root, with /dev/kvm\n");
		return 77;
	}
	/* Orphans come here, so that nothing outlives the test. */
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
