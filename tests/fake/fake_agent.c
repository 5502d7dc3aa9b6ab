/* The scripted agent: connection, identity and execs. See fake_agent.h. */
#include "tests/fake/fake_agent.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fake/fake_agent_state.h"

void fake_send_bytes(struct fake_agent *agent, const void *bytes, size_t length)
{
	const char *p = bytes;

	while (length && agent->fd >= 0) {
		ssize_t n = send(agent->fd, p, length, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			_exit(0); /* the engine closed the channel */
		p += n;
		length -= (size_t)n;
		agent->sent += (uint64_t)n;
	}
}

void fake_send(struct fake_agent *agent, uint8_t type, uint32_t id, const void *fixed,
	       size_t fixed_length, const void *data, size_t length)
{
	struct frame_queue queue;
	const void *bytes;
	size_t total;

	frame_queue_init(&queue, 2 * FRAME_PAYLOAD_MAX);
	if (frame_queue_put(&queue, type, id, fixed, fixed_length, data, length) < 0)
		abort();
	bytes = frame_queue_peek(&queue, &total);
	fake_send_bytes(agent, bytes, total);
	frame_queue_free(&queue);
}

void fake_send_error(struct fake_agent *agent, uint32_t id, int code, const char *text)
{
	struct msg_error error = { .code = (uint32_t)code };

	fake_send(agent, MSG_ERROR, id, &error, sizeof(error), text, strlen(text));
}

static void output(struct fake_agent *agent, uint32_t id, uint32_t stream, const void *data,
		   size_t length)
{
	struct msg_output message = { .stream = stream, .time_ns = 1000 };

	fake_send(agent, MSG_OUTPUT, id, &message, sizeof(message), data, length);
}

static void exit_with(struct fake_agent *agent, struct fake_exec *exec, int code, uint32_t flags)
{
	struct msg_exit message = {
		.exit_code = code, .flags = flags, .queue_ns = 11, .run_ns = 22, .dropped = 33
	};

	fake_send(agent, MSG_EXIT, exec->id, &message, sizeof(message), NULL, 0);
	TAILQ_REMOVE(&agent->execs, exec, link);
	free(exec->code);
	free(exec);
}

static struct fake_exec *exec_find(struct fake_agent *agent, uint32_t id)
{
	struct fake_exec *exec;

	TAILQ_FOREACH(exec, &agent->execs, link)
	if (exec->id == id)
		return exec;
	return NULL;
}

/* Sends as much of a flood as there is credit for. */
static void exec_flood(struct fake_agent *agent, struct fake_exec *exec)
{
	char bytes[4096];

	while (exec->left && exec->credit) {
		size_t n = sizeof(bytes);

		n = exec->left < n ? (size_t)exec->left : n;
		n = exec->credit < n ? (size_t)exec->credit : n;
		memset(bytes, 'x', n);
		output(agent, exec->id, OUTPUT_STDOUT, bytes, n);
		exec->left -= n;
		exec->credit -= n;
	}
	if (!exec->left)
		exit_with(agent, exec, 0, 0);
}

/* The ways to break the protocol; false when the code names none. */
static bool exec_misbehave(struct fake_agent *agent, struct fake_exec *exec)
{
	static char bytes[FRAME_PAYLOAD_MAX];
	struct frame_header header = { FRAME_MAGIC, PROTOCOL_VERSION, MSG_OUTPUT, 1u << 30, 1 };
	struct msg_exit bad = { .exit_code = 256 };
	const char *code = exec->code;
	struct msg_hello hello = { .protocol = PROTOCOL_VERSION };

	if (!strcmp(code, "overcredit"))
		for (int i = 0; i < 5; i++)
			output(agent, exec->id, OUTPUT_STDOUT, bytes, 64 * 1024);
	else if (!strcmp(code, "overlimit"))
		output(agent, exec->id, OUTPUT_STDERR, bytes, (size_t)exec->limit + 1);
	else if (!strcmp(code, "badstream"))
		output(agent, exec->id, 9, "x", 1);
	else if (!strcmp(code, "badexit"))
		fake_send(agent, MSG_EXIT, exec->id, &bad, sizeof(bad), NULL, 0);
	else if (!strcmp(code, "badid"))
		output(agent, exec->id + 1000, OUTPUT_STDOUT, "x", 1);
	else if (!strcmp(code, "badtype"))
		fake_send(agent, MSG_OK, exec->id, NULL, 0, NULL, 0);
	else if (!strcmp(code, "garbage"))
		fake_send_bytes(agent, "this is no frame at all", 23);
	else if (!strcmp(code, "hugeframe"))
		fake_send_bytes(agent, &header, sizeof(header));
	else if (!strcmp(code, "hello"))
		fake_send(agent, MSG_HELLO, 0, &hello, sizeof(hello), NULL, 0);
	else
		return false;
	return true;
}

/* What is about the guest; false when the code is not. */
static bool exec_guest(struct fake_agent *agent, struct fake_exec *exec)
{
	struct fake_host *host = agent->host;
	unsigned long long page;
	unsigned int value;
	char text[64] = "";

	if (!host)
		return false;
	if (sscanf(exec->code, "poke %llu %u", &page, &value) == 2)
		host->poke(host->arg, page, (uint8_t)value);
	else if (sscanf(exec->code, "peek %llu", &page) == 1)
		(void)snprintf(text, sizeof(text), "%u", host->peek(host->arg, page));
	else if (!strcmp(exec->code, "count"))
		(void)snprintf(text, sizeof(text), "%u", host->lives);
	else if (!strcmp(exec->code, "identity"))
		(void)snprintf(text, sizeof(text), "%u %u", agent->fork_number,
			       agent->reseed_flags & RESEED_PYTHON);
	else
		return !strcmp(exec->code, "pass") || !strcmp(exec->code, "1");
	output(agent, exec->id, OUTPUT_STDOUT, text, strlen(text));
	return true;
}

static void exec_run(struct fake_agent *agent, struct fake_exec *exec)
{
	char *code = exec->code;
	char text[32];

	exec->running = true;
	if (!strncmp(code, "echo ", 5)) {
		output(agent, exec->id, OUTPUT_STDOUT, code + 5, strlen(code + 5));
		exit_with(agent, exec, 0, 0);
	} else if (!strncmp(code, "exit ", 5)) {
		exit_with(agent, exec, atoi(code + 5), 0);
	} else if (!strncmp(code, "flood ", 6)) {
		exec->left = strtoull(code + 6, NULL, 10);
		exec_flood(agent, exec);
	} else if (!strncmp(code, "length", 6)) {
		(void)snprintf(text, sizeof(text), "%u", exec->length);
		output(agent, exec->id, OUTPUT_RESULT, text, strlen(text));
		exit_with(agent, exec, 0, 0);
	} else if (exec_guest(agent, exec)) {
		exit_with(agent, exec, 0, 0);
	} else if (!strcmp(code, "die")) {
		(void)signal(SIGILL, SIG_DFL);
		__builtin_trap();
	} else if (!strcmp(code, "silence")) {
		(void)shutdown(agent->fd, SHUT_RDWR);
		agent->fd = -1;
	} else if (!strncmp(code, "empty ", 6)) {
		for (int i = atoi(code + 6); i > 0; i--)
			output(agent, exec->id, OUTPUT_STDOUT, NULL, 0);
		exit_with(agent, exec, 0, 0);
	} else if (!strcmp(code, "deaf")) {
		(void)poll(NULL, 0, -1);
	} else if (!strcmp(code, "refuse")) {
		fake_send_error(agent, exec->id, EBUSY, "no room for this");
		TAILQ_REMOVE(&agent->execs, exec, link);
		free(exec->code);
		free(exec);
	} else if (strcmp(code, "hang") != 0 && strcmp(code, "stubborn") != 0 &&
		   !exec_misbehave(agent, exec)) {
		exit_with(agent, exec, 127, 0);
	}
}

/* Runs what is complete and due. */
static void exec_progress(struct fake_agent *agent)
{
	struct fake_exec *exec;

	while ((exec = TAILQ_FIRST(&agent->execs)) && !exec->running &&
	       exec->received == exec->length)
		exec_run(agent, exec);
}

static void exec_take(struct fake_agent *agent, const struct frame *frame)
{
	struct fake_exec *exec = exec_find(agent, frame->id);
	struct msg_exec message;
	struct msg_credit credit;

	switch (frame->type) {
	case MSG_EXEC:
		frame_fixed(frame, &message, sizeof(message));
		exec = calloc(1, sizeof(*exec));
		exec->id = frame->id;
		exec->length = message.code_length;
		exec->limit = message.output_limit;
		exec->credit = EXEC_CREDIT_INITIAL;
		exec->code = calloc(1, exec->length + 1);
		TAILQ_INSERT_TAIL(&agent->execs, exec, link);
		break;
	case MSG_EXEC_DATA:
		if (!exec || frame->length > exec->length - exec->received)
			_exit(91); /* the engine is wrong; tests see the status */
		memcpy(exec->code + exec->received, frame->payload, frame->length);
		exec->received += (uint32_t)frame->length;
		break;
	case MSG_CREDIT:
		frame_fixed(frame, &credit, sizeof(credit));
		if (fake_tree_credit(agent, frame->id, credit.bytes))
			break;
		if (exec)
			exec->credit += credit.bytes;
		if (exec && exec->running && exec->left)
			exec_flood(agent, exec);
		break;
	default: /* MSG_CANCEL */
		if (fake_tree_cancel(agent, frame->id))
			break;
		if (exec && exec->received != exec->length)
			_exit(92);
		if (exec && strcmp(exec->code, "stubborn") != 0)
			exit_with(agent, exec, 130, EXIT_CANCELLED);
	}
	exec_progress(agent);
}

/* A byte of the guest's memory names a child of a fork, by its number. */
static bool named_by(const struct fake_agent *agent, uint64_t page)
{
	struct fake_host *host = agent->host;

	return host && agent->fork_number &&
	       host->peek(host->arg, page) == (uint8_t)agent->fork_number;
}

static void take_reseed(struct fake_agent *agent, const struct frame *frame)
{
	struct msg_reseed message;
	char zero[64] = { 0 };

	frame_fixed(frame, &message, sizeof(message));
	if (!message.entropy_length && !message.flags) { /* only a new name */
		fake_send(agent, MSG_OK, frame->id, NULL, 0, NULL, 0);
		return;
	}
	agent->fork_number = message.fork_number;
	agent->reseed_flags = message.flags;
	/* What the engine promises: entropy, the clock, a name that is an id. */
	if (message.entropy_length != 64 || message.hostname_length != 24 || !message.wall_ns ||
	    frame->length != sizeof(message) + 24 + 64 + RESEED_TOKEN_SIZE ||
	    !(message.flags & RESEED_TOKEN) ||
	    memcmp(frame->payload + sizeof(message), "sbx_", 4) != 0 ||
	    !memcmp(frame->payload + sizeof(message) + 24, zero, sizeof(zero)))
		fake_send_error(agent, frame->id, EINVAL, "the identity is not complete");
	else if (!strcmp(agent->script, "refuse-reseed") || named_by(agent, FAKE_PAGE_REFUSES))
		fake_send_error(agent, frame->id, EPERM, "no entropy device");
	else if (!named_by(agent, FAKE_PAGE_SILENT))
		fake_send(agent, MSG_OK, frame->id, NULL, 0, NULL, 0);
}

static void take_reclaim(struct fake_agent *agent, const struct frame *frame)
{
	struct msg_reclaimed message = { .pages = 1024, .run_ns = 5 };

	if (!strcmp(agent->script, "silent-reclaim"))
		return;
	if (!strcmp(agent->script, "huge-reclaim"))
		message.pages = UINT64_MAX / 2;
	if (!strcmp(agent->script, "refuse-reclaim"))
		fake_send_error(agent, frame->id, EOPNOTSUPP, "no page flags");
	else
		fake_send(agent, MSG_RECLAIMED, frame->id, &message, sizeof(message), NULL, 0);
}

static void take(struct fake_agent *agent, const struct frame *frame)
{
	switch (frame->type) {
	case MSG_RESEED:
		take_reseed(agent, frame);
		break;
	case MSG_RECLAIM:
		take_reclaim(agent, frame);
		break;
	case MSG_TREE:
		fake_tree_take(agent, frame);
		break;
	case MSG_PING:
		fake_send(agent, MSG_OK, frame->id, NULL, 0, NULL, 0);
		break;
	case MSG_EXEC:
	case MSG_EXEC_DATA:
	case MSG_CREDIT:
	case MSG_CANCEL:
		exec_take(agent, frame);
		break;
	default:
		fake_file_take(agent, frame);
	}
}

static void hello(struct fake_agent *agent)
{
	struct msg_hello message = { .protocol = PROTOCOL_VERSION,
				     .kernel = "6.1.0-fake",
				     .agent = "fake" };

	if (!strcmp(agent->script, "no-hello"))
		return;
	if (!strcmp(agent->script, "old-protocol"))
		message.protocol = 99;
	if (!strcmp(agent->script, "late-hello"))
		fake_send(agent, MSG_OK, 1, NULL, 0, NULL, 0);
	if (!strcmp(agent->script, "hello-garbage"))
		fake_send_bytes(agent,
				"\x7f"
				"ELF\x02\x01\x01 and more of it",
				20);
	if (!strcmp(agent->script, "close-channel")) {
		(void)shutdown(agent->fd, SHUT_RDWR);
		agent->fd = -1;
		return;
	}
	fake_send(agent, MSG_HELLO, 0, &message, sizeof(message), NULL, 0);
}

static void receive(struct fake_agent *agent)
{
	struct ramet_err err;
	struct frame frame;
	size_t room;
	void *space = frame_parser_space(&agent->parser, &room);
	ssize_t n = recv(agent->fd, space, room, 0);
	int r;

	if (n <= 0)
		_exit(0);
	frame_parser_added(&agent->parser, (size_t)n);
	agent->received += (uint64_t)n;
	while ((r = frame_parser_next(&agent->parser, &frame, &err)) > 0)
		take(agent, &frame);
	if (r < 0)
		_exit(90); /* the engine is wrong; tests see the status */
}

/* Until the control socket says otherwise. */
static void serve(struct fake_agent *agent, int control_fd)
{
	struct pollfd fds[2];

	for (;;) {
		fds[0] = (struct pollfd){ .fd = control_fd, .events = POLLIN };
		fds[1] = (struct pollfd){ .fd = agent->fd, .events = POLLIN };
		if (poll(fds, 2, -1) < 0)
			_exit(1);
		if (fds[0].revents && agent->host && agent->host->control)
			agent->host->control(agent->host->arg, agent);
		else if (fds[0].revents)
			_exit(0);
		if (fds[1].revents)
			receive(agent);
	}
}

void fake_agent_run(int channel_fd, int control_fd, const char *script, struct fake_host *host)
{
	struct fake_agent agent = { .fd = channel_fd, .script = script, .host = host };

	TAILQ_INIT(&agent.execs);
	frame_parser_init(&agent.parser, FRAME_TO_AGENT);
	hello(&agent);
	serve(&agent, control_fd);
}

/* What runs, and its code; files are left out, and what walks have found. */
struct saved_exec {
	uint32_t id, length, received, running;
	uint64_t credit, left, limit;
	char code[256];
};

struct saved_agent {
	char script[64];
	uint32_t fork_number, reseed_flags, lives, count;
	uint32_t walks[FAKE_WALKS];
	struct saved_exec execs[];
};

size_t fake_agent_save(const struct fake_agent *agent, void *buf, size_t room)
{
	struct saved_agent *saved = buf;
	struct fake_exec *exec;

	if (agent->parser.start != agent->parser.end)
		_exit(93); /* the engine stopped the guest in the middle of a frame */
	memset(saved, 0, sizeof(*saved));
	(void)snprintf(saved->script, sizeof(saved->script), "%s", agent->script);
	saved->fork_number = agent->fork_number;
	saved->reseed_flags = agent->reseed_flags;
	saved->lives = agent->host->lives + 1;
	for (size_t i = 0; i < FAKE_WALKS; i++)
		saved->walks[i] = agent->walks[i].id;
	TAILQ_FOREACH(exec, &agent->execs, link)
	{
		struct saved_exec *s = &saved->execs[saved->count++];

		if (exec->length >= sizeof(s->code) ||
		    sizeof(*saved) + saved->count * sizeof(*s) > room)
			_exit(94);
		*s = (struct saved_exec){ exec->id,     exec->length, exec->received, exec->running,
					  exec->credit, exec->left,   exec->limit,    "" };
		memcpy(s->code, exec->code, exec->length);
	}
	return sizeof(*saved) + saved->count * sizeof(saved->execs[0]);
}

void fake_agent_continue(int channel_fd, int control_fd, const void *bytes, size_t size,
			 struct fake_host *host)
{
	const struct saved_agent *saved = bytes;
	struct fake_agent agent = {
		.fd = channel_fd,
		.script = saved->script,
		.host = host,
		.fork_number = saved->fork_number,
		.reseed_flags = saved->reseed_flags,
	};

	if (size != sizeof(*saved) + saved->count * sizeof(saved->execs[0]))
		_exit(95);
	host->lives = saved->lives;
	for (size_t i = 0; i < FAKE_WALKS; i++)
		agent.walks[i].id = saved->walks[i];
	TAILQ_INIT(&agent.execs);
	frame_parser_init(&agent.parser, FRAME_TO_AGENT);
	for (uint32_t i = 0; i < saved->count; i++) {
		const struct saved_exec *s = &saved->execs[i];
		struct fake_exec *exec = calloc(1, sizeof(*exec));

		*exec = (struct fake_exec){ .id = s->id,
					    .length = s->length,
					    .received = s->received,
					    .running = s->running != 0,
					    .credit = s->credit,
					    .left = s->left,
					    .limit = s->limit };
		exec->code = calloc(1, s->length + 1);
		memcpy(exec->code, s->code, s->length);
		TAILQ_INSERT_TAIL(&agent.execs, exec, link);
	}
	serve(&agent, control_fd);
}
