/* Event channels: see evtchn.h. */
#include "vmm/evtchn.h"

#include <errno.h>
#include <string.h>

#include "vmm/channel.h"
#include "vmm/console.h"
#include "vmm/mmu.h"

#define PORT_STORE         1u
#define PORT_CONSOLE       2u
#define PORT_DYNAMIC_FIRST 3u

struct vcpu_info *vcpu_info_get(const struct machine *m)
{
	return guest_ptr(&m->mem, m->pv.vcpu_info_gpa, sizeof(struct vcpu_info));
}

struct shared_info *shared_info_get(const struct machine *m)
{
	return guest_ptr(&m->mem, guest_pv_page_gpa(&m->mem, PV_PAGE_SHARED_INFO),
			 sizeof(struct shared_info));
}

int vcpu_info_register(struct machine *m, uint64_t frame, uint32_t offset)
{
	struct vcpu_info *info;

	if (frame >= guest_frames(&m->mem) || offset > PAGE_SIZE - sizeof(*info) || offset % 8)
		return -EINVAL;
	info = guest_ptr(&m->mem, (frame << PAGE_SHIFT) + offset, sizeof(*info));
	if (!info)
		return -EINVAL;
	*info = *vcpu_info_get(m);
	m->pv.vcpu_info_gpa = (frame << PAGE_SHIFT) + offset;
	/* Let the guest look at every port once: none may be lost in the move. */
	info->evtchn_pending_sel = ~0ul;
	info->evtchn_upcall_pending = 1;
	m->ops->pv_changed(m);
	return 0;
}

void evtchn_init(struct machine *m)
{
	struct shared_info *shared = shared_info_get(m);

	m->pv.vcpu_info_gpa = guest_pv_page_gpa(&m->mem, PV_PAGE_SHARED_INFO);
	memset(shared->evtchn_mask, 0xff, sizeof(shared->evtchn_mask));
	for (unsigned int i = 0; i < XEN_LEGACY_MAX_VCPUS; i++)
		shared->vcpu_info[i].evtchn_upcall_mask = 1;
	m->pv.ports[0].kind = EVTCHN_RESERVED;
	m->pv.ports[PORT_STORE].kind = EVTCHN_RESERVED;
	m->pv.ports[PORT_CONSOLE].kind = EVTCHN_RESERVED;
	m->pv.console_port = PORT_CONSOLE;
}

static void signal_upcall(struct machine *m, uint32_t port)
{
	struct vcpu_info *info = vcpu_info_get(m);

	__atomic_fetch_or(&info->evtchn_pending_sel, 1ul << (port / 64), __ATOMIC_SEQ_CST);
	__atomic_store_n(&info->evtchn_upcall_pending, 1, __ATOMIC_SEQ_CST);
}

void evtchn_raise(struct machine *m, uint32_t port)
{
	struct shared_info *shared = shared_info_get(m);
	unsigned long bit = 1ul << (port % 64);

	if (!port || port >= EVTCHN_PORTS)
		return;
	if (__atomic_fetch_or(&shared->evtchn_pending[port / 64], bit, __ATOMIC_SEQ_CST) & bit)
		return;
	if (!(__atomic_load_n(&shared->evtchn_mask[port / 64], __ATOMIC_SEQ_CST) & bit))
		signal_upcall(m, port);
}

void evtchn_raise_virq(struct machine *m, uint32_t virq)
{
	if (virq < EVTCHN_VIRQS && m->pv.virq_port[virq])
		evtchn_raise(m, m->pv.virq_port[virq]);
}

static int port_alloc(struct machine *m, enum evtchn_kind kind, uint32_t *port)
{
	for (uint32_t i = PORT_DYNAMIC_FIRST; i < EVTCHN_PORTS; i++) {
		if (m->pv.ports[i].kind != EVTCHN_FREE)
			continue;
		m->pv.ports[i] = (struct evtchn_port){ .kind = (uint8_t)kind };
		*port = i;
		return 0;
	}
	return -ENOSPC;
}

static int bind_virq(struct machine *m, struct evtchn_bind_virq *b)
{
	uint32_t port = 0;
	int rc;

	if (b->virq >= EVTCHN_VIRQS)
		return -EINVAL;
	if (b->vcpu != 0)
		return -ENOENT;
	if (m->pv.virq_port[b->virq])
		return -EEXIST;
	rc = port_alloc(m, EVTCHN_VIRQ, &port);
	if (rc)
		return rc;
	m->pv.ports[port].virq = (uint8_t)b->virq;
	m->pv.virq_port[b->virq] = (uint16_t)port;
	b->port = port;
	return 0;
}

static bool is_self(domid_t dom)
{
	return dom == DOMID_SELF || dom == 1;
}

static int bind_interdomain(struct machine *m, struct evtchn_bind_interdomain *b)
{
	uint32_t port = 0;
	int rc;

	if (!is_self(b->remote_dom))
		return -ESRCH;
	if (b->remote_port >= EVTCHN_PORTS || m->pv.ports[b->remote_port].kind != EVTCHN_UNBOUND)
		return -EINVAL;
	rc = port_alloc(m, EVTCHN_LOCAL, &port);
	if (rc)
		return rc;
	m->pv.ports[port].peer = (uint16_t)b->remote_port;
	m->pv.ports[b->remote_port] =
		(struct evtchn_port){ .kind = EVTCHN_LOCAL, .peer = (uint16_t)port };
	b->local_port = port;
	return 0;
}

static int port_close(struct machine *m, uint32_t port)
{
	struct shared_info *shared = shared_info_get(m);
	struct evtchn_port *p;

	if (port >= EVTCHN_PORTS)
		return -EINVAL;
	p = &m->pv.ports[port];
	if (p->kind == EVTCHN_FREE || p->kind == EVTCHN_RESERVED)
		return -EINVAL;
	if (p->kind == EVTCHN_VIRQ)
		m->pv.virq_port[p->virq] = 0;
	if (p->kind == EVTCHN_LOCAL)
		m->pv.ports[p->peer] = (struct evtchn_port){ .kind = EVTCHN_UNBOUND };
	channel_port_closed(m, port);
	*p = (struct evtchn_port){ 0 };
	__atomic_fetch_and(&shared->evtchn_pending[port / 64], ~(1ul << (port % 64)),
			   __ATOMIC_SEQ_CST);
	return 0;
}

static int port_send(struct machine *m, uint32_t port)
{
	if (port >= EVTCHN_PORTS)
		return -EINVAL;
	if (port == m->pv.console_port) {
		console_drain(m);
		return 0;
	}
	if (m->pv.channel.connected && port == m->pv.channel.port) {
		channel_pump(m);
		return 0;
	}
	switch (m->pv.ports[port].kind) {
	case EVTCHN_IPI:
		evtchn_raise(m, port);
		return 0;
	case EVTCHN_LOCAL:
		evtchn_raise(m, m->pv.ports[port].peer);
		return 0;
	case EVTCHN_UNBOUND:
	case EVTCHN_RESERVED:
		return 0; /* nobody listens */
	default:
		return -EINVAL;
	}
}

static int port_status(const struct machine *m, struct evtchn_status *s)
{
	static const uint8_t status[] = {
		[EVTCHN_FREE] = EVTCHNSTAT_closed,     [EVTCHN_RESERVED] = EVTCHNSTAT_interdomain,
		[EVTCHN_UNBOUND] = EVTCHNSTAT_unbound, [EVTCHN_VIRQ] = EVTCHNSTAT_virq,
		[EVTCHN_IPI] = EVTCHNSTAT_ipi,         [EVTCHN_LOCAL] = EVTCHNSTAT_interdomain,
	};
	const struct evtchn_port *p;

	if (!is_self(s->dom))
		return -ESRCH;
	if (s->port >= EVTCHN_PORTS)
		return -EINVAL;
	p = &m->pv.ports[s->port];
	s->status = status[p->kind];
	s->vcpu = 0;
	if (p->kind == EVTCHN_VIRQ)
		s->u.virq = p->virq;
	if (p->kind == EVTCHN_LOCAL) {
		s->u.interdomain.dom = 1;
		s->u.interdomain.port = p->peer;
	}
	return 0;
}

static int port_unmask(struct machine *m, uint32_t port)
{
	struct shared_info *shared = shared_info_get(m);
	unsigned long bit = 1ul << (port % 64);

	if (port >= EVTCHN_PORTS)
		return -EINVAL;
	__atomic_fetch_and(&shared->evtchn_mask[port / 64], ~bit, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&shared->evtchn_pending[port / 64], __ATOMIC_SEQ_CST) & bit)
		signal_upcall(m, port);
	return 0;
}

static int alloc_unbound(struct machine *m, struct evtchn_alloc_unbound *a)
{
	uint32_t port = 0;
	int rc;

	if (!is_self(a->dom))
		return -EPERM;
	rc = port_alloc(m, EVTCHN_UNBOUND, &port);
	if (!rc)
		a->port = port;
	return rc;
}

static int bind_ipi(struct machine *m, struct evtchn_bind_ipi *b)
{
	uint32_t port = 0;
	int rc;

	if (b->vcpu != 0)
		return -ENOENT;
	rc = port_alloc(m, EVTCHN_IPI, &port);
	if (!rc)
		b->port = port;
	return rc;
}

union evtchn_arg {
	struct evtchn_bind_virq bind_virq;
	struct evtchn_bind_ipi bind_ipi;
	struct evtchn_bind_interdomain bind_interdomain;
	struct evtchn_alloc_unbound alloc_unbound;
	struct evtchn_close close;
	struct evtchn_send send;
	struct evtchn_status status;
	struct evtchn_bind_vcpu bind_vcpu;
	struct evtchn_unmask unmask;
};

static size_t arg_size(uint64_t command)
{
	switch (command) {
	case EVTCHNOP_bind_virq:
		return sizeof(struct evtchn_bind_virq);
	case EVTCHNOP_bind_ipi:
		return sizeof(struct evtchn_bind_ipi);
	case EVTCHNOP_bind_interdomain:
		return sizeof(struct evtchn_bind_interdomain);
	case EVTCHNOP_alloc_unbound:
		return sizeof(struct evtchn_alloc_unbound);
	case EVTCHNOP_close:
		return sizeof(struct evtchn_close);
	case EVTCHNOP_send:
		return sizeof(struct evtchn_send);
	case EVTCHNOP_status:
		return sizeof(struct evtchn_status);
	case EVTCHNOP_bind_vcpu:
		return sizeof(struct evtchn_bind_vcpu);
	case EVTCHNOP_unmask:
		return sizeof(struct evtchn_unmask);
	default:
		return 0; /* among others the FIFO ABI's: Linux then uses two levels */
	}
}

static int dispatch(struct machine *m, uint64_t command, union evtchn_arg *a)
{
	switch (command) {
	case EVTCHNOP_bind_virq:
		return bind_virq(m, &a->bind_virq);
	case EVTCHNOP_bind_ipi:
		return bind_ipi(m, &a->bind_ipi);
	case EVTCHNOP_bind_interdomain:
		return bind_interdomain(m, &a->bind_interdomain);
	case EVTCHNOP_alloc_unbound:
		return alloc_unbound(m, &a->alloc_unbound);
	case EVTCHNOP_close:
		return port_close(m, a->close.port);
	case EVTCHNOP_send:
		return port_send(m, a->send.port);
	case EVTCHNOP_status:
		return port_status(m, &a->status);
	case EVTCHNOP_unmask:
		return port_unmask(m, a->unmask.port);
	default: /* EVTCHNOP_bind_vcpu: there is one */
		return a->bind_vcpu.vcpu ? -ENOENT : 0;
	}
}

int64_t evtchn_hypercall(struct machine *m, uint64_t command, uint64_t arg)
{
	union evtchn_arg a;
	size_t size = arg_size(command);
	int rc;

	if (!size)
		return -ENOSYS;
	if (mmu_copy_in(m, &a, arg, size))
		return -EFAULT;
	rc = dispatch(m, command, &a);
	if (!rc && mmu_copy_out(m, arg, &a, size))
		return -EFAULT;
	return rc;
}
