/* The daemon's end of one worker's control socket (vmm/control.h).
 *
 * A worker is trusted no more than the guest in it: every message is checked
 * for version, type, length and order, and one that does not fit ends it.
 * Knows nothing of processes; whoever started the worker kills and reaps it
 * (engine/vm.h) and asks worker_describe_end() for the sentence that says why
 * it ended. */
#ifndef RAMET_ENGINE_WORKER_H
#define RAMET_ENGINE_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <systemd/sd-event.h>

#include "engine/limits.h"
#include "lib/err.h"
#include "uffd/ranges.h"
#include "vmm/control.h"

struct worker;

/* Someone who waits for CONTROL_STATS_REPLY; embedded in his own. */
struct worker_stats {
	struct worker *worker; /* NULL: does not wait */
	uint64_t number;
	/* Once; then it does not wait any more. `stats` is NULL when err is set:
	 * the worker is lost. */
	void (*done)(struct worker_stats *request, const struct control_stats *stats,
		     const struct ramet_err *err);
	TAILQ_ENTRY(worker_stats) link;
};

/* Called from the loop, as answers to what was sent; `lost` at any time, once,
 * last. NULL members are not called. */
struct worker_callbacks {
	void (*ready)(void *arg); /* jailed; worker_boot() or worker_shell() may be called */
	/* What it found out about the host; before `booted` or `shell`, and only when
	 * it was not told with worker_host(). */
	void (*host)(void *arg, const void *facts, size_t length);
	void (*booted)(void *arg);  /* the guest's first (or next) instruction is next */
	void (*channel)(void *arg); /* the guest's agent is connected */
	void (*shell)(void *arg);   /* worker_restore() may be called */
	/* worker_run() may be called. `uffds` are userfaultfds of the layers
	 * that are being filled, in their order; they are closed afterwards. */
	void (*restored)(void *arg, const struct control_restored *restored, const int *uffds,
			 size_t count);
	void (*paused)(void *arg, const struct control_paused *paused);
	void (*filled)(void *arg, const struct control_filled *filled);
	/* The worker refused `request` (enum control_type); nothing changed. */
	void (*refused)(void *arg, uint32_t request, const struct ramet_err *err);
	/* All requests that had to wait have been sent. */
	void (*drained)(void *arg);
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

struct worker_shell {
	uint64_t ram_bytes;
	int isolation;
	bool plain;
	int uffd_fd, m2p_fd; /* these stay the caller's */
};

struct worker_base {
	int bundle_fd, layer_fd; /* these stay the caller's */
	uint64_t map_at, map_bytes;
	const struct control_pages *hot;
	uint32_t hot_count;
};

struct worker_restore {
	int bundle_fd; /* these stay the caller's */
	const int *layer_fds;
	uint32_t layer_count;
	uint64_t state_bytes;
	uint64_t map_bytes;
	uint64_t filling; /* bit i: layer i still has holes */
	const struct control_pages *hot;
	uint32_t hot_count;
};

struct worker_donate {
	int layer_fd, uffd_fd; /* these stay the caller's */
	const int *source_fds; /* the layers that the worker's own memory is mapped from */
	uint32_t source_count;
	const struct control_pages *hot; /* to be copied first */
	uint32_t hot_count;
	bool hurry; /* nobody else needs the processor */
};

/* Requests; descriptors stay the caller's. What the socket does not take now
 * is sent later, in order. -EINVAL: not in the state for it; -ENOBUFS, -ENOMEM. */
int worker_host(struct worker *worker, const void *facts, size_t length, struct ramet_err *err);
int worker_boot(struct worker *worker, const struct worker_boot *boot, struct ramet_err *err);
int worker_shell(struct worker *worker, const struct worker_shell *shell, struct ramet_err *err);
/* The shell is one again, with an image stitched in, when `shell` is called. */
int worker_base(struct worker *worker, const struct worker_base *base, struct ramet_err *err);
int worker_restore(struct worker *worker, const struct worker_restore *restore,
		   struct ramet_err *err);
int worker_run(struct worker *worker, struct ramet_err *err);
int worker_pause(struct worker *worker, const struct control_pause *pause, int bundle_fd,
		 struct ramet_err *err);
int worker_resume(struct worker *worker, struct ramet_err *err);
int worker_donate(struct worker *worker, const struct worker_donate *donate, struct ramet_err *err);
/* Child `id` waits for pages in `ranges` through `uffd`. -E2BIG. */
int worker_child(struct worker *worker, uint32_t id, uint64_t base, int uffd,
		 const struct range_list *ranges, struct ramet_err *err);

/* Asks a worker with a guest. `bitmap_fd` (-1: none) is for the pages that the
 * guest wrote to, see struct control_stats. -EBUSY: it has no guest. */
int worker_ask_stats(struct worker *worker, struct worker_stats *request, int bitmap_fd,
		     struct ramet_err *err);
void worker_stats_cancel(struct worker_stats *request); /* harmless when it does not wait */

/* Whether requests wait to be sent; `drained` follows. */
bool worker_waiting(const struct worker *worker);

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
