/* epoll(7): see loop.h. */
#include "guest/agent/loop.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <unistd.h>

#include "guest/agent/util.h"

#define EVENTS_PER_WAIT 16

int loop_init(struct loop *loop)
{
	int fd = epoll_create1(EPOLL_CLOEXEC);

	if (fd < 0)
		return -errno;
	loop->epoll_fd = fd;
	return 0;
}

int loop_watch(struct loop *loop, struct source *source, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = source };
	int op;

	if (source->fd < 0 || source->armed == events)
		return 0;
	/* Removed rather than set to 0: EPOLLHUP cannot be masked otherwise. */
	if (events == 0)
		op = EPOLL_CTL_DEL;
	else
		op = source->armed ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
	if (epoll_ctl(loop->epoll_fd, op, source->fd, &event) < 0)
		return -errno;
	source->armed = events;
	return 0;
}

void loop_close(struct loop *loop, struct source *source)
{
	if (source->fd < 0)
		return;
	(void)loop_watch(loop, source, 0);
	(void)close(source->fd);
	source->fd = -1;
	source->armed = 0;
}

/* Rounds up, so that a deadline has passed when the wait ends. */
static int timeout_ms(uint64_t deadline_ns)
{
	uint64_t now, ms;

	if (deadline_ns == UINT64_MAX)
		return -1;
	now = now_ns();
	if (deadline_ns <= now)
		return 0;
	ms = (deadline_ns - now + 999999) / 1000000;
	return ms > INT_MAX ? INT_MAX : (int)ms;
}

int loop_wait(struct loop *loop, struct agent *agent, uint64_t deadline_ns)
{
	struct epoll_event events[EVENTS_PER_WAIT];
	int n = epoll_wait(loop->epoll_fd, events, EVENTS_PER_WAIT, timeout_ms(deadline_ns));

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	for (int i = 0; i < n; i++) {
		struct source *source = events[i].data.ptr;

		if (source->armed)
			source->ready(agent, source, events[i].events);
	}
	return 0;
}
