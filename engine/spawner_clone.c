/* clone3(2) and execveat(2) of one worker.
 *
 * The worker's command line, all it is told before it reads its control socket:
 *     ramet-vmm --control-fd 3 --channel-fd 4 --kvm-fd 5 --uid U --gid G
 * stdin is /dev/null, stdout and stderr are rametd's stderr, the environment is
 * empty, no other descriptor is open. */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/spawner_process.h"
#include "lib/cleanup.h"

#define WORKER_NAMESPACES                                                                          \
	(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)

/* Descriptors of the worker. */
enum { FD_CONTROL = 3, FD_CHANNEL, FD_KVM, FD_WORKER, FD_REPORT, FD_END };

enum start_step { STEP_PARENT, STEP_CGROUP, STEP_FDS, STEP_EXEC };

static const char *const step_names[] = {
	[STEP_PARENT] = "bind its life to the spawner's",
	[STEP_CGROUP] = "join its cgroup",
	[STEP_FDS] = "arrange its descriptors",
	[STEP_EXEC] = "execute the worker program",
};

/* What a child that fails before its exec tells the spawner. */
struct start_report {
	int step;
	int code; /* errno */
};

_Noreturn static void child_fail(int report_fd, enum start_step step)
{
	struct start_report report = { .step = (int)step, .code = errno };

	(void)!write(report_fd, &report, sizeof(report)); /* the exit tells as well */
	_exit(1);
}

/* Puts fds[i] at number 3 + i. Copies above all targets first, so that no
 * source is overwritten. Only the first `inherited` survive the exec. */
static int child_arrange(const int *fds, size_t count, size_t inherited)
{
	int copies[FD_END];

	for (size_t i = 0; i < count; i++) {
		copies[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, FD_END);
		if (copies[i] < 0)
			return -1;
	}
	for (size_t i = 0; i < count; i++)
		if (dup3(copies[i], 3 + (int)i, i < inherited ? 0 : O_CLOEXEC) < 0)
			return -1;
	return close_range(FD_END, ~0u, 0);
}

_Noreturn static void child_run(const struct worker_start *start, int report_fd)
{
	const int fds[] = { start->control_fd, start->channel_fd, start->kvm_fd, start->worker_fd,
			    report_fd };
	char uid[16], name[] = "ramet-vmm", control[] = "--control-fd", channel[] = "--channel-fd",
		      kvm[] = "--kvm-fd", uid_option[] = "--uid", gid_option[] = "--gid",
		      three[] = "3", four[] = "4", five[] = "5";
	char *const argv[] = { name, control,    three, channel,    four, kvm,
			       five, uid_option, uid,   gid_option, uid,  NULL };
	char *const envp[] = { NULL };
	struct pollfd alive = { .fd = report_fd };

	/* The signal comes only for a death after this call; for one before it,
	 * the other end of the report pipe is closed. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || poll(&alive, 1, 0) < 0 || alive.revents)
		child_fail(report_fd, STEP_PARENT);
	for (size_t i = 0; i < start->join_count; i++)
		if (write(start->join_fds[i], "0", 1) < 0)
			child_fail(report_fd, STEP_CGROUP);
	if (child_arrange(fds, sizeof(fds) / sizeof(fds[0]), 3) < 0)
		child_fail(report_fd, STEP_FDS);
	(void)snprintf(uid, sizeof(uid), "%u", start->uid);
	(void)syscall(SYS_execveat, FD_WORKER, "", argv, envp, AT_EMPTY_PATH);
	child_fail(FD_REPORT, STEP_EXEC);
}

static pid_t worker_fork(const struct worker_start *start, int *pidfd)
{
	struct clone_args args = {
		.flags = WORKER_NAMESPACES | CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)pidfd,
		.exit_signal = SIGCHLD,
	};

	if (start->unified_fd >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (__u64)start->unified_fd;
	}
	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

/* 0 when the exec closed the pipe, -errno when a step failed. */
static int report_read(int fd, struct ramet_err *err)
{
	struct start_report report;
	ssize_t n;

	do
		n = read(fd, &report, sizeof(report));
	while (n < 0 && errno == EINTR);
	if (n == 0)
		return 0;
	if (n != (ssize_t)sizeof(report) || report.step < 0 || report.step > STEP_EXEC)
		return err_set(err, EIO, "the new worker's report is broken");
	return err_errno(err, report.code ? report.code : EIO, "the new worker cannot %s",
			 step_names[report.step]);
}

int spawner_clone(const struct worker_start *start, pid_t *pid, int *pidfd, struct ramet_err *err)
{
	cleanup_close int report_in = -1, report_out = -1, new_pidfd = -1;
	int report[2], ret;
	pid_t child;

	if (pipe2(report, O_CLOEXEC) < 0)
		return err_errno(err, errno, "cannot make a pipe for a new worker");
	report_in = report[0];
	report_out = report[1];
	child = worker_fork(start, &new_pidfd);
	if (child < 0)
		return err_errno(err, errno,
				 "cannot start a worker in new namespaces; rametd needs root");
	if (child == 0) {
		close_fd(&report_in);
		child_run(start, report_out);
	}
	close_fd(&report_out);
	ret = report_read(report_in, err);
	if (ret < 0) {
		(void)waitpid(child, NULL, 0); /* it exits after its report */
		return ret;
	}
	*pid = child;
	*pidfd = take_fd(&new_pidfd);
	return 0;
}
