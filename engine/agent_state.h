/* What engine/agent*.c share about a connection. */
#ifndef RAMET_ENGINE_AGENT_STATE_H
#define RAMET_ENGINE_AGENT_STATE_H

#include "engine/agent.h"

#define REQUEST_BUCKETS 64u

struct agent {
	sd_event *loop; /* borrowed */
	const struct limits *limits;
	struct agent_callbacks callbacks;
	void *arg;
	int fd;
	sd_event_source *io;
	sd_event_source *failure; /* deferred: reports `error` */
	sd_event_source *kick;    /* deferred: parses what was read before */
	bool stopped;
	bool greeted; /* HELLO came */
	struct ramet_err error;
	uint32_t next_id;
	unsigned int outstanding;
	LIST_HEAD(, agent_request) requests[REQUEST_BUCKETS];
	TAILQ_HEAD(, agent_waiter) waiters;
	struct frame_parser parser;
	struct frame_queue queue;
	bool held; /* only `barrier` bytes of the queue may go out */
	size_t barrier;
	uint64_t sent, received; /* bytes, through this channel */
};

struct agent_request *agent_request_find(struct agent *agent, uint32_t id);

bool agent_usable(const struct agent *agent);
void agent_flush(struct agent *agent);
void agent_run_waiters(struct agent *agent);
int agent_parse(struct agent *agent, struct ramet_err *err);
/* 1: read something, 0: nothing there. */
int agent_read(struct agent *agent, struct ramet_err *err);
int agent_on_io(sd_event_source *source, int fd, uint32_t revents, void *arg);
int agent_on_kick(sd_event_source *source, void *arg);

#endif
