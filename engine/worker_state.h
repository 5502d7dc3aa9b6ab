/* What engine/worker*.c share: where a worker is, and what waits to be sent. */
#ifndef RAMET_ENGINE_WORKER_STATE_H
#define RAMET_ENGINE_WORKER_STATE_H

#include <sys/queue.h>

#include "engine/console.h"
#include "engine/worker.h"

/* By the last request or answer. */
enum worker_phase {
	WORKER_STARTING, /* until READY */
	WORKER_READY,
	WORKER_SENT_BOOT, /* until BOOTED */
	WORKER_BOOTED,    /* until CHANNEL */
	WORKER_RUNNING,
	WORKER_SENT_SHELL, /* until SHELL_READY */
	WORKER_SHELL,
	WORKER_SENT_RESTORE, /* until RESTORED */
	WORKER_RESTORED,
	WORKER_SENT_RUN,   /* until BOOTED */
	WORKER_SENT_PAUSE, /* until PAUSED */
	WORKER_PAUSED,
	WORKER_DONATING, /* until FILLED */
	WORKER_FILLED,
};

/* A message that the socket did not take, with copies of its descriptors. */
struct worker_message {
	STAILQ_ENTRY(worker_message) link;
	size_t length;
	size_t nfds;
	int *fds;
	char bytes[];
};

struct worker {
	struct worker_callbacks callbacks;
	void *arg;
	int fd;
	sd_event_source *io;
	enum worker_phase phase;
	bool ended; /* CONTROL_ENDED came */
	struct control_ended last;
	struct console console;
	STAILQ_HEAD(, worker_message) waiting;
	unsigned int waiting_count;
	TAILQ_HEAD(, worker_stats) stats; /* who waits, in order */
	uint64_t stats_asked, stats_answered;
};

/* The socket takes messages again. engine/worker_send.c */
void worker_flush(struct worker *worker);
void worker_forget_waiting(struct worker *worker);

/* Statistics: engine/worker_stats.c */
int worker_take_stats(struct worker *worker, const struct control_stats *stats, size_t length,
		      struct ramet_err *err);
/* Whoever waits hears `err`. */
void worker_stats_lost(struct worker *worker, const struct ramet_err *err);

/* One message, now or when the socket takes it. engine/worker_send.c */
int worker_send(struct worker *worker, const void *bytes, size_t length, const int *fds,
		size_t nfds, struct ramet_err *err);

/* Takes in one message of a dead worker. engine/worker.c */
int worker_take_console(struct worker *worker, const struct control_console *console, size_t length,
			struct ramet_err *err);
int worker_take_ended(struct worker *worker, const struct control_ended *ended, size_t length,
		      struct ramet_err *err);

#endif
