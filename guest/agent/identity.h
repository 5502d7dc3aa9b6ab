/* Who this guest is: MSG_RESEED. After machines were copied each copy gets
 * entropy, a clock, a name, a generation and a secret of its own; the files
 * that say so are in run_files.h, the interpreter is told in repl_identity.h. */
#ifndef RAMET_GUEST_IDENTITY_H
#define RAMET_GUEST_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/agent/frame.h"

struct agent;

#define GENERATION_TEXT 37 /* a UUID (RFC 9562) and its NUL */

struct identity {
	int hypercall_fd;                 /* to ask the host for the time; -1: cannot */
	int random_fd;                    /* /dev/urandom */
	char generation[GENERATION_TEXT]; /* "": not told yet */
	uint32_t fork_number;             /* 1..n; 0: this guest is no child of a fork */
	bool pending;                     /* the interpreter has not confirmed yet */
	bool calling;                     /* it calls functions that code registered */
	bool interrupted;                 /* ... and was asked to stop that */
	uint32_t id;                      /* of the request */
	uint64_t deadline_ns;
};

void identity_init(struct agent *agent);

/* MSG_RESEED. Answers MSG_OK when nothing in the guest can act as another one
 * any more, see repl_identity.h for what that means of the interpreter; else
 * MSG_ERROR. With --fd nothing of the host is changed: entropy is mixed in
 * without credit, clock and host name are left alone. */
int identity_reseed(struct agent *agent, const struct frame *frame, const char **why);

/* The interpreter is reseeded and calls functions that code registered. */
void identity_python_calls(struct agent *agent);

/* The interpreter is done with it, or is a new one. */
void identity_python_done(struct agent *agent);

uint64_t identity_deadline(const struct agent *agent);
void identity_expire(struct agent *agent, uint64_t now);

#endif
