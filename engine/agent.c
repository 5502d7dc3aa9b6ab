/* One agent connection: see agent.h. */
#include "engine/agent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "engine/agent_state.h"
#include "engine/text.h"
#include "lib/cleanup.h"

/* Reads per wake-up, so that one flooding guest does not hold up the others. */
#define READS_PER_EVENT 4

struct agent_request *agent_request_find(struct agent *agent, uint32_t id)
{
	struct agent_request *request;

	LIST_FOREACH(request, &agent->requests[id % REQUEST_BUCKETS], link)
	if (request->id == id)
		return request;
	return NULL;
}

void agent_stop(struct agent *agent)
{
	if (agent->stopped)
		return;
	agent->stopped = true;
	agent->io = sd_event_source_disable_unref(agent->io);
	agent->failure = sd_event_source_disable_unref(agent->failure);
	agent->kick = sd_event_source_disable_unref(agent->kick);
}

void agent_break(struct agent *agent, const struct ramet_err *err)
{
	if (agent->stopped || agent->error.code)
		return;
	agent->error = *err;
	agent->io = sd_event_source_disable_unref(agent->io);
	(void)sd_event_source_set_enabled(agent->failure, SD_EVENT_ONESHOT);
}

static int agent_on_failure(sd_event_source *source, void *arg)
{
	struct agent *agent = arg;
	struct ramet_err err = agent->error;

	(void)source;
	agent_stop(agent);
	agent->callbacks.failed(agent->arg, &err);
	return 0;
}

bool agent_usable(const struct agent *agent)
{
	return !agent->stopped && !agent->error.code;
}

/* Bytes that may go out now: while held, only those from before. */
static size_t agent_due(const struct agent *agent)
{
	return agent->held ? agent->barrier : frame_queue_length(&agent->queue);
}

/* Asks for EPOLLOUT exactly while bytes wait. */
static void agent_arm(struct agent *agent)
{
	uint32_t events = EPOLLIN;

	if (agent_due(agent))
		events |= EPOLLOUT;
	if (agent->io)
		(void)sd_event_source_set_io_events(agent->io, events);
}

/* Sends what the socket takes. Errors surface at the next read. */
void agent_flush(struct agent *agent)
{
	while (agent_due(agent)) {
		size_t length;
		const void *bytes = frame_queue_peek(&agent->queue, &length);
		ssize_t n = send(agent->fd, bytes, agent_due(agent), MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break;
		frame_queue_drop(&agent->queue, (size_t)n);
		agent->sent += (uint64_t)n;
		if (agent->held)
			agent->barrier -= (size_t)n;
	}
	agent_arm(agent);
}

static int agent_put(struct agent *agent, uint32_t id, uint8_t type, const void *fixed,
		     size_t fixed_length, const void *data, size_t length)
{
	int r = frame_queue_put(&agent->queue, type, id, fixed, fixed_length, data, length);

	if (r == 0)
		agent_flush(agent);
	return r;
}

int agent_request_send(struct agent *agent, struct agent_request *request, uint8_t type,
		       const void *fixed, size_t fixed_length, const void *data, size_t length,
		       struct ramet_err *err)
{
	uint32_t id;
	int r;

	if (!agent_usable(agent))
		return err_set(err, EPIPE, "the connection to the sandbox's agent is lost");
	if (agent->outstanding >= agent->limits->requests_max)
		return err_set(
			err, EAGAIN,
			"too many requests wait for the sandbox's agent (limit requests_max: %u)",
			agent->limits->requests_max);
	id = agent->next_id;
	while (!id || agent_request_find(agent, id))
		id++;
	r = agent_put(agent, id, type, fixed, fixed_length, data, length);
	if (r < 0)
		return err_errno(err, -r, "cannot queue a request to the sandbox's agent");
	agent->next_id = id + 1;
	request->type = type;
	agent_request_enter(agent, request, id);
	return 0;
}

void agent_request_enter(struct agent *agent, struct agent_request *request, uint32_t id)
{
	agent->outstanding++;
	request->agent = agent;
	request->id = id;
	request->held = agent->held;
	LIST_INSERT_HEAD(&agent->requests[id % REQUEST_BUCKETS], request, link);
}

void agent_request_end(struct agent_request *request)
{
	if (!request->agent)
		return;
	LIST_REMOVE(request, link);
	request->agent->outstanding--;
	request->agent = NULL;
}

void agent_notify(struct agent *agent, uint32_t id, uint8_t type, const void *fixed,
		  size_t fixed_length, const void *data, size_t length)
{
	struct ramet_err err;
	int r;

	if (!agent_usable(agent))
		return;
	r = agent_put(agent, id, type, fixed, fixed_length, data, length);
	if (r == -ENOBUFS)
		(void)err_set(&err, ENOBUFS,
			      "the guest's agent does not read its channel (limit "
			      "channel_queue_max: %zu bytes)",
			      agent->limits->channel_queue_max);
	else if (r < 0)
		(void)err_errno(&err, -r, "cannot queue a message to the guest's agent");
	if (r < 0)
		agent_break(agent, &err);
}

bool agent_writable(const struct agent *agent)
{
	return agent_usable(agent) && !agent->held &&
	       frame_queue_length(&agent->queue) < agent->limits->channel_queue_high;
}

void agent_wait(struct agent *agent, struct agent_waiter *waiter)
{
	if (waiter->waiting)
		return;
	waiter->waiting = true;
	TAILQ_INSERT_TAIL(&agent->waiters, waiter, link);
}

void agent_wait_cancel(struct agent *agent, struct agent_waiter *waiter)
{
	if (!waiter->waiting)
		return;
	waiter->waiting = false;
	TAILQ_REMOVE(&agent->waiters, waiter, link);
}

void agent_run_waiters(struct agent *agent)
{
	if (frame_queue_length(&agent->queue) >= agent->limits->channel_queue_low)
		return;
	while (agent_writable(agent) && !TAILQ_EMPTY(&agent->waiters)) {
		struct agent_waiter *waiter = TAILQ_FIRST(&agent->waiters);

		agent_wait_cancel(agent, waiter);
		waiter->ready(waiter);
	}
}

static int agent_hello(struct agent *agent, const struct frame *frame, struct ramet_err *err)
{
	char kernel[sizeof(((struct msg_hello *)0)->kernel)];
	char version[sizeof(((struct msg_hello *)0)->agent)];
	struct msg_hello hello;

	if (frame->type != MSG_HELLO)
		return err_set(err, EPROTO, "the agent's first message is %s instead of HELLO",
			       frame_type_name(frame->type));
	frame_fixed(frame, &hello, sizeof(hello));
	if (hello.protocol != PROTOCOL_VERSION)
		return err_set(err, EPROTO,
			       "the agent speaks protocol %u, this daemon %u: rebuild the image",
			       hello.protocol, PROTOCOL_VERSION);
	if (hello.flags)
		return err_set(err, EPROTO, "the agent's HELLO has unknown flags 0x%x",
			       hello.flags);
	if (!memchr(hello.kernel, 0, sizeof(hello.kernel)) ||
	    !memchr(hello.agent, 0, sizeof(hello.agent)))
		return err_set(err, EPROTO, "the agent's HELLO has a string without end");
	agent->greeted = true;
	(void)text_printable(kernel, sizeof(kernel), hello.kernel, sizeof(hello.kernel));
	(void)text_printable(version, sizeof(version), hello.agent, sizeof(hello.agent));
	agent->callbacks.hello(agent->arg, kernel, version);
	return 0;
}

static int agent_dispatch(struct agent *agent, const struct frame *frame, struct ramet_err *err)
{
	struct agent_request *request;

	if (!agent->greeted)
		return agent_hello(agent, frame, err);
	if (frame->type == MSG_HELLO)
		return err_set(err, EPROTO, "the agent said HELLO twice");
	request = agent_request_find(agent, frame->id);
	if (!request)
		return err_set(err, EPROTO,
			       "the agent answered request %u, which is not outstanding",
			       frame->id);
	return request->reply(request, frame, err);
}

/* Hands out what the parser holds. */
int agent_parse(struct agent *agent, struct ramet_err *err)
{
	while (agent_usable(agent)) {
		struct frame frame;
		int r = frame_parser_next(&agent->parser, &frame, err);

		if (r <= 0)
			return r;
		r = agent_dispatch(agent, &frame, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* 1: read something, 0: nothing there. */
int agent_read(struct agent *agent, struct ramet_err *err)
{
	size_t room;
	void *space = frame_parser_space(&agent->parser, &room);
	ssize_t n;

	if (!space)
		return err_set(err, ENOMEM, "no memory to receive from the guest's agent");
	n = recv(agent->fd, space, room, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return err_set(err, ECONNRESET, "the guest's agent channel closed");
	frame_parser_added(&agent->parser, (size_t)n);
	agent->received += (uint64_t)n;
	return 1;
}

int agent_on_io(sd_event_source *source, int fd, uint32_t revents, void *arg)
{
	struct agent *agent = arg;
	struct ramet_err err = { 0 };
	int r = 1;

	(void)source;
	(void)fd;
	if (revents & EPOLLOUT)
		agent_flush(agent);
	for (int i = 0; i < READS_PER_EVENT && r > 0 && agent_usable(agent); i++) {
		r = agent_read(agent, &err);
		if (r > 0) {
			int parsed = agent_parse(agent, &err);

			r = parsed < 0 ? parsed : r;
		}
	}
	if (r < 0)
		agent_break(agent, &err);
	if (agent_usable(agent))
		agent_run_waiters(agent);
	return 0;
}

int agent_create(sd_event *loop, const struct limits *limits, int fd,
		 const struct agent_callbacks *callbacks, void *arg, struct agent **agent,
		 struct ramet_err *err)
{
	struct agent *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return err_set(err, ENOMEM, "no memory for an agent connection");
	a->loop = loop;
	a->limits = limits;
	a->callbacks = *callbacks;
	a->arg = arg;
	a->fd = -1;
	a->next_id = 1;
	TAILQ_INIT(&a->waiters);
	frame_parser_init(&a->parser, FRAME_TO_HOST);
	frame_queue_init(&a->queue, limits->channel_queue_max);
	r = sd_event_add_defer(loop, &a->failure, agent_on_failure, a);
	if (r >= 0)
		r = sd_event_source_set_enabled(a->failure, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_add_defer(loop, &a->kick, agent_on_kick, a);
	if (r >= 0)
		r = sd_event_source_set_enabled(a->kick, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_add_io(loop, &a->io, fd, EPOLLIN, agent_on_io, a);
	if (r < 0) {
		agent_destroy(a, NULL);
		return err_errno(err, -r, "cannot watch the agent's channel");
	}
	a->fd = fd;
	*agent = a;
	return 0;
}

void agent_destroy(struct agent *agent, const struct ramet_err *err)
{
	struct agent_request *request;

	if (!agent)
		return;
	agent_stop(agent);
	for (size_t i = 0; i < REQUEST_BUCKETS; i++) {
		while ((request = LIST_FIRST(&agent->requests[i]))) {
			agent_request_end(request);
			request->lost(request, err);
		}
	}
	close_fd(&agent->fd);
	frame_parser_free(&agent->parser);
	frame_queue_free(&agent->queue);
	free(agent);
}

int agent_error(const struct frame *frame, struct ramet_err *err)
{
	struct msg_error error;
	char text[300];
	int code;

	frame_fixed(frame, &error, sizeof(error));
	code = error.code > 0 && error.code < 4096 ? (int)error.code : EIO;
	if (!text_printable(text, sizeof(text), frame->payload + sizeof(error),
			    frame->length - sizeof(error)))
		(void)err_errno(err, code, "the sandbox refused");
	else
		(void)err_set(err, code, "%s", text);
	return code;
}

int agent_unexpected(const struct frame *frame, const char *what, struct ramet_err *err)
{
	return err_set(err, EPROTO, "the agent answered %s with an unfitting %s", what,
		       frame_type_name(frame->type));
}
