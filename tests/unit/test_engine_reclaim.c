/* sandbox_reclaim(), and that templates are frozen after one, against a scripted
 * agent. */
#include "tests/fake/engine_harness.h"

struct answer {
	unsigned int count;
	bool done;
	uint64_t bytes;
	struct ramet_err err;
};

static void on_reclaimed(void *arg, uint64_t bytes, const struct ramet_err *err)
{
	struct answer *answer = arg;

	answer->count++;
	answer->done = true;
	answer->bytes = bytes;
	if (err)
		answer->err = *err;
}

static void reclaim_wait(struct harness *h, struct sandbox *sandbox, struct answer *answer)
{
	struct ramet_err err = { 0 };

	if (sandbox_reclaim(sandbox, on_reclaimed, answer, &err))
		fail_msg("%s", err.msg);
	assert_false(answer->done);
	harness_wait(h, &answer->done);
	assert_int_equal(answer->count, 1);
}

static void the_guest_tells_how_much(void **state)
{
	struct harness *h = *state;
	struct answer answer = { 0 };

	reclaim_wait(h, create_ok(h, "agent"), &answer);
	assert_int_equal(answer.err.code, 0);
	assert_int_equal(answer.bytes, 4 << 20);
}

static void a_guest_that_cannot_says_why(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "refuse-reclaim");
	struct answer answer = { 0 };

	reclaim_wait(h, sandbox, &answer);
	assert_int_equal(answer.err.code, EOPNOTSUPP);
	assert_words(answer.err.msg, "no page flags");
	assert_int_equal(run_number(h, sandbox, "echo 6"), 6); /* nothing happened to it */
}

static void a_guest_that_is_silent_is_not_waited_for(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "silent-reclaim");
	struct answer answer = { 0 };

	h->engine->limits.reclaim_deadline = 50 * 1000000u;
	reclaim_wait(h, sandbox, &answer);
	assert_int_equal(answer.err.code, ETIMEDOUT);
	assert_words(answer.err.msg, "limit reclaim_deadline");
	assert_int_equal(run_number(h, sandbox, "echo 6"), 6);
}

static void a_guest_that_lies_fails(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "huge-reclaim");
	struct answer answer = { 0 };
	struct sandbox_info info;

	reclaim_wait(h, sandbox, &answer);
	assert_int_equal(answer.err.code, EIO);
	sandbox_info(sandbox, &info);
	assert_int_equal(info.state, SANDBOX_FAILED);
	assert_words(info.reason, "more memory than there is");
}

static void closing_ends_the_wait(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "silent-reclaim");
	struct answer answer = { 0 };
	struct ramet_err err;

	assert_int_equal(sandbox_reclaim(sandbox, on_reclaimed, &answer, &err), 0);
	assert_int_equal(sandbox_close(sandbox, NULL, NULL, &err), 0);
	harness_wait(h, &answer.done);
	assert_int_equal(answer.err.code, ECANCELED);
	assert_int_equal(answer.count, 1);
}

static void a_template_that_cannot_be_made_smaller_is_used_as_it_is(void **state)
{
	struct harness *h = *state;

	assert_int_equal(run_number(h, create_ok(h, "refuse-reclaim"), "count"), 1);
}

static void a_template_does_not_wait_for_ever(void **state)
{
	struct harness *h = *state;

	h->engine->limits.reclaim_deadline = 50 * 1000000u;
	assert_int_equal(run_number(h, create_ok(h, "silent-reclaim"), "count"), 1);
}

static void a_template_whose_guest_lies_fails(void **state)
{
	create_fails(*state, "huge-reclaim", EIO, "more memory than there is");
}

int main(void)
{
#define BOOTED(f)   cmocka_unit_test_setup_teardown(f, harness_setup, harness_teardown)
#define TEMPLATE(f) cmocka_unit_test_setup_teardown(f, harness_setup_templates, harness_teardown)
	const struct CMUnitTest tests[] = {
		BOOTED(the_guest_tells_how_much),
		BOOTED(a_guest_that_cannot_says_why),
		BOOTED(a_guest_that_is_silent_is_not_waited_for),
		BOOTED(a_guest_that_lies_fails),
		BOOTED(closing_ends_the_wait),
		TEMPLATE(a_template_that_cannot_be_made_smaller_is_used_as_it_is),
		TEMPLATE(a_template_does_not_wait_for_ever),
		TEMPLATE(a_template_whose_guest_lies_fails),
	};
	int skip = harness_unavailable();

	return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
