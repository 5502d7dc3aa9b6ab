/* Who this guest is: MSG_RESEED. After machines were copied each copy gets
 * entropy, a clock, a name, a generation and a secret of its own. In the run
 * directory are `generation` (UUID), `token` (32 hex digits, root's alone) and,
 * in a child of a fork, `fork_index` (from 0; the second line is "keep" when
 * Python's random modules shall go on like the parent's). */
#ifndef RAMET_GUEST_IDENTITY_H
#define RAMET_GUEST_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/agent/frame.h"

struct agent;

struct identity {
	bool pending; /* the interpreter has not confirmed yet */
	uint32_t id;  /* of the request */
	uint64_t deadline_ns;
	uint32_t fork_number; /* 1..n; 0: this guest is no child of a fork */
};

/* MSG_RESEED. Answers MSG_OK only when everything asked for has been done,
 * with RESEED_PYTHON: when the interpreter has confirmed; else MSG_ERROR.
 * With --fd nothing of the host is changed: entropy is mixed in without
 * credit, clock and host name are left alone. */
int identity_reseed(struct agent *agent, const struct frame *frame, const char **why);

/* The interpreter has new seeds, or is a new one. */
void identity_python_done(struct agent *agent);

uint64_t identity_deadline(const struct agent *agent);
void identity_expire(struct agent *agent, uint64_t now);

#endif
