/* The agent's event loop: descriptors in one epoll set, level-triggered. */
#ifndef RAMET_GUEST_LOOP_H
#define RAMET_GUEST_LOOP_H

#include <stdint.h>
#include <sys/epoll.h>

struct agent;

/* One watched descriptor. Lives in static storage: a ready() that comes late,
 * after the descriptor was closed or replaced, must find nothing to do and
 * return. */
struct source {
	int fd;         /* -1: none */
	uint32_t armed; /* events in the set; 0: not in the set */
	void (*ready)(struct agent *agent, struct source *source, uint32_t events);
};

struct loop {
	int epoll_fd;
};

/* Returns 0 or -errno. */
int loop_init(struct loop *loop);

/* Watches `source` for `events` (EPOLLIN, EPOLLOUT; 0: not at all); does
 * nothing when that is so already. Returns 0 or -errno. */
int loop_watch(struct loop *loop, struct source *source, uint32_t events);

/* Stops watching and closes; harmless when there is no descriptor. */
void loop_close(struct loop *loop, struct source *source);

/* Waits until something is ready or CLOCK_MONOTONIC reaches `deadline_ns`
 * (UINT64_MAX: no limit), then calls every ready source once. */
int loop_wait(struct loop *loop, struct agent *agent, uint64_t deadline_ns);

#endif
