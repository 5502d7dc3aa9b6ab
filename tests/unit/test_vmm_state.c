/* Machine state as bytes: what comes back is what went in, and bytes that are
 * damaged, cut, extended, forged or from the future never get through. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "vmm/state.h"

#define RAM (64ull << 20)

static struct machine_state *state_new(void)
{
	struct machine_state *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	s->ram_bytes = RAM;
	s->isolation = ISOLATION_FULL;
	s->tsc_khz = 2500000;
	s->exposed_xcr0 = 0xe7;
	s->cpuid_hash = 0x0123456789abcdefull;
	s->vcpu = (struct vcpu){ .cs = SEL_USER_CS,
				 .kernel_mode = true,
				 .kernel_cr3 = 0x100000,
				 .user_cr3 = 0x200000,
				 .kernel_sp = 0xffffc90000004000ull };
	memset(&s->vcpu.regs, 0x5a, sizeof(s->vcpu.regs));
	s->vcpu.regs.rip = 0xffffffff81000000ull;
	s->vcpu.regs.rflags = 0x246;
	s->blocked = true;
	s->base_fs = 0x7f0000001000ull;
	s->base_gs_kernel = 0xffff888003c00000ull;
	s->base_gs_user = 0x1000;
	s->selectors[STATE_DS] = SEL_USER_SS;
	s->selectors[STATE_GS] = SEL_USER_CS;
	s->xcr0 = 0xe7;
	for (unsigned int i = 576; i < STATE_XSAVE_BYTES; i++)
		s->xsave[i] = (uint8_t)(i * 7);
	s->xsave[24] = 0x80; /* MXCSR 0x1f80 */
	s->xsave[25] = 0x1f;
	s->xsave[512] = 0xe7;
	s->system_time_ns = 123456789012ull;
	s->wall_time_ns = 1700000000000000000ull;
	return s;
}

static void pv_fill(struct pv_state *pv)
{
	pv->traps[0] = (struct trap_gate){ .address = 0xffffffff81001000ull, .dpl = 0 };
	pv->traps[3] = (struct trap_gate){ .address = 0xffffffff81001010ull, .dpl = 3 };
	pv->traps[255] = (struct trap_gate){ .address = 0xffffffff81002000ull,
					     .masks_events = true };
	pv->event_callback = 0xffffffff81003000ull;
	pv->failsafe_callback = 0xffffffff81003010ull;
	pv->syscall_callback = 0xffffffff81003020ull;
	pv->syscall_masks_events = true;
	pv->vcpu_info_gpa = 0x300040;
	pv->debugreg[6] = 0xffff0ff0;
	pv->timer_deadline = 123456800000ull;
	pv->time_info_gpa = 0x301000;
	for (unsigned int i = 0; i < 3; i++)
		pv->ports[i].kind = EVTCHN_RESERVED;
	pv->ports[3] = (struct evtchn_port){ .kind = EVTCHN_VIRQ, .virq = 0 };
	pv->ports[4] = (struct evtchn_port){ .kind = EVTCHN_VIRQ, .virq = 23 };
	pv->ports[5].kind = EVTCHN_UNBOUND;
	pv->ports[7] = (struct evtchn_port){ .kind = EVTCHN_LOCAL, .peer = 1023 };
	pv->ports[1023] = (struct evtchn_port){ .kind = EVTCHN_LOCAL, .peer = 7 };
	pv->ports[9].kind = EVTCHN_IPI;
	pv->virq_port[0] = 3;
	pv->virq_port[23] = 4;
	pv->console_gpa = 0x400000;
	pv->console_port = 2;
	pv->grant_frames = 4;
	pv->channel = (struct channel_state){ .connected = true,
					      .port = 5,
					      .control_gref = 9,
					      .ring_pages = 2,
					      .control_gpa = 0x500000,
					      .data_gpa = { 0x501000, 0x502000, 0x503000, 0x3fff000 },
					      .to_host_cons = 0xfffffff0u,
					      .to_guest_prod = 17 };
}

static struct machine_state *state_full(void)
{
	struct machine_state *s = state_new();

	pv_fill(&s->pv);
	return s;
}

static struct state_buffer encode(const struct machine_state *s)
{
	struct state_buffer b;
	struct ramet_err err;

	assert_int_equal(state_encode(s, &b, &err), 0);
	return b;
}

/* Makes the header fit the bytes, as a forger would. */
static void seal(uint8_t *data, size_t len)
{
	uint64_t length = len;
	uint64_t sum = XXH3_64bits(data + STATE_HEADER_BYTES, len - STATE_HEADER_BYTES);

	memcpy(data + 16, &length, sizeof(length));
	memcpy(data + 24, &sum, sizeof(sum));
}

/* Decodes into a marked state and checks the promise about errors. */
static int decode(const void *data, size_t len)
{
	struct machine_state *s = malloc(sizeof(*s));
	struct machine_state *mark = malloc(sizeof(*mark));
	struct ramet_err err = { 0 };
	int rc;

	assert_non_null(s);
	assert_non_null(mark);
	memset(s, 0xa5, sizeof(*s));
	memset(mark, 0xa5, sizeof(*mark));
	rc = state_decode(s, data, len, &err);
	if (rc) {
		assert_int_equal(rc, -EINVAL);
		assert_int_equal(err.code, EINVAL);
		assert_true(strlen(err.msg) > 10);
		assert_memory_equal(s, mark, sizeof(*s));
	} else {
		/* One encoding per state: these bytes are it. */
		struct state_buffer again = encode(s);

		assert_int_equal(again.len, len);
		assert_memory_equal(again.data, data, len);
		state_buffer_free(&again);
	}
	free(s);
	free(mark);
	return rc;
}

/* Expects the state to be refused with a sentence that has `what` in it. */
static void expect_bad(struct machine_state *s, const char *what)
{
	struct machine_state out;
	struct ramet_err err = { 0 };
	struct state_buffer b = encode(s);

	assert_int_equal(state_check(s, &err), -EINVAL);
	assert_non_null(strstr(err.msg, what));
	assert_int_equal(state_decode(&out, b.data, b.len, &err), -EINVAL);
	state_buffer_free(&b);
	free(s);
}

static void round_trip_keeps_everything(void **unused)
{
	struct machine_state *s = state_full();
	struct machine_state *back = calloc(1, sizeof(*back));
	struct state_buffer b = encode(s), again;
	struct ramet_err err = { 0 };

	(void)unused;
	assert_non_null(back);
	assert_int_equal(state_decode(back, b.data, b.len, &err), 0);
	again = encode(back);
	assert_int_equal(again.len, b.len);
	assert_memory_equal(again.data, b.data, b.len);
	assert_memory_equal(&back->vcpu.regs, &s->vcpu.regs, sizeof(s->vcpu.regs));
	assert_memory_equal(back->xsave, s->xsave, sizeof(s->xsave));
	assert_memory_equal(back->pv.ports, s->pv.ports, sizeof(s->pv.ports));
	assert_memory_equal(back->pv.virq_port, s->pv.virq_port, sizeof(s->pv.virq_port));
	assert_memory_equal(back->pv.channel.data_gpa, s->pv.channel.data_gpa,
			    sizeof(s->pv.channel.data_gpa));
	for (unsigned int i = 0; i < TRAP_VECTORS; i++) {
		assert_int_equal(back->pv.traps[i].address, s->pv.traps[i].address);
		assert_int_equal(back->pv.traps[i].masks_events, s->pv.traps[i].masks_events);
	}
	state_buffer_free(&b);
	state_buffer_free(&again);
	free(s);
	free(back);
}

static void encoding_is_fixed(void **unused)
{
	/* A change of these bytes needs a new STATE_VERSION. */
	struct machine_state *s = state_full();
	struct state_buffer b = encode(s);

	(void)unused;
	assert_int_equal(STATE_VERSION, 1);
	assert_memory_equal(b.data, "RAMETMST\1\0\0\0\0\0\0\0", 16);
	assert_memory_equal(b.data + 32, "mach\x24\0\0\0\0\0\0\4\0\0\0\0\1\0\0\0", 20);
	assert_int_equal(b.len, 4729);
	assert_int_equal(XXH3_64bits(b.data, b.len), 0x0c703178cb64dc3full);
	state_buffer_free(&b);
	free(s);
}

static void every_flipped_byte_is_found(void **unused)
{
	struct machine_state *s = state_full();
	struct state_buffer b = encode(s);

	(void)unused;
	for (size_t i = 0; i < b.len; i++) {
		b.data[i] ^= (uint8_t)(1u << (i % 8));
		assert_int_equal(decode(b.data, b.len), -EINVAL);
		b.data[i] ^= (uint8_t)(1u << (i % 8));
	}
	assert_int_equal(decode(b.data, b.len), 0);
	state_buffer_free(&b);
	free(s);
}

static void every_truncation_is_found(void **unused)
{
	struct machine_state *s = state_full();
	struct state_buffer b = encode(s);

	(void)unused;
	for (size_t len = 0; len < b.len; len++) {
		/* A copy of exactly that length, so that a sanitizer sees any read
		 * behind it. */
		uint8_t *cut = malloc(len ? len : 1);

		assert_non_null(cut);
		memcpy(cut, b.data, len);
		assert_int_equal(decode(cut, len), -EINVAL);
		if (len > STATE_HEADER_BYTES) {
			seal(cut, len);
			assert_int_equal(decode(cut, len), -EINVAL);
		}
		free(cut);
	}
	state_buffer_free(&b);
	free(s);
}

static void extensions_are_found(void **unused)
{
	struct machine_state *s = state_full();
	struct state_buffer b = encode(s);

	(void)unused;
	for (size_t extra = 1; extra < 100; extra++) {
		uint8_t *longer = calloc(1, b.len + extra);

		assert_non_null(longer);
		memcpy(longer, b.data, b.len);
		assert_int_equal(decode(longer, b.len + extra), -EINVAL);
		seal(longer, b.len + extra);
		assert_int_equal(decode(longer, b.len + extra), -EINVAL);
		free(longer);
	}
	state_buffer_free(&b);
	free(s);
}

/* With a right checksum a changed byte may be another possible state, but then
 * it is that state's one encoding; decode() checks it. */
static void forged_bytes_are_checked(void **unused)
{
	static const uint8_t values[] = { 0x00, 0x01, 0x7f, 0x80, 0xff };
	struct machine_state *s = state_full();
	struct state_buffer b = encode(s);
	unsigned int refused = 0;

	(void)unused;
	for (size_t i = STATE_HEADER_BYTES; i < b.len; i++) {
		uint8_t old = b.data[i];

		/* The middle of the FPU area means nothing to the decoder. */
		if (i > 1500 && i < 4000)
			continue;
		for (size_t v = 0; v < sizeof(values); v++) {
			b.data[i] = values[v];
			seal(b.data, b.len);
			refused += decode(b.data, b.len) != 0;
		}
		b.data[i] = old;
	}
	assert_true(refused > 1000);
	state_buffer_free(&b);
	free(s);
}

static uint64_t random_next(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return *seed >> 33;
}

static void random_damage_is_checked(void **unused)
{
	struct machine_state *s = state_full();
	struct state_buffer b = encode(s);
	uint8_t *copy = malloc(b.len);
	uint64_t seed = 42;

	(void)unused;
	assert_non_null(copy);
	for (unsigned int round = 0; round < 3000; round++) {
		memcpy(copy, b.data, b.len);
		for (uint64_t n = random_next(&seed) % 8 + 1; n; n--) {
			size_t at = STATE_HEADER_BYTES +
				    random_next(&seed) % (b.len - STATE_HEADER_BYTES);

			copy[at] = (uint8_t)random_next(&seed);
		}
		seal(copy, b.len);
		(void)decode(copy, b.len);
	}
	free(copy);
	state_buffer_free(&b);
	free(s);
}

static void future_versions_are_named(void **unused)
{
	struct machine_state *s = state_full(), *out = calloc(1, sizeof(*out));
	struct state_buffer b = encode(s);
	struct ramet_err err = { 0 };

	(void)unused;
	assert_non_null(out);
	b.data[8] = 2;
	assert_int_equal(state_decode(out, b.data, b.len, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "newer version"));
	b.data[8] = 0;
	assert_int_equal(state_decode(out, b.data, b.len, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "unknown"));
	state_buffer_free(&b);
	free(out);
	free(s);
}

static void impossible_machines_are_refused(void **unused)
{
	struct machine_state *s;

	(void)unused;
	s = state_full(), s->ram_bytes = 1, expect_bad(s, "guest memory of 1 bytes");
	s = state_full(), s->ram_bytes = RAM + PAGE_SIZE, expect_bad(s, "not supported");
	s = state_full(), s->ram_bytes = 1ull << 50, expect_bad(s, "not supported");
	s = state_full(), s->isolation = (enum isolation_mode)3, expect_bad(s, "isolation");
	s = state_full(), s->tsc_khz = 0, expect_bad(s, "TSC");
	s = state_full(), s->exposed_xcr0 = 0x2e7, expect_bad(s, "XCR0");
}

static void impossible_registers_are_refused(void **unused)
{
	struct machine_state *s;

	(void)unused;
	s = state_full(), s->vcpu.regs.rip = 1ull << 47, expect_bad(s, "instruction pointer");
	s = state_full(), s->vcpu.regs.rflags |= 0x3000, expect_bad(s, "flags");
	s = state_full(), s->vcpu.regs.rflags &= ~0x200ull, expect_bad(s, "flags");
	s = state_full(), s->vcpu.cs = SEL_KERNEL_CS, expect_bad(s, "code segment");
	s = state_full(), s->vcpu.cs = SEL_USER32_CS, expect_bad(s, "code segment");
	s = state_full(), s->vcpu.kernel_cr3 = RAM, expect_bad(s, "kernel's root");
	s = state_full(), s->vcpu.kernel_cr3 = 0x1008, expect_bad(s, "kernel's root");
	s = state_full(), s->vcpu.user_cr3 = HV_GPA, expect_bad(s, "user's root");
	s = state_full(), s->base_fs = 1ull << 63, expect_bad(s, "FS base");
	s = state_full(), s->base_gs_kernel = 1ull << 47, expect_bad(s, "kernel's GS");
	s = state_full(), s->base_gs_user = ~0ull >> 1, expect_bad(s, "user's GS");
	s = state_full(), s->selectors[STATE_ES] = SEL_KERNEL_SS, expect_bad(s, "data segment");
	s = state_full(), s->selectors[STATE_FS] = SEL_TSS, expect_bad(s, "data segment");
	s = state_full(), s->pv.debugreg[2] = 1, expect_bad(s, "breakpoint");
	s = state_full(), s->vcpu.kernel_mode = false, expect_bad(s, "waiting");
	s = state_full(), s->xcr0 = 0, expect_bad(s, "XCR0");
	s = state_full(), s->xcr0 = 0x200 | 7, expect_bad(s, "XCR0");
	s = state_full(), s->xsave[26] = 1, expect_bad(s, "MXCSR");
	s = state_full(), s->xsave[513] = 2, expect_bad(s, "component");
	s = state_full(), s->xsave[527] = 0x80, expect_bad(s, "format");
	s = state_full(), s->xsave[575] = 1, expect_bad(s, "reserved");
}

static void impossible_pv_state_is_refused(void **unused)
{
	struct machine_state *s;

	(void)unused;
	s = state_full(), s->system_time_ns = ~0ull, expect_bad(s, "guest time");
	s = state_full(), s->pv.time_info_gpa = 0x301ff8, expect_bad(s, "clock");
	s = state_full(), s->pv.time_info_gpa = RAM, expect_bad(s, "clock");
	s = state_full(), s->pv.event_callback = 1ull << 60, expect_bad(s, "event callback");
	s = state_full(), s->pv.failsafe_callback = 1ull << 60, expect_bad(s, "failsafe");
	s = state_full(), s->pv.syscall_callback = 1ull << 60, expect_bad(s, "system call");
	s = state_full(), s->pv.traps[3].address = 1ull << 60, expect_bad(s, "trap handler");
	s = state_full(), s->pv.traps[3].dpl = 4, expect_bad(s, "privilege");
	s = state_full(), s->pv.vcpu_info_gpa = 0x300fc8, expect_bad(s, "vcpu_info");
	s = state_full(), s->pv.vcpu_info_gpa = 0x300044, expect_bad(s, "vcpu_info");
	s = state_full(), s->pv.vcpu_info_gpa = RAM, expect_bad(s, "vcpu_info");
	s = state_full(), s->pv.console_gpa = 0x400008, expect_bad(s, "console ring");
	s = state_full(), s->pv.console_port = 1024, expect_bad(s, "console's port");
	s = state_full(), s->pv.grant_frames = GRANT_FRAMES_MAX + 1, expect_bad(s, "grant");
}

static void inconsistent_ports_are_refused(void **unused)
{
	struct machine_state *s;

	(void)unused;
	s = state_full(), s->pv.ports[1023].peer = 8, expect_bad(s, "port");
	s = state_full(), s->pv.ports[1023].peer = 1024, expect_bad(s, "port");
	s = state_full(), s->pv.ports[7].peer = 7, expect_bad(s, "port");
	s = state_full(), s->pv.ports[7].peer = 5, expect_bad(s, "port");
	s = state_full(), s->pv.ports[4].virq = 0, expect_bad(s, "port");
	s = state_full(), s->pv.ports[4].virq = EVTCHN_VIRQS, expect_bad(s, "port");
	s = state_full(), s->pv.ports[5].peer = 1, expect_bad(s, "port");
	s = state_full(), s->pv.ports[9].virq = 1, expect_bad(s, "port");
	s = state_full(), s->pv.ports[9].kind = 6, expect_bad(s, "port");
	s = state_full(), s->pv.ports[9].kind = EVTCHN_RESERVED, expect_bad(s, "port");
	s = state_full(), s->pv.ports[2].kind = EVTCHN_FREE, expect_bad(s, "port");
}

static void impossible_channels_are_refused(void **unused)
{
	struct machine_state *s;

	(void)unused;
	s = state_full(), s->pv.channel.port = 1024, expect_bad(s, "channel's port");
	s = state_full(), s->pv.channel.port = 6, expect_bad(s, "channel's port");
	s = state_full(), s->pv.channel.ring_pages = 0, expect_bad(s, "ring size");
	s = state_full(), s->pv.channel.ring_pages = 3, expect_bad(s, "ring size");
	s = state_full(), s->pv.channel.control_gpa = RAM, expect_bad(s, "control page");
	s = state_full(), s->pv.channel.data_gpa[3] = RAM, expect_bad(s, "page of the channel");
	s = state_full(), s->pv.channel.data_gpa[0] = 8, expect_bad(s, "page of the channel");
}

static void an_oversized_ring_is_refused_before_it_is_read(void **unused)
{
	struct machine_state *s = state_full();
	struct state_buffer b = encode(s);
	/* ring_pages is followed by four addresses at the end. */
	uint32_t pages = 0x80000000u;

	(void)unused;
	memcpy(b.data + b.len - 4 * 8 - 4, &pages, sizeof(pages));
	seal(b.data, b.len);
	assert_int_equal(decode(b.data, b.len), -EINVAL);
	state_buffer_free(&b);
	free(s);
}

static void a_running_machine_is_not_captured(void **unused)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct state_buffer b = { .data = NULL, .len = 77 };
	struct ramet_err err = { 0 };

	(void)unused;
	assert_non_null(m);
	assert_int_equal(state_capture(m, &b, &err), -EBUSY);
	assert_int_equal(b.len, 77);
	free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip_keeps_everything),
		cmocka_unit_test(encoding_is_fixed),
		cmocka_unit_test(every_flipped_byte_is_found),
		cmocka_unit_test(every_truncation_is_found),
		cmocka_unit_test(extensions_are_found),
		cmocka_unit_test(forged_bytes_are_checked),
		cmocka_unit_test(random_damage_is_checked),
		cmocka_unit_test(future_versions_are_named),
		cmocka_unit_test(impossible_machines_are_refused),
		cmocka_unit_test(impossible_registers_are_refused),
		cmocka_unit_test(impossible_pv_state_is_refused),
		cmocka_unit_test(inconsistent_ports_are_refused),
		cmocka_unit_test(impossible_channels_are_refused),
		cmocka_unit_test(an_oversized_ring_is_refused_before_it_is_read),
		cmocka_unit_test(a_running_machine_is_not_captured),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
