/* Frames: the parser under split and hostile input, the output queue. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/frame.h"

/* Gives the parser bytes in pieces of at most `step`. */
static void feed(struct frame_parser *parser, const void *bytes, size_t length, size_t step)
{
	const char *p = bytes;

	while (length) {
		size_t room;
		void *space = frame_parser_space(parser, &room);
		size_t n = length < step ? length : step;

		assert_non_null(space);
		assert_true(room > 0);
		n = n < room ? n : room;
		memcpy(space, p, n);
		frame_parser_added(parser, n);
		p += n;
		length -= n;
	}
}

/* One header as wrong as the caller wants it: what the parser says. */
static int parse_header(struct frame_header header, struct ramet_err *err)
{
	struct frame_parser parser;
	struct frame frame;
	int r;

	frame_parser_init(&parser, FRAME_TO_HOST);
	feed(&parser, &header, sizeof(header), sizeof(header));
	r = frame_parser_next(&parser, &frame, err);
	frame_parser_free(&parser);
	return r;
}

static struct frame_header good_header(void)
{
	return (struct frame_header){ FRAME_MAGIC, PROTOCOL_VERSION, MSG_OK, 0, 7 };
}

static void refused(struct frame_header header, const char *word)
{
	struct ramet_err err = { 0 };

	assert_int_equal(parse_header(header, &err), -EPROTO);
	if (!strstr(err.msg, word))
		fail_msg("'%s' does not mention '%s'", err.msg, word);
}

static void a_good_header_is_a_frame(void **state)
{
	(void)state;
	assert_int_equal(parse_header(good_header(), NULL), 1);
}

static void wrong_magic_is_refused(void **state)
{
	struct frame_header header = good_header();

	(void)state;
	header.magic = 0x4652;
	refused(header, "0x4652");
}

static void wrong_version_is_refused(void **state)
{
	struct frame_header header = good_header();

	(void)state;
	header.version = 2;
	refused(header, "version 2");
}

static void unknown_types_are_refused(void **state)
{
	(void)state;
	for (unsigned int type = 0; type < 256; type++) {
		struct frame_header header = good_header();

		header.type = (uint8_t)type;
		if (!strcmp(frame_type_name((uint8_t)type), "unknown"))
			refused(header, "unknown type");
	}
}

static void types_of_the_other_side_are_refused(void **state)
{
	struct frame_header header = good_header();

	(void)state;
	header.type = MSG_PING;
	refused(header, "wrong side");
}

static void payload_beyond_the_maximum_is_refused_before_it_comes(void **state)
{
	struct frame_header header = good_header();

	(void)state;
	header.type = MSG_FILE_DATA;
	header.length = FRAME_PAYLOAD_MAX + 1;
	refused(header, "impossible length");
	header.length = UINT32_MAX;
	refused(header, "impossible length");
}

static void payload_below_the_fixed_struct_is_refused(void **state)
{
	struct frame_header header = good_header();

	(void)state;
	header.type = MSG_OUTPUT;
	header.length = sizeof(struct msg_output) - 1;
	refused(header, "impossible length");
}

static void payload_behind_an_exact_struct_is_refused(void **state)
{
	struct frame_header header = good_header();

	(void)state;
	header.type = MSG_EXIT;
	header.length = sizeof(struct msg_exit) + 1;
	refused(header, "impossible length");
}

static void an_answer_without_id_is_refused(void **state)
{
	struct frame_header header = good_header();

	(void)state;
	header.id = 0;
	refused(header, "no id");
}

static void hello_needs_no_id(void **state)
{
	struct frame_header header = good_header();

	(void)state;
	header.type = MSG_HELLO;
	header.id = 0;
	header.length = sizeof(struct msg_hello);
	assert_int_equal(parse_header(header, NULL), 0); /* waits for the payload */
}

/* A queue with frames of many sizes, of which number i has id i + 1. */
#define SIZES 40
static size_t test_size(unsigned int i)
{
	return i == SIZES - 1 ? FRAME_PAYLOAD_MAX : (size_t)i * i * i;
}

static void fill_queue(struct frame_queue *queue)
{
	static uint8_t data[FRAME_PAYLOAD_MAX];

	frame_queue_init(queue, 16u << 20);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 31);
	for (unsigned int i = 0; i < SIZES; i++)
		assert_int_equal(
			frame_queue_put(queue, MSG_FILE_DATA, i + 1, NULL, 0, data, test_size(i)),
			0);
}

static void check_frame(const struct frame *frame, unsigned int i)
{
	assert_int_equal(frame->type, MSG_FILE_DATA);
	assert_int_equal(frame->id, i + 1);
	assert_int_equal(frame->length, test_size(i));
	for (size_t k = 0; k < frame->length; k++)
		if (frame->payload[k] != (uint8_t)(k * 31))
			fail_msg("frame %u differs at %zu", i, k);
}

/* The stream arrives in pieces of `step` bytes; all frames must come out. */
static void split_test(size_t step)
{
	struct frame_parser parser;
	struct frame_queue queue;
	unsigned int seen = 0;
	struct frame frame;
	size_t length, done = 0;
	const uint8_t *bytes;

	fill_queue(&queue);
	frame_parser_init(&parser, FRAME_TO_HOST);
	bytes = frame_queue_peek(&queue, &length);
	while (done < length) {
		size_t n = length - done < step ? length - done : step;

		feed(&parser, bytes + done, n, n);
		done += n;
		while (frame_parser_next(&parser, &frame, NULL) > 0)
			check_frame(&frame, seen++);
		assert_true(parser.size <= 2 * (sizeof(struct frame_header) + FRAME_PAYLOAD_MAX));
	}
	assert_int_equal(seen, SIZES);
	frame_parser_free(&parser);
	frame_queue_free(&queue);
}

static void frames_survive_any_split(void **state)
{
	static const size_t steps[] = { 1, 2, 11, 12, 13, 100, 4096, 16383 };

	(void)state;
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		split_test(steps[i]);
}

static void an_idle_parser_gives_its_buffer_back(void **state)
{
	static const uint8_t data[FRAME_PAYLOAD_MAX];
	struct frame_parser parser;
	struct frame_queue queue;
	struct frame frame;
	const void *bytes;
	size_t length, room;

	(void)state;
	frame_queue_init(&queue, 1u << 20);
	frame_parser_init(&parser, FRAME_TO_HOST);
	assert_int_equal(frame_queue_put(&queue, MSG_FILE_DATA, 1, NULL, 0, data, sizeof(data)), 0);
	bytes = frame_queue_peek(&queue, &length);
	feed(&parser, bytes, length, 1000);
	assert_int_equal(frame_parser_next(&parser, &frame, NULL), 1);
	assert_true(parser.size > FRAME_PAYLOAD_MAX);
	assert_non_null(frame_parser_space(&parser, &room));
	assert_true(parser.size < 32768);
	frame_parser_free(&parser);
	frame_queue_free(&queue);
}

/* Random bytes, and random damage to good frames: it must end in refusals or
 * good frames, never in reading beyond what came (the sanitizers look). */
static void random_input_is_refused_or_harmless(void **state)
{
	unsigned int refusals = 0, seed = 1;

	(void)state;
	for (int round = 0; round < 20000; round++) {
		struct frame_header header = good_header();
		struct frame_parser parser;
		struct ramet_err err = { 0 };
		struct frame frame;
		uint8_t bytes[64];
		int r;

		frame_parser_init(&parser, FRAME_TO_HOST);
		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (uint8_t)rand_r(&seed);
		if (round % 2) {
			memcpy(bytes, &header, sizeof(header));
			bytes[(unsigned int)rand_r(&seed) % sizeof(header)] ^=
				(uint8_t)(1 + rand_r(&seed) % 255);
		}
		feed(&parser, bytes, sizeof(bytes), sizeof(bytes));
		while ((r = frame_parser_next(&parser, &frame, &err)) > 0)
			assert_true(frame.length <= sizeof(bytes) - sizeof(header));
		if (r < 0) {
			refusals++;
			assert_int_equal(r, -EPROTO);
			assert_int_equal(err.code, EPROTO);
			assert_true(strlen(err.msg) > 10);
		}
		frame_parser_free(&parser);
	}
	assert_true(refusals > 15000);
}

static void a_full_queue_takes_nothing_of_a_frame(void **state)
{
	struct frame_queue queue;
	char data[1000] = "";

	(void)state;
	frame_queue_init(&queue, 3000);
	assert_int_equal(frame_queue_put(&queue, MSG_PING, 1, NULL, 0, data, 1000), 0);
	assert_int_equal(frame_queue_put(&queue, MSG_PING, 2, NULL, 0, data, 1000), 0);
	assert_int_equal(frame_queue_put(&queue, MSG_PING, 3, NULL, 0, data, 1000), -ENOBUFS);
	assert_int_equal(frame_queue_length(&queue), 2 * (12 + 1000));
	frame_queue_drop(&queue, 1012);
	assert_int_equal(frame_queue_put(&queue, MSG_PING, 3, NULL, 0, data, 1000), 0);
	frame_queue_free(&queue);
}

static void a_payload_beyond_the_maximum_is_not_queued(void **state)
{
	static const char data[FRAME_PAYLOAD_MAX + 1];
	struct frame_queue queue;

	(void)state;
	frame_queue_init(&queue, 16u << 20);
	assert_int_equal(frame_queue_put(&queue, MSG_FILE_WRITE, 1, data, 8, data, sizeof(data)),
			 -EMSGSIZE);
	assert_int_equal(
		frame_queue_put(&queue, MSG_FILE_WRITE, 1, data, 8, data, FRAME_PAYLOAD_MAX - 7),
		-EMSGSIZE);
	assert_int_equal(frame_queue_length(&queue), 0);
	assert_int_equal(
		frame_queue_put(&queue, MSG_FILE_WRITE, 1, data, 8, data, FRAME_PAYLOAD_MAX - 8),
		0);
	frame_queue_free(&queue);
}

/* Bytes come out as they went in, whatever the pattern of puts and drops. */
static void a_queue_keeps_order_and_content(void **state)
{
	unsigned int next_in = 1, next_out = 1, seed = 5;
	struct frame_parser parser;
	struct frame_queue queue;
	struct frame frame;
	char data[5000];

	(void)state;
	frame_queue_init(&queue, 100000);
	frame_parser_init(&parser, FRAME_TO_HOST);
	while (next_out < 3000) {
		const void *bytes;
		size_t length, n = (size_t)rand_r(&seed) % sizeof(data);

		memset(data, (char)next_in, n);
		if (frame_queue_put(&queue, MSG_FILE_DATA, next_in, NULL, 0, data, n) == 0)
			next_in++;
		bytes = frame_queue_peek(&queue, &length);
		n = (size_t)rand_r(&seed) % 5000;
		n = n < length ? n : length;
		feed(&parser, bytes, n, 700);
		frame_queue_drop(&queue, n);
		while (frame_parser_next(&parser, &frame, NULL) > 0) {
			assert_int_equal(frame.id, next_out);
			for (size_t i = 0; i < frame.length; i++)
				assert_int_equal(frame.payload[i], (uint8_t)next_out);
			next_out++;
		}
	}
	frame_parser_free(&parser);
	frame_queue_free(&queue);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_good_header_is_a_frame),
		cmocka_unit_test(wrong_magic_is_refused),
		cmocka_unit_test(wrong_version_is_refused),
		cmocka_unit_test(unknown_types_are_refused),
		cmocka_unit_test(types_of_the_other_side_are_refused),
		cmocka_unit_test(payload_beyond_the_maximum_is_refused_before_it_comes),
		cmocka_unit_test(payload_below_the_fixed_struct_is_refused),
		cmocka_unit_test(payload_behind_an_exact_struct_is_refused),
		cmocka_unit_test(an_answer_without_id_is_refused),
		cmocka_unit_test(hello_needs_no_id),
		cmocka_unit_test(frames_survive_any_split),
		cmocka_unit_test(an_idle_parser_gives_its_buffer_back),
		cmocka_unit_test(random_input_is_refused_or_harmless),
		cmocka_unit_test(a_full_queue_takes_nothing_of_a_frame),
		cmocka_unit_test(a_payload_beyond_the_maximum_is_not_queued),
		cmocka_unit_test(a_queue_keeps_order_and_content),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
