/* The stream-socket transport, for tests and development: see transport.h. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#include "guest/agent/transport.h"
#include "guest/agent/util.h"

struct socket_transport {
	struct transport base;
	bool readable; /* epoll said so and no read has come up short since */
	bool full;     /* the last write came up short */
};

static struct socket_transport *socket_of(struct transport *transport)
{
	return (struct socket_transport *)(void *)transport;
}

static void socket_ready(struct agent *agent, struct source *source, uint32_t events)
{
	struct transport *transport =
		(struct transport *)(void *)((char *)source - offsetof(struct transport, source));

	(void)agent;
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		socket_of(transport)->readable = true;
	if (events & (EPOLLOUT | EPOLLERR))
		socket_of(transport)->full = false;
}

static ssize_t socket_read(struct transport *transport, void *buf, size_t size)
{
	struct socket_transport *s = socket_of(transport);
	ssize_t n;

	if (!s->readable)
		return -EAGAIN;
	n = recv(transport->source.fd, buf, size, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		s->readable = false;
	else if (n > 0 && (size_t)n < size)
		s->readable = false; /* epoll tells of the rest */
	return n < 0 ? -errno : n;
}

static ssize_t socket_write(struct transport *transport, const void *buf, size_t len)
{
	struct socket_transport *s = socket_of(transport);
	ssize_t n;

	if (s->full)
		return -EAGAIN;
	n = send(transport->source.fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0)
		s->full = errno == EAGAIN;
	else
		s->full = (size_t)n < len;
	return n < 0 ? -errno : n;
}

static bool socket_prepare(struct transport *transport, struct loop *loop, bool want_data,
			   bool want_room)
{
	struct socket_transport *s = socket_of(transport);
	uint32_t events =
		(want_data ? (uint32_t)EPOLLIN : 0) | (want_room ? (uint32_t)EPOLLOUT : 0);

	(void)loop_watch(loop, &transport->source, events);
	return want_data && s->readable;
}

static void socket_end(struct transport *transport, struct loop *loop)
{
	loop_close(loop, &transport->source);
}

static const struct transport_ops socket_ops = {
	.read = socket_read,
	.write = socket_write,
	.prepare = socket_prepare,
	.end = socket_end,
};

int transport_socket(struct transport **transport, int fd)
{
	struct socket_transport *s;
	int type;
	socklen_t len = sizeof(type);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return -errno;
	if (type != SOCK_STREAM)
		return -EPROTOTYPE;
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return -errno;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->base.ops = &socket_ops;
	s->base.source = (struct source){ .fd = fd, .ready = socket_ready };
	*transport = &s->base;
	return 0;
}
