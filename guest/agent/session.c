/* Requests of the host: see session.h. */
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/utsname.h>

#include "guest/agent/agent.h"
#include "guest/agent/session.h"
#include "guest/agent/util.h"

#define INBOX_READ_MIN (64u * 1024) /* room to make before a read */

void session_hello(struct agent *agent)
{
	struct msg_hello hello = {
		.protocol = PROTOCOL_VERSION,
		.boot_ns = clock_read_ns(CLOCK_BOOTTIME),
		.agent = "ramet-agent " AGENT_VERSION,
	};
	struct utsname name;

	if (uname(&name) == 0)
		memcpy(hello.kernel, name.release,
		       min_size(strlen(name.release), sizeof(hello.kernel) - 1));
	outbox_frame(&agent->out, MSG_HELLO, 0, &hello, sizeof(hello));
}

static void session_end(struct agent *agent, const char *why)
{
	if (!agent->transport)
		return;
	agent_log("the connection to the host has ended: %s", why);
	agent->transport->ops->end(agent->transport, &agent->loop);
	agent->transport = NULL;
	agent->out.head = agent->out.tail = 0;
	agent->in.head = agent->in.tail = 0;
	listing_abandon(agent);
	files_close_all(agent);
	tree_abandon_all(agent);
	exec_abandon_all(agent);
	agent->identity.pending = false;
	reclaim_abandon(agent);
	if (!agent->is_init)
		agent->ended = true;
}

/* Returns 0, or -EPROTO with the reason in *why. */
static int dispatch(struct agent *agent, const struct frame *frame, const char **why)
{
	switch (frame->type) {
	case MSG_EXEC:
		return exec_request(agent, frame, why);
	case MSG_EXEC_DATA:
		return exec_data(agent, frame, why);
	case MSG_CREDIT:
		if (!tree_credit(agent, frame))
			exec_credit(agent, frame);
		return 0;
	case MSG_CANCEL:
		if (!tree_cancel(agent, frame->id))
			exec_cancel(agent, frame->id);
		return 0;
	case MSG_TREE:
		tree_start(agent, frame);
		return 0;
	case MSG_FILE_OPEN:
		file_open(agent, frame);
		return 0;
	case MSG_FILE_READ:
		file_read(agent, frame);
		return 0;
	case MSG_FILE_WRITE:
		file_write(agent, frame);
		return 0;
	case MSG_FILE_CLOSE:
		file_close(agent, frame);
		return 0;
	case MSG_FILE_LIST:
		listing_start(agent, frame);
		return 0;
	case MSG_RESEED:
		return identity_reseed(agent, frame, why);
	case MSG_RECLAIM:
		reclaim_request(agent, frame);
		return 0;
	case MSG_SHUTDOWN:
		agent->closing = true;
		break;
	default: /* MSG_PING; the parser lets nothing else through */
		break;
	}
	outbox_frame(&agent->out, MSG_OK, frame->id, NULL, 0);
	return 0;
}

/* A request is taken up when its answer has room and no listing is under way. */
static bool may_dispatch(const struct agent *agent)
{
	return agent->transport && !agent->closing && !agent->listing.dir &&
	       outbox_room(&agent->out) >= OUTBOX_REPLY_ROOM;
}

/* Handles what is in the inbox. Returns 0 or -EPROTO with *why. */
static int inbox_handle(struct agent *agent, const char **why)
{
	struct inbox *in = &agent->in;
	struct frame frame;

	while (may_dispatch(agent)) {
		ssize_t size = frame_parse(in->buf + in->head, in->tail - in->head, &frame, why);
		int err;

		if (size <= 0)
			return (int)size;
		err = dispatch(agent, &frame, why);
		if (err)
			return err;
		in->head += (size_t)size;
		listing_progress(agent);
	}
	return 0;
}

/* Returns bytes received, 0 when there are none now, -errno when it is over. */
static ssize_t inbox_fill(struct agent *agent)
{
	struct inbox *in = &agent->in;
	ssize_t n;

	if (in->head == in->tail)
		in->head = in->tail = 0;
	if (sizeof(in->buf) - in->tail < INBOX_READ_MIN && in->head > 0) {
		memmove(in->buf, in->buf + in->head, in->tail - in->head);
		in->tail -= in->head;
		in->head = 0;
	}
	if (in->tail == sizeof(in->buf))
		return 0; /* whole frames wait for room in the outbox */
	n = agent->transport->ops->read(agent->transport, in->buf + in->tail,
					sizeof(in->buf) - in->tail);
	if (n == -EAGAIN || n == -EINTR)
		return 0;
	if (n == 0)
		return -ECONNRESET;
	if (n > 0)
		in->tail += (size_t)n;
	return n;
}

static void outbox_flush(struct agent *agent)
{
	struct outbox *out = &agent->out;

	while (agent->transport && out->head < out->tail) {
		ssize_t n = agent->transport->ops->write(agent->transport, out->buf + out->head,
							 out->tail - out->head);

		if (n == -EAGAIN || n == -EINTR)
			return;
		if (n < 0)
			session_end(agent, strerror((int)-n));
		else
			out->head += (size_t)n;
	}
}

/* Takes up requests until there are no more or no room for answers. */
static void session_receive(struct agent *agent)
{
	while (may_dispatch(agent)) {
		const char *why = "";
		ssize_t n = inbox_fill(agent);

		if (n < 0) {
			session_end(agent, n == -ECONNRESET ? "closed" : strerror((int)-n));
			return;
		}
		if (inbox_handle(agent, &why) < 0) {
			session_end(agent, why);
			return;
		}
		if (n == 0)
			return;
	}
}

/* Whole frames may be left in the inbox when room for answers ran out; then
 * the sleep ends when there is room again. */
bool session_run(struct agent *agent)
{
	size_t before;

	listing_progress(agent);
	session_receive(agent);
	exec_progress(agent);
	tree_progress(agent);
	before = outbox_room(&agent->out);
	outbox_flush(agent);
	if (!agent->transport)
		return false;
	if (agent->closing && outbox_pending(&agent->out) == 0) {
		(void)agent->transport->ops->prepare(agent->transport, &agent->loop, false, false);
		agent->ended = true;
		return false;
	}
	if (before < OUTBOX_OUTPUT_ROOM && outbox_room(&agent->out) >= OUTBOX_OUTPUT_ROOM)
		return true; /* something may have waited for this */
	return agent->transport->ops->prepare(agent->transport, &agent->loop, may_dispatch(agent),
					      outbox_pending(&agent->out) > 0);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

uint64_t session_deadline(const struct agent *agent)
{
	return earlier(earlier(exec_deadline(agent), repl_deadline(agent)),
		       earlier(identity_deadline(agent), reclaim_deadline(agent)));
}

void session_expire(struct agent *agent)
{
	uint64_t deadline = session_deadline(agent);
	uint64_t now;

	if (deadline == UINT64_MAX)
		return;
	now = now_ns();
	if (now < deadline)
		return;
	exec_expire(agent, now);
	repl_expire(agent, now);
	identity_expire(agent, now);
	reclaim_expire(agent, now);
}
