/* The daemon's end of one worker: see worker.h. */
#include "engine/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "engine/console.h"
#include "engine/text.h"
#include "lib/cleanup.h"
#include "lib/fdpass.h"
#include "lib/log.h"

/* Messages per wake-up, so that one talkative worker does not hold up others. */
#define MESSAGES_PER_EVENT 16
#define DRAIN_MAX          1024

enum worker_phase {
	WORKER_STARTING,
	WORKER_READY,
	WORKER_SENT_BOOT,
	WORKER_BOOTED,
	WORKER_RUNNING
};

struct worker {
	struct worker_callbacks callbacks;
	void *arg;
	int fd;
	sd_event_source *io;
	enum worker_phase phase;
	bool ended; /* CONTROL_ENDED came */
	struct control_ended last;
	struct console console;
};

union control_message {
	struct control_header header;
	struct control_ready ready;
	struct control_booted booted;
	struct control_console console;
	struct control_stats stats;
	struct control_ended ended;
	char bytes[CONTROL_MESSAGE_MAX];
};

static int worker_bad(struct ramet_err *err, const char *what)
{
	return err_set(err, EPROTO, "the worker sent %s", what);
}

/* A message without content that is due in one phase and leads to the next. */
static int worker_advance(struct worker *worker, enum worker_phase from, enum worker_phase to,
			  const char *name, struct ramet_err *err)
{
	if (worker->phase != from)
		return err_set(err, EPROTO, "the worker sent %s out of turn", name);
	worker->phase = to;
	return 0;
}

static int worker_take_console(struct worker *worker, const struct control_console *console,
			       size_t length, struct ramet_err *err)
{
	if (length < sizeof(*console) || console->length != length - sizeof(*console))
		return worker_bad(err, "console output of the wrong length");
	if (console->dropped)
		log_debug("%u bytes of guest console output were lost", console->dropped);
	console_add(&worker->console, console + 1, console->length);
	return 0;
}

static int worker_take_ended(struct worker *worker, const struct control_ended *ended,
			     size_t length, struct ramet_err *err)
{
	if (length != sizeof(*ended) || !memchr(ended->text, 0, sizeof(ended->text)))
		return worker_bad(err, "a malformed end report");
	worker->ended = true;
	worker->last = *ended;
	return err_set(err, ECONNRESET, "the worker reported its end");
}

/* Checks one message and stores or announces what it says. Negative: no more
 * is to be read from this worker. */
static int worker_take(struct worker *worker, const union control_message *m, size_t length,
		       struct ramet_err *err)
{
	int r;

	if (length < sizeof(m->header))
		return worker_bad(err, "a message without header");
	if (m->header.version != CONTROL_VERSION)
		return err_set(err, EPROTO,
			       "the worker speaks control version %u, this daemon %u: install both "
			       "from one build",
			       m->header.version, CONTROL_VERSION);
	switch (m->header.type) {
	case CONTROL_READY:
		if (length != sizeof(m->ready))
			return worker_bad(err, "READY of the wrong length");
		r = worker_advance(worker, WORKER_STARTING, WORKER_READY, "READY", err);
		if (r == 0)
			worker->callbacks.ready(worker->arg);
		return r;
	case CONTROL_BOOTED:
		if (length != sizeof(m->booted))
			return worker_bad(err, "BOOTED of the wrong length");
		r = worker_advance(worker, WORKER_SENT_BOOT, WORKER_BOOTED, "BOOTED", err);
		if (r == 0)
			worker->callbacks.booted(worker->arg);
		return r;
	case CONTROL_CHANNEL:
		if (length != sizeof(m->header))
			return worker_bad(err, "CHANNEL of the wrong length");
		r = worker_advance(worker, WORKER_BOOTED, WORKER_RUNNING, "CHANNEL", err);
		if (r == 0)
			worker->callbacks.channel(worker->arg);
		return r;
	case CONTROL_CONSOLE:
		return worker_take_console(worker, &m->console, length, err);
	case CONTROL_STATS_REPLY:
		return worker_bad(err, "statistics nobody asked for");
	case CONTROL_ENDED:
		return worker_take_ended(worker, &m->ended, length, err);
	default:
		return err_set(err, EPROTO, "the worker sent a message of unknown type %u",
			       m->header.type);
	}
}

/* Receives and takes one message: 1, 0 when none waits, negative at the end. */
static int worker_receive(struct worker *worker, struct ramet_err *err)
{
	union control_message message;
	int fds[FDPASS_MAX];
	size_t nfds = 0;
	ssize_t n = fdpass_recv(worker->fd, &message, sizeof(message), fds, &nfds);
	int r;

	if (n == -EAGAIN)
		return 0;
	if (n == 0)
		return err_set(err, ECONNRESET, "the worker closed its control socket");
	if (n == -EMSGSIZE)
		return worker_bad(err, "an oversized message");
	if (n < 0)
		return err_set(err, ECONNRESET, "the worker's control socket broke: %s",
			       strerrordesc_np((int)-n));
	if (nfds) {
		for (size_t i = 0; i < nfds; i++)
			(void)close(fds[i]);
		return worker_bad(err, "a descriptor, which no message carries");
	}
	r = worker_take(worker, &message, (size_t)n, err);
	return r < 0 ? r : 1;
}

static int worker_on_io(sd_event_source *source, int fd, uint32_t revents, void *arg)
{
	struct worker *worker = arg;
	struct ramet_err err = { 0 };
	int r = 1;

	(void)source;
	(void)fd;
	(void)revents;
	for (int i = 0; i < MESSAGES_PER_EVENT && r > 0; i++)
		r = worker_receive(worker, &err);
	if (r < 0) {
		worker->io = sd_event_source_disable_unref(worker->io);
		worker->callbacks.lost(worker->arg, &err);
	}
	return 0;
}

int worker_create(sd_event *loop, const struct limits *limits, int fd,
		  const struct worker_callbacks *callbacks, void *arg, struct worker **worker,
		  struct ramet_err *err)
{
	struct worker *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return err_set(err, ENOMEM, "no memory for a worker");
	w->callbacks = *callbacks;
	w->arg = arg;
	w->fd = -1;
	console_init(&w->console, limits->console_tail);
	r = sd_event_add_io(loop, &w->io, fd, EPOLLIN, worker_on_io, w);
	if (r < 0) {
		worker_destroy(w);
		return err_errno(err, -r, "cannot watch a worker's control socket");
	}
	w->fd = fd;
	*worker = w;
	return 0;
}

void worker_destroy(struct worker *worker)
{
	if (!worker)
		return;
	worker->io = sd_event_source_disable_unref(worker->io);
	close_fd(&worker->fd);
	console_free(&worker->console);
	free(worker);
}

int worker_boot(struct worker *worker, const struct worker_boot *boot, struct ramet_err *err)
{
	struct control_boot message = {
		.header = { .version = CONTROL_VERSION, .type = CONTROL_BOOT },
		.ram_bytes = boot->ram_bytes,
		.isolation = (uint32_t)boot->isolation,
		.plain = boot->plain,
		.initrd_count = boot->initrd_count,
	};
	int fds[1 + CONTROL_INITRD_MAX] = { boot->kernel_fd };
	int r;

	if (worker->phase != WORKER_READY || boot->initrd_count > CONTROL_INITRD_MAX)
		return err_set(err, EINVAL, "the worker cannot be booted now");
	memcpy(fds + 1, boot->initrd_fds, boot->initrd_count * sizeof(fds[0]));
	r = fdpass_send(worker->fd, &message, sizeof(message), fds, 1 + boot->initrd_count);
	if (r < 0)
		return err_errno(err, -r, "cannot send the worker its guest");
	worker->phase = WORKER_SENT_BOOT;
	return 0;
}

size_t worker_console(const struct worker *worker, char *buf, size_t size)
{
	return console_copy(&worker->console, buf, size);
}

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
