/* What jail_seal() forbids: one test per system call or argument, made from the
 * table below. Each attempt must die of SIGSYS before the kernel looks at it.
 * Needs root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <asm/prctl.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <linux/vhost.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "tests/fake/jailed.h"

struct attempt {
	const char *name;
	long call;
	long args[6];
};

static char bytes[4096];
#define BYTES   ((long)bytes)
#define HERE    ((long)"/")
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define OTHER   2 /* a pid that is not the caller's, which is 1 */

/* clang-format off */
static const struct attempt attempts[] = {
	/* Files. */
	{ "open", SYS_open, { HERE, O_RDONLY } },
	{ "openat", SYS_openat, { AT_FDCWD, HERE, O_RDONLY } },
	{ "openat2", SYS_openat2, { AT_FDCWD, HERE, BYTES, 24 } },
	{ "creat", SYS_creat, { HERE, 0600 } },
	{ "stat by path", SYS_newfstatat, { AT_FDCWD, HERE, BYTES, 0 } },
	{ "statx", SYS_statx, { AT_FDCWD, HERE, 0, 0, BYTES } },
	{ "mkdir", SYS_mkdir, { HERE, 0700 } },
	{ "unlink", SYS_unlink, { HERE } },
	{ "rename", SYS_rename, { HERE, HERE } },
	{ "chdir", SYS_chdir, { HERE } },
	{ "getdents64", SYS_getdents64, { 0, BYTES, 4096 } },
	{ "ftruncate", SYS_ftruncate, { 0, 0 } },
	{ "pwrite64", SYS_pwrite64, { 0, BYTES, 1, 0 } },
	{ "sendfile", SYS_sendfile, { 1, 0, 0, 1 } },
	{ "memfd_create", SYS_memfd_create, { HERE, 0 } },
	{ "name_to_handle_at", SYS_name_to_handle_at, { AT_FDCWD, HERE, BYTES, BYTES, 0 } },
	{ "open_by_handle_at", SYS_open_by_handle_at, { AT_FDCWD, BYTES, 0 } },

	/* Mounts and namespaces. */
	{ "mount", SYS_mount, { HERE, HERE, HERE, 0, 0 } },
	{ "umount2", SYS_umount2, { HERE, 0 } },
	{ "pivot_root", SYS_pivot_root, { HERE, HERE } },
	{ "chroot", SYS_chroot, { HERE } },
	{ "fsopen", SYS_fsopen, { HERE, 0 } },
	{ "open_tree", SYS_open_tree, { AT_FDCWD, HERE, 0 } },
	{ "unshare", SYS_unshare, { CLONE_NEWUSER } },
	{ "setns", SYS_setns, { 0, 0 } },
	{ "sethostname", SYS_sethostname, { HERE, 1 } },

	/* Programs and processes. */
	{ "execve", SYS_execve, { HERE, 0, 0 } },
	{ "execveat", SYS_execveat, { 0, (long)"", 0, 0, AT_EMPTY_PATH } },
	{ "fork", SYS_fork, { 0 } },
	{ "vfork", SYS_vfork, { 0 } },
	{ "clone a process", SYS_clone, { SIGCHLD } },
	{ "clone a thread", SYS_clone, { CLONE_VM | CLONE_THREAD | CLONE_SIGHAND | CLONE_FS } },
	{ "clone3", SYS_clone3, { BYTES, 88 } },
	{ "wait4", SYS_wait4, { -1, 0, 0, 0 } },
	{ "kill", SYS_kill, { OTHER, 0 } },
	{ "kill itself", SYS_kill, { 1, 0 } },
	{ "tkill", SYS_tkill, { OTHER, 0 } },
	{ "tgkill of another process", SYS_tgkill, { OTHER, OTHER, 0 } },
	{ "tgkill of all", SYS_tgkill, { -1, OTHER, 0 } },
	{ "rt_sigqueueinfo", SYS_rt_sigqueueinfo, { OTHER, SIGUSR1, BYTES } },
	{ "rt_tgsigqueueinfo", SYS_rt_tgsigqueueinfo, { OTHER, OTHER, SIGUSR1, BYTES } },
	{ "pidfd_open", SYS_pidfd_open, { OTHER, 0 } },
	{ "pidfd_send_signal", SYS_pidfd_send_signal, { 0, 0, 0, 0 } },
	{ "pidfd_getfd", SYS_pidfd_getfd, { 0, 0, 0 } },
	{ "ptrace", SYS_ptrace, { PTRACE_ATTACH, OTHER, 0, 0 } },
	{ "process_vm_readv", SYS_process_vm_readv, { OTHER, BYTES, 0, BYTES, 0, 0 } },
	{ "process_vm_writev", SYS_process_vm_writev, { OTHER, BYTES, 0, BYTES, 0, 0 } },
	{ "process_madvise", SYS_process_madvise, { 0, BYTES, 0, 0, 0 } },
	{ "kcmp", SYS_kcmp, { 1, OTHER, 0, 0, 0 } },
	{ "personality", SYS_personality, { 0x0400000 } },
	{ "setpriority", SYS_setpriority, { PRIO_PROCESS, 0, -20 } },
	{ "sched_setscheduler", SYS_sched_setscheduler, { 0, 0, BYTES } },

	/* Identity and limits. */
	{ "setuid", SYS_setuid, { 0 } },
	{ "setgid", SYS_setgid, { 0 } },
	{ "setresuid", SYS_setresuid, { 0, 0, 0 } },
	{ "setgroups", SYS_setgroups, { 0, 0 } },
	{ "capset", SYS_capset, { BYTES, BYTES } },
	{ "setrlimit", SYS_setrlimit, { RLIMIT_NOFILE, BYTES } },
	{ "prlimit64", SYS_prlimit64, { OTHER, RLIMIT_NOFILE, 0, BYTES } },
	{ "prctl", SYS_prctl, { PR_SET_DUMPABLE, 1 } },
	{ "arch_prctl", SYS_arch_prctl, { ARCH_SET_GS, 0 } },
	{ "seccomp", SYS_seccomp, { 0, 0, 0 } },
	{ "umask", SYS_umask, { 0 } },

	/* Network and other new descriptors. */
	{ "socket inet", SYS_socket, { AF_INET, SOCK_STREAM, 0 } },
	{ "socket unix", SYS_socket, { AF_UNIX, SOCK_STREAM, 0 } },
	{ "socketpair", SYS_socketpair, { AF_UNIX, SOCK_STREAM, 0, BYTES } },
	{ "connect", SYS_connect, { 0, BYTES, 16 } },
	{ "bind", SYS_bind, { 0, BYTES, 16 } },
	{ "listen", SYS_listen, { 0, 1 } },
	{ "accept4", SYS_accept4, { 0, 0, 0, 0 } },
	{ "setsockopt", SYS_setsockopt, { 0, SOL_SOCKET, SO_SNDBUF, BYTES, 4 } },
	{ "sendto with an address", SYS_sendto, { 0, BYTES, 1, 0, BYTES, 16 } },
	{ "sendto with an address below no bits", SYS_sendto, { 0, BYTES, 1, 0, 1L << 32, 16 } },
	{ "sendmmsg", SYS_sendmmsg, { 0, BYTES, 1, 0 } },
	{ "dup", SYS_dup, { 0 } },
	{ "dup3", SYS_dup3, { 0, 9, 0 } },
	{ "pipe2", SYS_pipe2, { BYTES, 0 } },
	{ "eventfd2", SYS_eventfd2, { 0, 0 } },
	{ "inotify_init1", SYS_inotify_init1, { 0 } },
	{ "fcntl F_DUPFD", SYS_fcntl, { 0, F_DUPFD, 9 } },
	{ "fcntl F_SETFD", SYS_fcntl, { 0, F_SETFD, 0 } },
	{ "fcntl F_SETOWN of another process", SYS_fcntl, { 0, F_SETOWN, OTHER } },
	{ "fcntl F_SETOWN of a process group", SYS_fcntl, { 0, F_SETOWN, -1 } },
	{ "fcntl F_SETOWN_EX", SYS_fcntl, { 0, F_SETOWN_EX, BYTES } },
	{ "fcntl F_SETPIPE_SZ", SYS_fcntl, { 0, F_SETPIPE_SZ, 1 << 20 } },
	{ "fcntl F_SETLEASE", SYS_fcntl, { 0, F_SETLEASE, F_RDLCK } },

	/* Executable and shared memory. */
	{ "mmap executable", SYS_mmap, { 0, 4096, PROT_READ | PROT_EXEC, PRIVATE, -1, 0 } },
	{ "mmap executable only", SYS_mmap, { 0, 4096, PROT_EXEC, PRIVATE, -1, 0 } },
	{ "mprotect executable", SYS_mprotect, { BYTES, 4096, PROT_READ | PROT_EXEC } },
	{ "pkey_mprotect", SYS_pkey_mprotect, { BYTES, 4096, PROT_READ | PROT_EXEC, -1 } },
	{ "remap_file_pages", SYS_remap_file_pages, { BYTES, 4096, 0, 0, 0 } },
	{ "mlock", SYS_mlock, { BYTES, 4096 } },
	{ "shmget", SYS_shmget, { 0, 4096, 0600 } },
	{ "shmat", SYS_shmat, { 0, 0, 0 } },
	{ "msgget", SYS_msgget, { 0, 0600 } },
	{ "semget", SYS_semget, { 0, 1, 0600 } },
	{ "mq_open", SYS_mq_open, { HERE, 0, 0, 0 } },

	/* Requests to devices. */
	{ "ioctl TIOCSTI", SYS_ioctl, { 0, TIOCSTI, BYTES } },
	{ "ioctl TIOCLINUX", SYS_ioctl, { 0, TIOCLINUX, BYTES } },
	{ "ioctl FIONBIO", SYS_ioctl, { 0, FIONBIO, BYTES } },
	{ "ioctl KVM_CREATE_DEVICE", SYS_ioctl, { 0, KVM_CREATE_DEVICE, BYTES } },
	{ "ioctl KVM_CREATE_IRQCHIP", SYS_ioctl, { 0, KVM_CREATE_IRQCHIP, 0 } },
	{ "ioctl KVM_IRQFD", SYS_ioctl, { 0, KVM_IRQFD, BYTES } },
	{ "ioctl KVM_IOEVENTFD", SYS_ioctl, { 0, KVM_IOEVENTFD, BYTES } },
	{ "ioctl KVM_SET_GSI_ROUTING", SYS_ioctl, { 0, KVM_SET_GSI_ROUTING, BYTES } },
	{ "ioctl KVM_SET_NESTED_STATE", SYS_ioctl, { 0, KVM_SET_NESTED_STATE, BYTES } },
	{ "ioctl KVM_MEMORY_ENCRYPT_OP", SYS_ioctl, { 0, (long)KVM_MEMORY_ENCRYPT_OP, BYTES } },
	{ "ioctl VHOST_SET_OWNER", SYS_ioctl, { 0, VHOST_SET_OWNER, 0 } },
	{ "ioctl UFFDIO_WRITEPROTECT", SYS_ioctl, { 0, (long)UFFDIO_WRITEPROTECT, BYTES } },

	/* The kernel's large surfaces. */
	{ "bpf", SYS_bpf, { 0, BYTES, 48 } },
	{ "perf_event_open", SYS_perf_event_open, { BYTES, 0, -1, -1, 0 } },
	{ "keyctl", SYS_keyctl, { 0, 0, 0, 0, 0 } },
	{ "add_key", SYS_add_key, { HERE, HERE, BYTES, 1, 0 } },
	{ "request_key", SYS_request_key, { HERE, HERE, HERE, 0 } },
	{ "io_uring_setup", SYS_io_uring_setup, { 8, BYTES } },
	{ "io_setup", SYS_io_setup, { 8, BYTES } },
	{ "userfaultfd", SYS_userfaultfd, { 0 } },
	{ "init_module", SYS_init_module, { BYTES, 1, HERE } },
	{ "finit_module", SYS_finit_module, { 0, HERE, 0 } },
	{ "kexec_load", SYS_kexec_load, { 0, 0, 0, 0 } },
	{ "reboot", SYS_reboot, { 0, 0, 0, 0 } },
	{ "syslog", SYS_syslog, { 3, BYTES, 1 } },
	{ "swapon", SYS_swapon, { HERE, 0 } },
	{ "quotactl", SYS_quotactl, { 0, HERE, 0, BYTES } },
	{ "acct", SYS_acct, { 0 } },
	{ "iopl", SYS_iopl, { 3 } },
	{ "modify_ldt", SYS_modify_ldt, { 0, BYTES, 16 } },
	{ "set_mempolicy", SYS_set_mempolicy, { 0, 0, 0 } },
	{ "move_pages", SYS_move_pages, { 0, 0, 0, 0, 0, 0 } },
	{ "clock_settime", SYS_clock_settime, { 0, BYTES } },
	{ "settimeofday", SYS_settimeofday, { BYTES, 0 } },
	{ "adjtimex", SYS_adjtimex, { BYTES } },
	{ "setitimer", SYS_setitimer, { 0, BYTES, 0 } },
	{ "nanosleep", SYS_nanosleep, { BYTES, 0 } },
	{ "a number that is no system call", 4000, { 0 } },
	{ "the x32 table", 0x40000000 | SYS_getpid, { 0 } },
#if !JAILED_SANITIZED
	{ "madvise MADV_MERGEABLE", SYS_madvise, { BYTES, 4096, MADV_MERGEABLE } },
	{ "madvise MADV_HWPOISON", SYS_madvise, { BYTES, 4096, MADV_HWPOISON } },
#endif
};
/* clang-format on */

#define ATTEMPTS (sizeof(attempts) / sizeof(attempts[0]))

static int try_call(const void *arg)
{
	const struct attempt *a = arg;

	return jailed_result(syscall(a->call, a->args[0], a->args[1], a->args[2], a->args[3],
				     a->args[4], a->args[5]));
}

/* Killed; in a sanitizer build some calls of its runtime are refused instead. */
static void assert_killed(const struct outcome *o)
{
	assert_false(o->timed_out);
	if (JAILED_SANITIZED && o->reported && o->entered && o->value == -EACCES)
		return;
	if (o->reported)
		fail_msg("entered %d, returned %d: %s", o->entered, o->value, o->text);
	assert_true(WIFSIGNALED(o->status));
	assert_int_equal(WTERMSIG(o->status), SIGSYS);
	assert_false(WCOREDUMP(o->status));
}

static void is_killed(void **state)
{
	const struct jailed how = JAILED_SEALED;
	struct outcome o = jailed_run(&how, try_call, *state);

	assert_killed(&o);
}

static int try_int80(const void *arg)
{
	long result = 20; /* getpid of the i386 table */

	(void)arg;
	__asm__ volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
	return (int)result;
}

static void the_i386_table_is_killed(void **state)
{
	const struct jailed how = JAILED_SEALED;
	struct outcome o = jailed_run(&how, try_int80, NULL);

	(void)state;
	assert_false(o.timed_out);
	assert_false(o.reported);
	assert_true(WIFSIGNALED(o.status));
	/* SIGSEGV where the kernel has no i386 table at all. */
	if (WTERMSIG(o.status) != SIGSEGV)
		assert_int_equal(WTERMSIG(o.status), SIGSYS);
}

int main(void)
{
	struct CMUnitTest tests[ATTEMPTS + 1] = {
		cmocka_unit_test(the_i386_table_is_killed),
	};

	for (size_t i = 0; i < ATTEMPTS; i++)
		tests[i + 1] = (struct CMUnitTest){ .name = attempts[i].name,
						    .test_func = is_killed,
						    .initial_state = (void *)&attempts[i] };
	if (geteuid() != 0) {
		print_message("skipped: a jail can only be entered by root\n");
		return 77;
	}
	return cmocka_run_group_tests_name("forbidden system calls", tests, NULL, NULL);
}
