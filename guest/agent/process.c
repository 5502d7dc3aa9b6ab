/* Child processes: see process.h. */
#include "guest/agent/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/agent/agent.h"
#include "guest/agent/util.h"

static const int default_signals[] = { SIGHUP,  SIGINT,  SIGQUIT, SIGPIPE, SIGTERM,
				       SIGUSR1, SIGUSR2, SIGALRM, SIGCHLD };

static int attributes_set(posix_spawnattr_t *attr)
{
	sigset_t none, defaults;
	int err;

	(void)sigemptyset(&none);
	(void)sigemptyset(&defaults);
	for (size_t i = 0; i < sizeof(default_signals) / sizeof(default_signals[0]); i++)
		(void)sigaddset(&defaults, default_signals[i]);
	err = posix_spawnattr_setsigmask(attr, &none);
	if (!err)
		err = posix_spawnattr_setsigdefault(attr, &defaults);
	if (!err)
		err = posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
							     POSIX_SPAWN_SETSIGDEF);
	return err;
}

static int actions_set(posix_spawn_file_actions_t *actions, const struct spawn *spawn,
		       const char *dir)
{
	int err = posix_spawn_file_actions_addchdir_np(actions, dir);

	for (size_t i = 0; !err && i < spawn->nfds; i++)
		err = posix_spawn_file_actions_adddup2(actions, spawn->fds[i].from,
						       spawn->fds[i].to);
	return err;
}

static int spawn_in(const struct spawn *spawn, const char *dir, char *const *env, pid_t *pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	pid_t started;
	int err;

	err = posix_spawn_file_actions_init(&actions);
	if (err)
		return -err;
	err = posix_spawnattr_init(&attr);
	if (err)
		goto out_actions;
	err = attributes_set(&attr);
	if (!err)
		err = actions_set(&actions, spawn, dir);
	if (!err)
		err = posix_spawn(&started, spawn->argv[0], &actions, &attr, spawn->argv, env);
	if (!err)
		*pid = started;
	(void)posix_spawnattr_destroy(&attr);
out_actions:
	(void)posix_spawn_file_actions_destroy(&actions);
	return -err;
}

int process_spawn(const struct spawn *spawn, pid_t *pid)
{
	char home[PATH_LENGTH_MAX + 8], run_dir[PATH_LENGTH_MAX + 16];
	char generation[GENERATION_TEXT + 20], fork_index[40];
	char *env[] = { home,
			(char *)"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			(char *)"LANG=C.UTF-8",
			(char *)"TERM=dumb",
			(char *)"USER=root",
			(char *)"LOGNAME=root",
			(char *)"SHELL=/bin/bash",
			(char *)"RAMET=1",
			NULL,
			NULL,
			NULL,
			NULL };
	size_t n = sizeof(env) / sizeof(env[0]) - 4;
	int err;

	(void)snprintf(home, sizeof(home), "HOME=%s", spawn->home);
	if (spawn->run_dir) {
		(void)snprintf(run_dir, sizeof(run_dir), "RAMET_RUN_DIR=%s", spawn->run_dir);
		env[n++] = run_dir;
	}
	if (spawn->identity->generation[0]) {
		(void)snprintf(generation, sizeof(generation), "RAMET_GENERATION=%s",
			       spawn->identity->generation);
		env[n++] = generation;
	}
	if (spawn->identity->fork_number) {
		(void)snprintf(fork_index, sizeof(fork_index), "RAMET_FORK_INDEX=%u",
			       spawn->identity->fork_number - 1);
		env[n++] = fork_index;
	}
	err = spawn_in(spawn, spawn->home, env, pid);
	if (err && access(spawn->home, X_OK) < 0) /* somebody removed the home directory */
		err = spawn_in(spawn, "/", env, pid);
	return err;
}

int process_pipe(int *read_end, int *write_end)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	if (fcntl(fds[0], F_SETFL, O_NONBLOCK) < 0) {
		int err = -errno;

		(void)close(fds[0]);
		(void)close(fds[1]);
		return err;
	}
	*read_end = fds[0];
	*write_end = fds[1];
	return 0;
}

int process_exit_code(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void process_group_kill(pid_t leader, int signal)
{
	if (leader > 0)
		(void)kill(-leader, signal);
}

/* The status of waitpid(2) from what waitid(2) tells. */
static int wait_status(const siginfo_t *info)
{
	if (info->si_code == CLD_EXITED)
		return info->si_status << 8;
	return info->si_status;
}

/* The owners look while the zombie still holds its pid, so that a group they
 * signal cannot be a stranger's. */
void process_reap(struct agent *agent)
{
	for (;;) {
		siginfo_t info = { 0 };

		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0)
			return;
		if (info.si_pid == agent->repl.pid)
			repl_died(agent, wait_status(&info));
		else if (info.si_pid == agent->shell.pid)
			shell_died(agent, wait_status(&info));
		else
			tree_died(agent, info.si_pid);
		(void)waitpid(info.si_pid, NULL, 0);
	}
}

/* Signals this process's children; their orphans come to it in turn. */
static void children_kill(int signal)
{
	FILE *list = fopen("/proc/thread-self/children", "re");
	int pid;

	if (!list)
		return;
	while (fscanf(list, "%d", &pid) == 1) {
		(void)kill(-pid, signal); /* sessions of the agent's own making */
		(void)kill(pid, signal);
	}
	(void)fclose(list);
}

static void all_kill(const struct agent *agent, int signal)
{
	if (agent->is_init)
		(void)kill(-1, signal);
	else
		children_kill(signal);
}

/* Waits for the end of all children. Returns false at the deadline. SIGCHLD is
 * blocked in this process, as sigtimedwait(2) wants. */
static bool children_wait(uint64_t deadline_ns)
{
	sigset_t child;

	(void)sigemptyset(&child);
	(void)sigaddset(&child, SIGCHLD);
	for (;;) {
		uint64_t now = now_ns();
		struct timespec left;
		pid_t pid;

		do
			pid = waitpid(-1, NULL, WNOHANG);
		while (pid > 0);
		if (pid < 0)
			return true;
		if (now >= deadline_ns)
			return false;
		left.tv_sec = (time_t)((deadline_ns - now) / NS_PER_S);
		left.tv_nsec = (long)((deadline_ns - now) % NS_PER_S);
		(void)sigtimedwait(&child, NULL, &left);
	}
}

void process_end_all(struct agent *agent, uint64_t grace_ns)
{
	uint64_t give_up;

	all_kill(agent, SIGTERM);
	all_kill(agent, SIGCONT);
	if (children_wait(now_ns() + grace_ns))
		return;
	give_up = now_ns() + 2 * NS_PER_S; /* a process stuck in the kernel */
	do
		all_kill(agent, SIGKILL);
	while (!children_wait(now_ns() + 50 * NS_PER_MS) && now_ns() < give_up);
}
