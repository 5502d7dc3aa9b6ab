/* Free memory, back to the host.
 *
 * A pass goes through all memory in chunks, one in a round of the event loop.
 * In each it reads which pages the kernel's allocator has free
 * (/proc/kpageflags), names them to the host, and does both once more; the host
 * takes what was named twice and not written in between (guest/channel.h). No
 * memory is set aside for it, so nothing runs short.
 *
 * MSG_RECLAIM asks for a pass. The agent makes one by itself as well: half a
 * second after an exec has ended and while none runs, when much more of the
 * guest's memory is its own than after the last pass and that much is free. An
 * idle guest has no timer running. */
#ifndef RAMET_GUEST_RECLAIM_H
#define RAMET_GUEST_RECLAIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest/agent/frame.h"
#include "guest/channel.h"

struct agent;

#define RECLAIM_READ_PAGES 2048u /* page flags read at a time; divides FREE_PAGES_MAX */

struct reclaim {
	int flags_fd;     /* /proc/kpageflags; -1: nothing can be done here */
	int hypercall_fd; /* -1: the same */
	bool active;      /* a pass is under way */
	bool asked;       /* by the host: `id` is to be answered */
	uint32_t id;
	uint64_t next;   /* frame */
	uint64_t frames; /* of this guest */
	uint64_t pages, started_ns;
	uint64_t due_ns; /* when to look whether a pass is worth it; UINT64_MAX: never */
	uint64_t kept;   /* pages of the guest's own after the last pass */
	uint64_t flags[RECLAIM_READ_PAGES];
	uint64_t bitmap[FREE_PAGES_MAX / 64];
};

/* With --fd there is nobody to give memory to: MSG_RECLAIM is refused. */
void reclaim_init(struct agent *agent);

/* MSG_RECLAIM. */
void reclaim_request(struct agent *agent, const struct frame *frame);

void reclaim_exec_ended(struct agent *agent);

/* This guest is a copy: what it has to give back is none of its own memory. */
void reclaim_copied(struct agent *agent);

/* The connection ended: nobody waits for an answer. */
void reclaim_abandon(struct agent *agent);

/* When reclaim_expire() has to be called: 0 while a pass is under way. */
uint64_t reclaim_deadline(const struct agent *agent);
void reclaim_expire(struct agent *agent, uint64_t now);

#endif
