/* The spawner with real processes: what a worker is started with, limits, exits,
 * errors, leaks. Workers are this program itself (tests/fake/worker.h). Needs root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/wait.h>

#include "engine/worker_ids.h"
#include "tests/fake/spawn.h"

static int setup(void **state)
{
	struct daemon *d = calloc(1, sizeof(*d));
	struct ramet_err err;

	*state = d;
	return d ? daemon_open(d, NULL, &err) : -1;
}

static int teardown(void **state)
{
	struct daemon *d = *state;

	daemon_close(d);
	free(d);
	return 0;
}

/* ---- what a worker gets ---- */

static struct worker_answer first_worker_tells(struct daemon *d)
{
	struct worker_answer a = { 0 };

	assert_true(spawned_ask(daemon_start(d, 0, &spawn_limits), WORKER_TELL, &a));
	return a;
}

static void gets_exactly_these_arguments(void **state)
{
	struct daemon *d = *state;
	struct worker_answer a = first_worker_tells(d);
	uid_t uid = d->started[0].process.uid;
	char expected[160];

	(void)snprintf(expected, sizeof(expected),
		       "ramet-vmm --control-fd 3 --channel-fd 4 --kvm-fd 5 --uid %u --gid %u", uid,
		       uid);
	assert_string_equal(a.arguments, expected);
}

static void gets_exactly_these_descriptors(void **state)
{
	static const int expected[] = { 0, 1, 2, 3, 4, 5, -1 };
	struct worker_answer a = first_worker_tells(*state);

	assert_memory_equal(a.fds, expected, sizeof(expected));
	assert_true(a.stdin_null);
	assert_true(a.stdout_is_stderr);
}

static void gets_an_empty_environment(void **state)
{
	struct worker_answer a = first_worker_tells(*state);

	assert_int_equal(a.environment, 0);
}

static void gets_namespaces_of_its_own(void **state)
{
	struct worker_answer a = first_worker_tells(*state);
	uint64_t ours[6];

	worker_namespaces_read("self", ours);
	assert_int_equal(a.pid, 1);
	for (int i = 0; i < 6; i++) {
		assert_int_not_equal(a.namespaces[i], 0);
		assert_int_not_equal(a.namespaces[i], ours[i]);
	}
}

static void can_jail_itself(void **state)
{
	struct worker_answer a;

	assert_true(spawned_ask(daemon_start(*state, 0, &spawn_limits), WORKER_JAIL, &a));
	if (a.value < 0)
		fail_msg("%s", a.text);
	/* And goes on living: it answers, jailed, what system calls allow. */
	(void)print_message("jail_enter %.2f ms, jail_seal %.2f ms\n", (double)a.enter_ns / 1e6,
			    (double)a.seal_ns / 1e6);
}

static void two_workers_share_no_uid(void **state)
{
	struct daemon *d = *state;
	struct spawned *a = daemon_start(d, 0, &spawn_limits);
	struct spawned *b = daemon_start(d, 1, &spawn_limits);

	assert_int_not_equal(a->process.uid, b->process.uid);
	assert_true(a->process.uid >= WORKER_UID_BASE);
}

static void two_daemons_share_no_uid(void **state)
{
	struct daemon *d = *state, other;
	struct spawned *a = daemon_start(d, 0, &spawn_limits), *b;
	struct ramet_err err;
	char cgroup[32];

	(void)snprintf(cgroup, sizeof(cgroup), "ramet-other-%d", getpid());
	assert_int_equal(daemon_open_as(&other, cgroup, NULL, &err), 0);
	b = daemon_start(&other, 0, &spawn_limits);
	assert_true(a->process.uid + WORKERS_MAX <= b->process.uid ||
		    b->process.uid + WORKERS_MAX <= a->process.uid);
	assert_int_equal(kill(b->process.pid, SIGKILL), 0);
	assert_true(daemon_run(&other, NULL, 1));
	daemon_close(&other);
}

static void channel_reaches_the_daemon(void **state)
{
	struct daemon *d = *state;
	struct spawned *s = daemon_start(d, 0, &spawn_limits);
	struct pollfd end = { .fd = s->process.channel_fd, .events = POLLIN };
	char byte;

	/* Nobody else holds the other end: it closes with the worker. */
	assert_int_equal(poll(&end, 1, 0), 0);
	assert_int_equal(spawner_kill(d->spawner, "w0"), 0);
	assert_int_equal(poll(&end, 1, SPAWN_DEADLINE_US / 1000), 1);
	assert_int_equal(read(s->process.channel_fd, &byte, 1), 0);
}

/* ---- limits ---- */

static void memory_beyond_the_limit_is_reported_as_such(void **state)
{
	const struct worker_limits small = { .memory_bytes = 64u << 20, .pids = 4 };
	struct daemon *d = *state;
	struct worker_answer a;

	if (!spawner_cgroups(d->spawner)->places[CGROUP_MEMORY].version) {
		print_message("skipped: %s\n",
			      spawner_cgroups(d->spawner)->places[CGROUP_MEMORY].reason);
		skip();
	}
	assert_false(spawned_ask(daemon_start(d, 0, &small), WORKER_EAT, &a));
	assert_true(daemon_run(d, NULL, 1));
	assert_true(WIFSIGNALED(d->exited[0].wait_status));
	assert_int_equal(WTERMSIG(d->exited[0].wait_status), SIGKILL);
	assert_true(d->exited[0].details.oom_killed);
	assert_in_range(d->exited[0].details.memory_peak_bytes, 32u << 20, 64u << 20);
}

static void memory_within_the_limit_is_fine(void **state)
{
	struct worker_answer a;

	assert_true(spawned_ask(daemon_start(*state, 0, &spawn_limits), WORKER_EAT, &a));
	assert_int_equal(a.value, 0);
}

static void processes_beyond_the_limit_are_refused(void **state)
{
	const struct worker_limits one = { .memory_bytes = 512u << 20, .pids = 1 };
	struct daemon *d = *state;
	struct worker_answer a;

	if (!spawner_cgroups(d->spawner)->places[CGROUP_PIDS].version) {
		print_message("skipped: %s\n",
			      spawner_cgroups(d->spawner)->places[CGROUP_PIDS].reason);
		skip();
	}
	/* Root, not jailed: only the cgroup stops it. */
	assert_true(spawned_ask(daemon_start(d, 0, &one), WORKER_FORK, &a));
	assert_int_equal(a.value, -EAGAIN);
}

static void cpu_beyond_the_limit_is_withheld(void **state)
{
	const struct worker_limits tenth = { .memory_bytes = 512u << 20,
					     .pids = 4,
					     .cpu_percent = 10 };
	struct daemon *d = *state;
	struct worker_answer a;

	if (!spawner_cgroups(d->spawner)->places[CGROUP_CPU].version) {
		print_message("skipped: %s\n",
			      spawner_cgroups(d->spawner)->places[CGROUP_CPU].reason);
		skip();
	}
	assert_true(spawned_ask(daemon_start(d, 0, &tenth), WORKER_SPIN, &a));
	assert_in_range(a.value, 1, 400); /* ms of CPU in a second; 100 plus slack */
}

/* ---- ends ---- */

static void an_exit_is_reported_with_its_status(void **state)
{
	struct daemon *d = *state;
	struct worker_answer a;

	assert_false(spawned_ask(daemon_start(d, 0, &spawn_limits), WORKER_EXIT, &a));
	assert_true(daemon_run(d, NULL, 1));
	assert_string_equal(d->exited[0].name, "w0");
	assert_true(WIFEXITED(d->exited[0].wait_status));
	assert_int_equal(WEXITSTATUS(d->exited[0].wait_status), 7);
	assert_false(d->exited[0].details.oom_killed);
}

static void a_kill_is_reported_as_a_kill(void **state)
{
	struct daemon *d = *state;

	(void)daemon_start(d, 0, &spawn_limits);
	assert_int_equal(spawner_kill(d->spawner, "w0"), 0);
	assert_int_equal(spawner_kill(d->spawner, "w0"), 0); /* twice does no harm */
	assert_true(daemon_run(d, NULL, 1));
	assert_int_equal(WTERMSIG(d->exited[0].wait_status), SIGKILL);
	assert_int_equal(spawner_kill(d->spawner, "w0"), -ESRCH);
}

static void a_worker_can_be_killed_before_it_started(void **state)
{
	struct daemon *d = *state;
	struct ramet_err err;

	assert_int_equal(spawner_start(d->spawner, "w0", &spawn_limits, spawn_on_started,
				       &d->started[0], &err),
			 0);
	assert_int_equal(spawner_kill(d->spawner, "w0"), 0);
	assert_true(daemon_run(d, NULL, 1));
	assert_true(d->started[0].called);
}

static void a_name_is_free_again_after_the_exit(void **state)
{
	struct daemon *d = *state;

	for (size_t i = 1; i <= 3; i++) {
		struct spawned *s = daemon_start(d, 0, &spawn_limits);

		assert_int_equal(spawner_kill(d->spawner, "w0"), 0);
		assert_true(daemon_run(d, NULL, i));
		spawned_close(s);
	}
}

/* ---- errors ---- */

static int start_result(struct daemon *d, const char *name, const struct worker_limits *limits)
{
	struct ramet_err err;

	return spawner_start(d->spawner, name, limits, spawn_on_started, &d->started[9], &err);
}

static void a_living_name_is_refused(void **state)
{
	(void)daemon_start(*state, 0, &spawn_limits);
	assert_int_equal(start_result(*state, "w0", &spawn_limits), -EEXIST);
}

static void names_that_are_no_directory_are_refused(void **state)
{
	assert_int_equal(start_result(*state, "", &spawn_limits), -EINVAL);
	assert_int_equal(start_result(*state, "a/b", &spawn_limits), -EINVAL);
	assert_int_equal(start_result(*state, "..", &spawn_limits), -EINVAL);
	assert_int_equal(
		start_result(*state, "a-name-that-has-just-forty-characters-..", &spawn_limits),
		-EINVAL);
}

static void a_worker_without_limits_is_refused(void **state)
{
	const struct worker_limits no_memory = { .pids = 1 }, no_pids = { .memory_bytes = 1 };

	assert_int_equal(start_result(*state, "w", &no_memory), -EINVAL);
	assert_int_equal(start_result(*state, "w", &no_pids), -EINVAL);
}

static void an_unknown_name_cannot_be_killed(void **state)
{
	struct daemon *d = *state;

	assert_int_equal(spawner_kill(d->spawner, "nobody"), -ESRCH);
}

static void a_missing_worker_program_is_an_error(void **state)
{
	struct daemon d;
	struct ramet_err err;

	(void)state;
	assert_int_equal(daemon_open(&d, "/nonexistent/ramet-vmm", &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/nonexistent/ramet-vmm"));
	daemon_close(&d);
}

static void a_program_that_is_not_executable_is_an_error(void **state)
{
	struct daemon d;
	struct ramet_err err;

	(void)state;
	assert_int_equal(daemon_open(&d, "/etc/passwd", &err), -EACCES);
	daemon_close(&d);
}

static void a_program_that_is_no_program_fails_each_start(void **state)
{
	char path[] = "/tmp/ramet-worker-XXXXXX";
	cleanup_close int fd = mkstemp(path);
	struct ramet_err err;
	struct daemon d;

	(void)state;
	assert_int_equal(write(fd, "garbage", 7), 7);
	assert_int_equal(fchmod(fd, 0700), 0);
	close_fd(&fd);
	assert_int_equal(daemon_open(&d, path, &err), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(start_result(&d, "w", &spawn_limits), 0);
	assert_true(daemon_run(&d, &d.started[9].called, 0));
	assert_int_equal(d.started[9].err.code, ENOEXEC);
	daemon_close(&d);
}

/* ---- nothing is left ---- */

static void fifty_workers_leave_no_descriptor(void **state)
{
	struct daemon *d = *state;
	size_t ours = 0, its = 0;

	for (size_t i = 0; i < 51; i++) {
		struct spawned *s = daemon_start(d, i % 2, &spawn_limits);

		assert_int_equal(spawner_kill(d->spawner, i % 2 ? "w1" : "w0"), 0);
		assert_true(daemon_run(d, NULL, i + 1));
		spawned_close(s);
		if (i == 0) {
			ours = fds_open(getpid());
			its = fds_open(d->spawner->pid);
		}
	}
	assert_int_equal(fds_open(getpid()), ours);
	assert_int_equal(fds_open(d->spawner->pid), its);
}

static void many_starts_at_once_all_succeed(void **state)
{
	struct daemon *d = *state;
	struct ramet_err err;
	char name[16];

	for (size_t i = 0; i < 48; i++) {
		(void)snprintf(name, sizeof(name), "w%zu", i);
		assert_int_equal(spawner_start(d->spawner, name, &spawn_limits, spawn_on_started,
					       &d->started[i], &err),
				 0);
	}
	for (size_t i = 0; i < 48; i++) {
		assert_true(daemon_run(d, &d->started[i].called, 0));
		assert_int_equal(d->started[i].err.code, 0);
	}
}

static void destroy_leaves_nothing(void **state)
{
	size_t before = fds_open(getpid());
	struct ramet_err err;
	struct daemon d;

	(void)state;
	assert_int_equal(daemon_open(&d, NULL, &err), 0);
	for (size_t i = 0; i < 5; i++)
		(void)daemon_start(&d, i, &spawn_limits);
	daemon_close(&d);
	assert_int_equal(fds_open(getpid()), before);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	assert_false(cgroup_left(d.cgroup));
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void starting_takes_milliseconds(void **state)
{
	struct daemon *d = *state;
	uint64_t ns[41];

	for (size_t i = 0; i < 41; i++) {
		struct spawned *s = daemon_start(d, 0, &spawn_limits);

		ns[i] = s->process.spawn_ns;
		assert_int_equal(spawner_kill(d->spawner, "w0"), 0);
		assert_true(daemon_run(d, NULL, i + 1));
		spawned_close(s);
	}
	qsort(ns, 41, sizeof(ns[0]), compare);
	print_message("spawn p50 %.2f ms, max %.2f ms\n", (double)ns[20] / 1e6,
		      (double)ns[40] / 1e6);
	assert_true(ns[20] < 200000000u);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv, char **envp)
{
	const struct CMUnitTest tests[] = {
		T(gets_exactly_these_arguments),
		T(gets_exactly_these_descriptors),
		T(gets_an_empty_environment),
		T(gets_namespaces_of_its_own),
		T(can_jail_itself),
		T(two_workers_share_no_uid),
		T(two_daemons_share_no_uid),
		T(channel_reaches_the_daemon),
		T(memory_beyond_the_limit_is_reported_as_such),
		T(memory_within_the_limit_is_fine),
		T(processes_beyond_the_limit_are_refused),
		T(cpu_beyond_the_limit_is_withheld),
		T(an_exit_is_reported_with_its_status),
		T(a_kill_is_reported_as_a_kill),
		T(a_worker_can_be_killed_before_it_started),
		T(a_name_is_free_again_after_the_exit),
		T(a_living_name_is_refused),
		T(names_that_are_no_directory_are_refused),
		T(a_worker_without_limits_is_refused),
		T(an_unknown_name_cannot_be_killed),
		cmocka_unit_test(a_missing_worker_program_is_an_error),
		cmocka_unit_test(a_program_that_is_not_executable_is_an_error),
		cmocka_unit_test(a_program_that_is_no_program_fails_each_start),
		T(fifty_workers_leave_no_descriptor),
		T(many_starts_at_once_all_succeed),
		cmocka_unit_test(destroy_leaves_nothing),
		T(starting_takes_milliseconds),
	};

	if (!strcmp(argv[0], "ramet-vmm"))
		worker_main(argc, argv, envp);
	if (geteuid() != 0 || access("/dev/kvm", R_OK | W_OK) < 0) {
		print_message("skipped: workers are started by root, with /dev/kvm\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
