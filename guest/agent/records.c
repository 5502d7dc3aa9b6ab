/* Records of the Python driver: see records.h.
 *
 * Code in the interpreter can write anything to the driver's socket. Whatever
 * is not a record that fits the moment costs it the interpreter. */
#include "guest/agent/records.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "guest/agent/agent.h"
#include "guest/agent/process.h"
#include "guest/agent/repl_identity.h"
#include "guest/agent/util.h"

struct record_header {
	uint8_t kind;
	uint8_t zero[3];
	uint32_t length;
};

struct record_exit {
	int32_t code;
	uint32_t flags;
	uint64_t result_length;
};

_Static_assert(sizeof(struct record_header) == RECORD_HEADER_SIZE, "driver ABI");
_Static_assert(sizeof(struct record_exit) == 16, "driver ABI");

enum handled { RECORD_DONE, RECORD_WAITS, RECORD_BAD };

static bool runs_python(const struct agent *agent)
{
	return agent->execs.running && agent->execs.running->language == EXEC_PYTHON;
}

void records_ready(struct agent *agent, struct source *source, uint32_t events)
{
	(void)source;
	if (events & EPOLLOUT)
		records_send(agent);
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		records_receive(agent);
}

void records_receive(struct agent *agent)
{
	struct repl *repl = &agent->repl;
	ssize_t n;

	if (repl->control.fd < 0)
		return;
	if (repl->head > 0) {
		memmove(repl->records, repl->records + repl->head, repl->tail - repl->head);
		repl->tail -= repl->head;
		repl->head = 0;
	}
	if (repl->tail == RECORD_BUFFER_SIZE)
		return;
	n = recv(repl->control.fd, repl->records + repl->tail, RECORD_BUFFER_SIZE - repl->tail,
		 MSG_DONTWAIT);
	if (n > 0)
		repl->tail += (size_t)n;
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		loop_close(&agent->loop, &repl->control); /* the process ends, or has */
}

static enum handled handle_ready(struct agent *agent)
{
	struct repl *repl = &agent->repl;

	if (repl->state != REPL_STARTING)
		return RECORD_BAD;
	repl->state = REPL_READY;
	return RECORD_DONE;
}

static enum handled handle_exit(struct agent *agent, const uint8_t *payload, size_t length)
{
	struct record_exit record;

	if (!runs_python(agent) || agent->execs.running->stage == STAGE_ENDED ||
	    length != sizeof(record))
		return RECORD_BAD;
	memcpy(&record, payload, sizeof(record));
	agent->repl.asks = record.flags & (DRIVER_CONFIRMS | DRIVER_HAS_FOREIGN);
	agent->execs.running->result_left = record.result_length;
	exec_ended(agent, record.code & 0xff, record.flags & EXIT_INTERRUPTED);
	return RECORD_DONE;
}

/* The result follows all output of its call. */
static enum handled handle_result(struct agent *agent, const uint8_t *payload, size_t length)
{
	struct exec *x = agent->execs.running;
	struct repl *repl = &agent->repl;
	size_t used;

	if (!runs_python(agent) || x->stage != STAGE_ENDED ||
	    length - repl->record_used > x->result_left)
		return RECORD_BAD;
	if (!exec_drain(agent))
		return RECORD_WAITS;
	used = exec_emit(agent, OUTPUT_RESULT, payload + repl->record_used,
			 length - repl->record_used);
	repl->record_used += used;
	x->result_left -= used;
	return repl->record_used < length ? RECORD_WAITS : RECORD_DONE;
}

static enum handled record_handle(struct agent *agent, const struct record_header *header,
				  const uint8_t *payload)
{
	switch (header->kind) {
	case 'H':
		return handle_ready(agent);
	case 'X':
		return handle_exit(agent, payload, header->length);
	case 'R':
		return handle_result(agent, payload, header->length);
	case 'C':
	case 'S':
		return repl_identity_record(agent, header->kind, payload, header->length)
			       ? RECORD_DONE
			       : RECORD_BAD;
	default:
		return RECORD_BAD;
	}
}

static void records_refuse(struct agent *agent)
{
	struct repl *repl = &agent->repl;

	agent_log("the Python interpreter broke its protocol; it is killed");
	repl->head = repl->tail = repl->record_used = 0;
	loop_close(&agent->loop, &repl->control);
	process_group_kill(repl->pid, SIGKILL);
}

/* The next whole record. Returns NULL when there is none, with *bad set when
 * there can never be one. */
static const uint8_t *record_next(struct repl *repl, struct record_header *header, bool *bad)
{
	if (repl->tail - repl->head < sizeof(*header))
		return NULL;
	memcpy(header, repl->records + repl->head, sizeof(*header));
	*bad = header->length > RECORD_BUFFER_SIZE - sizeof(*header);
	if (*bad || repl->tail - repl->head - sizeof(*header) < header->length)
		return NULL;
	return repl->records + repl->head + sizeof(*header);
}

bool records_handle(struct agent *agent)
{
	struct repl *repl = &agent->repl;
	struct record_header header;
	const uint8_t *payload;
	bool bad = false;

	while ((payload = record_next(repl, &header, &bad))) {
		enum handled result = record_handle(agent, &header, payload);

		if (result == RECORD_WAITS)
			return false;
		bad = result == RECORD_BAD;
		if (bad)
			break;
		repl->head += sizeof(header) + header.length;
		repl->record_used = 0;
	}
	if (bad)
		records_refuse(agent);
	return true;
}

void records_send(struct agent *agent)
{
	struct repl *repl = &agent->repl;
	const struct exec *x = repl->sending;
	struct record_header header = { .kind = 'E', .length = x ? x->code_length : 0 };

	while (x && repl->control.fd >= 0 && repl->sent < sizeof(header) + x->code_length) {
		size_t head_left = repl->sent < sizeof(header) ? sizeof(header) - repl->sent : 0;
		size_t code_sent = repl->sent - (sizeof(header) - head_left);
		struct iovec iov[2] = {
			{ (uint8_t *)&header + sizeof(header) - head_left, head_left },
			{ (void *)(uintptr_t)(x->code + code_sent), x->code_length - code_sent },
		};
		struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
		ssize_t n = sendmsg(repl->control.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return; /* watched for room, see repl_watch() */
		if (n < 0)
			break; /* its death is on the way */
		repl->sent += (size_t)n;
	}
	repl->sending = NULL;
}
