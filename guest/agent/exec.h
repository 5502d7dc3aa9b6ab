/* Execs: one runs, the others wait in the order they came.
 *
 * An exec is created by MSG_EXEC, is complete when all MSG_EXEC_DATA is there,
 * runs, ends (its process ended or the interpreter answered), has its pipes
 * drained, and is answered with MSG_EXIT. */
#ifndef RAMET_GUEST_EXEC_H
#define RAMET_GUEST_EXEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest/agent/frame.h"
#include "guest/agent/loop.h"

struct agent;

#define EXEC_CODE_TOTAL_MAX (16u * 1024 * 1024) /* of all execs at once */
#define EXEC_SCRATCH_SIZE   (64u * 1024)
#define EXEC_DRAIN_MAX      (1024u * 1024) /* no pipe holds more (fs.pipe-max-size) */

enum exec_stage {
	STAGE_RUNNING,
	STAGE_ASKED,       /* interrupted; a chance to end by itself */
	STAGE_ASKED_GROUP, /* ... and so were the interpreter's children */
	STAGE_KILLED,
	STAGE_ENDED, /* nothing left but its output */
};

struct exec {
	struct exec *next;
	uint32_t id, language, timeout_ms;
	uint32_t code_length, code_have;
	enum exec_stage stage;
	uint32_t flags; /* enum exit_flags */
	int exit_code;
	uint64_t limit, credit, passed, dropped; /* bytes of output */
	bool notice_due;                         /* the cut is not yet announced */
	size_t drain_left[2];
	uint64_t result_left; /* bytes of OUTPUT_RESULT the interpreter has yet to send */
	bool drained;
	uint64_t queued_ns, started_ns, ended_ns;
	uint64_t deadline_ns; /* the next step of stopping it; UINT64_MAX: none */
	char code[];          /* code_length bytes and a NUL */
};

struct execs {
	struct exec *running;
	struct exec *first, *last; /* waiting */
	unsigned int waiting;
	size_t code_total;
	uint8_t scratch[EXEC_SCRATCH_SIZE]; /* output beyond a limit passes through here */
};

/* ---- requests ---- Return 0, or -EPROTO with the reason in *why when the
 * host broke the protocol; everything else is answered to the host. */
int exec_request(struct agent *agent, const struct frame *frame, const char **why);
int exec_data(struct agent *agent, const struct frame *frame, const char **why);
void exec_credit(struct agent *agent, const struct frame *frame);
void exec_cancel(struct agent *agent, uint32_t id);

/* ---- events ---- */

/* Starts, feeds, drains and answers whatever can be: called once per round of
 * the event loop, after the events. */
void exec_progress(struct agent *agent);

/* The running exec ended with `exit_code`; its output may still be in pipes. */
void exec_ended(struct agent *agent, int exit_code, uint32_t flags);

/* When exec_expire() has to be called (CLOCK_MONOTONIC); UINT64_MAX: never. */
uint64_t exec_deadline(const struct agent *agent);
void exec_expire(struct agent *agent, uint64_t now);

/* The first waiting exec cannot be started: answers MSG_ERROR. */
void exec_refuse_first(struct agent *agent, int code, const char *text);

/* Forgets all execs unanswered and kills what runs: the connection ended. */
void exec_abandon_all(struct agent *agent);

/* ---- output (output.c) ---- */

/* A descriptor that a command writes its output to, read by the agent. */
struct pipe_in {
	struct source source;
	uint32_t stream; /* enum output_stream */
};

enum take {
	TAKE_MORE,    /* there may be more */
	TAKE_EMPTY,   /* there was no more than was taken */
	TAKE_CLOSED,  /* no writer is left; the descriptor is closed */
	TAKE_BLOCKED, /* no credit or no room: ask again later */
};

/* Passes up to `max` bytes of the pipe to the host as the running exec's
 * output. *taken is set to the number of bytes read. */
enum take exec_take(struct agent *agent, struct pipe_in *pipe, size_t max, size_t *taken);

/* Passes on bytes that are here already, as far as limit, credit and room
 * allow. Returns how many were used up (passed on or dropped). */
size_t exec_emit(struct agent *agent, uint32_t stream, const void *data, size_t len);

/* Empties the running exec's pipes of what they hold at this moment. Returns
 * false when it has to go on later. */
bool exec_drain(struct agent *agent);

/* Announces a cut when that is due and there is credit for it. Returns false
 * when it has to wait. */
bool exec_notice(struct agent *agent);

/* Watches the running exec's pipes exactly while output can be passed on. */
void exec_watch(struct agent *agent);

/* A pipe of the running exec is ready. */
void exec_pipe_ready(struct agent *agent, struct pipe_in *pipe);

#endif
