/* bash: each exec is a process of its own, leader of a session and group.
 *
 * The exec ends when that process ends. Processes it left in the background
 * live on; what they write after that is discarded (not refused: they must not
 * die of SIGPIPE). After a timeout or cancel the whole group is killed. */
#ifndef RAMET_GUEST_SHELL_H
#define RAMET_GUEST_SHELL_H

#include <stddef.h>
#include <sys/types.h>

#include "guest/agent/exec.h"

struct agent;

#define LINGER_MAX 64 /* pipes of background processes; the oldest is closed */

struct shell {
	pid_t pid; /* 0: none runs */
	struct pipe_in out, err;
	struct source linger[LINGER_MAX];
	size_t linger_next;
};

void shell_init(struct agent *agent);

/* Starts bash on the code of `x`. Returns 0; or -1 when that cannot be, with
 * MSG_ERROR sent and `x`, which is the first in the queue, gone. */
int shell_start(struct agent *agent, const struct exec *x);

/* The process ended (status of waitpid(2); it is not yet reaped). */
void shell_died(struct agent *agent, int status);

/* The exec's output is complete: what is still open lingers. */
void shell_finish(struct agent *agent);

#endif
