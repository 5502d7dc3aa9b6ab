/* The agent's frame parser and outbox: good frames, every kind of bad header,
 * and noise cut at every place. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guest/agent/frame.h"
#include "guest/agent/outbox.h"

#define NOISE_ROUNDS 200000

static size_t header_put(uint8_t *buf, uint8_t type, uint32_t id, uint32_t length)
{
	struct frame_header header = { .magic = FRAME_MAGIC,
				       .version = PROTOCOL_VERSION,
				       .type = type,
				       .length = length,
				       .id = id };

	memcpy(buf, &header, sizeof(header));
	return sizeof(header);
}

static void assert_bad(const uint8_t *buf, const char *reason)
{
	struct frame frame;
	const char *why = NULL;

	assert_int_equal(frame_parse(buf, sizeof(struct frame_header), &frame, &why), -EPROTO);
	assert_non_null(why);
	assert_non_null(strstr(why, reason));
}

static void whole_frame_is_taken(void **state)
{
	uint8_t buf[64];
	struct frame frame;
	const char *why = NULL;
	size_t n = header_put(buf, MSG_EXEC_DATA, 7, 5);

	(void)state;
	memcpy(buf + n, "hello+next", 10);
	assert_int_equal(frame_parse(buf, n + 10, &frame, &why), (int)n + 5);
	assert_int_equal(frame.type, MSG_EXEC_DATA);
	assert_int_equal(frame.id, 7);
	assert_int_equal(frame.length, 5);
	assert_memory_equal(frame.payload, "hello", 5);
}

static void partial_frames_wait(void **state)
{
	uint8_t buf[64] = { 0 };
	struct frame frame;
	const char *why = NULL;
	size_t whole = header_put(buf, MSG_CREDIT, 1, sizeof(struct msg_credit)) +
		       sizeof(struct msg_credit);

	(void)state;
	for (size_t len = 0; len < whole; len++)
		assert_int_equal(frame_parse(buf, len, &frame, &why), 0);
	assert_int_equal(frame_parse(buf, whole, &frame, &why), (int)whole);
}

static void bad_headers_are_refused_at_once(void **state)
{
	uint8_t buf[sizeof(struct frame_header)];

	(void)state;
	(void)header_put(buf, MSG_PING, 1, 0);
	buf[0] ^= 1;
	assert_bad(buf, "magic");
	(void)header_put(buf, MSG_PING, 1, 0);
	buf[2] = PROTOCOL_VERSION + 1;
	assert_bad(buf, "version");
	(void)header_put(buf, MSG_PING, 1, FRAME_PAYLOAD_MAX + 1);
	assert_bad(buf, "long");
	(void)header_put(buf, MSG_PING, 1, UINT32_MAX);
	assert_bad(buf, "long");
	(void)header_put(buf, MSG_PING, 0, 0);
	assert_bad(buf, "id");
}

static void every_type_has_its_least_size(void **state)
{
	static const struct {
		uint8_t type;
		uint32_t fixed;
	} types[] = {
		{ MSG_EXEC, sizeof(struct msg_exec) },
		{ MSG_CREDIT, sizeof(struct msg_credit) },
		{ MSG_FILE_OPEN, sizeof(struct msg_file_open) },
		{ MSG_FILE_READ, sizeof(struct msg_file_read) },
		{ MSG_FILE_WRITE, sizeof(struct msg_file_write) },
		{ MSG_FILE_CLOSE, sizeof(struct msg_file_close) },
		{ MSG_RESEED, sizeof(struct msg_reseed) },
	};
	uint8_t buf[sizeof(struct frame_header)];
	struct frame frame;
	const char *why;

	(void)state;
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		(void)header_put(buf, types[i].type, 1, types[i].fixed - 1);
		assert_bad(buf, "shorter");
		(void)header_put(buf, types[i].type, 1, types[i].fixed);
		assert_int_equal(frame_parse(buf, sizeof(buf), &frame, &why), 0);
	}
}

static void only_the_hosts_types_are_known(void **state)
{
	uint8_t buf[sizeof(struct frame_header)];
	struct frame frame;
	const char *why;
	int known = 0;

	(void)state;
	for (int type = 0; type < 256; type++) {
		(void)header_put(buf, (uint8_t)type, 1, FRAME_PAYLOAD_MAX);
		if (frame_parse(buf, sizeof(buf), &frame, &why) == 0)
			known++;
		else
			assert_bad(buf, "type");
	}
	assert_int_equal(known, MSG_RECLAIM - MSG_EXEC + 1);
}

/* Whatever comes: a frame inside the buffer, patience, or a reason. The buffer
 * is of exact size on the heap, so that a sanitizer sees any step beyond it. */
static void noise_never_leads_outside_the_buffer(void **state)
{
	(void)state;
	srandom(1);
	for (int i = 0; i < NOISE_ROUNDS; i++) {
		size_t len = (size_t)random() % 64;
		uint8_t *buf = malloc(len ? len : 1);
		struct frame frame;
		const char *why = NULL;
		ssize_t n;

		assert_non_null(buf);
		for (size_t j = 0; j < len; j++)
			buf[j] = (uint8_t)random();
		if (len >= sizeof(struct frame_header) && i % 4)
			(void)header_put(buf, (uint8_t)(MSG_EXEC + random() % 12),
					 (uint32_t)random() % 3, (uint32_t)random() % 64);
		n = frame_parse(buf, len, &frame, &why);
		assert_true(n == 0 || n == -EPROTO || (n > 0 && (size_t)n <= len));
		if (n > 0)
			assert_ptr_equal(frame.payload + frame.length, buf + n);
		if (n < 0)
			assert_non_null(why);
		free(buf);
	}
}

static struct outbox outbox;

static int outbox_clear(void **state)
{
	(void)state;
	outbox.head = outbox.tail = 0;
	return 0;
}

static void outbox_frames_follow_each_other(void **state)
{
	struct frame_header header;

	(void)state;
	outbox_frame(&outbox, MSG_OK, 3, NULL, 0);
	outbox_frame(&outbox, MSG_FILE_DATA, 4, "abc", 3);
	assert_int_equal(outbox_pending(&outbox), 2 * sizeof(header) + 3);
	memcpy(&header, outbox.buf + sizeof(header), sizeof(header));
	assert_int_equal(header.type, MSG_FILE_DATA);
	assert_int_equal(header.length, 3);
	assert_memory_equal(outbox.buf + 2 * sizeof(header), "abc", 3);
}

static void outbox_makes_room_by_moving(void **state)
{
	static uint8_t data[OUTPUT_CHUNK_MAX];
	struct frame_header header;

	(void)state;
	while (outbox_room(&outbox) > sizeof(header) + sizeof(data))
		outbox_frame(&outbox, MSG_OUTPUT, 1, data, sizeof(data));
	outbox.head += sizeof(header) + sizeof(data); /* sent */
	outbox_frame(&outbox, MSG_OUTPUT, 2, data, sizeof(data));
	assert_int_equal(outbox.head, 0);
	memcpy(&header, outbox.buf + outbox.tail - sizeof(data) - sizeof(header), sizeof(header));
	assert_int_equal(header.id, 2);
}

static void outbox_cuts_long_errors(void **state)
{
	struct frame_header header;
	char text[2000];

	(void)state;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	outbox_error(&outbox, 9, ENOENT, "%s", text);
	memcpy(&header, outbox.buf, sizeof(header));
	assert_int_equal(header.type, MSG_ERROR);
	assert_in_range(header.length, 100, 600);
	assert_int_equal(outbox_pending(&outbox), sizeof(header) + header.length);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_frame_is_taken),
		cmocka_unit_test(partial_frames_wait),
		cmocka_unit_test(bad_headers_are_refused_at_once),
		cmocka_unit_test(every_type_has_its_least_size),
		cmocka_unit_test(only_the_hosts_types_are_known),
		cmocka_unit_test(noise_never_leads_outside_the_buffer),
		cmocka_unit_test_setup(outbox_frames_follow_each_other, outbox_clear),
		cmocka_unit_test_setup(outbox_makes_room_by_moving, outbox_clear),
		cmocka_unit_test_setup(outbox_cuts_long_errors, outbox_clear),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
