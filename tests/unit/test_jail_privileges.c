/* jail_enter() alone, without the system call filter: identity, capabilities and
 * other processes. One test per rule tries to break it. Needs root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <linux/capability.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>

#include "lib/cleanup.h"
#include "tests/fake/jail_assert.h"

/* ---- privileges ---- */

static int try_setuid(const void *arg)
{
	(void)arg;
	return jailed_result(setuid(0));
}

static void cannot_become_root(void **state)
{
	(void)state;
	jail_returns(try_setuid, NULL, -EPERM);
}

static int try_setgid(const void *arg)
{
	(void)arg;
	return jailed_result(setgid(0));
}

static void cannot_join_the_root_group(void **state)
{
	(void)state;
	jail_returns(try_setgid, NULL, -EPERM);
}

static int try_groups(const void *arg)
{
	(void)arg;
	return jailed_result(getgroups(0, NULL));
}

static void has_no_supplementary_group(void **state)
{
	(void)state;
	jail_returns(try_groups, NULL, 0);
}

static int try_ids(const void *arg)
{
	uid_t u[3];
	gid_t g[3];

	(void)arg;
	if (getresuid(&u[0], &u[1], &u[2]) < 0 || getresgid(&g[0], &g[1], &g[2]) < 0)
		return -errno;
	for (int i = 0; i < 3; i++)
		if (u[i] != jailed_uid() || g[i] != jailed_uid())
			return 0;
	return 1;
}

static void all_its_ids_are_the_given_ones(void **state)
{
	(void)state;
	jail_returns(try_ids, NULL, 1);
}

static int try_capabilities(const void *arg)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	(void)arg;
	if (syscall(SYS_capget, &header, data) < 0)
		return -errno;
	return (data[0].effective | data[0].permitted | data[0].inheritable | data[1].effective |
		data[1].permitted | data[1].inheritable) == 0;
}

static void holds_no_capability(void **state)
{
	(void)state;
	jail_returns(try_capabilities, NULL, 1);
}

static int try_bounding(const void *arg)
{
	int held = 0;

	(void)arg;
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
		held += prctl(PR_CAPBSET_READ, cap) > 0;
	return held;
}

static void bounding_set_is_empty(void **state)
{
	(void)state;
	jail_returns(try_bounding, NULL, 0);
}

static int try_ambient(const void *arg)
{
	int held = 0;

	(void)arg;
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
		held += prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0) > 0;
	return held;
}

static void ambient_set_is_empty(void **state)
{
	(void)state;
	jail_returns(try_ambient, NULL, 0);
}

static int try_no_new_privs(const void *arg)
{
	(void)arg;
	return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
}

static void gains_no_privileges_by_exec(void **state)
{
	(void)state;
	jail_returns(try_no_new_privs, NULL, 1);
}

static int try_dumpable(const void *arg)
{
	(void)arg;
	return prctl(PR_GET_DUMPABLE);
}

static void is_not_dumpable(void **state)
{
	(void)state;
	jail_returns(try_dumpable, NULL, 0);
}

static int try_mount(const void *arg)
{
	(void)arg;
	return jailed_result(mount("none", "/", "tmpfs", 0, NULL));
}

static void cannot_mount(void **state)
{
	(void)state;
	jail_returns(try_mount, NULL, -EPERM);
}

static int try_unshare(const void *arg)
{
	(void)arg;
	return jailed_result(unshare(CLONE_NEWNS));
}

static void cannot_make_a_mount_namespace(void **state)
{
	(void)state;
	jail_returns(try_unshare, NULL, -EPERM);
}

static int try_chroot(const void *arg)
{
	(void)arg;
	return jailed_result(chroot("/"));
}

static void cannot_chroot(void **state)
{
	(void)state;
	jail_returns(try_chroot, NULL, -EPERM);
}

/* ---- other processes ---- */

static int try_kill(const void *arg)
{
	return jailed_result(kill(*(const pid_t *)arg, SIGTERM));
}

static void cannot_name_a_process_outside(void **state)
{
	pid_t parent = getpid();

	(void)state;
	jail_returns(try_kill, &parent, -ESRCH);
}

static void cannot_signal_a_process_outside(void **state)
{
	/* Without a pid namespace of its own it can name its parent. */
	struct jailed how = { .standalone = true, .keep = -1 };
	pid_t parent = getpid();
	struct outcome o = jailed_run(&how, try_kill, &parent);

	(void)state;
	assert_true(o.entered);
	assert_int_equal(o.value, -EPERM);
}

static int try_ptrace(const void *arg)
{
	return jailed_result(ptrace(PTRACE_ATTACH, *(const pid_t *)arg, NULL, NULL));
}

static void cannot_trace_a_process_outside(void **state)
{
	struct jailed how = { .standalone = true, .keep = -1 };
	pid_t parent = getpid();
	struct outcome o = jailed_run(&how, try_ptrace, &parent);

	(void)state;
	assert_true(o.entered);
	assert_int_equal(o.value, -EPERM);
}

static int try_exec(const void *arg)
{
	char name[] = "sh";
	char *argv[] = { name, NULL };

	(void)arg;
	return jailed_result(execv("/bin/sh", argv));
}

static void finds_nothing_to_execute(void **state)
{
	(void)state;
	jail_returns(try_exec, NULL, -ENOENT);
}

static int try_exec_fd(const void *arg)
{
	char name[] = "sh";
	char *argv[] = { name, NULL };

	return jailed_result(
		syscall(SYS_execveat, *(const int *)arg, "", argv, NULL, AT_EMPTY_PATH));
}

static void cannot_execute_an_open_file(void **state)
{
	cleanup_close int shell = open("/bin/sh", O_RDONLY | O_CLOEXEC);
	struct jailed how = JAILED_DEFAULT;
	struct outcome o;

	(void)state;
	if (syscall(SYS_landlock_create_ruleset, NULL, 0, 1) < 1) {
		print_message("skipped: only Landlock refuses this below the filter\n");
		skip();
	}
	how.keep = shell;
	o = jailed_run(&how, try_exec_fd, &shell);
	assert_true(o.entered);
	assert_int_equal(o.value, -EACCES);
}

#define T(name) cmocka_unit_test(name)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(cannot_become_root),
		T(cannot_join_the_root_group),
		T(has_no_supplementary_group),
		T(all_its_ids_are_the_given_ones),
		T(holds_no_capability),
		T(bounding_set_is_empty),
		T(ambient_set_is_empty),
		T(gains_no_privileges_by_exec),
		T(is_not_dumpable),
		T(cannot_mount),
		T(cannot_make_a_mount_namespace),
		T(cannot_chroot),
		T(cannot_name_a_process_outside),
		T(cannot_signal_a_process_outside),
		T(cannot_trace_a_process_outside),
		T(finds_nothing_to_execute),
		T(cannot_execute_an_open_file),
	};

	if (geteuid() != 0) {
		print_message("skipped: a jail can only be entered by root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
