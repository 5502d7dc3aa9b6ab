/* The queue of an exec's NDJSON lines: api/server/exec_events.c. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/server/exec_events.h"
#include "guest/protocol.h"

struct fixture {
	struct event_queue queue;
	char text[65536];
	size_t len;
	size_t credit;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	event_queue_init(&f->queue);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	event_queue_clear(&f->queue);
	free(f);
	return 0;
}

static void put(struct fixture *f, int stream, const char *data)
{
	assert_int_equal(event_queue_output(&f->queue, stream, 1500000, data, strlen(data)), 0);
}

/* Reads everything in steps of at most `step`. */
static void drain(struct fixture *f, size_t step)
{
	size_t credit, len;

	while ((len = event_queue_read(&f->queue, f->text + f->len, step, &credit))) {
		f->len += len;
		f->credit += credit;
	}
	f->text[f->len] = '\0';
}

static void output_is_one_line_with_its_stream(void **state)
{
	struct fixture *f = *state;

	put(f, OUTPUT_STDOUT, "a\n");
	put(f, OUTPUT_STDERR, "b");
	drain(f, sizeof(f->text));
	assert_string_equal(f->text,
			    "{\"type\":\"stdout\",\"data\":\"a\\n\",\"seq\":0,\"ts\":1.5}\n"
			    "{\"type\":\"stderr\",\"data\":\"b\",\"seq\":1,\"ts\":1.5}\n");
	assert_int_equal(f->credit, 3);
}

static void credit_comes_back_only_with_whole_lines(void **state)
{
	struct fixture *f = *state;
	size_t credit;
	char byte;

	put(f, OUTPUT_STDOUT, "1234");
	for (;;) {
		assert_int_equal(event_queue_read(&f->queue, &byte, 1, &credit), 1);
		if (byte == '\n')
			break;
		assert_int_equal(credit, 0);
	}
	assert_int_equal(credit, 4);
}

static void reading_in_any_steps_gives_the_same(void **state)
{
	struct fixture *f = *state;

	for (size_t step = 1; step < 200; step += 7) {
		f->len = 0;
		f->credit = 0;
		f->queue.next_seq = 0;
		for (int i = 0; i < 5; i++)
			put(f, OUTPUT_STDOUT, "some text");
		drain(f, step);
		assert_int_equal(f->credit, 45);
		assert_int_equal(strlen(f->text), 5 * strlen("{\"type\":\"stdout\",\"data\":\"some "
							     "text\",\"seq\":0,\"ts\":1.5}\n"));
	}
}

static void split_sequences_are_joined_per_stream(void **state)
{
	struct fixture *f = *state;

	put(f, OUTPUT_STDOUT, "x\xe2");
	put(f, OUTPUT_STDERR, "\xc3");
	put(f, OUTPUT_STDOUT, "\x82");
	put(f, OUTPUT_STDOUT, "\xac!");
	put(f, OUTPUT_STDERR, "\xa9");
	drain(f, sizeof(f->text));
	assert_non_null(strstr(f->text, "\"stdout\",\"data\":\"x\""));
	assert_non_null(strstr(f->text, "\"stdout\",\"data\":\"\xe2\x82\xac!\""));
	assert_non_null(strstr(f->text, "\"stderr\",\"data\":\"\xc3\xa9\""));
	assert_null(strstr(f->text, "base64"));
	assert_int_equal(f->credit, 7);
}

static void unfinished_sequence_comes_at_the_end(void **state)
{
	const struct exec_exit exit = { .exit_code = 3 };
	struct fixture *f = *state;

	put(f, OUTPUT_STDOUT, "\xe2\x82");
	drain(f, sizeof(f->text));
	assert_int_equal(f->len, 0);
	assert_int_equal(event_queue_end(&f->queue, &exit, NULL), 0);
	drain(f, sizeof(f->text));
	assert_non_null(strstr(f->text, "\"data\":\"4oI=\",\"encoding\":\"base64\",\"seq\":0"));
	assert_non_null(strstr(f->text, "\"exit_code\":3"));
	assert_true(f->queue.ended);
}

static void exit_flags_become_fields(void **state)
{
	const struct exec_exit exit = {
		.exit_code = 124,
		.flags = EXIT_TIMED_OUT | EXIT_REPL_RESTARTED | EXIT_STATE_LOST,
		.dropped = 5,
		.queue_ns = 1000000,
		.run_ns = 2000000,
		.total_ns = 3000000,
	};
	struct fixture *f = *state;

	assert_int_equal(event_queue_end(&f->queue, &exit, NULL), 0);
	drain(f, sizeof(f->text));
	assert_string_equal(
		f->text, "{\"type\":\"exit\",\"data\":124,\"seq\":0,\"ts\":2.0,\"exit_code\":124,"
			 "\"timed_out\":true,\"interrupted\":false,\"cancelled\":false,"
			 "\"repl_restarted\":true,\"state_lost\":true,\"output_cut\":true,"
			 "\"output_dropped\":5,\"timings\":{\"queue_ms\":1.0,\"run_ms\":2.0,"
			 "\"total_ms\":3.0}}\n");
}

static void error_ends_with_its_code(void **state)
{
	struct ramet_err err = { .code = ECANCELED, .msg = "the sandbox was closed" };
	struct fixture *f = *state;

	put(f, OUTPUT_STDOUT, "a");
	assert_int_equal(event_queue_end(&f->queue, NULL, &err), 0);
	drain(f, sizeof(f->text));
	assert_non_null(strstr(f->text, "{\"type\":\"error\",\"error\":{\"code\":\"cancelled\","
					"\"message\":\"the sandbox was closed\"},\"seq\":1,"));
}

static void unknown_streams_are_refused(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(event_queue_output(&f->queue, 0, 0, "a", 1), -EINVAL);
	assert_int_equal(event_queue_output(&f->queue, EVENT_STREAMS, 0, "a", 1), -EINVAL);
	assert_int_equal(event_queue_output(&f->queue, -1, 0, "a", 1), -EINVAL);
	assert_null(f->queue.first);
}

#define QUEUE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		QUEUE_TEST(output_is_one_line_with_its_stream),
		QUEUE_TEST(credit_comes_back_only_with_whole_lines),
		QUEUE_TEST(reading_in_any_steps_gives_the_same),
		QUEUE_TEST(split_sequences_are_joined_per_stream),
		QUEUE_TEST(unfinished_sequence_comes_at_the_end),
		QUEUE_TEST(exit_flags_become_fields),
		QUEUE_TEST(error_ends_with_its_code),
		QUEUE_TEST(unknown_streams_are_refused),
	};

	return cmocka_run_group_tests_name("api_events", tests, NULL, NULL);
}
