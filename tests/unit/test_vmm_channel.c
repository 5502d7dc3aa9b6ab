/* The agent channel and the console ring: bytes arrive in order and complete,
 * and no index that the other side writes leads out of the rings. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/cleanup.h"
#include "tests/fake/fake_machine.h"
#include "vmm/channel.h"
#include "vmm/console.h"
#include "vmm/evtchn.h"
#include "vmm/xen_abi.h"

#define CONTROL_GPA 0x300000ull
#define DATA_GPA 0x310000ull /* one page apart, in reverse: never contiguous */
#define CONTROL_REF 8u
#define DATA_REF 16u
#define PAGES 2u
#define RING (PAGES * CHANNEL_PAGE_SIZE)
#define PORT 3u
#define CONSOLE_GPA 0x400000ull

struct bench {
	struct machine *m;
	struct channel_control *control;
	int host; /* the daemon's end */
	unsigned int connected;
	char console[1u << 17];
	size_t console_len;
};

static void on_connected(void *arg)
{
	((struct bench *)arg)->connected++;
}

static void on_console(void *arg, const char *data, size_t len)
{
	struct bench *b = arg;

	assert_true(b->console_len + len <= sizeof(b->console));
	memcpy(b->console + b->console_len, data, len);
	b->console_len += len;
}

static void grant_set(struct machine *m, uint32_t ref, uint64_t gpa)
{
	const struct grant_entry_v1 e = { .flags = GTF_permit_access,
					  .frame = (uint32_t)(gpa >> PAGE_SHIFT) };

	assert_int_equal(guest_write(&m->mem,
				     guest_pv_page_gpa(&m->mem, PV_PAGE_GRANT) + ref * sizeof(e), &e,
				     sizeof(e)),
			 0);
}

static uint64_t data_gpa(uint32_t page)
{
	return DATA_GPA + (2 * PAGES - 1 - page) * 2 * PAGE_SIZE;
}

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));
	int pair[2];

	assert_non_null(b);
	b->m = fake_machine_new();
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	b->host = pair[0];
	b->m->channel_fd = pair[1];
	b->m->sink = (struct machine_sink){ .arg = b, .channel_connected = on_connected,
					    .console = on_console };
	b->m->pv.grant_frames = 1;
	b->m->pv.console_gpa = CONSOLE_GPA;
	b->m->pv.ports[PORT].kind = EVTCHN_UNBOUND;
	b->control = guest_ram_ptr(&b->m->mem, CONTROL_GPA, sizeof(*b->control));
	b->control->magic = CHANNEL_MAGIC;
	b->control->ring_pages = PAGES;
	grant_set(b->m, CONTROL_REF, CONTROL_GPA);
	for (uint32_t i = 0; i < 2 * PAGES; i++) {
		grant_set(b->m, DATA_REF + i, data_gpa(i));
		b->control->refs[i] = DATA_REF + i;
	}
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	(void)close(b->host);
	(void)close(b->m->channel_fd);
	fake_machine_free(b->m);
	free(b);
	return 0;
}

static void connect_channel(struct bench *b)
{
	assert_int_equal(channel_connect(b->m, CONTROL_REF, PORT), 0);
	assert_int_equal(b->connected, 1);
	assert_true(b->m->pv.channel.connected);
}

static bool notified(struct bench *b)
{
	unsigned long *word = &shared_info_get(b->m)->evtchn_pending[PORT / 64];
	bool set = *word >> PORT & 1;

	*word &= ~(1ul << PORT);
	return set;
}

static uint8_t *ring_byte(struct bench *b, bool to_guest, uint32_t index)
{
	uint32_t offset = index % RING;
	uint64_t page = data_gpa((to_guest ? PAGES : 0) + offset / CHANNEL_PAGE_SIZE);

	return (uint8_t *)guest_ram_ptr(&b->m->mem, page, PAGE_SIZE) + offset % CHANNEL_PAGE_SIZE;
}

static uint8_t pattern(uint64_t at)
{
	return (uint8_t)(at * 131 + (at >> 8) * 17);
}

/* ---- the guest's side, as the agent does it ---- */

static size_t guest_write_ring(struct bench *b, uint64_t at, size_t len)
{
	struct channel_ring *r = &b->control->to_host;
	size_t n = 0;

	while (n < len && r->prod - r->cons < RING) {
		*ring_byte(b, false, r->prod) = pattern(at + n++);
		r->prod++;
	}
	return n;
}

static size_t guest_read_ring(struct bench *b, uint64_t at)
{
	struct channel_ring *r = &b->control->to_guest;
	size_t n = 0;

	while (r->cons != r->prod) {
		assert_int_equal(*ring_byte(b, true, r->cons), pattern(at + n++));
		r->cons++;
	}
	return n;
}

/* ---- the host's side ---- */

static size_t host_read(struct bench *b, uint64_t at)
{
	uint8_t buf[3 * RING];
	ssize_t n = recv(b->host, buf, sizeof(buf), MSG_DONTWAIT);

	for (ssize_t i = 0; i < n; i++)
		assert_int_equal(buf[i], pattern(at + (uint64_t)i));
	return n > 0 ? (size_t)n : 0;
}

static size_t host_write(struct bench *b, uint64_t at, size_t len)
{
	uint8_t buf[3 * RING];
	ssize_t n;

	assert_true(len <= sizeof(buf));
	for (size_t i = 0; i < len; i++)
		buf[i] = pattern(at + i);
	n = send(b->host, buf, len, MSG_DONTWAIT);
	return n > 0 ? (size_t)n : 0;
}

static void bytes_to_the_host_arrive(void **state)
{
	struct bench *b = *state;
	uint64_t sent = 0, got = 0;

	connect_channel(b);
	for (size_t len = 1; sent < 400000; len = len * 7 % 9973) {
		sent += guest_write_ring(b, sent, len);
		channel_pump(b->m);
		got += host_read(b, got);
	}
	assert_int_equal(sent, got);
	assert_int_equal(b->m->stats.channel_to_host, got);
}

static void bytes_to_the_guest_arrive(void **state)
{
	struct bench *b = *state;
	uint64_t sent = 0, got = 0;
	size_t n;

	connect_channel(b);
	for (size_t len = 1; sent < 400000; len = len * 7 % 9973) {
		sent += host_write(b, sent, len);
		channel_pump(b->m);
		got += guest_read_ring(b, got);
	}
	do {
		channel_pump(b->m);
		n = guest_read_ring(b, got);
		got += n;
	} while (n);
	assert_int_equal(sent, got);
}

static void indices_wrap(void **state)
{
	struct bench *b = *state;
	uint64_t sent = 0, got = 0;

	b->control->to_host.prod = b->control->to_host.cons = 0xfffff800u;
	b->control->to_guest.prod = b->control->to_guest.cons = 0xffffff01u;
	connect_channel(b);
	while (sent < 3 * RING) {
		sent += guest_write_ring(b, sent, 1000);
		channel_pump(b->m);
		got += host_read(b, got);
	}
	assert_int_equal(sent, got);
	assert_int_equal(host_write(b, 0, RING), RING);
	channel_pump(b->m);
	assert_int_equal(guest_read_ring(b, 0), RING);
}

static void a_full_ring_waits_for_the_guest(void **state)
{
	struct bench *b = *state;

	connect_channel(b);
	assert_int_equal(host_write(b, 0, RING + 100), RING + 100);
	channel_pump(b->m);
	assert_int_equal(b->control->to_guest.prod, RING);
	assert_int_equal(b->control->to_guest.writer_waits, 1);
	assert_int_equal(guest_read_ring(b, 0), RING);
	channel_pump(b->m);
	assert_int_equal(guest_read_ring(b, RING), 100);
}

static void a_full_socket_waits_for_the_host(void **state)
{
	struct bench *b = *state;
	uint64_t sent = 0, got = 0, before;

	connect_channel(b);
	do {
		before = sent;
		sent += guest_write_ring(b, sent, RING);
		channel_pump(b->m);
	} while (sent != before);
	assert_int_equal(b->control->to_host.prod - b->control->to_host.cons, RING);
	while (got < sent) {
		got += host_read(b, got);
		channel_pump(b->m);
	}
	assert_int_equal(got, sent);
}

static void the_sleeper_is_notified_once(void **state)
{
	struct bench *b = *state;

	connect_channel(b);
	(void)notified(b);
	assert_int_equal(host_write(b, 0, 10), 10);
	channel_pump(b->m);
	assert_false(notified(b)); /* the guest did not sleep */
	b->control->to_guest.reader_waits = 1;
	assert_int_equal(host_write(b, 10, 10), 10);
	channel_pump(b->m);
	assert_true(notified(b));
	assert_int_equal(b->control->to_guest.reader_waits, 0);
	channel_pump(b->m);
	assert_false(notified(b));
}

static void an_empty_ring_asks_to_be_told(void **state)
{
	struct bench *b = *state;

	connect_channel(b);
	assert_int_equal(b->control->to_host.reader_waits, 1);
}

/* ---- hostile guests ---- */

static void impossible_indices_end_the_channel(void **state)
{
	static const uint32_t steps[] = { RING + 1, 0x7fffffff, 0x80000000u, 0xffffffff };

	for (size_t i = 0; i < 2 * sizeof(steps) / sizeof(steps[0]); i++) {
		struct bench *b = *state;
		uint32_t step = steps[i / 2];

		connect_channel(b);
		if (i % 2)
			b->control->to_host.prod = b->m->pv.channel.to_host_cons + step;
		else
			b->control->to_guest.cons = b->m->pv.channel.to_guest_prod - step;
		channel_pump(b->m);
		assert_false(b->m->pv.channel.connected);
		(void)teardown(state);
		(void)setup(state);
	}
}

static void the_guests_copies_of_our_indices_are_not_read(void **state)
{
	struct bench *b = *state;

	connect_channel(b);
	b->control->to_host.cons = 0x12345678;
	b->control->to_guest.prod = 0x87654321;
	b->control->ring_pages = 64;
	b->control->refs[0] = 0;
	assert_int_equal(host_write(b, 0, 10), 10);
	*ring_byte(b, false, 0) = pattern(0);
	b->control->to_host.prod = 1;
	channel_pump(b->m);
	assert_true(b->m->pv.channel.connected);
	assert_int_equal(host_read(b, 0), 1);
	assert_int_equal(b->control->to_guest.prod, 10);
}

static void waiting_flags_cannot_hold_the_pump(void **state)
{
	static const uint32_t values[] = { 0, 1, 2, 0xffffffff };
	struct bench *b = *state;

	connect_channel(b);
	for (unsigned int i = 0; i < 256; i++) {
		b->control->to_host.reader_waits = values[i & 3];
		b->control->to_host.writer_waits = values[i >> 2 & 3];
		b->control->to_guest.reader_waits = values[i >> 4 & 3];
		b->control->to_guest.writer_waits = values[i >> 6];
		channel_pump(b->m);
	}
	assert_true(b->m->pv.channel.connected);
}

static void bad_control_pages_are_refused(void **state)
{
	struct bench *b = *state;
	static const uint32_t pages[] = { 0, 3, 65, 128, 0x80000000u, 0xffffffff };

	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
		b->control->ring_pages = pages[i];
		assert_int_equal(channel_connect(b->m, CONTROL_REF, PORT), -EINVAL);
	}
	b->control->ring_pages = PAGES;
	b->control->magic = 0;
	assert_int_equal(channel_connect(b->m, CONTROL_REF, PORT), -EINVAL);
	assert_int_equal(b->connected, 0);
	assert_false(b->m->pv.channel.connected);
}

static void bad_grants_and_ports_are_refused(void **state)
{
	struct bench *b = *state;

	assert_int_equal(channel_connect(b->m, 511, PORT), -EACCES);
	assert_int_equal(channel_connect(b->m, ~0u, PORT), -EINVAL);
	assert_int_equal(channel_connect(b->m, CONTROL_REF, EVTCHN_PORTS), -EINVAL);
	assert_int_equal(channel_connect(b->m, CONTROL_REF, ~0u), -EINVAL);
	assert_int_equal(channel_connect(b->m, CONTROL_REF, PORT + 1), -EINVAL);
	assert_int_equal(channel_connect(b->m, CONTROL_REF, 0), -EINVAL);
	b->control->refs[2 * PAGES - 1] = ~0u;
	assert_int_equal(channel_connect(b->m, CONTROL_REF, PORT), -EINVAL);
	b->control->refs[2 * PAGES - 1] = 300;
	assert_int_equal(channel_connect(b->m, CONTROL_REF, PORT), -EACCES);
	assert_int_equal(b->connected, 0);
}

static void there_is_one_channel(void **state)
{
	struct bench *b = *state;

	connect_channel(b);
	assert_int_equal(channel_connect(b->m, CONTROL_REF, PORT), -EBUSY);
	channel_port_closed(b->m, PORT + 1);
	assert_true(b->m->pv.channel.connected);
	channel_port_closed(b->m, PORT);
	assert_false(b->m->pv.channel.connected);
	channel_pump(b->m);
}

static void rings_may_overlap_everything(void **state)
{
	struct bench *b = *state;
	uint8_t junk[4096];

	/* All pages are the control page itself: the guest harms only itself. */
	for (uint32_t i = 0; i < 2 * PAGES; i++)
		b->control->refs[i] = CONTROL_REF;
	assert_int_equal(channel_connect(b->m, CONTROL_REF, PORT), 0);
	for (unsigned int i = 0; i < 50; i++) {
		(void)host_write(b, i, 1000);
		b->control->to_host.prod++;
		channel_pump(b->m);
		(void)recv(b->host, junk, sizeof(junk), MSG_DONTWAIT);
		if (!b->m->pv.channel.connected)
			return;
	}
}

/* The daemon went away: what the guest writes goes nowhere, and the pump ends. */
static void nobody_at_the_other_end_is_survived(void **state)
{
	struct bench *b = *state;

	connect_channel(b);
	close_fd(&b->host);
	for (unsigned int i = 0; i < 10; i++) {
		b->control->to_host.prod += 5000;
		channel_pump(b->m);
	}
	assert_true(b->m->channel_eof);
	assert_int_equal(b->control->to_host.cons, b->control->to_host.prod);
}

/* ---- the console ring ---- */

static struct xencons_interface *console_ring(struct bench *b)
{
	return guest_ram_ptr(&b->m->mem, CONSOLE_GPA, sizeof(struct xencons_interface));
}

static void console_output_is_passed_on(void **state)
{
	struct bench *b = *state;
	struct xencons_interface *ring = console_ring(b);
	const char text[] = "hello\n";

	ring->out_cons = ring->out_prod = 0xfffffffd;
	for (size_t i = 0; i < strlen(text); i++)
		ring->out[ring->out_prod++ % sizeof(ring->out)] = text[i];
	console_drain(b->m);
	assert_int_equal(b->console_len, strlen(text));
	assert_memory_equal(b->console, text, strlen(text));
	assert_int_equal(ring->out_cons, ring->out_prod);
	console_drain(b->m);
	assert_int_equal(b->console_len, strlen(text));
}

static void hostile_console_indices_lose_output_only(void **state)
{
	static const uint32_t values[] = { 0, 1, 2047, 2048, 2049, 0x7fffffff, 0x80000000u, ~0u };
	struct bench *b = *state;
	struct xencons_interface *ring = console_ring(b);

	for (size_t i = 0; i < 64; i++) {
		ring->out_cons = values[i / 8];
		ring->out_prod = values[i % 8];
		b->console_len = 0;
		console_drain(b->m);
		assert_true(b->console_len <= sizeof(ring->out));
		assert_int_equal(ring->out_cons, ring->out_prod);
	}
}

static void a_console_outside_of_memory_is_ignored(void **state)
{
	struct bench *b = *state;

	b->m->pv.console_gpa = FAKE_RAM - 8;
	console_drain(b->m);
	b->m->pv.console_gpa = HV_GPA;
	console_drain(b->m);
	assert_int_equal(b->console_len, 0);
}

static void the_last_output_is_kept(void **state)
{
	struct bench *b = *state;
	const size_t room = sizeof(b->m->console_tail);
	char text[20000];

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)pattern(i);
	console_output(b->m, text, 10);
	assert_int_equal(b->m->console_tail_len, 10);
	console_output(b->m, text + 10, room - 4);
	assert_int_equal(b->m->console_tail_len, room);
	assert_memory_equal(b->m->console_tail, text + 6, room);
	console_output(b->m, text, sizeof(text));
	assert_memory_equal(b->m->console_tail, text + sizeof(text) - room, room);
}

static void expect_words(struct bench *b, const char *words)
{
	size_t len;
	const char *at = console_last_words(b->m, &len);

	assert_int_equal(len, strlen(words));
	assert_memory_equal(at, words, len);
}

static void the_panic_is_found_in_the_last_output(void **state)
{
	struct bench *b = *state;
	char line[501] = "";

	expect_words(b, "");
	console_output(b->m, "short", 5);
	expect_words(b, "short");
	memset(line, 'x', sizeof(line) - 1);
	console_output(b->m, line, sizeof(line) - 1);
	expect_words(b, line + 100); /* the last 400 bytes */
	console_output(b->m, "[ 1.0] Kernel panic - not syncing: why\r\n", 40);
	console_output(b->m, line, sizeof(line) - 1);
	expect_words(b, "Kernel panic - not syncing: why");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(bytes_to_the_host_arrive),
		TEST(bytes_to_the_guest_arrive),
		TEST(indices_wrap),
		TEST(a_full_ring_waits_for_the_guest),
		TEST(a_full_socket_waits_for_the_host),
		TEST(the_sleeper_is_notified_once),
		TEST(an_empty_ring_asks_to_be_told),
		TEST(impossible_indices_end_the_channel),
		TEST(the_guests_copies_of_our_indices_are_not_read),
		TEST(waiting_flags_cannot_hold_the_pump),
		TEST(bad_control_pages_are_refused),
		TEST(bad_grants_and_ports_are_refused),
		TEST(there_is_one_channel),
		TEST(rings_may_overlap_everything),
		TEST(nobody_at_the_other_end_is_survived),
		TEST(console_output_is_passed_on),
		TEST(hostile_console_indices_lose_output_only),
		TEST(a_console_outside_of_memory_is_ignored),
		TEST(the_last_output_is_kept),
		TEST(the_panic_is_found_in_the_last_output),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
