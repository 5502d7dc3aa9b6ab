/* What engine/exec*.c share about an exec. */
#ifndef RAMET_ENGINE_EXEC_STATE_H
#define RAMET_ENGINE_EXEC_STATE_H

#include "engine/exec.h"

/* Credit goes back in steps of this, not for every line. */
#define CREDIT_STEP (EXEC_CREDIT_INITIAL / 4)

struct exec {
	struct agent_request request; /* first; outstanding once announced */
	struct exec_queue *queue;
	TAILQ_ENTRY(exec) link;
	struct exec_callbacks callbacks;
	void *arg;
	bool abandoned; /* no callback any more */
	bool orphan;    /* began in the sandbox that this one was forked from */
	bool ending;    /* `done` is being called */
	bool announced; /* MSG_EXEC went out */
	struct msg_exec message;
	char *code;
	size_t code_sent;
	uint64_t granted;  /* credit, bytes */
	uint64_t received; /* output that used it */
	uint64_t consumed; /* given back by the caller */
	uint64_t passed;   /* stdout and stderr */
	uint64_t start_ns;
};

/* All of its code went out. */
bool exec_sent(const struct exec *exec);
void exec_grant(struct exec *exec);
void exec_cancel(struct exec *exec);
int exec_reply(struct agent_request *request, const struct frame *frame, struct ramet_err *err);
void exec_lost(struct agent_request *request, const struct ramet_err *err);

/* The first that has something to send. */
struct exec *exec_first_unsent(struct exec_queue *queue);
/* Sets the backstop for the exec that runs now. */
void exec_queue_watch(struct exec_queue *queue);
void exec_queue_check_drained(struct exec_queue *queue);

#endif
