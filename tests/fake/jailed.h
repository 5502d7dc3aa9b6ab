/* Runs one attempt in a child process that went through the worker's jail, and
 * says how the attempt and the child ended. For tests/unit/test_jail*.c. */
#ifndef RAMET_TESTS_FAKE_JAILED_H
#define RAMET_TESTS_FAKE_JAILED_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/worker_ids.h"
#include "vmm/jail.h"

#define JAILED_DEADLINE_MS 20000
#define JAILED_NAMESPACES                                                                          \
	(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)

#if defined(__SANITIZE_ADDRESS__)
#define JAILED_SANITIZED 1
#else
#define JAILED_SANITIZED 0
#endif

/* Above all that spawners claim, and of this test program alone: the processes
 * of a uid count against one limit. First called outside of the jail. */
static inline uid_t jailed_uid(void)
{
	static uid_t uid;

	if (!uid)
		uid = worker_uid(WORKER_UID_BLOCKS, 0) + (uid_t)getpid();
	return uid;
}

/* Returns a value >= 0 or -errno. */
typedef int (*jailed_attempt)(const void *arg);

struct jailed {
	int namespaces; /* clone(2) flags; normally JAILED_NAMESPACES */
	bool standalone;
	bool seal;           /* with the system call filter */
	uid_t uid;           /* 0: jailed_uid() */
	int keep;            /* an open descriptor to keep, or -1 */
	int (*before)(void); /* in the child, before the jail; may be NULL */
};

struct outcome {
	bool timed_out;
	int status;    /* as from waitpid(2) */
	bool entered;  /* the jail took it */
	bool reported; /* the attempt returned */
	int value;     /* what it returned, or jail_enter()'s error */
	char text[500];
};

struct jailed_report {
	int entered, value;
	char text[500];
};

#define JAILED_DEFAULT                                                                             \
	{                                                                                          \
		.namespaces = JAILED_NAMESPACES, .keep = -1                                        \
	}
#define JAILED_SEALED                                                                              \
	{                                                                                          \
		.namespaces = JAILED_NAMESPACES, .keep = -1, .seal = true                          \
	}

_Noreturn static inline void jailed_child(const struct jailed *how, jailed_attempt attempt,
					  const void *arg, int report_fd)
{
	struct jailed_report report = { 0 };
	struct ramet_err err = { 0 };
	int keep[2] = { report_fd, how->keep };
	struct jail_config config = { .uid = how->uid ? how->uid : jailed_uid(),
				      .gid = how->uid ? how->uid : jailed_uid(),
				      .keep_fds = keep,
				      .keep_count = how->keep >= 0 ? 2 : 1,
				      .standalone = how->standalone };
	int ret;

	/* cmocka's handlers would carry on with the tests in the child. */
	for (int i = 1; i < NSIG; i++)
		(void)signal(i, SIG_DFL);
	ret = how->before ? how->before() : 0;
	if (ret == 0)
		ret = jail_enter(&config, &err);
	if (ret == 0 && how->seal)
		ret = jail_seal(&err);
	report.entered = ret == 0;
	report.value = ret == 0 && attempt ? attempt(arg) : ret;
	memcpy(report.text, err.msg, sizeof(report.text));
	(void)!write(report_fd, &report, sizeof(report));
	_exit(0);
}

static inline bool jailed_wait(pid_t pid, int *status)
{
	int pidfd = pidfd_open(pid, 0);
	struct pollfd gone = { .fd = pidfd, .events = POLLIN };
	bool in_time = poll(&gone, 1, JAILED_DEADLINE_MS) == 1;

	if (!in_time)
		(void)kill(pid, SIGKILL);
	(void)waitpid(pid, status, 0);
	(void)close(pidfd);
	return in_time;
}

static inline struct outcome jailed_run(const struct jailed *how, jailed_attempt attempt,
					const void *arg)
{
	struct outcome outcome = { 0 };
	struct jailed_report report;
	int fds[2];
	pid_t pid;

	if (!jailed_uid() || pipe2(fds, O_CLOEXEC) < 0)
		return outcome;
	pid = (pid_t)syscall(SYS_clone, how->namespaces | SIGCHLD, NULL, NULL, NULL, NULL);
	if (pid == 0)
		jailed_child(how, attempt, arg, fds[1]);
	(void)close(fds[1]);
	outcome.timed_out = pid < 0 || !jailed_wait(pid, &outcome.status);
	outcome.reported = read(fds[0], &report, sizeof(report)) == (ssize_t)sizeof(report);
	if (outcome.reported) {
		outcome.entered = report.entered != 0;
		outcome.value = report.value;
		memcpy(outcome.text, report.text, sizeof(outcome.text));
	}
	(void)close(fds[0]);
	return outcome;
}

/* For attempts: the value of a call that sets errno. */
static inline int jailed_result(long value)
{
	return value < 0 ? -errno : (int)value;
}

#endif
