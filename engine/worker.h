/* The daemon's end of one worker's control socket (vmm/control.h).
 *
 * A worker is trusted no more than the guest in it: every message is checked
 * for version, type, length and order, and one that does not fit ends it.
 * Knows nothing of processes; whoever started the worker kills and reaps it
 * and asks worker_describe_end() for the sentence that says why it ended. */
#ifndef RAMET_ENGINE_WORKER_H
#define RAMET_ENGINE_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "engine/limits.h"
#include "lib/err.h"
#include "vmm/control.h"

struct worker;

/* Called from the loop, in this order; `lost` at any time, once, last. */
struct worker_callbacks {
	void (*ready)(void *arg);   /* jailed; worker_boot() may be called */
	void (*booted)(void *arg);  /* the guest's first instruction is next */
	void (*channel)(void *arg); /* the guest's agent is connected */
	/* No more comes: EPROTO when the worker broke the protocol; ECONNRESET
	 * when it closed the socket or reported its end. */
	void (*lost)(void *arg, const struct ramet_err *err);
};

/* `fd` is the control socket, taken over on success. */
int worker_create(sd_event *loop, const struct limits *limits, int fd,
		  const struct worker_callbacks *callbacks, void *arg, struct worker **worker,
		  struct ramet_err *err);
/* Closes the socket, which makes a living worker exit. NULL is fine. Must not
 * be called from within a callback of this worker. */
void worker_destroy(struct worker *worker);

struct worker_boot {
	uint64_t ram_bytes;
	int isolation; /* enum isolation_mode */
	bool plain;
	int kernel_fd; /* these stay the caller's */
	int initrd_fds[CONTROL_INITRD_MAX];
	unsigned int initrd_count;
};

/* Sends CONTROL_BOOT; once, after `ready`. */
int worker_boot(struct worker *worker, const struct worker_boot *boot, struct ramet_err *err);

/* Copies the last console output; returns its length. */
size_t worker_console(const struct worker *worker, char *buf, size_t size);

/* How the process ended, as the one who reaped it knows. */
struct worker_end {
	bool reaped;     /* else it would not die, and nothing below is known */
	int wait_status; /* of waitpid(2) */
	bool oom_killed; /* by the kernel, for its cgroup's memory limit */
	bool killed;     /* by us */
};

/* Reads what the worker said last, closes its socket and writes one sentence
 * about its end into `out`. `worker` may be NULL (it never came to talk). The
 * console stays readable. */
void worker_describe_end(struct worker *worker, const struct worker_end *end, char *out,
			 size_t size);

#endif
