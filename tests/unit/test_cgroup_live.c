/* Worker cgroups on the real hierarchies of this machine. Needs root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/cgroup.h"
#include "engine/cgroup_file.h"
#include "lib/clock.h"

#define SECOND_NS 1000000000ull

static const struct cgroup_limits some = { .memory_bytes = 536870912,
					   .cpu_percent = 150,
					   .pids = 3 };

static void real_host(struct cgroup_host *host, bool unified)
{
	struct ramet_err err;
	char name[32];

	if (geteuid() != 0) {
		print_message("skipped: cgroups can only be made by root\n");
		skip();
	}
	(void)snprintf(name, sizeof(name), "ramet-test-%d", getpid());
	assert_int_equal(cgroup_host_detect(CGROUP_MOUNTINFO, name, host, &err), 0);
	if (unified) {
		/* Killing needs no controller, so try it on v2 where that has none. */
		memset(host->places, 0, sizeof(host->places));
		host->places[CGROUP_PIDS].version = 2;
		(void)strcpy(host->places[CGROUP_PIDS].mount,
			     access("/sys/fs/cgroup/cgroup.procs", F_OK) == 0
				     ? "/sys/fs/cgroup"
				     : "/sys/fs/cgroup/unified");
		if (access(host->places[CGROUP_PIDS].mount, F_OK) < 0) {
			print_message("skipped: no cgroup2 mount\n");
			skip();
		}
	}
}

static pid_t sleeper(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		(void)pause();
		_exit(0);
	}
	return pid;
}

/* A process in a group of `host` is found there, killed with it and gone. */
static void live_and_die(const struct cgroup_host *host, const struct cgroup_limits *limits)
{
	uint64_t deadline = clock_monotonic_ns() + 10 * SECOND_NS;
	struct ramet_err err;
	pid_t pid = sleeper();
	int status;

	assert_int_equal(cgroup_create(host, "w", limits, &err), 0);
	assert_int_equal(cgroup_create(host, "w", limits, &err), -EEXIST);
	assert_int_equal(cgroup_attach(host, "w", pid, &err), 0);
	assert_int_equal(cgroup_remove(host, "w", &err), -EBUSY);
	assert_int_equal(cgroup_kill(host, "w", deadline, &err), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WTERMSIG(status), SIGKILL);
	assert_int_equal(cgroup_remove(host, "w", &err), 0);
	assert_int_equal(cgroup_remove(host, "w", &err), 0); /* a missing one is fine */
	assert_int_equal(cgroup_host_remove(host, deadline, &err), 0);
}

static void group_lives_and_dies(void **state)
{
	struct cgroup_host host;

	(void)state;
	real_host(&host, false);
	cgroup_host_prepare(&host);
	live_and_die(&host, &some);
}

static void group_lives_and_dies_on_v2(void **state)
{
	const struct cgroup_limits none = { 0 };
	struct cgroup_host host;
	char path[CGROUP_PATH_MAX * 2];

	(void)state;
	real_host(&host, true);
	assert_int_equal(cgroup_path(&host, CGROUP_PIDS, NULL, NULL, path, sizeof(path)), 0);
	assert_int_equal(mkdir(path, 0755), 0);
	live_and_die(&host, &none);
	assert_int_equal(access(path, F_OK), -1);
}

static void leftovers_are_killed_and_removed(void **state)
{
	uint64_t deadline = clock_monotonic_ns() + 10 * SECOND_NS;
	struct cgroup_host host;
	struct ramet_err err;
	pid_t pids[3];
	int status;

	(void)state;
	real_host(&host, false);
	cgroup_host_prepare(&host);
	assert_int_equal(cgroup_create(&host, "a", &some, &err), 0);
	assert_int_equal(cgroup_create(&host, "b", &some, &err), 0);
	for (int i = 0; i < 3; i++) {
		pids[i] = sleeper();
		assert_int_equal(cgroup_attach(&host, i ? "a" : "b", pids[i], &err), 0);
	}
	if (cgroup_host_remove(&host, deadline, &err) < 0)
		fail_msg("%s", err.msg);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(WTERMSIG(status), SIGKILL);
	}
	for (int c = 0; c < CGROUP_CONTROLLERS; c++) {
		char path[CGROUP_PATH_MAX * 2];

		if (!host.places[c].version)
			continue;
		assert_int_equal(cgroup_path(&host, (enum cgroup_controller)c, NULL, NULL, path,
					     sizeof(path)),
				 0);
		assert_int_equal(access(path, F_OK), -1);
	}
	assert_int_equal(cgroup_host_remove(&host, deadline, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(group_lives_and_dies),
		cmocka_unit_test(group_lives_and_dies_on_v2),
		cmocka_unit_test(leftovers_are_killed_and_removed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
