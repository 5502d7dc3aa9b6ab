/* The execs of one sandbox: see exec.h and engine.h. */
#include "engine/exec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/exec_state.h"
#include "lib/clock.h"
#include "lib/log.h"

#define CODE_PIECE (64u * 1024)
#define EXIT_FLAGS_KNOWN                                                                           \
	(EXIT_TIMED_OUT | EXIT_INTERRUPTED | EXIT_REPL_RESTARTED | EXIT_STATE_LOST |               \
	 EXIT_OUTPUT_CUT | EXIT_CANCELLED)

bool exec_sent(const struct exec *exec)
{
	return exec->announced && exec->code_sent == exec->message.code_length;
}

static void exec_free_code(struct exec *exec)
{
	free(exec->code);
	exec->code = NULL;
}

/* Takes an exec out of everything, tells its caller and frees it. */
static void exec_end(struct exec *exec, const struct exec_exit *result, const struct ramet_err *err)
{
	struct exec_queue *queue = exec->queue;
	bool first = exec == TAILQ_FIRST(&queue->execs);

	exec->ending = true;
	agent_request_end(&exec->request);
	TAILQ_REMOVE(&queue->execs, exec, link);
	queue->count--;
	queue->code_bytes -= exec->message.code_length;
	exec_free_code(exec);
	if (first)
		exec_queue_watch(queue);
	if (!exec->abandoned)
		exec->callbacks.done(exec->arg, result, err);
	free(exec);
	exec_queue_check_drained(queue);
}

void exec_grant(struct exec *exec)
{
	struct msg_credit credit;
	uint64_t due = exec->consumed + EXEC_CREDIT_INITIAL - exec->granted;

	if (due < CREDIT_STEP || !exec->request.agent || agent_held(exec->request.agent))
		return;
	credit.bytes = (uint32_t)due;
	exec->granted += due;
	agent_notify(exec->request.agent, exec->request.id, MSG_CREDIT, &credit, sizeof(credit),
		     NULL, 0);
}

void exec_consumed(struct exec *exec, size_t bytes)
{
	uint64_t left = exec->received - exec->consumed;

	exec->consumed += bytes < left ? bytes : left;
	if (!exec->ending)
		exec_grant(exec);
}

static int exec_output(struct exec *exec, const struct frame *frame, struct ramet_err *err)
{
	struct msg_output output;
	size_t length = frame->length - sizeof(output);

	frame_fixed(frame, &output, sizeof(output));
	if (output.stream < OUTPUT_STDOUT || output.stream > OUTPUT_NOTICE)
		return err_set(err, EPROTO, "the agent sent output of unknown stream %u",
			       output.stream);
	exec->received += length;
	if (exec->received > exec->granted)
		return err_set(err, EPROTO, "the agent sent more output than it had credit for");
	if (output.stream == OUTPUT_STDOUT || output.stream == OUTPUT_STDERR)
		exec->passed += length;
	if (exec->passed > exec->message.output_limit)
		return err_set(err, EPROTO, "the agent sent more output than the exec's limit");
	if (exec->abandoned || !exec->callbacks.output) {
		exec_consumed(exec, length); /* so that the guest comes to an end */
		return 0;
	}
	if (!length)
		return 0; /* costs the guest no credit, so nobody shall keep it */
	exec->callbacks.output(exec->arg, (int)output.stream, output.time_ns,
			       (const char *)frame->payload + sizeof(output), length);
	return 0;
}

static int exec_exited(struct exec *exec, const struct frame *frame, struct ramet_err *err)
{
	struct exec_exit result;
	struct msg_exit message;

	frame_fixed(frame, &message, sizeof(message));
	if (message.exit_code < 0 || message.exit_code > 255)
		return err_set(err, EPROTO, "the agent reported the impossible exit code %d",
			       message.exit_code);
	result = (struct exec_exit){
		.exit_code = message.exit_code,
		.flags = message.flags & EXIT_FLAGS_KNOWN,
		.dropped = message.dropped,
		.queue_ns = message.queue_ns,
		.run_ns = message.run_ns,
		.total_ns = clock_monotonic_ns() - exec->start_ns,
	};
	exec_end(exec, &result, NULL);
	return 0;
}

int exec_reply(struct agent_request *request, const struct frame *frame, struct ramet_err *err)
{
	struct exec *exec = (struct exec *)request;
	struct ramet_err refusal;

	switch (frame->type) {
	case MSG_OUTPUT:
		return exec_output(exec, frame, err);
	case MSG_EXIT:
		return exec_exited(exec, frame, err);
	case MSG_ERROR:
		(void)agent_error(frame, &refusal);
		exec_end(exec, NULL, &refusal);
		return 0;
	default:
		return agent_unexpected(frame, "EXEC", err);
	}
}

void exec_lost(struct agent_request *request, const struct ramet_err *err)
{
	exec_end((struct exec *)request, NULL, err);
}

void exec_cancel(struct exec *exec)
{
	agent_notify(exec->request.agent, exec->request.id, MSG_CANCEL, NULL, 0, NULL, 0);
}

/* Sends what the channel takes: 0 all went out, 1 more is left, -errno. */
static int exec_send(struct exec *exec, struct ramet_err *err)
{
	struct agent *agent = exec->queue->agent;
	int r;

	if (!exec->announced) {
		if (exec->queue->held || !agent_writable(agent))
			return 1;
		r = agent_request_send(agent, &exec->request, MSG_EXEC, &exec->message,
				       sizeof(exec->message), NULL, 0, err);
		if (r < 0)
			return r;
		exec->announced = true;
	}
	while (exec->code_sent < exec->message.code_length && agent_writable(agent)) {
		size_t left = exec->message.code_length - exec->code_sent;
		size_t n = left < CODE_PIECE ? left : CODE_PIECE;

		agent_notify(agent, exec->request.id, MSG_EXEC_DATA, NULL, 0,
			     exec->code + exec->code_sent, n);
		exec->code_sent += n;
	}
	if (!exec_sent(exec))
		return 1;
	exec_free_code(exec);
	if (exec->abandoned)
		exec_cancel(exec);
	return 0;
}

struct exec *exec_first_unsent(struct exec_queue *queue)
{
	struct exec *exec;

	TAILQ_FOREACH(exec, &queue->execs, link)
	if (!exec_sent(exec) && (exec->announced || !queue->held))
		return exec;
	return NULL;
}

/* The channel takes data again: the order of the execs is kept. */
static void exec_queue_ready(struct agent_waiter *waiter)
{
	struct exec_queue *queue = (struct exec_queue *)waiter;
	struct exec *exec = exec_first_unsent(queue);
	struct ramet_err err;
	int r = 0;

	if (exec)
		r = exec_send(exec, &err);
	if (r < 0)
		exec_end(exec, NULL, &err);
	if (exec_first_unsent(queue))
		agent_wait(queue->agent, &queue->waiter);
	exec_queue_check_drained(queue);
}

void exec_queue_init(struct exec_queue *queue, sd_event *loop, const struct limits *limits)
{
	*queue = (struct exec_queue){ .loop = loop, .limits = limits };
	TAILQ_INIT(&queue->execs);
	queue->waiter.ready = exec_queue_ready;
}

void exec_queue_connect(struct exec_queue *queue, struct agent *agent)
{
	queue->agent = agent;
}

/* The guest had its exec's timeout, or was told to stop it, and some more
 * time. An exec that only waits for its caller to take output gets more; a
 * guest that does not even end a cancelled one is beyond use. */
static int exec_queue_on_backstop(sd_event_source *source, uint64_t usec, void *arg)
{
	struct exec_queue *queue = arg;
	struct exec *exec = TAILQ_FIRST(&queue->execs);
	bool starved = exec->received + CREDIT_STEP > exec->granted;
	struct ramet_err err;

	(void)source;
	(void)usec;
	(void)err_set(&err, ETIMEDOUT, "the guest did not stop an exec when it was told to");
	if (exec->abandoned) {
		agent_break(queue->agent, &err);
		return 0;
	}
	exec->abandoned = !starved;
	exec_queue_watch(queue);
	if (starved)
		return 0;
	if (exec_sent(exec))
		exec_cancel(exec);
	(void)err_set(&err, ETIMEDOUT, "the guest did not stop the code after its timeout of %u ms",
		      exec->message.timeout_ms);
	exec->callbacks.done(exec->arg, NULL, &err);
	return 0;
}

/* Sets the backstop for the exec that runs now. */
void exec_queue_watch(struct exec_queue *queue)
{
	struct exec *exec = TAILQ_FIRST(&queue->execs);
	uint64_t usec = queue->limits->timeout_grace / 1000;

	queue->backstop = sd_event_source_disable_unref(queue->backstop);
	if (!exec || exec->orphan || queue->suspended ||
	    (!exec->message.timeout_ms && !exec->abandoned))
		return;
	if (!exec->abandoned)
		usec += exec->message.timeout_ms * (uint64_t)1000;
	if (sd_event_add_time_relative(queue->loop, &queue->backstop, CLOCK_MONOTONIC, usec,
				       TIMER_ACCURACY, exec_queue_on_backstop, queue) < 0)
		log_warn("no timer for an exec's end");
}

static struct exec *exec_make(struct exec_queue *queue, const struct exec_params *params,
			      const struct exec_callbacks *callbacks, void *arg)
{
	struct exec *exec = calloc(1, sizeof(*exec));

	if (!exec)
		return NULL;
	exec->code = malloc(params->code_length ? params->code_length : 1);
	if (!exec->code) {
		free(exec);
		return NULL;
	}
	if (params->code_length)
		memcpy(exec->code, params->code, params->code_length);
	exec->request.reply = exec_reply;
	exec->request.lost = exec_lost;
	exec->queue = queue;
	exec->callbacks = *callbacks;
	exec->arg = arg;
	exec->granted = EXEC_CREDIT_INITIAL;
	exec->start_ns = clock_monotonic_ns();
	exec->message = (struct msg_exec){
		.language = (uint32_t)params->language,
		.timeout_ms = params->timeout_ms,
		.output_limit =
			params->output_limit ? params->output_limit : queue->limits->output_default,
		.code_length = (uint32_t)params->code_length,
	};
	return exec;
}

int exec_queue_add(struct exec_queue *queue, const struct exec_params *params,
		   const struct exec_callbacks *callbacks, void *arg, struct exec **exec,
		   struct ramet_err *err)
{
	struct exec *e;
	int r = exec_check(queue, params, err);

	if (r < 0)
		return r;
	e = exec_make(queue, params, callbacks, arg);
	if (!e)
		return err_set(err, ENOMEM, "no memory for the code");
	TAILQ_INSERT_TAIL(&queue->execs, e, link);
	queue->count++;
	queue->code_bytes += params->code_length;
	if (exec_first_unsent(queue) == e) {
		r = exec_send(e, err);
		if (r > 0)
			agent_wait(queue->agent, &queue->waiter);
	}
	if (r < 0) {
		e->abandoned = true;
		exec_end(e, NULL, NULL);
		return r;
	}
	if (queue->count == 1)
		exec_queue_watch(queue);
	*exec = e;
	return 0;
}

void exec_abandon(struct exec *exec)
{
	if (exec->abandoned)
		return;
	exec->abandoned = true;
	if (exec->ending)
		return;
	if (!exec->announced) {
		exec_end(exec, NULL, NULL);
		return;
	}
	if (exec_sent(exec)) /* else when the code has gone out */
		exec_cancel(exec);
	if (exec == TAILQ_FIRST(&exec->queue->execs))
		exec_queue_watch(exec->queue);
	exec_consumed(exec, (size_t)(exec->received - exec->consumed));
}

void exec_queue_end(struct exec_queue *queue, const struct ramet_err *err)
{
	struct exec *exec;

	while ((exec = TAILQ_FIRST(&queue->execs)))
		exec_end(exec, NULL, err);
	queue->backstop = sd_event_source_disable_unref(queue->backstop);
	if (queue->agent)
		agent_wait_cancel(queue->agent, &queue->waiter);
	queue->agent = NULL;
}
