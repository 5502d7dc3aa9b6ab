/* Children are handed out only when their guest has confirmed who it is. */
#include "tests/fake/engine_harness.h"

#include "tests/fake/fake_agent.h"

/* A parent of whose children one, by its number, is bad. */
static struct sandbox *parent_of_bad(struct harness *h, unsigned int page, unsigned int number)
{
	struct sandbox *parent = create_ok(h, "agent");
	char code[32];

	(void)snprintf(code, sizeof(code), "poke %u %u", page, number);
	(void)run_number(h, parent, code);
	return parent;
}

static void check_only_second_failed(struct harness *h, struct sandbox *parent,
				     const struct forked *forked)
{
	struct engine_counts counts;
	struct sandbox_info info;

	assert_int_equal(forked->err.code, 0);
	assert_null(forked->children[1].sandbox);
	for (unsigned int i = 0; i < 3; i += 2) {
		assert_non_null(forked->children[i].sandbox);
		assert_int_equal(run_number(h, forked->children[i].sandbox, "identity"), i + 1);
	}
	sandbox_info(parent, &info);
	assert_int_equal(info.state, SANDBOX_READY);
	assert_int_equal(info.children, 2);
	engine_counts(h->engine, &counts);
	assert_int_equal(counts.total, 3); /* nobody can find the bad one */
}

static void a_child_that_refuses_its_identity_fails_alone(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = parent_of_bad(h, FAKE_PAGE_REFUSES, 2);
	struct forked forked;

	fork_wait(h, parent, 3, &forked);
	check_only_second_failed(h, parent, &forked);
	assert_int_equal(forked.children[1].err.code, EIO);
	assert_words(forked.children[1].err.msg, "refused its identity: no entropy device");
}

static void a_child_that_does_not_confirm_is_not_handed_out(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = parent_of_bad(h, FAKE_PAGE_SILENT, 2);
	struct forked forked;

	h->engine->limits.fork_deadline = 1000 * 1000000u;
	fork_wait(h, parent, 3, &forked);
	check_only_second_failed(h, parent, &forked);
	assert_int_equal(forked.children[1].err.code, ETIMEDOUT);
	assert_words(forked.children[1].err.msg, "fork_deadline");
}

static void on_merged(void *arg, struct sandbox *sandbox, const struct ramet_err *err)
{
	struct created *merged = arg;

	merged->done = true;
	merged->sandbox = sandbox;
	if (err)
		merged->err = *err;
}

/* What a guest heard last, apart from its name. */
static void a_merged_guest_only_hears_its_new_name(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	struct created merged = { 0 };
	struct sandbox_info before, after;
	struct forked forked;
	struct ran ran = { 0 };

	fork_ok(h, parent, 2, &forked);
	sandbox_info(forked.children[1].sandbox, &before);
	assert_int_equal(
		sandbox_merge(parent, forked.children[1].sandbox, on_merged, &merged, NULL), 0);
	harness_wait(h, &merged.done);
	assert_non_null(merged.sandbox);
	sandbox_info(merged.sandbox, &after);
	assert_memory_equal(before.generation, after.generation, 16);
	run_wait(h, merged.sandbox, "identity", &ran);
	assert_string_equal(ran.text[OUTPUT_STDOUT], "2 1");
	ran_free(&ran);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, harness_setup_templates, harness_teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_child_that_refuses_its_identity_fails_alone),
		TEST(a_child_that_does_not_confirm_is_not_handed_out),
		TEST(a_merged_guest_only_hears_its_new_name),
	};
	int skip = harness_unavailable();

	return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
