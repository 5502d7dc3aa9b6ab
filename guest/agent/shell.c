/* bash execs: see shell.h. */
#include "guest/agent/shell.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/agent/agent.h"
#include "guest/agent/process.h"
#include "guest/agent/util.h"

#define BASH              "/bin/bash"
/* Shorter code is an argument, which lets bash replace itself by a last
 * command; longer code is read from a memfd (execve(2): 128 KiB per string). */
#define CODE_ARGUMENT_MAX (96u * 1024)
#define CODE_FD           1020
#define CODE_FILE_COMMAND "source /proc/self/fd/1020"

static void shell_pipe_ready(struct agent *agent, struct source *source, uint32_t events)
{
	(void)events;
	if (agent->execs.running && agent->execs.running->language == EXEC_BASH)
		exec_pipe_ready(agent, (struct pipe_in *)(void *)source);
}

/* A background process still writes: nobody asked for it. */
static void linger_ready(struct agent *agent, struct source *source, uint32_t events)
{
	ssize_t n = read(source->fd, agent->execs.scratch, EXEC_SCRATCH_SIZE);

	(void)events;
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		loop_close(&agent->loop, source);
}

void shell_init(struct agent *agent)
{
	struct shell *shell = &agent->shell;

	shell->out = (struct pipe_in){ .source = { .fd = -1, .ready = shell_pipe_ready },
				       .stream = OUTPUT_STDOUT };
	shell->err = (struct pipe_in){ .source = { .fd = -1, .ready = shell_pipe_ready },
				       .stream = OUTPUT_STDERR };
	for (size_t i = 0; i < LINGER_MAX; i++)
		shell->linger[i] = (struct source){ .fd = -1, .ready = linger_ready };
}

static int code_file(const struct exec *x)
{
	int fd = memfd_create("code", MFD_CLOEXEC);
	size_t done = 0;

	if (fd < 0)
		return -errno;
	while (done < x->code_length) {
		ssize_t n = write(fd, x->code + done, x->code_length - done);

		if (n < 0) {
			int err = -errno;

			(void)close(fd);
			return err;
		}
		done += (size_t)n;
	}
	return fd;
}

static int bash_spawn(struct agent *agent, const struct exec *x, int code_fd, pid_t *pid, int *out,
		      int *err)
{
	const char *code = code_fd < 0 ? x->code : CODE_FILE_COMMAND;
	char *argv[] = { (char *)BASH, (char *)"-c", (char *)code, (char *)"bash", NULL };
	cleanup_close int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	cleanup_close int out_read = -1, out_write = -1, err_read = -1, err_write = -1;
	struct spawn spawn = { .argv = argv,
			       .home = agent->home,
			       .run_dir = agent->run_dir,
			       .identity = &agent->identity };
	int result;

	if (null < 0)
		return -errno;
	result = process_pipe(&out_read, &out_write);
	if (!result)
		result = process_pipe(&err_read, &err_write);
	if (result)
		return result;
	spawn.fds[spawn.nfds].from = null;
	spawn.fds[spawn.nfds++].to = STDIN_FILENO;
	spawn.fds[spawn.nfds].from = out_write;
	spawn.fds[spawn.nfds++].to = STDOUT_FILENO;
	spawn.fds[spawn.nfds].from = err_write;
	spawn.fds[spawn.nfds++].to = STDERR_FILENO;
	if (code_fd >= 0) {
		spawn.fds[spawn.nfds].from = code_fd;
		spawn.fds[spawn.nfds++].to = CODE_FD;
	}
	result = process_spawn(&spawn, pid);
	if (result)
		return result;
	*out = take_fd(&out_read);
	*err = take_fd(&err_read);
	return 0;
}

int shell_start(struct agent *agent, const struct exec *x)
{
	struct shell *shell = &agent->shell;
	cleanup_close int code_fd = -1;
	char text[128];
	int err = 0;

	if (strlen(x->code) != x->code_length) {
		exec_refuse_first(agent, EINVAL, "bash: the code contains a NUL byte");
		return -1;
	}
	if (x->code_length > CODE_ARGUMENT_MAX) {
		code_fd = code_file(x);
		if (code_fd < 0)
			err = code_fd;
	}
	if (!err)
		err = bash_spawn(agent, x, code_fd, &shell->pid, &shell->out.source.fd,
				 &shell->err.source.fd);
	if (err) {
		(void)snprintf(text, sizeof(text), "cannot start " BASH ": %s", strerror(-err));
		exec_refuse_first(agent, -err, text);
		return -1;
	}
	return 0;
}

void shell_died(struct agent *agent, int status)
{
	const struct exec *x = agent->execs.running;

	/* Without an exec the connection has ended and this was killed. */
	if (x && x->language == EXEC_BASH) {
		if (x->stage != STAGE_RUNNING)
			process_group_kill(agent->shell.pid, SIGKILL);
		exec_ended(agent, process_exit_code(status), 0);
	}
	agent->shell.pid = 0;
}

static void pipe_linger(struct agent *agent, struct pipe_in *pipe)
{
	struct shell *shell = &agent->shell;
	struct source *slot = &shell->linger[shell->linger_next];

	if (pipe->source.fd < 0)
		return;
	for (size_t i = 0; i < LINGER_MAX && slot->fd >= 0; i++)
		slot = &shell->linger[(shell->linger_next + i) % LINGER_MAX];
	if (slot->fd >= 0) {
		slot = &shell->linger[shell->linger_next];
		loop_close(&agent->loop, slot);
	}
	shell->linger_next = (size_t)(slot - shell->linger + 1) % LINGER_MAX;
	(void)loop_watch(&agent->loop, &pipe->source, 0);
	slot->fd = take_fd(&pipe->source.fd);
	(void)loop_watch(&agent->loop, slot, EPOLLIN);
}

void shell_finish(struct agent *agent)
{
	pipe_linger(agent, &agent->shell.out);
	pipe_linger(agent, &agent->shell.err);
}
