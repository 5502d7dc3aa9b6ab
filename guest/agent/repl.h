/* The persistent Python interpreter: its process and the records exchanged
 * with the driver in it (repl.py says what they are).
 *
 * It is started at boot, before anybody asks, and again whenever it is gone;
 * the next exec is told with EXIT_REPL_RESTARTED and EXIT_STATE_LOST. When it
 * ends, for whatever reason, its process group is killed.
 *
 * Output that threads or children of the interpreter write while no Python
 * exec runs is kept (the first BACKLOG_SIZE bytes of each stream) and becomes
 * the first output of the next Python exec; what does not fit is dropped and
 * counted in an OUTPUT_NOTICE. */
#ifndef RAMET_GUEST_REPL_H
#define RAMET_GUEST_REPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "guest/agent/exec.h"
#include "guest/agent/loop.h"

struct agent;

#define BACKLOG_SIZE       (32u * 1024)
#define RECORD_HEADER_SIZE 8
#define RECORD_BUFFER_SIZE (64u * 1024)

enum repl_state {
	REPL_DOWN,     /* no process: it could not be started */
	REPL_STARTING, /* has not said yet that it is ready */
	REPL_READY,
	REPL_ENDED, /* the process is gone, what it left is being passed on */
};

struct backlog {
	size_t len;
	uint64_t dropped;
	uint8_t buf[BACKLOG_SIZE];
};

struct repl {
	enum repl_state state;
	pid_t pid;       /* 0: none */
	int source_fd;   /* memfd with the driver's text */
	int identity_fd; /* memfd, see repl_identity.h */
	uint32_t told;   /* the sequence number of what is in it */
	uint32_t asks;   /* enum driver_flags of the last exit record */
	struct source control;
	struct source helper; /* a socket to the driver's helper thread */
	struct pipe_in out, err;
	struct backlog backlog[2];
	bool lost;        /* state was lost and nobody has been told */
	int ended_status; /* of waitpid(2), in REPL_ENDED */
	bool ended_early; /* it had never been ready */
	uint64_t start_deadline_ns;
	const struct exec *sending; /* its code is not written completely yet */
	size_t sent;
	size_t head, tail; /* records[head..tail) was received */
	size_t record_used;
	uint8_t records[RECORD_BUFFER_SIZE];
};

/* Prepares and starts the interpreter; a failure is logged and tried again
 * with the first Python exec. */
void repl_init(struct agent *agent);

/* May an exec be given to it? 1: yes; 0: not yet; -1: it cannot be started,
 * the first exec in the queue was answered with MSG_ERROR and is gone. */
int repl_ready(struct agent *agent);

/* Runs the code of `x`, the running exec, which stays the caller's. */
void repl_exec(struct agent *agent, struct exec *x);

/* Handles records and a death as far as the host takes the output. */
void repl_progress(struct agent *agent);

/* Watches what has to be watched. */
void repl_watch(struct agent *agent);

/* The process ended (status of waitpid(2); it is not yet reaped). */
void repl_died(struct agent *agent, int status);

/* Kills an interpreter that does not get ready; see exec_deadline(). */
uint64_t repl_deadline(const struct agent *agent);
void repl_expire(struct agent *agent, uint64_t now);

#endif
