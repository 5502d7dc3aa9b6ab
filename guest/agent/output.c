/* From a command's pipes to the host, within limit and credit: see exec.h.
 *
 * Order: what a command wrote before it ended is passed on before its
 * MSG_EXIT. Between stdout and stderr no order is kept beyond that. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "guest/agent/agent.h"
#include "guest/agent/util.h"

#define READS_PER_EVENT 4
#define NOTICE_MAX      128

static struct pipe_in *exec_pipe(struct agent *agent, size_t i)
{
	if (agent->execs.running->language == EXEC_PYTHON)
		return i ? &agent->repl.err : &agent->repl.out;
	return i ? &agent->shell.err : &agent->shell.out;
}

/* Starts an output frame; returns where its data goes. */
static uint8_t *output_begin(struct agent *agent, uint32_t stream, size_t max)
{
	struct msg_output output = {
		.stream = stream,
		.time_ns = now_ns() - agent->execs.running->started_ns,
	};
	uint8_t *payload = outbox_begin(&agent->out, sizeof(output) + max);

	memcpy(payload, &output, sizeof(output));
	return payload + sizeof(output);
}

static void output_end(struct agent *agent, size_t len)
{
	struct exec *x = agent->execs.running;

	outbox_end(&agent->out, MSG_OUTPUT, x->id, sizeof(struct msg_output) + len);
	x->credit -= len;
}

static void output_drop(struct exec *x, size_t len)
{
	if (x->dropped == 0)
		x->notice_due = true;
	x->dropped += len;
	x->flags |= EXIT_OUTPUT_CUT;
}

/* How much output can be passed on now. */
static size_t output_allowance(const struct agent *agent)
{
	const struct exec *x = agent->execs.running;
	uint64_t n = x->limit - x->passed;

	if (outbox_room(&agent->out) < OUTBOX_OUTPUT_ROOM)
		return 0;
	if (n > x->credit)
		n = x->credit;
	return n > OUTPUT_CHUNK_MAX ? OUTPUT_CHUNK_MAX : (size_t)n;
}

/* A read that comes up short has emptied the pipe (pipe(7)). */
static enum take take_result(struct agent *agent, struct pipe_in *pipe, ssize_t n, size_t asked)
{
	if (n > 0)
		return (size_t)n < asked ? TAKE_EMPTY : TAKE_MORE;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return TAKE_EMPTY;
	loop_close(&agent->loop, &pipe->source);
	return TAKE_CLOSED;
}

enum take exec_take(struct agent *agent, struct pipe_in *pipe, size_t max, size_t *taken)
{
	struct exec *x = agent->execs.running;
	size_t asked;
	ssize_t n;

	*taken = 0;
	if (pipe->source.fd < 0)
		return TAKE_CLOSED;
	if (x->passed >= x->limit) {
		asked = min_size(max, EXEC_SCRATCH_SIZE);
		n = read(pipe->source.fd, agent->execs.scratch, asked);
		if (n > 0)
			output_drop(x, (size_t)n);
	} else {
		asked = min_size(max, output_allowance(agent));
		if (asked == 0)
			return TAKE_BLOCKED;
		n = read(pipe->source.fd, output_begin(agent, pipe->stream, asked), asked);
		if (n > 0) {
			x->passed += (uint64_t)n;
			output_end(agent, (size_t)n);
		}
	}
	if (n > 0)
		*taken = (size_t)n;
	return take_result(agent, pipe, n, asked);
}

size_t exec_emit(struct agent *agent, uint32_t stream, const void *data, size_t len)
{
	struct exec *x = agent->execs.running;
	size_t used = 0;

	while (used < len) {
		size_t n;

		if (x->passed >= x->limit) {
			output_drop(x, len - used);
			return len;
		}
		n = min_size(len - used, output_allowance(agent));
		if (n == 0)
			return used;
		memcpy(output_begin(agent, stream, n), (const uint8_t *)data + used, n);
		output_end(agent, n);
		x->passed += n;
		used += n;
	}
	return used;
}

/* A shell's pipe is read once more when it is empty: that tells whether
 * somebody still holds its other end. */
static bool pipe_drain(struct agent *agent, size_t i)
{
	struct exec *x = agent->execs.running;
	struct pipe_in *pipe = exec_pipe(agent, i);

	while (x->drain_left[i] > 0) {
		size_t want = min_size(x->drain_left[i], OUTPUT_CHUNK_MAX);
		size_t taken;
		enum take result = exec_take(agent, pipe, want, &taken);

		if (result == TAKE_BLOCKED)
			return false;
		x->drain_left[i] -= taken;
		if (result == TAKE_CLOSED ||
		    (result == TAKE_EMPTY && (taken == 0 || x->language == EXEC_PYTHON)))
			x->drain_left[i] = 0;
	}
	return true;
}

bool exec_drain(struct agent *agent)
{
	struct exec *x = agent->execs.running;

	if (x->drained)
		return true;
	for (size_t i = 0; i < 2; i++)
		if (x->drain_left[i] > 0 && !pipe_drain(agent, i))
			return false;
	x->drained = true;
	return true;
}

bool exec_notice(struct agent *agent)
{
	struct exec *x = agent->execs.running;
	char text[NOTICE_MAX];
	int len;

	if (!x->notice_due)
		return true;
	len = snprintf(text, sizeof(text), "output cut at %llu bytes; the rest is dropped\n",
		       (unsigned long long)x->limit);
	if (x->credit < (uint64_t)len || outbox_room(&agent->out) < OUTBOX_OUTPUT_ROOM)
		return false;
	memcpy(output_begin(agent, OUTPUT_NOTICE, (size_t)len), text, (size_t)len);
	output_end(agent, (size_t)len);
	x->notice_due = false;
	return true;
}

void exec_watch(struct agent *agent)
{
	const struct exec *x = agent->execs.running;
	bool can = x->passed >= x->limit || output_allowance(agent) > 0;

	for (size_t i = 0; i < 2; i++)
		(void)loop_watch(&agent->loop, &exec_pipe(agent, i)->source, can ? EPOLLIN : 0);
}

void exec_pipe_ready(struct agent *agent, struct pipe_in *pipe)
{
	for (int i = 0; i < READS_PER_EVENT; i++) {
		size_t taken;

		if (exec_take(agent, pipe, OUTPUT_CHUNK_MAX, &taken) != TAKE_MORE)
			return;
	}
}
