/* ramet-agent: PID 1 of a guest, or with --fd N a server on a stream socket.
 *
 * As init it takes no arguments (the kernel passes what it did not understand
 * of its command line). One thread, one event loop; see session.h for what is
 * done in a round. */
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "guest/agent/agent.h"
#include "guest/agent/init.h"
#include "guest/agent/process.h"
#include "guest/agent/session.h"
#include "guest/agent/util.h"

#define SHUTDOWN_GRACE_NS (500 * NS_PER_MS)
#define LOG_LINE_MAX      512

/* The root object: static because of its size and because sources must stay. */
static struct agent agent;

void agent_log(const char *fmt, ...)
{
	char line[LOG_LINE_MAX] = "ramet-agent: ";
	size_t len = strlen(line);
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(line + len, sizeof(line) - len - 1, fmt, ap);
	va_end(ap);
	len = strlen(line);
	line[len++] = '\n';
	/* Nothing can be done about a console that does not take it. */
	if (write(STDERR_FILENO, line, len) < 0)
		return;
}

static void child_ready(struct agent *a, struct source *source, uint32_t events)
{
	struct signalfd_siginfo info;

	(void)events;
	if (read(source->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		process_reap(a);
}

static int signals_watch(struct agent *a)
{
	sigset_t child;
	int fd;

	(void)sigemptyset(&child);
	(void)sigaddset(&child, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &child, NULL) < 0)
		return -errno;
	fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	a->signals = (struct source){ .fd = fd, .ready = child_ready };
	return loop_watch(&a->loop, &a->signals, EPOLLIN);
}

/* A wake-up of the agent then does not preempt the interpreter, which is about
 * to write more: one switch per answer instead of several. Children are not
 * affected. */
static void scheduling_set(void)
{
	struct sched_param param = { 0 };

	(void)sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &param);
}

static int agent_setup(struct agent *a)
{
	int err = loop_init(&a->loop);

	if (!err)
		err = signals_watch(a);
	if (err)
		return err;
	scheduling_set();
	shell_init(a);
	files_init(a);
	identity_init(a);
	reclaim_init(a);
	tree_init(a);
	session_hello(a);
	(void)session_run(a); /* the host hears before Python is started */
	repl_init(a);
	return 0;
}

static int agent_serve(struct agent *a)
{
	while (!a->ended) {
		int err = 0;

		if (!session_run(a) && !a->ended)
			err = loop_wait(&a->loop, a, session_deadline(a));
		if (err) {
			agent_log("epoll: %s", strerror(-err));
			return err;
		}
		session_expire(a);
	}
	return 0;
}

static int serve_socket(struct agent *a, int fd)
{
	const char *home = getenv("HOME");
	int err;

	a->home = home && home[0] == '/' && access(home, X_OK) == 0 ? home : "/";
	err = chdir(a->home) < 0 ? -errno : transport_socket(&a->transport, fd);
	if (err) {
		agent_log("descriptor %d: %s", fd, strerror(-err));
		return EXIT_FAILURE;
	}
	/* Orphans of commands come to this process, so that it can end them. */
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	err = agent_setup(a);
	if (!err)
		err = agent_serve(a);
	process_end_all(a, SHUTDOWN_GRACE_NS);
	return !err && a->closing ? EXIT_SUCCESS : EXIT_FAILURE;
}

static void serve_guest(struct agent *a)
{
	const char *what = "";
	int err;

	a->is_init = true;
	a->home = "/root";
	a->run_dir = "/run/ramet";
	err = init_setup();
	if (err)
		init_power_off();
	err = transport_channel(&a->transport, &what);
	if (err) {
		agent_log("cannot open the channel to the host: %s: %s", what, strerror(-err));
		init_power_off();
	}
	if (chdir(a->home) < 0)
		agent_log("%s: %s", a->home, strerror(errno));
	err = agent_setup(a);
	if (!err)
		err = agent_serve(a);
	if (err)
		agent_log("cannot go on: %s", strerror(-err));
	process_end_all(a, SHUTDOWN_GRACE_NS);
	init_power_off();
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "fd", required_argument, NULL, 'f' },
		{ "run-dir", required_argument, NULL, 'r' },
		{ NULL, 0, NULL, 0 },
	};
	int fd = -1, c;

	if (getpid() == 1)
		serve_guest(&agent);
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'f')
			fd = atoi(optarg);
		else if (c == 'r')
			agent.run_dir = optarg;
		else
			return EXIT_FAILURE;
	}
	if (fd < 3 || optind < argc) {
		(void)fprintf(stderr, "usage: ramet-agent --fd N [--run-dir DIR]   "
				      "(N: a connected stream socket)\n");
		return EXIT_FAILURE;
	}
	return serve_socket(&agent, fd);
}
