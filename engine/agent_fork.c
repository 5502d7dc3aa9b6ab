/* Connections that are stopped, copied and moved when their guest is forked:
 * see agent.h. The guest is stopped with nothing on the way to it, so a copy of
 * it is at a frame boundary; on the way from it a frame may be cut. */
#include <errno.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/agent_state.h"
#include "lib/cleanup.h"

/* A request that the stopped guest had taken and not yet answered. */
struct agent_pending {
	uint32_t id;
	uint8_t type;
};

struct agent_snapshot {
	uint32_t next_id;
	size_t length; /* received and not parsed */
	uint8_t *bytes;
	size_t count;
	struct agent_pending pending[];
};

bool agent_held(const struct agent *agent)
{
	return agent->held;
}

int agent_quiesce(struct agent *agent, agent_done_cb done, void *arg, struct ramet_err *err)
{
	int unread = 1;
	int r;

	if (!agent_usable(agent))
		return err_set(err, EPIPE, "the connection to the sandbox's agent is lost");
	if (ioctl(agent->fd, SIOCOUTQ, &unread) < 0)
		unread = 1;
	if (!unread && !frame_queue_length(&agent->queue)) {
		agent->held = true;
		agent->barrier = 0;
		return 1;
	}
	r = agent_ping(agent, done, arg, err);
	if (r < 0)
		return r;
	agent->held = true;
	agent->barrier = frame_queue_length(&agent->queue);
	agent_flush(agent);
	return 0;
}

void agent_release(struct agent *agent)
{
	struct agent_request *request;

	if (!agent->held)
		return;
	agent->held = false;
	agent->barrier = 0;
	if (agent->io)
		(void)sd_event_source_set_enabled(agent->io, SD_EVENT_ON);
	for (size_t i = 0; i < REQUEST_BUCKETS; i++)
		LIST_FOREACH(request, &agent->requests[i], link)
	request->held = false;
	if (!agent_usable(agent))
		return;
	agent_flush(agent);
	agent_kick(agent);
}

int agent_settle(struct agent *agent, uint64_t to_host, uint64_t to_guest, struct ramet_err *err)
{
	if (!agent_usable(agent))
		return err_set(err, EPIPE, "the connection to the sandbox's agent is lost");
	if (agent->sent != to_guest)
		return err_set(err, EPROTO,
			       "%llu bytes went to the guest's agent, the worker moved %llu",
			       (unsigned long long)agent->sent, (unsigned long long)to_guest);
	while (agent->received < to_host) {
		int r = agent_read(agent, err);

		if (r < 0)
			return r;
		if (r == 0)
			break;
	}
	if (agent->received != to_host)
		return err_set(err, EPROTO,
			       "%llu bytes came from the guest's agent, the worker moved %llu",
			       (unsigned long long)agent->received, (unsigned long long)to_host);
	/* The end of this channel is not the end of the guest. */
	(void)sd_event_source_set_enabled(agent->io, SD_EVENT_OFF);
	return 0;
}

int agent_switch(struct agent *agent, int fd, struct ramet_err *err)
{
	sd_event_source *io;
	int r;

	if (!agent_usable(agent))
		return err_set(err, EPIPE, "the connection to the sandbox's agent is lost");
	r = sd_event_add_io(agent->loop, &io, fd, EPOLLIN, agent_on_io, agent);
	if (r < 0)
		return err_errno(err, -r, "cannot watch the agent's channel");
	agent->io = sd_event_source_disable_unref(agent->io);
	close_fd(&agent->fd);
	agent->io = io;
	agent->fd = fd;
	agent->sent = 0;
	agent->received = 0;
	return 0;
}

void agent_kick(struct agent *agent)
{
	if (agent->kick)
		(void)sd_event_source_set_enabled(agent->kick, SD_EVENT_ONESHOT);
}

int agent_on_kick(sd_event_source *source, void *arg)
{
	struct agent *agent = arg;
	struct ramet_err err = { 0 };

	(void)source;
	if (agent_parse(agent, &err) < 0)
		agent_break(agent, &err);
	if (agent_usable(agent))
		agent_run_waiters(agent);
	return 0;
}

/* ---- copies ---- */

int agent_snapshot(const struct agent *agent, struct agent_snapshot **snapshot,
		   struct ramet_err *err)
{
	const struct frame_parser *parser = &agent->parser;
	size_t length = parser->end - parser->start;
	const struct agent_request *request;
	struct agent_snapshot *s;

	s = calloc(1, sizeof(*s) + agent->outstanding * sizeof(s->pending[0]));
	if (s)
		s->bytes = malloc(length ? length : 1);
	if (!s || !s->bytes) {
		free(s);
		return err_set(err, ENOMEM, "no memory to copy an agent connection");
	}
	s->next_id = agent->next_id;
	s->length = length;
	if (length)
		memcpy(s->bytes, parser->buf + parser->start, length);
	for (size_t i = 0; i < REQUEST_BUCKETS; i++)
		LIST_FOREACH(request, &agent->requests[i], link)
	if (!request->held)
		s->pending[s->count++] = (struct agent_pending){ request->id, request->type };
	*snapshot = s;
	return 0;
}

void agent_snapshot_free(struct agent_snapshot *snapshot)
{
	if (snapshot)
		free(snapshot->bytes);
	free(snapshot);
}

static void orphan_lost(struct agent_request *request, const struct ramet_err *err)
{
	(void)err;
	free(request);
}

static void orphan_end(struct agent_request *request)
{
	agent_request_end(request);
	free(request);
}

/* Nobody will use what the original had opened. */
static int orphan_close(struct agent *agent, const struct frame *frame, struct ramet_err *err)
{
	struct msg_file_opened opened;

	frame_fixed(frame, &opened, sizeof(opened));
	return agent_close_handle(agent, opened.handle, err);
}

static int orphan_reply(struct agent_request *request, const struct frame *frame,
			struct ramet_err *err)
{
	struct agent *agent = request->agent;
	struct msg_file_entries entries;
	struct msg_tree_entries walked;
	int r = 0;

	if (request->type == MSG_FILE_LIST && frame->type == MSG_FILE_ENTRIES) {
		frame_fixed(frame, &entries, sizeof(entries));
		if (entries.count)
			return 0;
	} else if (request->type == MSG_TREE && frame->type == MSG_TREE_ENTRIES) {
		frame_fixed(frame, &walked, sizeof(walked));
		if (walked.count)
			return 0;
	} else if (request->type == MSG_FILE_OPEN && frame->type == MSG_FILE_OPENED) {
		r = orphan_close(agent, frame, err);
	}
	orphan_end(request);
	return r;
}

static struct agent_request *orphan_make(uint8_t type, struct ramet_err *err)
{
	struct agent_request *request = calloc(1, sizeof(*request));

	if (!request) {
		(void)err_set(err, ENOMEM, "no memory to copy an agent connection");
		return NULL;
	}
	request->type = type;
	request->reply = orphan_reply;
	request->lost = orphan_lost;
	return request;
}

int agent_close_handle(struct agent *agent, uint32_t handle, struct ramet_err *err)
{
	struct msg_file_close message = { .handle = handle, .abandon = 1 };
	struct agent_request *request = orphan_make(MSG_FILE_CLOSE, err);
	int r;

	if (!request)
		return -ENOMEM;
	r = agent_request_send(agent, request, MSG_FILE_CLOSE, &message, sizeof(message), NULL, 0,
			       err);
	if (r < 0)
		free(request);
	return r;
}

static int copy_pending(struct agent *agent, const struct agent_snapshot *snapshot,
			struct ramet_err *err)
{
	for (size_t i = 0; i < snapshot->count; i++) {
		const struct agent_pending *pending = &snapshot->pending[i];
		struct agent_request *request;

		if (pending->type == MSG_EXEC)
			continue;
		request = orphan_make(pending->type, err);
		if (!request)
			return -ENOMEM;
		agent_request_enter(agent, request, pending->id);
		if (pending->type == MSG_TREE) /* else it waits for credit for ever */
			agent_notify(agent, pending->id, MSG_CANCEL, NULL, 0, NULL, 0);
	}
	return 0;
}

static int copy_input(struct agent *agent, const struct agent_snapshot *snapshot,
		      struct ramet_err *err)
{
	size_t done = 0;

	while (done < snapshot->length) {
		size_t left = snapshot->length - done, room;
		void *space = frame_parser_space(&agent->parser, &room);

		if (!space)
			return err_set(err, ENOMEM, "no memory to copy an agent connection");
		room = left < room ? left : room;
		memcpy(space, snapshot->bytes + done, room);
		frame_parser_added(&agent->parser, room);
		done += room;
	}
	return 0;
}

int agent_create_copy(sd_event *loop, const struct limits *limits, int fd,
		      const struct agent_snapshot *snapshot,
		      const struct agent_callbacks *callbacks, void *arg, struct agent **agent,
		      struct ramet_err *err)
{
	struct agent *a;
	int r = agent_create(loop, limits, fd, callbacks, arg, &a, err);

	if (r < 0)
		return r;
	a->greeted = true;
	a->next_id = snapshot->next_id;
	r = copy_pending(a, snapshot, err);
	if (r == 0)
		r = copy_input(a, snapshot, err);
	if (r < 0) {
		a->fd = -1; /* stays the caller's */
		agent_destroy(a, err);
		return r;
	}
	if (snapshot->length)
		agent_kick(a);
	*agent = a;
	return 0;
}
