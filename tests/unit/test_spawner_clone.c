/* One clone without the spawner around it: the v2 way into a cgroup, and steps
 * that fail. The worker is this program itself (tests/fake/worker.h). Needs root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/pidfd.h>
#include <sys/wait.h>

#include "engine/spawner_process.h"
#include "engine/worker_ids.h"
#include "tests/fake/spawn.h"

struct clone {
	int control[2], null;
	struct worker_start start;
};

static int setup(void **state)
{
	struct clone *c = calloc(1, sizeof(*c));

	*state = c;
	if (!c || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, c->control) < 0)
		return -1;
	c->null = open("/dev/null", O_RDWR | O_CLOEXEC);
	c->start = (struct worker_start){
		.worker_fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC),
		.control_fd = c->control[1],
		.channel_fd = c->null,
		.kvm_fd = c->null,
		.unified_fd = -1,
		.uid = worker_uid(WORKER_UID_BLOCKS, 0),
	};
	return 0;
}

static int teardown(void **state)
{
	struct clone *c = *state;

	close_fd(&c->control[0]);
	close_fd(&c->control[1]);
	close_fd(&c->null);
	close_fd(&c->start.worker_fd);
	free(c);
	return 0;
}

static void is_born_in_its_v2_group(void **state)
{
	struct clone *c = *state;
	struct cgroup_host host = { .places[CGROUP_PIDS] = { .version = 2 } };
	char path[CGROUP_PATH_MAX * 2], text[2048], line[80];
	struct ramet_err err;
	int pidfd = -1;
	pid_t pid = 0;

	(void)snprintf(host.name, sizeof(host.name), "ramet-test-%d", getpid());
	(void)strcpy(host.places[CGROUP_PIDS].mount,
		     access("/sys/fs/cgroup/cgroup.procs", F_OK) == 0 ? "/sys/fs/cgroup"
								      : "/sys/fs/cgroup/unified");
	(void)snprintf(path, sizeof(path), "%s/cgroup.procs", host.places[CGROUP_PIDS].mount);
	if (access(path, F_OK) < 0) {
		print_message("skipped: no cgroup2 mount\n");
		skip();
	}
	(void)snprintf(path, sizeof(path), "%s/%s", host.places[CGROUP_PIDS].mount, host.name);
	assert_int_equal(mkdir(path, 0755), 0);
	c->start.unified_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (spawner_clone(&c->start, &pid, &pidfd, &err) < 0)
		fail_msg("%s", err.msg);
	close_fd(&c->start.unified_fd);
	(void)snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	assert_true(cgroup_file_read(path, text, sizeof(text)) > 0);
	(void)snprintf(line, sizeof(line), "0::/%s\n", host.name);
	assert_non_null(strstr(text, line));
	assert_int_equal(pidfd_send_signal(pidfd, SIGKILL, NULL, 0), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close_fd(&pidfd);
	assert_int_equal(cgroup_host_remove(&host, 0, &err), 0);
}

static void clone_fails(struct clone *c, int code, const char *word)
{
	size_t before = fds_open(getpid());
	struct ramet_err err = { 0 };
	int pidfd = -1;
	pid_t pid = 0;

	assert_int_equal(spawner_clone(&c->start, &pid, &pidfd, &err), -code);
	assert_int_equal(pid, 0);
	assert_int_equal(pidfd, -1);
	assert_int_equal(fds_open(getpid()), before);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
	if (!strstr(err.msg, word))
		fail_msg("'%s' does not mention '%s'", err.msg, word);
}

static void a_closed_group_file_fails_the_start(void **state)
{
	struct clone *c = *state;
	const int joins[] = { 999 };

	c->start.join_fds = joins;
	c->start.join_count = 1;
	clone_fails(c, EBADF, "cgroup");
}

static void a_closed_descriptor_fails_the_start(void **state)
{
	struct clone *c = *state;

	c->start.kvm_fd = 999;
	clone_fails(c, EBADF, "descriptors");
}

static void a_directory_is_no_worker_program(void **state)
{
	struct clone *c = *state;

	close_fd(&c->start.worker_fd);
	c->start.worker_fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	clone_fails(c, EACCES, "execute");
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv, char **envp)
{
	const struct CMUnitTest tests[] = {
		T(is_born_in_its_v2_group),
		T(a_closed_group_file_fails_the_start),
		T(a_closed_descriptor_fails_the_start),
		T(a_directory_is_no_worker_program),
	};

	if (!strcmp(argv[0], "ramet-vmm"))
		worker_main(argc, argv, envp);
	if (geteuid() != 0) {
		print_message("skipped: workers are started by root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
