/* jail_enter() alone, without the system call filter: what it refuses, the empty
 * file system, descriptors, life and death. Every layer below the filter must
 * hold by itself; one test per rule tries to break it. Needs root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <linux/magic.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#include "lib/cleanup.h"
#include "tests/fake/jail_assert.h"

/* jail_enter() must refuse with `code` and a sentence that has `word`. */
static void jail_refuses(const struct jailed *how, int code, const char *word)
{
	struct outcome o = jailed_run(how, NULL, NULL);

	assert_true(o.reported);
	assert_false(o.entered);
	assert_int_equal(o.value, -code);
	if (!strstr(o.text, word))
		fail_msg("'%s' does not mention '%s'", o.text, word);
}

/* ---- what jail_enter() refuses ---- */

static int become_nobody(void)
{
	return setresuid(65534, 65534, 65534);
}

static void refuses_to_run_unprivileged(void **state)
{
	struct jailed how = JAILED_DEFAULT;

	(void)state;
	how.before = become_nobody;
	jail_refuses(&how, EPERM, "root");
}

static void refuses_an_unknown_uid(void **state)
{
	struct jailed how = JAILED_DEFAULT;

	(void)state;
	how.uid = (uid_t)-1;
	jail_refuses(&how, EINVAL, "unprivileged");
}

static void refuses_uid_zero(void **state)
{
	struct jail_config config = { .uid = 0, .gid = 5 };
	struct ramet_err err;

	(void)state;
	assert_int_equal(jail_enter(&config, &err), -EINVAL);
}

static void refuses_gid_zero(void **state)
{
	struct jail_config config = { .uid = 5, .gid = 0 };
	struct ramet_err err;

	(void)state;
	assert_int_equal(jail_enter(&config, &err), -EINVAL);
}

static void refuses_a_closed_descriptor_to_keep(void **state)
{
	struct jailed how = JAILED_DEFAULT;

	(void)state;
	how.keep = 999;
	jail_refuses(&how, EBADF, "999");
}

static void refuses_too_many_descriptors_to_keep(void **state)
{
	int fds[JAIL_KEEP_MAX + 1] = { 0 };
	struct jail_config config = {
		.uid = 5, .gid = 5, .keep_fds = fds, .keep_count = JAIL_KEEP_MAX + 1
	};
	struct ramet_err err;

	(void)state;
	assert_int_equal(jail_enter(&config, &err), -EINVAL);
}

static void refuses_without(int flag, const char *name)
{
	struct jailed how = JAILED_DEFAULT;

	how.namespaces &= ~flag;
	jail_refuses(&how, EPERM, name);
}

static void refuses_the_parents_mount_namespace(void **state)
{
	(void)state;
	refuses_without(CLONE_NEWNS, "mnt");
}

static void refuses_the_parents_network_namespace(void **state)
{
	(void)state;
	refuses_without(CLONE_NEWNET, "net");
}

static void refuses_the_parents_ipc_namespace(void **state)
{
	(void)state;
	refuses_without(CLONE_NEWIPC, "ipc");
}

static void refuses_the_parents_uts_namespace(void **state)
{
	(void)state;
	refuses_without(CLONE_NEWUTS, "uts");
}

static void refuses_the_parents_cgroup_namespace(void **state)
{
	(void)state;
	refuses_without(CLONE_NEWCGROUP, "cgroup");
}

static void refuses_the_parents_pid_namespace(void **state)
{
	(void)state;
	refuses_without(CLONE_NEWPID, "pid");
}

/* ---- file system ---- */

static int try_stat(const void *arg)
{
	struct stat st;

	return jailed_result(stat(arg, &st));
}

static void sees_no_proc(void **state)
{
	(void)state;
	jail_returns(try_stat, "/proc", -ENOENT);
}

static void sees_no_host_file(void **state)
{
	(void)state;
	jail_returns(try_stat, "/etc/passwd", -ENOENT);
}

static void sees_no_device(void **state)
{
	(void)state;
	jail_returns(try_stat, "/dev/kvm", -ENOENT);
}

static int try_climb(const void *arg)
{
	struct stat root, above;

	(void)arg;
	if (stat("/", &root) < 0 || stat("/../../..", &above) < 0)
		return -errno;
	return root.st_ino == above.st_ino && root.st_dev == above.st_dev;
}

static void cannot_climb_above_its_root(void **state)
{
	(void)state;
	jail_returns(try_climb, NULL, 1);
}

static int try_filesystem_kind(const void *arg)
{
	struct statfs fs;

	(void)arg;
	if (statfs("/", &fs) < 0)
		return -errno;
	return fs.f_type == TMPFS_MAGIC && (fs.f_flags & ST_RDONLY) && (fs.f_flags & ST_NOEXEC) &&
	       (fs.f_flags & ST_NODEV) && (fs.f_flags & ST_NOSUID);
}

static void root_is_a_read_only_tmpfs(void **state)
{
	(void)state;
	jail_returns(try_filesystem_kind, NULL, 1);
}

static int try_cwd(const void *arg)
{
	char cwd[64];

	(void)arg;
	/* A directory outside of the root would begin with "(unreachable)". */
	return getcwd(cwd, sizeof(cwd)) ? strcmp(cwd, "/") : -errno;
}

static void working_directory_is_the_empty_root(void **state)
{
	(void)state;
	jail_returns(try_cwd, NULL, 0);
}

static int try_create(const void *arg)
{
	return jailed_result(open(arg, O_CREAT | O_WRONLY, 0600));
}

static void cannot_create_a_file(void **state)
{
	(void)state;
	jail_returns(try_create, "/file", -EROFS);
}

static int try_list(const void *arg)
{
	(void)arg;
	return jailed_result(open("/", O_RDONLY | O_DIRECTORY));
}

static void landlock_refuses_to_open_the_root(void **state)
{
	(void)state;
	if (syscall(SYS_landlock_create_ruleset, NULL, 0, 1) < 1) {
		print_message("skipped: this kernel has no Landlock\n");
		skip();
	}
	jail_returns(try_list, NULL, -EACCES);
}

static int try_umask(const void *arg)
{
	(void)arg;
	return (int)umask(0);
}

static void umask_hides_new_files(void **state)
{
	(void)state;
	jail_returns(try_umask, NULL, 077);
}

/* ---- life and death ---- */

static int wait_forever(const void *arg)
{
	(void)!write(*(const int *)arg, "r", 1);
	while (pause() < 0)
		;
	return 0;
}

static void dies_with_its_parent(void **state)
{
	struct jailed how = JAILED_DEFAULT;
	struct pollfd end;
	pid_t parent;
	int fds[2], status;
	char byte;

	(void)state;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	how.keep = fds[1];
	parent = fork();
	if (parent == 0) {
		(void)jailed_run(&how, wait_forever, &fds[1]);
		_exit(0);
	}
	(void)close(fds[1]);
	/* The worker changed its uid before it wrote; that clears a death signal. */
	assert_int_equal(read(fds[0], &byte, 1), 1);
	assert_int_equal(kill(parent, SIGKILL), 0);
	assert_int_equal(waitpid(parent, &status, 0), parent);
	end = (struct pollfd){ .fd = fds[0], .events = POLLIN };
	assert_int_equal(poll(&end, 1, JAILED_DEADLINE_MS), 1);
	assert_int_equal(read(fds[0], &byte, 1), 0);
	(void)close(fds[0]);
}

static int try_name(const void *arg)
{
	char name[16];

	(void)arg;
	return prctl(PR_GET_NAME, name) < 0 ? -errno : strcmp(name, JAIL_PROCESS_NAME);
}

static void is_called_ramet_vmm(void **state)
{
	(void)state;
	jail_returns(try_name, NULL, 0);
}

#define T(name) cmocka_unit_test(name)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(refuses_to_run_unprivileged),
		T(refuses_an_unknown_uid),
		T(refuses_uid_zero),
		T(refuses_gid_zero),
		T(refuses_a_closed_descriptor_to_keep),
		T(refuses_too_many_descriptors_to_keep),
		T(refuses_the_parents_mount_namespace),
		T(refuses_the_parents_network_namespace),
		T(refuses_the_parents_ipc_namespace),
		T(refuses_the_parents_uts_namespace),
		T(refuses_the_parents_cgroup_namespace),
		T(refuses_the_parents_pid_namespace),
		T(sees_no_proc),
		T(sees_no_host_file),
		T(sees_no_device),
		T(cannot_climb_above_its_root),
		T(root_is_a_read_only_tmpfs),
		T(working_directory_is_the_empty_root),
		T(cannot_create_a_file),
		T(landlock_refuses_to_open_the_root),
		T(umask_hides_new_files),
		T(dies_with_its_parent),
		T(is_called_ramet_vmm),
	};

	if (geteuid() != 0) {
		print_message("skipped: a jail can only be entered by root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
