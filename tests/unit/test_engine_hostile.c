/* Guests and workers that break the rules while they are in use: the sandbox
 * fails with a reason, nothing else does. */
#include "tests/fake/engine_harness.h"

static void violation(void **state, const char *code, const char *words)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct exec_params params = {
		.language = EXEC_BASH,
		.code = code,
		.code_length = strlen(code),
		.output_limit = 1000000,
	};
	struct ran ran = { .discard = true, .hold = true }, after = { 0 };
	struct ramet_err err = { 0 };
	struct sandbox_info info;
	struct sandbox *other;

	assert_int_equal(sandbox_exec(sandbox, &params, &ran_callbacks, &ran, &ran.exec, NULL), 0);
	harness_wait(h, &ran.done);
	assert_int_equal(ran.err.code, EIO);
	assert_words(ran.err.msg, words);
	sandbox_info(sandbox, &info);
	assert_int_equal(info.state, SANDBOX_FAILED);
	assert_words(info.reason, words);
	/* It takes no more work, says why, and can be closed; others go on. */
	assert_int_equal(sandbox_exec(sandbox, &params, &ran_callbacks, &after, &after.exec, &err),
			 -EIO);
	assert_words(err.msg, words);
	other = create_ok(h, "agent");
	run_wait(h, other, "exit 1", &after);
	assert_int_equal(after.exit.exit_code, 1);
	close_wait(h, sandbox);
}

static void output_beyond_the_credit(void **state)
{
	violation(state, "overcredit", "more output than it had credit for");
}

static void output_beyond_the_limit(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct exec_params params = {
		.language = EXEC_BASH, .code = "overlimit", .code_length = 9, .output_limit = 1000
	};
	struct ran ran = { .discard = true };

	assert_int_equal(sandbox_exec(sandbox, &params, &ran_callbacks, &ran, &ran.exec, NULL), 0);
	harness_wait(h, &ran.done);
	assert_int_equal(ran.err.code, EIO);
	assert_words(ran.err.msg, "more output than the exec's limit");
	assert_int_equal(ran.total, 0);
}

static void output_on_an_unknown_stream(void **state)
{
	violation(state, "badstream", "unknown stream 9");
}

static void an_impossible_exit_code(void **state)
{
	violation(state, "badexit", "exit code 256");
}

static void an_answer_to_nothing(void **state)
{
	violation(state, "badid", "not outstanding");
}

static void an_answer_of_the_wrong_type(void **state)
{
	violation(state, "badtype", "EXEC with an unfitting OK");
}

static void bytes_that_are_no_frame(void **state)
{
	violation(state, "garbage", "frame began with");
}

static void a_frame_of_a_gigabyte(void **state)
{
	violation(state, "hugeframe", "impossible length");
}

static void a_second_hello(void **state)
{
	violation(state, "hello", "HELLO twice");
}

static void a_worker_that_dies_in_an_exec(void **state)
{
	violation(state, "die", "crashed with SIGILL");
}

static void a_channel_that_closes_in_an_exec(void **state)
{
	((struct harness *)*state)->engine->limits.end_grace = 100 * 1000000u;
	violation(state, "silence", "did not exit and was killed");
}

/* 64 uploads of 10 MB to a guest that has stopped reading: what is held here
 * stays bounded, and the callers are told when nothing moves. */
static void a_deaf_guest_does_not_fill_memory(void **state)
{
	struct harness *h = *state;
	struct moved moved[FILE_HANDLES_MAX] = { 0 };
	const size_t staged = FILE_HANDLES_MAX * FILE_CHUNK_MAX;
	struct ran deaf = { 0 };
	struct sandbox *sandbox;
	uint64_t taken = 0;

	h->engine->limits.file_stall = 300 * 1000000u;
	sandbox = create_ok(h, "agent");
	for (size_t i = 0; i < FILE_HANDLES_MAX; i++)
		assert_int_equal(sandbox_upload(sandbox, "/pattern", 0, &moved_callbacks, &moved[i],
						&moved[i].transfer, NULL),
				 0);
	harness_spin(h, 100);
	run_start(sandbox, EXEC_BASH, "deaf", &deaf);
	harness_spin(h, 50);
	for (size_t i = 0; i < FILE_HANDLES_MAX; i++) {
		moved[i].to_send = 10000000;
		moved_push(&moved[i]);
		taken += moved[i].sent;
	}
	assert_true(taken >= staged);
	/* A chunk per upload, the queue, and what the sockets hold. */
	assert_true(taken <= staged + h->engine->limits.channel_queue_high + 8 * FILE_CHUNK_MAX);
	for (size_t i = 0; i < FILE_HANDLES_MAX; i++) {
		harness_wait(h, &moved[i].done);
		assert_int_equal(moved[i].err.code, ETIMEDOUT);
	}
	close_wait(h, sandbox);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, harness_setup, harness_teardown)
	const struct CMUnitTest tests[] = {
		TEST(output_beyond_the_credit),
		TEST(output_beyond_the_limit),
		TEST(output_on_an_unknown_stream),
		TEST(an_impossible_exit_code),
		TEST(an_answer_to_nothing),
		TEST(an_answer_of_the_wrong_type),
		TEST(bytes_that_are_no_frame),
		TEST(a_frame_of_a_gigabyte),
		TEST(a_second_hello),
		TEST(a_worker_that_dies_in_an_exec),
		TEST(a_channel_that_closes_in_an_exec),
		TEST(a_deaf_guest_does_not_fill_memory),
	};
	int skip = harness_unavailable();

	return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
