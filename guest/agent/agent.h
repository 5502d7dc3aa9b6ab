/* The agent's root object: one per process, in static storage. */
#ifndef RAMET_GUEST_AGENT_H
#define RAMET_GUEST_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest/agent/exec.h"
#include "guest/agent/files.h"
#include "guest/agent/frame.h"
#include "guest/agent/identity.h"
#include "guest/agent/loop.h"
#include "guest/agent/outbox.h"
#include "guest/agent/reclaim.h"
#include "guest/agent/repl.h"
#include "guest/agent/run_files.h"
#include "guest/agent/shell.h"
#include "guest/agent/transport.h"
#include "guest/agent/tree.h"

#define AGENT_VERSION "0.1.0"

struct inbox {
	size_t head, tail; /* buf[head..tail) waits to be parsed */
	uint8_t buf[FRAME_SIZE_MAX];
};

struct agent {
	bool is_init;        /* PID 1 of a guest; false: --fd */
	const char *home;    /* directory of commands and relative paths */
	const char *run_dir; /* for the generation file; NULL: do not keep it */
	struct loop loop;
	struct transport *transport; /* NULL when the connection has ended */
	struct source signals;       /* signalfd for SIGCHLD */
	bool closing;                /* MSG_SHUTDOWN was answered */
	bool ended;                  /* leave the event loop */
	struct execs execs;
	struct repl repl;
	struct shell shell;
	struct files files;
	struct listing listing;
	struct trees trees;
	struct identity identity;
	struct run_files run_files;
	struct reclaim reclaim;
	struct inbox in;
	struct outbox out;
};

#endif
