/* The host's end of one agent connection (guest/protocol.h): request ids, the
 * table of outstanding requests, a bounded output queue with backpressure.
 *
 * The guest is hostile: whatever it does wrong ends this connection with a
 * reason and nothing else. All functions run on the loop's thread; callbacks
 * come only from the loop, or from agent_destroy(). */
#ifndef RAMET_ENGINE_AGENT_H
#define RAMET_ENGINE_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <systemd/sd-event.h>

#include "engine/frame.h"
#include "engine/limits.h"
#include "lib/err.h"

struct agent;

struct agent_callbacks {
	/* The first frame was a good HELLO. `kernel` is printable ASCII. */
	void (*hello)(void *arg, const char *kernel, const char *version);
	/* Once: the connection is unusable. err->code is EPROTO when the guest
	 * broke the protocol, ECONNRESET when the channel closed, ENOBUFS when
	 * the guest does not read. Outstanding requests stay until
	 * agent_destroy(). */
	void (*failed)(void *arg, const struct ramet_err *err);
};

/* A request that was sent and not yet completely answered; embedded in
 * whatever waits for the answer. */
struct agent_request {
	struct agent *agent; /* NULL: not outstanding */
	uint32_t id;
	uint8_t type; /* enum message_type of what was sent */
	bool held;    /* not sent yet, see agent_quiesce() */
	/* One frame of the answer. The owner calls agent_request_end() at the
	 * last. A negative return value, with a sentence, means the guest broke
	 * the protocol. */
	int (*reply)(struct agent_request *request, const struct frame *frame,
		     struct ramet_err *err);
	/* The connection is gone; the request is no longer outstanding. */
	void (*lost)(struct agent_request *request, const struct ramet_err *err);
	LIST_ENTRY(agent_request) link;
};

/* Someone who waits until bulk data may be sent again. */
struct agent_waiter {
	void (*ready)(struct agent_waiter *waiter); /* not waiting any more */
	bool waiting;
	TAILQ_ENTRY(agent_waiter) link;
};

/* `fd` is the channel (a stream socket), taken over on success. */
int agent_create(sd_event *loop, const struct limits *limits, int fd,
		 const struct agent_callbacks *callbacks, void *arg, struct agent **agent,
		 struct ramet_err *err);

/* Ends all outstanding requests with `err` (their `lost` is called) and closes
 * the channel. Must not be called from within a callback of this agent. NULL
 * is fine. */
void agent_destroy(struct agent *agent, const struct ramet_err *err);

/* Stops all input and output now, without a callback; callable from anywhere. */
void agent_stop(struct agent *agent);

/* Sends a request and enters it in the table. -EAGAIN when too many are
 * outstanding, -ENOBUFS when the queue is full, -EPIPE after a failure. */
int agent_request_send(struct agent *agent, struct agent_request *request, uint8_t type,
		       const void *fixed, size_t fixed_length, const void *data, size_t length,
		       struct ramet_err *err);

/* The answer is complete (or not wanted): leaves the table. */
void agent_request_end(struct agent_request *request);

/* Fails the connection: `failed` is called from the loop. For callers whose
 * conversation cannot go on. */
void agent_break(struct agent *agent, const struct ramet_err *err);

/* Sends a frame that is not answered, about the request `id`. When the queue
 * overflows, the connection fails (from the loop). */
void agent_notify(struct agent *agent, uint32_t id, uint8_t type, const void *fixed,
		  size_t fixed_length, const void *data, size_t length);

/* Bulk data may be sent now; otherwise wait. Wait only when it may not, or
 * from within `ready`. */
bool agent_writable(const struct agent *agent);
void agent_wait(struct agent *agent, struct agent_waiter *waiter);
void agent_wait_cancel(struct agent *agent, struct agent_waiter *waiter);

/* What MSG_ERROR says, as an error of the file, exec, ... it is about. The
 * guest's text is made printable. Returns the positive errno. */
int agent_error(const struct frame *frame, struct ramet_err *err);

/* A protocol violation: the answer `frame` does not fit the request `what`.
 * Returns -EPROTO. */
int agent_unexpected(const struct frame *frame, const char *what, struct ramet_err *err);

/* ---- stopping, copying and moving a connection: engine/agent_fork.c ---- */

/* `err` is NULL on success. */
typedef void (*agent_done_cb)(void *arg, const struct ramet_err *err);

/* Holds back all further output and waits until the guest's agent has taken
 * what went before. Returns 1 when it already has, 0 when `done` will be
 * called, -errno. Input goes on. Once at a time; agent_release() ends it. */
int agent_quiesce(struct agent *agent, agent_done_cb done, void *arg, struct ramet_err *err);

/* Output goes on. Harmless when it was not held. */
void agent_release(struct agent *agent);
bool agent_held(const struct agent *agent);

/* The guest is stopped, after `to_host` and `to_guest` bytes in all went
 * through this channel. Takes in what has not been read, for later. -EPROTO
 * when the numbers are not those of this end. */
int agent_settle(struct agent *agent, uint64_t to_host, uint64_t to_guest, struct ramet_err *err);

/* Goes on with another channel to the same guest, at the same place. `fd` is
 * taken over on success. */
int agent_switch(struct agent *agent, int fd, struct ramet_err *err);

/* A connection at one moment, between agent_settle() and agent_release(): all
 * that a connection to a copy of the guest needs to know. */
struct agent_snapshot;
int agent_snapshot(const struct agent *agent, struct agent_snapshot **snapshot,
		   struct ramet_err *err);
void agent_snapshot_free(struct agent_snapshot *snapshot);

/* As agent_create(), for a copy of the guest. What was outstanding is answered
 * to nobody; execs are left to exec_queue_adopt(). There is no `hello`. */
int agent_create_copy(sd_event *loop, const struct limits *limits, int fd,
		      const struct agent_snapshot *snapshot,
		      const struct agent_callbacks *callbacks, void *arg, struct agent **agent,
		      struct ramet_err *err);

/* Closes a file handle of the guest without effect; nobody waits for it. */
int agent_close_handle(struct agent *agent, uint32_t handle, struct ramet_err *err);
/* Enters a request that the guest was sent in its former life, under `id`. */
void agent_request_enter(struct agent *agent, struct agent_request *request, uint32_t id);

/* Handles the input that agent_settle() or a snapshot left, from the loop. */
void agent_kick(struct agent *agent);

/* ---- simple requests: one answer, MSG_OK or MSG_ERROR ---- */

struct agent_identity {
	uint64_t wall_ns; /* 0: leave the clock */
	uint8_t generation[16];
	const char *hostname;
	const void *entropy;
	size_t entropy_length; /* <= 512 */
	bool reseed_python;
	const uint8_t *token; /* RESEED_TOKEN_SIZE bytes; NULL: leave the old one */
	uint32_t fork_number; /* 0: not a child of a fork */
};

/* Tells the guest who it is; confirmed means entropy, clock and name are set. */
int agent_reseed(struct agent *agent, const struct agent_identity *identity, agent_done_cb done,
		 void *arg, struct ramet_err *err);
int agent_ping(struct agent *agent, agent_done_cb done, void *arg, struct ramet_err *err);
int agent_shutdown(struct agent *agent, agent_done_cb done, void *arg, struct ramet_err *err);

#endif
