/* Execs: output, credit, order and limits. */
#include "tests/fake/engine_harness.h"

static void output_and_exit_come_back(void **state)
{
	struct sandbox *sandbox = create_ok(*state, "agent");
	struct ran ran = { 0 };

	run_wait(*state, sandbox, "echo hello there", &ran);
	assert_int_equal(ran.err.code, 0);
	assert_string_equal(ran.text[OUTPUT_STDOUT], "hello there");
	assert_int_equal(ran.exit.exit_code, 0);
	assert_int_equal(ran.exit.queue_ns, 11);
	assert_int_equal(ran.exit.run_ns, 22);
	assert_int_equal(ran.exit.dropped, 33);
	assert_true(ran.exit.total_ns > 0);
	ran_free(&ran);
}

static void exit_codes_come_back(void **state)
{
	struct sandbox *sandbox = create_ok(*state, "agent");
	struct ran ran = { 0 };

	run_wait(*state, sandbox, "exit 255", &ran);
	assert_int_equal(ran.exit.exit_code, 255);
}

static void output_without_bytes_is_not_passed_on(void **state)
{
	struct sandbox *sandbox = create_ok(*state, "agent");
	struct ran ran = { 0 };

	run_wait(*state, sandbox, "empty 100000", &ran);
	assert_int_equal(ran.err.code, 0);
	assert_null(ran.text[OUTPUT_STDOUT]); /* the recorder allocates at any call */
}

static void empty_code_runs(void **state)
{
	struct sandbox *sandbox = create_ok(*state, "agent");
	struct ran ran = { 0 };

	run_wait(*state, sandbox, "", &ran);
	assert_int_equal(ran.err.code, 0);
	assert_int_equal(ran.exit.exit_code, 127); /* no command of the fake agent */
}

static void code_of_the_largest_size_arrives_whole(void **state)
{
	struct sandbox *sandbox = create_ok(*state, "agent");
	char *code = malloc(CODE_LENGTH_MAX + 1);
	struct ran ran = { 0 };

	assert_non_null(code);
	memset(code, ' ', CODE_LENGTH_MAX);
	code[CODE_LENGTH_MAX] = '\0';
	memcpy(code, "length", 6);
	run_wait(*state, sandbox, code, &ran);
	assert_int_equal(ran.err.code, 0);
	assert_string_equal(ran.text[OUTPUT_RESULT], "4194304");
	ran_free(&ran);
	free(code);
}

static void refused(struct sandbox *sandbox, const struct exec_params *params, int code,
		    const char *words)
{
	struct ramet_err err = { 0 };
	struct exec *exec = NULL;
	struct ran ran = { 0 };

	assert_int_equal(sandbox_exec(sandbox, params, &ran_callbacks, &ran, &exec, &err), -code);
	assert_words(err.msg, words);
	assert_null(exec);
	assert_false(ran.done);
}

static void parameters_beyond_the_limits_are_refused(void **state)
{
	struct sandbox *sandbox = create_ok(*state, "agent");
	char *code = calloc(1, CODE_LENGTH_MAX + 1);
	struct exec_params params = { .language = EXEC_BASH, .code = code, .code_length = 1 };

	params.language = 3;
	refused(sandbox, &params, EINVAL, "language");
	params.language = EXEC_BASH;
	params.code_length = CODE_LENGTH_MAX + 1;
	refused(sandbox, &params, E2BIG, "code_length");
	params.code_length = 1;
	params.timeout_ms = 25 * 3600 * 1000;
	refused(sandbox, &params, EINVAL, "timeout_max_ms");
	params.timeout_ms = 0;
	params.output_limit = 2 * (uint64_t)GIB;
	refused(sandbox, &params, EINVAL, "output_max");
	free(code);
}

static void execs_run_in_the_order_they_came(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct ran first = { 0 }, second = { 0 }, third = { 0 };
	struct sandbox_info info;

	run_start(sandbox, EXEC_PYTHON, "hang", &first);
	run_start(sandbox, EXEC_BASH, "echo second", &second);
	run_start(sandbox, EXEC_BASH, "echo third", &third);
	sandbox_info(sandbox, &info);
	assert_int_equal(info.exec_running, 1);
	assert_int_equal(info.exec_waiting, 2);
	harness_spin(h, 50);
	assert_false(second.done);
	exec_abandon(first.exec);
	harness_wait(h, &third.done);
	assert_false(first.done); /* no callback for who lost interest */
	assert_true(second.done);
	assert_string_equal(second.text[OUTPUT_STDOUT], "second");
	sandbox_info(sandbox, &info);
	assert_int_equal(info.exec_running, 0);
	ran_free(&second);
	ran_free(&third);
}

static void more_than_the_queue_holds_is_refused(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct exec_params params = { .language = EXEC_BASH, .code = "exit 0", .code_length = 6 };
	struct ran runs[1 + EXEC_QUEUE_MAX] = { 0 };

	for (size_t i = 0; i <= EXEC_QUEUE_MAX; i++)
		run_start(sandbox, EXEC_BASH, i ? "exit 3" : "hang", &runs[i]);
	refused(sandbox, &params, EBUSY, "exec_waiting");
	exec_abandon(runs[0].exec);
	harness_wait(h, &runs[EXEC_QUEUE_MAX].done);
	for (size_t i = 1; i <= EXEC_QUEUE_MAX; i++)
		assert_int_equal(runs[i].exit.exit_code, 3);
}

static void more_code_than_the_queue_holds_is_refused(void **state)
{
	struct sandbox *sandbox = create_ok(*state, "agent");
	char *code = malloc(CODE_LENGTH_MAX + 1);
	struct exec_params params = { .language = EXEC_BASH, .code = "x", .code_length = 1 };
	struct ran runs[4] = { 0 };

	memset(code, ' ', CODE_LENGTH_MAX);
	code[CODE_LENGTH_MAX] = '\0';
	for (size_t i = 0; i < 4; i++)
		run_start(sandbox, EXEC_BASH, code, &runs[i]);
	refused(sandbox, &params, EBUSY, "code_queued");
	harness_wait(*state, &runs[3].done);
	assert_int_equal(
		sandbox_exec(sandbox, &params, &ran_callbacks, &runs[0], &runs[0].exec, NULL), 0);
	runs[0].done = false;
	harness_wait(*state, &runs[0].done);
	free(code);
}

static void what_the_guest_refuses_ends_with_its_words(void **state)
{
	struct sandbox *sandbox = create_ok(*state, "agent");
	struct ran ran = { 0 }, next = { 0 };

	run_wait(*state, sandbox, "refuse", &ran);
	assert_int_equal(ran.err.code, EBUSY);
	assert_string_equal(ran.err.msg, "no room for this");
	run_wait(*state, sandbox, "exit 4", &next);
	assert_int_equal(next.exit.exit_code, 4);
}

/* ---- flow control ---- */

static void much_output_streams_through(void **state)
{
	struct sandbox *sandbox = create_ok(*state, "agent");
	struct ran ran = { .discard = true };
	struct exec_params params = {
		.language = EXEC_BASH,
		.code = "flood 50000000",
		.code_length = 14,
		.output_limit = 50000000,
	};

	assert_int_equal(sandbox_exec(sandbox, &params, &ran_callbacks, &ran, &ran.exec, NULL), 0);
	harness_wait(*state, &ran.done);
	assert_int_equal(ran.err.code, 0);
	assert_int_equal(ran.total, 50000000);
}

static void output_that_nobody_takes_stops_nothing(void **state)
{
	struct sandbox *sandbox = create_ok(*state, "agent");
	const struct exec_callbacks callbacks = { .done = ran_callbacks.done };
	struct exec_params params = { .language = EXEC_BASH,
				      .code = "flood 5000000",
				      .code_length = 13 };
	struct ran ran = { 0 };

	assert_int_equal(sandbox_exec(sandbox, &params, &callbacks, &ran, &ran.exec, NULL), 0);
	harness_wait(*state, &ran.done);
	assert_int_equal(ran.err.code, 0);
	assert_int_equal(ran.total, 0);
}

static void output_stops_when_it_is_not_consumed(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct ran ran = { .discard = true, .hold = true };

	run_start(sandbox, EXEC_BASH, "flood 1000000", &ran);
	harness_spin(h, 200);
	assert_false(ran.done);
	assert_int_equal(ran.total, EXEC_CREDIT_INITIAL);
	ran.hold = false;
	exec_consumed(ran.exec, EXEC_CREDIT_INITIAL);
	harness_wait(h, &ran.done);
	assert_int_equal(ran.total, 1000000);
}

static void consuming_more_than_was_sent_grants_no_more(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct ran ran = { .discard = true, .hold = true };

	run_start(sandbox, EXEC_BASH, "flood 2000000", &ran);
	harness_spin(h, 100);
	exec_consumed(ran.exec, 1u << 30);
	harness_spin(h, 100);
	assert_int_equal(ran.total, 2 * EXEC_CREDIT_INITIAL);
	close_wait(h, sandbox);
	assert_int_equal(ran.err.code, ECANCELED);
}

static void one_stalled_reader_does_not_hold_up_files(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct ran ran = { .discard = true, .hold = true };
	struct moved moved = { 0 };

	run_start(sandbox, EXEC_BASH, "flood 1000000", &ran);
	assert_int_equal(sandbox_download(sandbox, "/size/1000000", &moved_callbacks, &moved,
					  &moved.transfer, NULL),
			 0);
	harness_wait(h, &moved.done);
	assert_int_equal(moved.received, 1000000);
	assert_false(ran.done);
	close_wait(h, sandbox);
}

/* ---- losing interest ---- */

static void abandoning_in_the_output_callback_is_fine(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct ran ran = { .discard = true, .abandon = true }, next = { 0 };

	run_start(sandbox, EXEC_BASH, "flood 5000000", &ran);
	run_start(sandbox, EXEC_BASH, "exit 9", &next);
	harness_wait(h, &next.done);
	assert_false(ran.done);
	assert_int_equal(next.exit.exit_code, 9);
}

static void abandoning_before_the_code_went_out_is_fine(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	char *code = malloc(CODE_LENGTH_MAX + 1);
	struct ran big = { 0 }, unsent = { 0 }, last = { 0 };

	memset(code, ' ', CODE_LENGTH_MAX);
	code[CODE_LENGTH_MAX] = '\0';
	run_start(sandbox, EXEC_BASH, code, &big);    /* partly sent */
	run_start(sandbox, EXEC_BASH, code, &unsent); /* not at all */
	exec_abandon(big.exec);
	exec_abandon(unsent.exec);
	run_start(sandbox, EXEC_BASH, "exit 5", &last);
	harness_wait(h, &last.done);
	assert_int_equal(last.exit.exit_code, 5);
	assert_false(big.done);
	assert_false(unsent.done);
	free(code);
}

static void a_guest_that_ignores_a_timeout_is_given_up(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox;
	struct exec_params params = {
		.language = EXEC_BASH, .code = "stubborn", .code_length = 8, .timeout_ms = 50
	};
	struct ran ran = { 0 };
	struct sandbox_info info;

	h->engine->limits.timeout_grace = 100 * 1000000u;
	sandbox = create_ok(h, "agent");
	assert_int_equal(sandbox_exec(sandbox, &params, &ran_callbacks, &ran, &ran.exec, NULL), 0);
	harness_wait(h, &ran.done);
	assert_int_equal(ran.err.code, ETIMEDOUT);
	assert_words(ran.err.msg, "50 ms");
	harness_spin(h, 300); /* it was cancelled and did not end */
	sandbox_info(sandbox, &info);
	assert_int_equal(info.state, SANDBOX_FAILED);
	assert_words(info.reason, "did not stop an exec");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, harness_setup, harness_teardown)
	const struct CMUnitTest tests[] = {
		TEST(output_and_exit_come_back),
		TEST(exit_codes_come_back),
		TEST(output_without_bytes_is_not_passed_on),
		TEST(empty_code_runs),
		TEST(code_of_the_largest_size_arrives_whole),
		TEST(parameters_beyond_the_limits_are_refused),
		TEST(execs_run_in_the_order_they_came),
		TEST(more_than_the_queue_holds_is_refused),
		TEST(more_code_than_the_queue_holds_is_refused),
		TEST(what_the_guest_refuses_ends_with_its_words),
		TEST(much_output_streams_through),
		TEST(output_that_nobody_takes_stops_nothing),
		TEST(output_stops_when_it_is_not_consumed),
		TEST(consuming_more_than_was_sent_grants_no_more),
		TEST(one_stalled_reader_does_not_hold_up_files),
		TEST(abandoning_in_the_output_callback_is_fine),
		TEST(abandoning_before_the_code_went_out_is_fine),
		TEST(a_guest_that_ignores_a_timeout_is_given_up),
	};
	int skip = harness_unavailable();

	return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
