/* The worker proper: sockets, dispatch of control messages, the run loop. See
 * worker.h; the messages are described in control.h. */
#include "vmm/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/clock.h"
#include "lib/log.h"
#include "vmm/run.h"
#include "vmm/worker_internal.h"

#define CONSOLE_CHUNK (CONTROL_MESSAGE_MAX - sizeof(struct control_console))

/* ---- to the daemon ---- */

int control_reply(struct worker *w, const void *data, size_t len, const int *fds, size_t nfds)
{
	struct pollfd pfd = { .fd = w->fds.control, .events = POLLOUT };
	int rc;

	while ((rc = fdpass_send(w->fds.control, data, len, fds, nfds)) == -EAGAIN)
		(void)poll(&pfd, 1, -1);
	return rc;
}

/* The console may lose output rather than hold up the guest. */
static void console_send(void *arg, const char *data, size_t len)
{
	struct worker *w = arg;
	union {
		struct control_console head;
		char bytes[CONTROL_MESSAGE_MAX];
	} message;

	while (len) {
		size_t n = len < CONSOLE_CHUNK ? len : CONSOLE_CHUNK;

		message.head = (struct control_console){
			.header = { CONTROL_VERSION, CONTROL_CONSOLE },
			.dropped = w->console_dropped,
			.length = (uint32_t)n,
		};
		memcpy(message.bytes + sizeof(message.head), data, n);
		if (fdpass_send(w->fds.control, &message, sizeof(message.head) + n, NULL, 0))
			w->console_dropped += (uint32_t)n;
		else
			w->console_dropped = 0;
		data += n;
		len -= n;
	}
}

static void channel_report(void *arg)
{
	struct control_header message = { CONTROL_VERSION, CONTROL_CHANNEL };

	(void)control_reply(arg, &message, sizeof(message), NULL, 0);
}

static int ready_send(struct worker *w)
{
	struct control_ready message = { .header = { CONTROL_VERSION, CONTROL_READY },
					 .pid = (uint32_t)getpid() };

	return control_reply(w, &message, sizeof(message), NULL, 0);
}

static void ended_send(struct worker *w, enum end_reason reason, int code, const char *text)
{
	struct control_ended message = { .header = { CONTROL_VERSION, CONTROL_ENDED },
					 .reason = reason,
					 .code = (uint32_t)code };

	(void)snprintf(message.text, sizeof(message.text), "%s", text);
	(void)control_reply(w, &message, sizeof(message), NULL, 0);
}

static void refuse(struct worker *w, const struct worker_message *message, int code,
		   const char *text)
{
	struct control_failed reply = { .header = { CONTROL_VERSION, CONTROL_FAILED },
					.request = message->u.header.type,
					.code = (uint32_t)code };

	(void)snprintf(reply.text, sizeof(reply.text), "%s", text);
	(void)control_reply(w, &reply, sizeof(reply), NULL, 0);
}

/* ---- from the daemon ---- */

static void message_close(struct worker_message *message)
{
	for (size_t i = 0; i < message->fd_count; i++)
		close_fd(&message->fds[i]);
	message->fd_count = 0;
}

/* Takes one message if there is one. 1, 0 when none waits, -EPROTO for one that
 * is not a control message. The process exits when the daemon is gone: nobody is
 * left to report to. */
static int message_take(struct worker *w, struct worker_message *message, struct ramet_err *err)
{
	ssize_t n;

	message->fd_count = 0;
	n = fdpass_recv(w->fds.control, &message->u, sizeof(message->u), message->fds,
			&message->fd_count);
	if (n == -EAGAIN)
		return 0;
	if (n == -EMSGSIZE)
		return err_set(err, EPROTO, "control message of more than %zu bytes",
			       sizeof(message->u));
	if (n <= 0)
		exit(EXIT_SUCCESS);
	message->length = (size_t)n;
	if (message->length < sizeof(message->u.header) ||
	    message->u.header.version != CONTROL_VERSION) {
		message_close(message);
		return err_set(err, EPROTO, "malformed control message of %zd bytes", n);
	}
	return 1;
}

struct rule {
	uint32_t type;
	unsigned int phases; /* bits of enum worker_phase */
	size_t length;       /* 0: the handler checks */
	size_t fds_min, fds_max;
	int (*handle)(struct worker *w, struct worker_message *message, struct ramet_err *err);
};

#define IN(phase) (1u << (phase))

static const struct rule rules[] = {
	{ CONTROL_BOOT, IN(WORKER_IDLE), sizeof(struct control_boot), 1, CONTROL_INITRD_MAX + 1,
	  handle_boot },
	{ CONTROL_HOST, IN(WORKER_IDLE), 0, 0, 0, handle_host },
	{ CONTROL_SHELL, IN(WORKER_IDLE), sizeof(struct control_shell), 2, 2, handle_shell },
	{ CONTROL_BASE, IN(WORKER_SHELL), sizeof(struct control_base), 2, 2, handle_base },
	{ CONTROL_RESTORE, IN(WORKER_SHELL), sizeof(struct control_restore), 1,
	  CONTROL_LAYERS_MAX + 1, handle_restore },
	{ CONTROL_RUN, IN(WORKER_LOADED), sizeof(struct control_header), 0, 0, handle_start },
	{ CONTROL_RESUME, IN(WORKER_PAUSED), sizeof(struct control_header), 0, 0, handle_resume },
	{ CONTROL_DONATE, IN(WORKER_PAUSED), sizeof(struct control_donate), 2,
	  CONTROL_LAYERS_MAX + 2, handle_donate },
	{ CONTROL_CHILD, IN(WORKER_DONOR), 0, 1, 1, handle_child },
};

static int message_dispatch(struct worker *w, struct worker_message *message, struct ramet_err *err)
{
	uint32_t type = message->u.header.type;

	if (type == CONTROL_STATS) {
		stats_reply(w, message);
		return 0;
	}
	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
		const struct rule *r = &rules[i];

		if (r->type != type)
			continue;
		if (!(r->phases & IN(w->phase)))
			return err_set(err, EPROTO, "control message %u comes out of order", type);
		if ((r->length && message->length != r->length) || message->fd_count < r->fds_min ||
		    message->fd_count > r->fds_max)
			return err_set(err, EPROTO,
				       "control message %u has %zu bytes and %zu descriptors", type,
				       message->length, message->fd_count);
		return r->handle(w, message, err);
	}
	return err_set(err, EPROTO, "control message of unknown type %u", type);
}

/* A pause is taken note of here; the run loop stops at the next boundary. */
static void pause_note(struct worker *w, struct worker_message *message)
{
	if (message->length != sizeof(message->u.pause) || message->fd_count != 1 ||
	    w->machine.want_pause) {
		refuse(w, message, EINVAL, "a malformed or second pause");
		return;
	}
	w->pause = message->u.pause;
	w->pause_bundle = take_fd(&message->fds[0]);
	w->pause_asked_ns = clock_monotonic_ns();
	w->machine.want_pause = true;
}

static void control_service(void *arg)
{
	struct worker *w = arg;
	struct worker_message message;
	struct ramet_err err = { 0 };
	int rc;

	while ((rc = message_take(w, &message, &err)) != 0) {
		if (rc < 0) {
			log_warn("%s", err.msg);
			continue;
		}
		if (message.u.header.type == CONTROL_STATS)
			stats_reply(w, &message);
		else if (message.u.header.type == CONTROL_PAUSE)
			pause_note(w, &message);
		else
			refuse(w, &message, EINVAL, "the guest is running");
		message_close(&message);
	}
}

int machine_connect(struct worker *w, struct ramet_err *err)
{
	struct machine *m = &w->machine;

	m->channel_fd = w->fds.channel;
	m->sink = (struct machine_sink){ .arg = w,
					 .console = console_send,
					 .channel_connected = channel_report,
					 .service = control_service };
	if (run_watch_fd(w->fds.control) || run_watch_fd(w->fds.channel))
		return err_errno(err, errno, "cannot watch the worker's sockets");
	return 0;
}

/* ---- the loop ---- */

static int guest_run(struct worker *w, struct ramet_err *err)
{
	int rc = machine_run(&w->machine, err);

	if (rc)
		return rc;
	if (w->machine.ended) {
		ended_send(w, w->machine.end_reason, 0, w->machine.end_text);
		return 0;
	}
	return machine_paused_report(w, err);
}

/* Waits for a control message and handles it; a donor does its work meanwhile. */
static int message_wait(struct worker *w, struct ramet_err *err)
{
	struct pollfd pfd[] = { { .fd = w->fds.control, .events = POLLIN },
				{ .fd = donation_fd(w), .events = POLLIN } };
	struct worker_message message;
	int rc;

	(void)poll(pfd, 2, donation_wait_ms(w));
	rc = message_take(w, &message, err);
	if (rc > 0) {
		rc = message_dispatch(w, &message, err);
		message_close(&message);
	}
	return rc || w->phase != WORKER_DONOR ? rc : donation_step(w, err);
}

static int worker_serve(struct worker *w, struct ramet_err *err)
{
	int rc = 0;

	if (ready_send(w))
		rc = err_set(err, EPIPE, "the daemon closed the control socket");
	while (!rc && !w->machine.ended)
		rc = w->phase == WORKER_RUNNING ? guest_run(w, err) : message_wait(w, err);
	return rc;
}

int worker_main(const struct worker_fds *fds)
{
	cleanup_free struct worker *w = calloc(1, sizeof(*w));
	struct ramet_err err = { 0 };
	int rc;

	if (!w)
		return EXIT_FAILURE;
	w->fds = *fds;
	w->userfault_device = w->pause_bundle = w->donor_layer = -1;
	rc = worker_serve(w, &err);
	if (rc) {
		log_error("%s", err.msg);
		ended_send(w, END_ERROR, -rc, err.msg);
	}
	donation_end(w);
	if (w->has_machine)
		machine_destroy(&w->machine);
	close_fd(&w->userfault_device);
	close_fd(&w->pause_bundle);
	free(w->ranges);
	free(w->map);
	free(w->below);
	return EXIT_SUCCESS;
}
