/* Where the host's byte stream comes from: the channel rings in a guest, a
 * stream socket in tests. */
#ifndef RAMET_GUEST_TRANSPORT_H
#define RAMET_GUEST_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "guest/agent/loop.h"

struct transport;

struct transport_ops {
	/* Bytes read (> 0), -EAGAIN, 0 when the host is gone, -errno. */
	ssize_t (*read)(struct transport *transport, void *buf, size_t size);
	/* Bytes taken (> 0), -EAGAIN, -errno. The host may not notice before
	 * the next prepare(). */
	ssize_t (*write)(struct transport *transport, const void *buf, size_t len);
	/* Before the agent sleeps: notifies the host of what was moved and asks
	 * to be woken for data and/or room. Returns true when there is work
	 * already and the agent must not sleep. */
	bool (*prepare)(struct transport *transport, struct loop *loop, bool want_data,
			bool want_room);
	/* Ends the connection so that the host sees it. */
	void (*end)(struct transport *transport, struct loop *loop);
};

struct transport {
	const struct transport_ops *ops;
	struct source source;
};

/* A connected SOCK_STREAM socket, which becomes the transport's.
 * Returns 0 or -errno. */
int transport_socket(struct transport **transport, int fd);

/* The channel of guest/channel.h: allocates and registers it with the host.
 * Returns 0 or -errno, with what failed in *what. */
int transport_channel(struct transport **transport, const char **what);

#endif
