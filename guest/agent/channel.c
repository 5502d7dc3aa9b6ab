/* The guest's side of guest/channel.h: see transport.h.
 *
 * Interfaces: <xen/gntalloc.h>, <xen/evtchn.h>. */
#include "guest/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "guest/agent/hypercall.h"
#include "guest/agent/ring.h"
#include "guest/agent/transport.h"
#include "guest/agent/util.h"

typedef uint16_t domid_t; /* for evtchn.h */
#include <xen/evtchn.h>
#include <xen/gntalloc.h>

#define RING_PAGES    32u
#define CHANNEL_PAGES (1 + 2 * RING_PAGES)
#define HOST_DOMAIN   0

struct channel_transport {
	struct transport base; /* its source is /dev/xen/evtchn */
	struct channel_control *control;
	struct ring to_host, to_guest;
	uint32_t port;
	bool notify; /* the host waits for what was moved */
};

static struct channel_transport *channel_of(struct transport *transport)
{
	return (struct channel_transport *)(void *)transport;
}

/* The event only ends the sleep; the rings say what there is to do. Writing
 * the port back unmasks it. */
static void channel_ready(struct agent *agent, struct source *source, uint32_t events)
{
	uint32_t port;

	(void)agent;
	(void)events;
	if (read(source->fd, &port, sizeof(port)) == (ssize_t)sizeof(port) &&
	    write(source->fd, &port, sizeof(port)) < 0)
		agent_log("event channel: cannot unmask port %u: %s", port, strerror(errno));
}

static ssize_t channel_read(struct transport *transport, void *buf, size_t size)
{
	struct channel_transport *c = channel_of(transport);
	ssize_t n = ring_read(&c->to_guest, buf, size, &c->notify);

	return n == 0 ? -EAGAIN : n;
}

static ssize_t channel_write(struct transport *transport, const void *buf, size_t len)
{
	struct channel_transport *c = channel_of(transport);
	ssize_t n = ring_write(&c->to_host, buf, len, &c->notify);

	return n == 0 ? -EAGAIN : n;
}

static void channel_notify(struct channel_transport *c)
{
	struct ioctl_evtchn_notify notify = { .port = c->port };

	c->notify = false;
	if (ioctl(c->base.source.fd, IOCTL_EVTCHN_NOTIFY, &notify) < 0)
		agent_log("event channel: cannot notify: %s", strerror(errno));
}

static bool channel_prepare(struct transport *transport, struct loop *loop, bool want_data,
			    bool want_room)
{
	struct channel_transport *c = channel_of(transport);
	bool work = false;

	(void)loop_watch(loop, &transport->source, EPOLLIN);
	if (c->notify)
		channel_notify(c);
	if (want_data)
		work |= ring_wait_data(&c->to_guest);
	if (want_room)
		work |= ring_wait_room(&c->to_host);
	return work;
}

/* The pages stay: the host may still look at them. */
static void channel_end(struct transport *transport, struct loop *loop)
{
	struct channel_transport *c = channel_of(transport);

	ring_poison(&c->to_host);
	channel_notify(c);
	loop_close(loop, &transport->source);
}

static const struct transport_ops channel_ops = {
	.read = channel_read,
	.write = channel_write,
	.prepare = channel_prepare,
	.end = channel_end,
};

/* Maps the control page and the data pages, one after the other, and records
 * the data pages' grant references in the control page. The pages outlive the
 * descriptor; the mapping keeps them granted. */
static int pages_map(struct channel_transport *c, uint32_t *control_ref, const char **what)
{
	cleanup_close int fd = open("/dev/xen/gntalloc", O_RDWR | O_CLOEXEC);
	union {
		struct ioctl_gntalloc_alloc_gref request;
		uint8_t room[sizeof(struct ioctl_gntalloc_alloc_gref) +
			     CHANNEL_PAGES * sizeof(uint32_t)];
	} alloc = { .request = { .domid = HOST_DOMAIN,
				 .flags = GNTALLOC_FLAG_WRITABLE,
				 .count = CHANNEL_PAGES } };
	uint32_t refs[CHANNEL_PAGES];
	uint8_t *pages;

	*what = "/dev/xen/gntalloc";
	if (fd < 0 || ioctl(fd, IOCTL_GNTALLOC_ALLOC_GREF, &alloc) < 0)
		return -errno;
	memcpy(refs, alloc.room + offsetof(struct ioctl_gntalloc_alloc_gref, gref_ids),
	       sizeof(refs));
	pages = mmap(NULL, (size_t)CHANNEL_PAGES * CHANNEL_PAGE_SIZE, PROT_READ | PROT_WRITE,
		     MAP_SHARED, fd, (off_t)alloc.request.index);
	*what = "the channel's pages";
	if (pages == MAP_FAILED)
		return -errno;
	memset(pages, 0, (size_t)CHANNEL_PAGES * CHANNEL_PAGE_SIZE);
	c->control = (struct channel_control *)(void *)pages;
	c->control->magic = CHANNEL_MAGIC;
	c->control->ring_pages = RING_PAGES;
	memcpy(c->control->refs, refs + 1, 2 * RING_PAGES * sizeof(refs[0]));
	c->to_host = (struct ring){ .shared = &c->control->to_host,
				    .data = pages + CHANNEL_PAGE_SIZE,
				    .size = RING_PAGES * CHANNEL_PAGE_SIZE };
	c->to_guest = (struct ring){ .shared = &c->control->to_guest,
				     .data = c->to_host.data + c->to_host.size,
				     .size = RING_PAGES * CHANNEL_PAGE_SIZE };
	*control_ref = refs[0];
	return 0;
}

static int port_bind(struct channel_transport *c, const char **what)
{
	struct ioctl_evtchn_bind_unbound_port bind = { .remote_domain = HOST_DOMAIN };
	int fd = open("/dev/xen/evtchn", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	int port;

	*what = "/dev/xen/evtchn";
	if (fd < 0)
		return -errno;
	c->base.source = (struct source){ .fd = fd, .ready = channel_ready };
	port = ioctl(fd, IOCTL_EVTCHN_BIND_UNBOUND_PORT, &bind);
	if (port < 0)
		return -errno;
	c->port = (uint32_t)port;
	return 0;
}

static int channel_register(const struct channel_transport *c, uint32_t control_ref,
			    const char **what)
{
	cleanup_close int fd = hypercall_open();
	int answer;

	*what = "/dev/xen/privcmd";
	if (fd < 0)
		return fd;
	answer = hypercall_make(fd, RAMET_OP_CHANNEL, control_ref, c->port, 0);
	return answer < 0 ? answer : 0;
}

int transport_channel(struct transport **transport, const char **what)
{
	struct channel_transport *c = calloc(1, sizeof(*c));
	uint32_t control_ref;
	int err;

	*what = "memory";
	if (!c)
		return -ENOMEM;
	c->base.source.fd = -1;
	err = pages_map(c, &control_ref, what);
	if (!err)
		err = port_bind(c, what);
	if (!err)
		err = channel_register(c, control_ref, what);
	if (err) {
		/* The guest powers off next: its pages go with it. */
		cleanup_closep(&c->base.source.fd);
		free(c);
		return err;
	}
	c->base.ops = &channel_ops;
	*transport = &c->base;
	return 0;
}
