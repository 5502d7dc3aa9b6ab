/* The host's end of the agent channel: see channel.h. */
#include "vmm/channel.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "vmm/evtchn.h"
#include "vmm/grant.h"

static struct channel_control *control_get(const struct machine *m)
{
	return guest_ram_ptr(&m->mem, m->pv.channel.control_gpa, sizeof(struct channel_control));
}

static uint32_t ring_size(const struct machine *m)
{
	return m->pv.channel.ring_pages * CHANNEL_PAGE_SIZE;
}

int channel_connect(struct machine *m, uint32_t control_gref, uint32_t port)
{
	struct channel_state c = { .connected = true, .port = port, .control_gref = control_gref };
	struct channel_control control;
	int rc;

	if (m->pv.channel.connected)
		return -EBUSY;
	if (port >= EVTCHN_PORTS || m->pv.ports[port].kind != EVTCHN_UNBOUND)
		return -EINVAL;
	rc = grant_page(m, control_gref, &c.control_gpa);
	if (rc)
		return rc;
	rc = guest_read(&m->mem, c.control_gpa, &control, sizeof(control));
	if (rc)
		return rc;
	if (control.magic != CHANNEL_MAGIC || !control.ring_pages ||
	    control.ring_pages > CHANNEL_RING_PAGES_MAX ||
	    (control.ring_pages & (control.ring_pages - 1)))
		return -EINVAL;
	c.ring_pages = control.ring_pages;
	for (uint32_t i = 0; i < 2 * c.ring_pages; i++) {
		rc = grant_page(m, control.refs[i], &c.data_gpa[i]);
		if (rc)
			return rc;
	}
	c.to_host_cons = control.to_host.cons;
	c.to_guest_prod = control.to_guest.prod;
	m->pv.channel = c;
	if (m->sink.channel_connected)
		m->sink.channel_connected(m->sink.arg);
	channel_pump(m);
	return 0;
}

/* A guest without its agent is of no use to anybody: it ends. */
static void channel_disconnect(struct machine *m, const char *why)
{
	memset(&m->pv.channel, 0, sizeof(m->pv.channel));
	machine_end(m, END_GUEST_FAULT, "%s", why);
}

void channel_port_closed(struct machine *m, uint32_t port)
{
	if (m->pv.channel.connected && m->pv.channel.port == port)
		channel_disconnect(m, "the guest closed its agent channel");
}

/* Describes `len` bytes of a ring from index `at` as iovecs, one per page. */
static int ring_iov(const struct machine *m, bool to_guest, uint32_t at, uint32_t len,
		    struct iovec *iov)
{
	const uint64_t *pages = m->pv.channel.data_gpa + (to_guest ? m->pv.channel.ring_pages : 0);
	int n = 0;

	while (len) {
		uint32_t offset = at % ring_size(m);
		uint32_t chunk = CHANNEL_PAGE_SIZE - offset % CHANNEL_PAGE_SIZE;
		uint8_t *page = guest_ram_ptr(&m->mem, pages[offset / CHANNEL_PAGE_SIZE],
					      CHANNEL_PAGE_SIZE);

		if (chunk > len)
			chunk = len;
		iov[n].iov_base = page + offset % CHANNEL_PAGE_SIZE;
		iov[n++].iov_len = chunk;
		at += chunk;
		len -= chunk;
	}
	return n;
}

/* Returns true when the peer should be notified. */
static bool waiter_clear(uint32_t *waits)
{
	return __atomic_exchange_n(waits, 0, __ATOMIC_SEQ_CST) != 0;
}

static bool pump_to_host(struct machine *m, struct channel_control *control)
{
	struct channel_state *c = &m->pv.channel;
	struct channel_ring *ring = &control->to_host;
	bool notify = false;

	for (;;) {
		struct iovec iov[CHANNEL_RING_PAGES_MAX + 1];
		uint32_t prod = __atomic_load_n(&ring->prod, __ATOMIC_SEQ_CST);
		uint32_t used = prod - c->to_host_cons;
		struct msghdr msg = { .msg_iov = iov };
		ssize_t n;

		if (used > ring_size(m)) {
			channel_disconnect(m, "the guest broke its agent channel");
			return false;
		}
		if (!used) {
			/* Ask to be told, then look once more. */
			if (__atomic_exchange_n(&ring->reader_waits, 1, __ATOMIC_SEQ_CST))
				return notify;
			continue;
		}
		msg.msg_iovlen = (size_t)ring_iov(m, false, c->to_host_cons, used, iov);
		n = sendmsg(m->channel_fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return notify; /* SIGIO tells when there is room */
		if (n < 0)
			n = used; /* nobody reads any more: the bytes go nowhere */
		m->stats.channel_to_host += (uint64_t)n;
		c->to_host_cons += (uint32_t)n;
		__atomic_store_n(&ring->cons, c->to_host_cons, __ATOMIC_SEQ_CST);
		notify |= waiter_clear(&ring->writer_waits);
	}
}

static bool pump_to_guest(struct machine *m, struct channel_control *control)
{
	struct channel_state *c = &m->pv.channel;
	struct channel_ring *ring = &control->to_guest;
	bool notify = false;

	while (!m->channel_eof) {
		struct iovec iov[CHANNEL_RING_PAGES_MAX + 1];
		uint32_t cons = __atomic_load_n(&ring->cons, __ATOMIC_SEQ_CST);
		uint32_t used = c->to_guest_prod - cons;
		struct msghdr msg = { .msg_iov = iov };
		ssize_t n;

		if (used > ring_size(m)) {
			channel_disconnect(m, "the guest broke its agent channel");
			return false;
		}
		if (used == ring_size(m)) {
			if (__atomic_exchange_n(&ring->writer_waits, 1, __ATOMIC_SEQ_CST))
				return notify;
			continue;
		}
		msg.msg_iovlen =
			(size_t)ring_iov(m, true, c->to_guest_prod, ring_size(m) - used, iov);
		n = recvmsg(m->channel_fd, &msg, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return notify;
		if (n == 0) {
			m->channel_eof = true;
			return notify;
		}
		m->stats.channel_to_guest += (uint64_t)n;
		c->to_guest_prod += (uint32_t)n;
		__atomic_store_n(&ring->prod, c->to_guest_prod, __ATOMIC_SEQ_CST);
		notify |= waiter_clear(&ring->reader_waits);
	}
	return notify;
}

void channel_pump(struct machine *m)
{
	struct channel_control *control;
	bool notify;

	if (!m->pv.channel.connected || m->channel_fd < 0)
		return;
	control = control_get(m);
	notify = pump_to_host(m, control);
	if (m->pv.channel.connected)
		notify |= pump_to_guest(m, control);
	if (m->pv.channel.connected && notify)
		evtchn_raise(m, m->pv.channel.port);
}
