/* The queue of execs and the life of the running one: see exec.h.
 *
 * Stopping, after a timeout or MSG_CANCEL: Python gets SIGINT, its process
 * group (children it waits for) gets it STOP_GROUP_NS later; bash's group gets
 * SIGTERM. What has not ended STOP_GRACE_NS after the first signal is killed:
 * for Python that is the interpreter with its group. */
#include "guest/agent/exec.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "guest/agent/agent.h"
#include "guest/agent/process.h"
#include "guest/agent/util.h"

#define STOP_GROUP_NS     NS_PER_S
#define STOP_GRACE_NS     (2 * NS_PER_S)
#define EXIT_CODE_TIMEOUT 124

static struct exec *exec_find(struct execs *execs, uint32_t id)
{
	if (execs->running && execs->running->id == id)
		return execs->running;
	for (struct exec *x = execs->first; x; x = x->next)
		if (x->id == id)
			return x;
	return NULL;
}

static void exec_free(struct agent *agent, struct exec *x)
{
	agent->execs.code_total -= x->code_length;
	free(x);
}

static void queue_append(struct execs *execs, struct exec *x)
{
	if (execs->last)
		execs->last->next = x;
	else
		execs->first = x;
	execs->last = x;
	execs->waiting++;
}

static void queue_remove(struct execs *execs, struct exec *x)
{
	struct exec *before = NULL;

	for (struct exec *y = execs->first; y != x; y = y->next)
		before = y;
	if (before)
		before->next = x->next;
	else
		execs->first = x->next;
	if (execs->last == x)
		execs->last = before;
	x->next = NULL;
	execs->waiting--;
}

/* ---- requests ---- */

static const char *request_fault(const struct msg_exec *msg)
{
	if (msg->language != EXEC_PYTHON && msg->language != EXEC_BASH)
		return "unknown language";
	if (msg->code_length > CODE_LENGTH_MAX)
		return "code too long";
	return NULL;
}

static struct exec *exec_make(uint32_t id, const struct msg_exec *msg)
{
	/* malloc: pages of big code are touched only as it arrives. */
	struct exec *x = malloc(sizeof(*x) + msg->code_length + 1);

	if (!x)
		return NULL;
	*x = (struct exec){
		.id = id,
		.language = msg->language,
		.timeout_ms = msg->timeout_ms,
		.code_length = msg->code_length,
		.limit = msg->output_limit,
		.credit = EXEC_CREDIT_INITIAL,
		.drain_left = { EXEC_DRAIN_MAX, EXEC_DRAIN_MAX },
		.queued_ns = now_ns(),
		.deadline_ns = UINT64_MAX,
	};
	x->code[msg->code_length] = '\0';
	return x;
}

int exec_request(struct agent *agent, const struct frame *frame, const char **why)
{
	struct execs *execs = &agent->execs;
	struct msg_exec msg;
	const char *fault;
	struct exec *x;

	memcpy(&msg, frame->payload, sizeof(msg));
	if (exec_find(execs, frame->id)) {
		*why = "exec id is in use";
		return -EPROTO;
	}
	fault = request_fault(&msg);
	if (fault) {
		outbox_error(&agent->out, frame->id, EINVAL, "exec: %s", fault);
		return 0;
	}
	if (execs->waiting >= EXEC_QUEUE_MAX ||
	    execs->code_total + msg.code_length > EXEC_CODE_TOTAL_MAX) {
		outbox_error(&agent->out, frame->id, EBUSY,
			     "too many commands wait in this sandbox; wait for one to end");
		return 0;
	}
	x = exec_make(frame->id, &msg);
	if (!x) {
		outbox_error(&agent->out, frame->id, ENOMEM, "exec: out of memory in the guest");
		return 0;
	}
	execs->code_total += x->code_length;
	queue_append(execs, x);
	return 0;
}

/* Data for an id that is not waiting belongs to a refused or cancelled exec. */
int exec_data(struct agent *agent, const struct frame *frame, const char **why)
{
	struct exec *x = exec_find(&agent->execs, frame->id);

	if (!x || x == agent->execs.running)
		return 0;
	if (frame->length > x->code_length - x->code_have) {
		*why = "more code than announced";
		return -EPROTO;
	}
	memcpy(x->code + x->code_have, frame->payload, frame->length);
	x->code_have += frame->length;
	return 0;
}

void exec_credit(struct agent *agent, const struct frame *frame)
{
	struct exec *x = exec_find(&agent->execs, frame->id);
	struct msg_credit msg;

	memcpy(&msg, frame->payload, sizeof(msg));
	if (x)
		x->credit += msg.bytes;
}

/* ---- stopping ---- */

static void stop_ask(struct agent *agent, struct exec *x, uint32_t flag, uint64_t now)
{
	x->flags |= flag;
	x->stage = STAGE_ASKED;
	if (x->language == EXEC_PYTHON) {
		if (agent->repl.pid > 0)
			(void)kill(agent->repl.pid, SIGINT);
		x->deadline_ns = now + STOP_GROUP_NS;
	} else {
		process_group_kill(agent->shell.pid, SIGTERM);
		x->deadline_ns = now + STOP_GRACE_NS;
	}
}

static void stop_further(struct agent *agent, struct exec *x, uint64_t now)
{
	if (x->language == EXEC_PYTHON && x->stage == STAGE_ASKED) {
		process_group_kill(agent->repl.pid, SIGINT);
		x->stage = STAGE_ASKED_GROUP;
		x->deadline_ns = now + STOP_GRACE_NS - STOP_GROUP_NS;
		return;
	}
	process_group_kill(x->language == EXEC_PYTHON ? agent->repl.pid : agent->shell.pid,
			   SIGKILL);
	x->stage = STAGE_KILLED;
	x->deadline_ns = UINT64_MAX;
}

uint64_t exec_deadline(const struct agent *agent)
{
	return agent->execs.running ? agent->execs.running->deadline_ns : UINT64_MAX;
}

void exec_expire(struct agent *agent, uint64_t now)
{
	struct exec *x = agent->execs.running;

	if (!x || now < x->deadline_ns)
		return;
	if (x->stage == STAGE_RUNNING)
		stop_ask(agent, x, EXIT_TIMED_OUT, now);
	else
		stop_further(agent, x, now);
}

static void exec_answer(struct agent *agent, const struct exec *x)
{
	struct msg_exit msg = {
		.exit_code = x->exit_code,
		.flags = x->flags,
		.queue_ns = x->started_ns - x->queued_ns,
		.run_ns = x->ended_ns - x->started_ns,
		.dropped = x->dropped,
	};

	outbox_frame(&agent->out, MSG_EXIT, x->id, &msg, sizeof(msg));
}

void exec_cancel(struct agent *agent, uint32_t id)
{
	struct exec *x = exec_find(&agent->execs, id);

	if (!x || x->stage == STAGE_ENDED)
		return;
	if (x != agent->execs.running) {
		queue_remove(&agent->execs, x);
		x->flags |= EXIT_CANCELLED;
		x->exit_code = 128 + SIGINT;
		x->started_ns = x->ended_ns = now_ns();
		exec_answer(agent, x);
		exec_free(agent, x);
	} else if (x->stage == STAGE_RUNNING) {
		stop_ask(agent, x, EXIT_CANCELLED, now_ns());
	}
}

/* ---- start and end ---- */

static void exec_begin(struct agent *agent, struct exec *x, uint64_t started_ns)
{
	queue_remove(&agent->execs, x);
	x->started_ns = started_ns;
	if (x->timeout_ms)
		x->deadline_ns = x->started_ns + x->timeout_ms * NS_PER_MS;
	agent->execs.running = x;
	if (x->language == EXEC_PYTHON)
		repl_exec(agent, x);
}

void exec_refuse_first(struct agent *agent, int code, const char *text)
{
	struct exec *x = agent->execs.first;

	outbox_error(&agent->out, x->id, code, "%s", text);
	queue_remove(&agent->execs, x);
	exec_free(agent, x);
}

/* Starts the first waiting exec when it is complete and its interpreter is
 * ready. Returns false when there is nothing to start now. */
static bool exec_start_next(struct agent *agent)
{
	struct exec *x = agent->execs.first;
	uint64_t now;

	if (agent->execs.running || !x || x->code_have < x->code_length ||
	    outbox_room(&agent->out) < OUTBOX_OUTPUT_ROOM)
		return false;
	now = now_ns();
	if (x->language == EXEC_PYTHON) {
		int ready = repl_ready(agent);

		if (ready == 0)
			return false;
		if (ready > 0)
			exec_begin(agent, x, now);
	} else if (shell_start(agent, x) == 0) {
		exec_begin(agent, x, now);
	}
	return true; /* refused ones are gone from the queue: look at the next */
}

void exec_ended(struct agent *agent, int exit_code, uint32_t flags)
{
	struct exec *x = agent->execs.running;

	if (x->stage == STAGE_ENDED)
		return;
	x->exit_code = exit_code;
	/* Who was asked to stop and answers, was interrupted, whatever the code
	 * made of the KeyboardInterrupt. */
	if (x->stage != STAGE_RUNNING && x->language == EXEC_PYTHON && !(flags & EXIT_STATE_LOST)) {
		flags |= EXIT_INTERRUPTED;
		x->exit_code = 128 + SIGINT;
	}
	if (x->flags & EXIT_TIMED_OUT)
		x->exit_code = EXIT_CODE_TIMEOUT;
	x->flags |= flags;
	x->stage = STAGE_ENDED;
	x->deadline_ns = UINT64_MAX;
	x->ended_ns = now_ns();
}

static bool exec_finish(struct agent *agent)
{
	struct exec *x = agent->execs.running;

	if (x->stage != STAGE_ENDED || !exec_drain(agent) || x->result_left > 0 ||
	    !exec_notice(agent))
		return false;
	if (x->language == EXEC_BASH)
		shell_finish(agent);
	exec_answer(agent, x);
	agent->execs.running = NULL;
	exec_free(agent, x);
	run_files_look(agent);
	reclaim_exec_ended(agent);
	return true;
}

void exec_progress(struct agent *agent)
{
	do {
		repl_progress(agent);
		while (exec_start_next(agent))
			;
		if (agent->execs.running && agent->execs.running->stage != STAGE_ENDED)
			(void)exec_notice(agent);
	} while (agent->execs.running && exec_finish(agent));
	if (agent->execs.running)
		exec_watch(agent);
	repl_watch(agent);
}

void exec_abandon_all(struct agent *agent)
{
	struct execs *execs = &agent->execs;

	while (execs->first) {
		struct exec *x = execs->first;

		queue_remove(execs, x);
		exec_free(agent, x);
	}
	if (!execs->running)
		return;
	process_group_kill(execs->running->language == EXEC_PYTHON ? agent->repl.pid
								   : agent->shell.pid,
			   SIGKILL);
	if (execs->running->language == EXEC_BASH)
		shell_finish(agent);
	exec_free(agent, execs->running);
	execs->running = NULL;
}
