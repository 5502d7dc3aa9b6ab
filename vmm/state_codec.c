/* Machine state as bytes: see state.h.
 *
 * Every section is described once, by a function that visits its fields; the
 * same function writes and reads, so the two cannot differ. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "lib/cleanup.h"
#include "vmm/state.h"

#define HEADER_VERSION       8
#define HEADER_RESERVED      12
#define HEADER_LENGTH        16
#define HEADER_CHECKSUM      24
#define SECTION_HEADER_BYTES 8u

struct codec {
	uint8_t *out; /* NULL: reading */
	const uint8_t *in;
	size_t at, end;
	bool failed; /* ran past the end, or met a value without meaning */
};

/* One little-endian integer of `size` bytes. Returns what the field holds now. */
static uint64_t integer(struct codec *c, uint64_t value, size_t size)
{
	if (c->failed || size > c->end - c->at) {
		c->failed = true;
		return 0;
	}
	if (c->out) {
		for (size_t i = 0; i < size; i++)
			c->out[c->at + i] = (uint8_t)(value >> (8 * i));
	} else {
		value = 0;
		for (size_t i = 0; i < size; i++)
			value |= (uint64_t)c->in[c->at + i] << (8 * i);
	}
	c->at += size;
	return value;
}

#define FIELD(c, lvalue)                                                                           \
	((lvalue) = (__typeof__(lvalue))integer((c), (uint64_t)(lvalue), sizeof(lvalue)))

static void flag(struct codec *c, bool *value)
{
	uint64_t v = integer(c, *value, 1);

	if (v > 1)
		c->failed = true;
	*value = v == 1;
}

static void bytes(struct codec *c, uint8_t *data, size_t len)
{
	if (c->failed || len > c->end - c->at) {
		c->failed = true;
		return;
	}
	if (c->out)
		memcpy(c->out + c->at, data, len);
	else
		memcpy(data, c->in + c->at, len);
	c->at += len;
}

/* ---- sections ---- */

static void machine_fields(struct codec *c, struct machine_state *s)
{
	uint32_t isolation = s->isolation;

	FIELD(c, s->ram_bytes);
	FIELD(c, isolation);
	s->isolation = (enum isolation_mode)isolation;
	FIELD(c, s->tsc_khz);
	FIELD(c, s->exposed_xcr0);
	FIELD(c, s->cpuid_hash);
}

static void vcpu_fields(struct codec *c, struct machine_state *s)
{
	struct vcpu *v = &s->vcpu;
	struct kvm_regs *r = &v->regs;
	__u64 *const regs[] = { &r->rax, &r->rbx, &r->rcx, &r->rdx, &r->rsi,    &r->rdi,
				&r->rsp, &r->rbp, &r->r8,  &r->r9,  &r->r10,    &r->r11,
				&r->r12, &r->r13, &r->r14, &r->r15, &r->rflags, &r->rip };

	for (size_t i = 0; i < sizeof(regs) / sizeof(regs[0]); i++)
		FIELD(c, *regs[i]);
	FIELD(c, v->cs);
	for (size_t i = 0; i < STATE_SELECTORS; i++)
		FIELD(c, s->selectors[i]);
	flag(c, &v->kernel_mode);
	flag(c, &s->blocked);
	FIELD(c, v->kernel_cr3);
	FIELD(c, v->user_cr3);
	FIELD(c, v->kernel_sp);
	FIELD(c, s->base_fs);
	FIELD(c, s->base_gs_kernel);
	FIELD(c, s->base_gs_user);
	for (size_t i = 0; i < sizeof(s->pv.debugreg) / sizeof(s->pv.debugreg[0]); i++)
		FIELD(c, s->pv.debugreg[i]);
}

static void fpu_fields(struct codec *c, struct machine_state *s)
{
	FIELD(c, s->xcr0);
	bytes(c, s->xsave, sizeof(s->xsave));
}

static void time_fields(struct codec *c, struct machine_state *s)
{
	FIELD(c, s->system_time_ns);
	FIELD(c, s->wall_time_ns);
	FIELD(c, s->pv.timer_deadline);
	FIELD(c, s->pv.time_info_gpa);
}

/* Vectors that have a gate, in ascending order. */
static void trap_fields(struct codec *c, struct machine_state *s)
{
	struct trap_gate *gates = s->pv.traps;
	uint16_t count = 0;
	unsigned int next = 0;

	FIELD(c, s->pv.event_callback);
	FIELD(c, s->pv.failsafe_callback);
	FIELD(c, s->pv.syscall_callback);
	flag(c, &s->pv.syscall_masks_events);
	for (unsigned int i = 0; c->out && i < TRAP_VECTORS; i++)
		count = (uint16_t)(count + (gates[i].address != 0));
	FIELD(c, count);
	for (; count && !c->failed; count--) {
		uint8_t vector;

		while (c->out && !gates[next].address)
			next++;
		vector = (uint8_t)next;
		FIELD(c, vector);
		if (vector < next || next >= TRAP_VECTORS) {
			c->failed = true;
			return;
		}
		FIELD(c, gates[vector].address);
		FIELD(c, gates[vector].dpl);
		flag(c, &gates[vector].masks_events);
		c->failed |= !gates[vector].address;
		next = vector + 1u;
	}
}

/* Ports in use, in ascending order. Which port a VIRQ has follows from them. */
static void port_fields(struct codec *c, struct machine_state *s)
{
	struct evtchn_port *ports = s->pv.ports;
	uint16_t count = 0;
	unsigned int next = 0;

	FIELD(c, s->pv.vcpu_info_gpa);
	FIELD(c, s->pv.console_gpa);
	FIELD(c, s->pv.console_port);
	for (unsigned int i = 0; c->out && i < EVTCHN_PORTS; i++)
		count = (uint16_t)(count + (ports[i].kind != EVTCHN_FREE));
	FIELD(c, count);
	for (; count && !c->failed; count--) {
		uint16_t port;

		while (c->out && ports[next].kind == EVTCHN_FREE)
			next++;
		port = (uint16_t)next;
		FIELD(c, port);
		if (port < next || port >= EVTCHN_PORTS) {
			c->failed = true;
			return;
		}
		FIELD(c, ports[port].kind);
		FIELD(c, ports[port].virq);
		FIELD(c, ports[port].peer);
		c->failed |= ports[port].kind == EVTCHN_FREE;
		next = port + 1u;
	}
}

static void virqs_derive(struct pv_state *pv)
{
	memset(pv->virq_port, 0, sizeof(pv->virq_port));
	for (unsigned int i = 0; i < EVTCHN_PORTS; i++)
		if (pv->ports[i].kind == EVTCHN_VIRQ && pv->ports[i].virq < EVTCHN_VIRQS)
			pv->virq_port[pv->ports[i].virq] = (uint16_t)i;
}

static void channel_fields(struct codec *c, struct machine_state *s)
{
	struct channel_state *ch = &s->pv.channel;

	FIELD(c, s->pv.grant_frames);
	flag(c, &ch->connected);
	if (!ch->connected)
		return;
	FIELD(c, ch->port);
	FIELD(c, ch->control_gref);
	FIELD(c, ch->control_gpa);
	FIELD(c, ch->to_host_cons);
	FIELD(c, ch->to_guest_prod);
	FIELD(c, ch->ring_pages);
	if (ch->ring_pages > CHANNEL_RING_PAGES_MAX) {
		c->failed = true;
		return;
	}
	for (uint32_t i = 0; i < 2 * ch->ring_pages; i++)
		FIELD(c, ch->data_gpa[i]);
}

struct section {
	char tag[5];
	void (*fields)(struct codec *c, struct machine_state *s);
};

static const struct section sections[] = {
	{ "mach", machine_fields }, { "vcpu", vcpu_fields }, { "fpu ", fpu_fields },
	{ "time", time_fields },    { "trap", trap_fields }, { "port", port_fields },
	{ "chan", channel_fields },
};

#define SECTION_COUNT (sizeof(sections) / sizeof(sections[0]))

/* ---- the whole ---- */

static void section_write(struct codec *c, const struct section *section, struct machine_state *s)
{
	size_t start = c->at;
	struct codec header;
	uint32_t length;

	if (c->end - c->at < SECTION_HEADER_BYTES) {
		c->failed = true;
		return;
	}
	memcpy(c->out + c->at, section->tag, 4);
	c->at += SECTION_HEADER_BYTES;
	section->fields(c, s);
	header = (struct codec){ .out = c->out, .at = start + 4, .end = c->end };
	length = (uint32_t)(c->at - start - SECTION_HEADER_BYTES);
	FIELD(&header, length);
}

static void header_write(uint8_t *data, size_t len)
{
	struct codec c = { .out = data, .at = HEADER_VERSION, .end = STATE_HEADER_BYTES };
	uint64_t checksum = XXH3_64bits(data + STATE_HEADER_BYTES, len - STATE_HEADER_BYTES);
	uint32_t version = STATE_VERSION, reserved = 0;
	uint64_t length = len;

	memcpy(data, STATE_MAGIC, HEADER_VERSION);
	FIELD(&c, version);
	FIELD(&c, reserved);
	FIELD(&c, length);
	FIELD(&c, checksum);
}

int state_encode(const struct machine_state *state, struct state_buffer *out, struct ramet_err *err)
{
	cleanup_free struct machine_state *s = malloc(sizeof(*s));
	cleanup_free uint8_t *data = malloc(STATE_BYTES_MAX);
	struct codec c = { .out = data, .at = STATE_HEADER_BYTES, .end = STATE_BYTES_MAX };

	if (!s || !data)
		return err_set(err, ENOMEM, "no memory for the machine state");
	*s = *state; /* fields are visited as if they could change */
	for (size_t i = 0; i < SECTION_COUNT; i++)
		section_write(&c, &sections[i], s);
	if (c.failed)
		return err_set(err, E2BIG, "the machine state exceeds %u bytes", STATE_BYTES_MAX);
	header_write(data, c.at);
	*out = (struct state_buffer){ .data = take_ptr(data), .len = c.at };
	return 0;
}

static int section_read(struct codec *c, const struct section *section, struct machine_state *s,
			struct ramet_err *err)
{
	struct codec body;
	uint32_t length = 0;
	char tag[5] = { 0 };

	bytes(c, (uint8_t *)tag, 4);
	FIELD(c, length);
	if (c->failed || memcmp(tag, section->tag, 4) || length > c->end - c->at)
		return err_set(err, EINVAL, "no section '%s' in the machine state at byte %zu",
			       section->tag, c->at);
	body = (struct codec){ .in = c->in, .at = c->at, .end = c->at + length };
	section->fields(&body, s);
	if (body.failed || body.at != body.end)
		return err_set(err, EINVAL,
			       "section '%s' of the machine state is malformed at byte %zu",
			       section->tag, body.at);
	c->at = body.end;
	return 0;
}

static int header_read(const uint8_t *data, size_t len, struct ramet_err *err)
{
	struct codec c = { .in = data, .at = HEADER_VERSION, .end = STATE_HEADER_BYTES };
	uint32_t version = 0, reserved = 0;
	uint64_t length = 0, checksum = 0;

	if (len < STATE_HEADER_BYTES || memcmp(data, STATE_MAGIC, HEADER_VERSION))
		return err_set(err, EINVAL, "%zu bytes that are not a machine state", len);
	FIELD(&c, version);
	FIELD(&c, reserved);
	FIELD(&c, length);
	FIELD(&c, checksum);
	if (version > STATE_VERSION)
		return err_set(
			err, EINVAL,
			"the machine state has format %u, from a newer version of ramet: this "
			"one reads format %u",
			version, STATE_VERSION);
	if (version != STATE_VERSION || reserved)
		return err_set(err, EINVAL, "the machine state has format %u.%u: unknown", version,
			       reserved);
	if (length != len || len > STATE_BYTES_MAX)
		return err_set(err, EINVAL,
			       "the machine state has %zu bytes but should have %" PRIu64, len,
			       length);
	if (checksum != XXH3_64bits(data + STATE_HEADER_BYTES, len - STATE_HEADER_BYTES))
		return err_set(err, EINVAL, "the machine state is damaged: its checksum is wrong");
	return 0;
}

int state_decode(struct machine_state *state, const void *data, size_t len, struct ramet_err *err)
{
	cleanup_free struct machine_state *s = calloc(1, sizeof(*s));
	struct codec c = { .in = data, .at = STATE_HEADER_BYTES, .end = len };
	int rc;

	if (!s)
		return err_set(err, ENOMEM, "no memory for the machine state");
	rc = header_read(data, len, err);
	for (size_t i = 0; i < SECTION_COUNT && !rc; i++)
		rc = section_read(&c, &sections[i], s, err);
	if (rc)
		return rc;
	if (c.at != c.end)
		return err_set(err, EINVAL, "%zu unknown bytes at the end of the machine state",
			       c.end - c.at);
	virqs_derive(&s->pv);
	rc = state_check(s, err);
	if (!rc)
		*state = *s;
	return rc;
}
