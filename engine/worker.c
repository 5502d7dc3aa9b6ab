/* The daemon's end of one worker: what it says. Requests are in worker_send.c,
 * its end in worker_end.c; see worker.h. */
#include "engine/worker.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text.h"
#include "engine/worker_state.h"
#include "lib/cleanup.h"
#include "lib/fdpass.h"
#include "lib/log.h"

/* Messages per wake-up, so that one talkative worker does not hold up others. */
#define MESSAGES_PER_EVENT 16

union control_message {
	struct control_header header;
	struct control_ready ready;
	struct control_host host;
	struct control_booted booted;
	struct control_console console;
	struct control_stats stats;
	struct control_ended ended;
	struct control_restored restored;
	struct control_paused paused;
	struct control_filled filled;
	struct control_failed failed;
	char bytes[CONTROL_MESSAGE_MAX];
};

/* Descriptors that came with a message; closed after it was taken. */
struct control_fds {
	int fds[FDPASS_MAX];
	size_t count;
};

static int worker_bad(struct ramet_err *err, const char *what)
{
	return err_set(err, EPROTO, "the worker sent %s", what);
}

int worker_take_console(struct worker *worker, const struct control_console *console, size_t length,
			struct ramet_err *err)
{
	if (length < sizeof(*console) || console->length != length - sizeof(*console))
		return worker_bad(err, "console output of the wrong length");
	if (console->dropped)
		log_debug("%u bytes of guest console output were lost", console->dropped);
	console_add(&worker->console, console + 1, console->length);
	return 0;
}

int worker_take_ended(struct worker *worker, const struct control_ended *ended, size_t length,
		      struct ramet_err *err)
{
	if (length != sizeof(*ended) || !memchr(ended->text, 0, sizeof(ended->text)))
		return worker_bad(err, "a malformed end report");
	worker->ended = true;
	worker->last = *ended;
	return err_set(err, ECONNRESET, "the worker reported its end");
}

/* Only from a worker in which no guest has run yet. */
static int worker_take_host(struct worker *worker, const struct control_host *host, size_t length,
			    struct ramet_err *err)
{
	size_t head = offsetof(struct control_host, facts);

	if (worker->phase != WORKER_SENT_BOOT && worker->phase != WORKER_SENT_SHELL)
		return worker_bad(err, "HOST_FOUND out of turn");
	if (length <= head)
		return worker_bad(err, "HOST_FOUND of the wrong length");
	if (worker->callbacks.host)
		worker->callbacks.host(worker->arg, host->facts, length - head);
	return 0;
}

/* The answers that are due in one phase and lead to the next. */
struct worker_answer {
	uint32_t type;
	enum worker_phase from, to;
	size_t length;
	const char *name;
};

static const struct worker_answer worker_answers[] = {
	{ CONTROL_READY, WORKER_STARTING, WORKER_READY, sizeof(struct control_ready), "READY" },
	{ CONTROL_BOOTED, WORKER_SENT_BOOT, WORKER_BOOTED, sizeof(struct control_booted),
	  "BOOTED" },
	{ CONTROL_BOOTED, WORKER_SENT_RUN, WORKER_RUNNING, sizeof(struct control_booted),
	  "BOOTED" },
	{ CONTROL_CHANNEL, WORKER_BOOTED, WORKER_RUNNING, sizeof(struct control_header),
	  "CHANNEL" },
	{ CONTROL_SHELL_READY, WORKER_SENT_SHELL, WORKER_SHELL, sizeof(struct control_header),
	  "SHELL_READY" },
	{ CONTROL_RESTORED, WORKER_SENT_RESTORE, WORKER_RESTORED, sizeof(struct control_restored),
	  "RESTORED" },
	{ CONTROL_PAUSED, WORKER_SENT_PAUSE, WORKER_PAUSED, sizeof(struct control_paused),
	  "PAUSED" },
	{ CONTROL_FILLED, WORKER_DONATING, WORKER_FILLED, sizeof(struct control_filled), "FILLED" },
};

static int worker_advance(struct worker *worker, uint32_t type, size_t length,
			  struct ramet_err *err)
{
	const struct worker_answer *known = NULL;

	for (size_t i = 0; i < sizeof(worker_answers) / sizeof(worker_answers[0]); i++) {
		const struct worker_answer *answer = &worker_answers[i];

		if (answer->type != type)
			continue;
		known = answer;
		if (length != answer->length)
			return err_set(err, EPROTO, "the worker sent %s of the wrong length",
				       answer->name);
		if (worker->phase == answer->from) {
			worker->phase = answer->to;
			return 0;
		}
	}
	if (known)
		return err_set(err, EPROTO, "the worker sent %s out of turn", known->name);
	return err_set(err, EPROTO, "the worker sent a message of unknown type %u", type);
}

/* What refusing a request leads back to; phases without one are out of turn. */
static bool worker_step_back(struct worker *worker, uint32_t request)
{
	if (request == CONTROL_SHELL && worker->phase == WORKER_SENT_SHELL)
		worker->phase = WORKER_READY;
	else if (request == CONTROL_RESTORE &&
		 (worker->phase == WORKER_SENT_RESTORE || worker->phase == WORKER_RESTORED ||
		  worker->phase == WORKER_SENT_RUN))
		worker->phase = WORKER_SHELL;
	else if (request == CONTROL_RUN && worker->phase == WORKER_SENT_RUN)
		worker->phase = WORKER_RESTORED;
	else if (request == CONTROL_PAUSE && worker->phase == WORKER_SENT_PAUSE)
		worker->phase = WORKER_RUNNING;
	else if (request == CONTROL_DONATE && worker->phase == WORKER_DONATING)
		worker->phase = WORKER_PAUSED;
	else
		return false;
	return true;
}

static int worker_take_failed(struct worker *worker, const struct control_failed *failed,
			      size_t length, struct ramet_err *err)
{
	char text[sizeof(failed->text)];
	struct ramet_err refusal;
	int code;

	if (length != sizeof(*failed))
		return worker_bad(err, "FAILED of the wrong length");
	if (!worker_step_back(worker, failed->request))
		return worker_bad(err, "FAILED out of turn");
	code = failed->code > 0 && failed->code < 4096 ? (int)failed->code : EIO;
	(void)text_printable(text, sizeof(text), failed->text, sizeof(failed->text));
	(void)err_set(&refusal, code, "%s", text[0] ? text : "the worker refused a request");
	if (worker->callbacks.refused)
		worker->callbacks.refused(worker->arg, failed->request, &refusal);
	return 0;
}

static void worker_announce(struct worker *worker, const union control_message *m,
			    const struct control_fds *fds)
{
	const struct worker_callbacks *callbacks = &worker->callbacks;
	void *arg = worker->arg;

	if (m->header.type == CONTROL_READY && callbacks->ready)
		callbacks->ready(arg);
	else if (m->header.type == CONTROL_BOOTED && callbacks->booted)
		callbacks->booted(arg);
	else if (m->header.type == CONTROL_CHANNEL && callbacks->channel)
		callbacks->channel(arg);
	else if (m->header.type == CONTROL_SHELL_READY && callbacks->shell)
		callbacks->shell(arg);
	else if (m->header.type == CONTROL_RESTORED && callbacks->restored)
		callbacks->restored(arg, &m->restored, fds->fds, fds->count);
	else if (m->header.type == CONTROL_PAUSED && callbacks->paused)
		callbacks->paused(arg, &m->paused);
	else if (m->header.type == CONTROL_FILLED && callbacks->filled)
		callbacks->filled(arg, &m->filled);
}

/* Checks one message and stores or announces what it says. Negative: no more
 * is to be read from this worker. */
static int worker_take(struct worker *worker, const union control_message *m, size_t length,
		       const struct control_fds *fds, struct ramet_err *err)
{
	int r;

	if (length < sizeof(m->header))
		return worker_bad(err, "a message without header");
	if (m->header.version != CONTROL_VERSION)
		return err_set(err, EPROTO,
			       "the worker speaks control version %u, this daemon %u: install both "
			       "from one build",
			       m->header.version, CONTROL_VERSION);
	if (fds->count && m->header.type != CONTROL_RESTORED)
		return worker_bad(err, "a descriptor with a message that carries none");
	switch (m->header.type) {
	case CONTROL_CONSOLE:
		return worker_take_console(worker, &m->console, length, err);
	case CONTROL_STATS_REPLY:
		return worker_take_stats(worker, &m->stats, length, err);
	case CONTROL_ENDED:
		return worker_take_ended(worker, &m->ended, length, err);
	case CONTROL_HOST_FOUND:
		return worker_take_host(worker, &m->host, length, err);
	case CONTROL_FAILED:
		return worker_take_failed(worker, &m->failed, length, err);
	default:
		r = worker_advance(worker, m->header.type, length, err);
		if (r == 0)
			worker_announce(worker, m, fds);
		return r;
	}
}

/* Receives and takes one message: 1, 0 when none waits, negative at the end. */
static int worker_receive(struct worker *worker, struct ramet_err *err)
{
	union control_message message;
	struct control_fds fds = { .count = 0 };
	ssize_t n = fdpass_recv(worker->fd, &message, sizeof(message), fds.fds, &fds.count);
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
	r = worker_take(worker, &message, (size_t)n, &fds, err);
	for (size_t i = 0; i < fds.count; i++)
		(void)close(fds.fds[i]);
	return r < 0 ? r : 1;
}

static int worker_on_io(sd_event_source *source, int fd, uint32_t revents, void *arg)
{
	struct worker *worker = arg;
	struct ramet_err err = { 0 };
	int r = 1;

	(void)source;
	(void)fd;
	if (revents & EPOLLOUT) {
		worker_flush(worker);
		if (!worker_waiting(worker) && worker->callbacks.drained)
			worker->callbacks.drained(worker->arg);
	}
	for (int i = 0; i < MESSAGES_PER_EVENT && r > 0 && worker->io; i++)
		r = worker_receive(worker, &err);
	if (r < 0) {
		worker->io = sd_event_source_disable_unref(worker->io);
		worker_stats_lost(worker, &err);
		if (worker->callbacks.lost)
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
	STAILQ_INIT(&w->waiting);
	TAILQ_INIT(&w->stats);
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
	struct ramet_err err;

	if (!worker)
		return;
	(void)err_set(&err, ECONNRESET, "the connection to the worker was closed");
	worker_stats_lost(worker, &err);
	worker->io = sd_event_source_disable_unref(worker->io);
	worker_forget_waiting(worker);
	close_fd(&worker->fd);
	console_free(&worker->console);
	free(worker);
}

size_t worker_console(const struct worker *worker, char *buf, size_t size)
{
	return console_copy(&worker->console, buf, size);
}
