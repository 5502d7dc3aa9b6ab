/* How a worker ended, in one sentence: see worker.h. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "engine/text.h"
#include "engine/worker_state.h"
#include "lib/cleanup.h"
#include "lib/fdpass.h"

#define DRAIN_MAX 1024

union control_message {
	struct control_header header;
	struct control_console console;
	struct control_ended ended;
	char bytes[CONTROL_MESSAGE_MAX];
};

/* Takes in what a dead worker left in the socket, without callbacks. A worker
 * that lives gets no more than its socket buffer can hold. */
static void worker_drain(struct worker *worker)
{
	int r = worker->fd >= 0;

	worker->io = sd_event_source_disable_unref(worker->io);
	for (int k = 0; k < DRAIN_MAX && r > 0 && !worker->ended; k++) {
		union control_message message;
		int fds[FDPASS_MAX];
		size_t nfds = 0;
		ssize_t n = fdpass_recv(worker->fd, &message, sizeof(message), fds, &nfds);

		r = n > 0;
		for (size_t i = 0; i < nfds; i++)
			(void)close(fds[i]);
		if (n < (ssize_t)sizeof(message.header) ||
		    message.header.version != CONTROL_VERSION)
			continue;
		if (message.header.type == CONTROL_CONSOLE)
			(void)worker_take_console(worker, &message.console, (size_t)n, NULL);
		else if (message.header.type == CONTROL_ENDED)
			(void)worker_take_ended(worker, &message.ended, (size_t)n, NULL);
	}
	close_fd(&worker->fd);
}

static void describe_report(const struct control_ended *last, char *out, size_t size)
{
	char text[sizeof(last->text)];
	const char *what;

	(void)text_printable(text, sizeof(text), last->text, sizeof(last->text));
	switch (last->reason) {
	case END_POWEROFF:
		what = "the guest shut down";
		break;
	case END_REBOOT:
		what = "the guest asked for a reboot, which ends a sandbox";
		break;
	case END_PANIC:
		what = "the guest kernel crashed";
		break;
	case END_GUEST_FAULT:
		what = "the guest was stopped for a fault";
		break;
	case END_ERROR:
		what = "the sandbox's worker failed";
		break;
	default:
		what = "the sandbox's worker ended for an unknown reason";
	}
	(void)snprintf(out, size, "%s%s%s", what, text[0] ? ": " : "", text);
}

static void describe_signal(int sig, char *out, size_t size)
{
	if (sig == SIGSYS)
		(void)snprintf(out, size,
			       "the sandbox's worker was killed by its seccomp filter (SIGSYS) for "
			       "a forbidden system call");
	else if (sig == SIGKILL)
		(void)snprintf(out, size,
			       "the sandbox's worker was killed (SIGKILL), by someone else or "
			       "because the host ran out of memory");
	else if (sig == SIGXCPU || sig == SIGXFSZ)
		(void)snprintf(out, size, "the sandbox's worker exceeded a resource limit (SIG%s)",
			       sigabbrev_np(sig));
	else
		(void)snprintf(out, size, "the sandbox's worker crashed with SIG%s",
			       sigabbrev_np(sig) ? sigabbrev_np(sig) : "(unknown)");
}

void worker_describe_end(struct worker *worker, const struct worker_end *end, char *out,
			 size_t size)
{
	if (worker)
		worker_drain(worker);
	if (worker && worker->ended)
		describe_report(&worker->last, out, size);
	else if (!end->reaped)
		(void)snprintf(out, size, "the sandbox's worker went silent and cannot be killed");
	else if (end->oom_killed)
		(void)snprintf(out, size,
			       "the sandbox's worker was killed for using more memory than its "
			       "cgroup allows");
	else if (end->killed)
		(void)snprintf(
			out, size,
			"the sandbox's worker closed its connection, did not exit and was killed");
	else if (WIFSIGNALED(end->wait_status))
		describe_signal(WTERMSIG(end->wait_status), out, size);
	else
		(void)snprintf(out, size,
			       "the sandbox's worker exited with status %d without a reason; see "
			       "the daemon's log",
			       WEXITSTATUS(end->wait_status));
}
