/* Execs of a sandbox that is paused or forked: see exec.h. */
#include <errno.h>
#include <stdlib.h>

#include "engine/exec_state.h"
#include "lib/clock.h"

struct exec_copy {
	uint32_t id;
	struct msg_exec message;
	uint64_t granted, received, passed;
};

struct exec_snapshot {
	size_t count;
	struct exec_copy execs[];
};

static bool queue_half_sent(const struct exec_queue *queue)
{
	const struct exec *exec;

	TAILQ_FOREACH(exec, &queue->execs, link)
	if (exec->announced && !exec_sent(exec))
		return true;
	return false;
}

bool exec_queue_hold(struct exec_queue *queue, void (*drained)(void *arg), void *arg)
{
	queue->held = true;
	if (!queue_half_sent(queue))
		return true;
	queue->drained = drained;
	queue->drained_arg = arg;
	return false;
}

void exec_queue_check_drained(struct exec_queue *queue)
{
	void (*drained)(void *arg) = queue->drained;

	if (!drained || queue_half_sent(queue))
		return;
	queue->drained = NULL;
	drained(queue->drained_arg);
}

void exec_queue_release(struct exec_queue *queue)
{
	struct exec *exec;

	queue->drained = NULL;
	if (!queue->held)
		return;
	queue->held = false;
	if (queue->agent && exec_first_unsent(queue))
		agent_wait(queue->agent, &queue->waiter);
	TAILQ_FOREACH(exec, &queue->execs, link)
	exec_grant(exec);
}

void exec_queue_suspend(struct exec_queue *queue, bool suspended)
{
	queue->suspended = suspended;
	exec_queue_watch(queue);
}

int exec_queue_snapshot(const struct exec_queue *queue, struct exec_snapshot **snapshot,
			struct ramet_err *err)
{
	struct exec_snapshot *s;
	const struct exec *exec;

	s = calloc(1, sizeof(*s) + queue->count * sizeof(s->execs[0]));
	if (!s)
		return err_set(err, ENOMEM, "no memory to copy the execs of a sandbox");
	TAILQ_FOREACH(exec, &queue->execs, link)
	{
		if (!exec_sent(exec) || exec->request.held || !exec->request.agent)
			continue;
		s->execs[s->count++] = (struct exec_copy){
			.id = exec->request.id,
			.message = exec->message,
			.granted = exec->granted,
			.received = exec->received,
			.passed = exec->passed,
		};
	}
	*snapshot = s;
	return 0;
}

int exec_queue_adopt(struct exec_queue *queue, const struct exec_snapshot *snapshot,
		     struct ramet_err *err)
{
	for (size_t i = 0; i < snapshot->count; i++) {
		const struct exec_copy *copy = &snapshot->execs[i];
		struct exec *exec = calloc(1, sizeof(*exec));

		if (!exec)
			return err_set(err, ENOMEM, "no memory to copy the execs of a sandbox");
		exec->request.reply = exec_reply;
		exec->request.lost = exec_lost;
		exec->request.type = MSG_EXEC;
		exec->queue = queue;
		exec->orphan = true;
		exec->abandoned = true;
		exec->announced = true;
		exec->message = copy->message;
		exec->code_sent = copy->message.code_length;
		exec->granted = copy->granted;
		exec->received = copy->received;
		exec->consumed = copy->received;
		exec->passed = copy->passed;
		exec->start_ns = clock_monotonic_ns();
		TAILQ_INSERT_TAIL(&queue->execs, exec, link);
		queue->count++;
		queue->code_bytes += copy->message.code_length;
		agent_request_enter(queue->agent, &exec->request, copy->id);
		exec_grant(exec);
		if (i)
			exec_cancel(exec);
	}
	return 0;
}
