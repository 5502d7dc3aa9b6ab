/* Listings, right and wrong. */
#include "tests/fake/engine_harness.h"

static void list_wait(struct harness *h, struct sandbox *sandbox, const char *path,
		      struct moved *moved)
{
	assert_int_equal(
		sandbox_list(sandbox, path, &moved_callbacks, moved, &moved->transfer, NULL), 0);
	harness_wait(h, &moved->done);
}

static void entries_come_back(void **state)
{
	struct moved moved = { 0 };

	list_wait(*state, create_ok(*state, "agent"), "/entries/1234", &moved);
	assert_int_equal(moved.err.code, 0);
	assert_int_equal(moved.entries, 1234);
	assert_int_equal(moved.result.size, 1234);
	assert_string_equal(moved.last_name, "file-1233");
}

static void an_empty_directory_has_no_entries(void **state)
{
	struct moved moved = { 0 };

	list_wait(*state, create_ok(*state, "agent"), "/entries/0", &moved);
	assert_int_equal(moved.err.code, 0);
	assert_int_equal(moved.entries, 0);
}

static void a_missing_directory_is_an_error(void **state)
{
	struct moved moved = { 0 };

	list_wait(*state, create_ok(*state, "agent"), "/missing", &moved);
	assert_int_equal(moved.err.code, ENOENT);
}

static void more_entries_than_the_limit_are_an_error(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct moved moved = { 0 }, next = { 0 };

	h->engine->limits.list_entries = 250;
	list_wait(h, sandbox, "/entries/5000", &moved);
	assert_int_equal(moved.err.code, E2BIG);
	assert_words(moved.err.msg, "list_entries");
	assert_int_equal(moved.entries, 250);
	list_wait(h, sandbox, "/entries/250", &next); /* the connection is fine */
	assert_int_equal(next.err.code, 0);
	assert_int_equal(next.entries, 250);
}

static void a_name_with_a_slash_fails_the_sandbox(void **state)
{
	struct sandbox *sandbox = create_ok(*state, "agent");
	struct moved moved = { 0 };
	struct sandbox_info info;

	list_wait(*state, sandbox, "/badname", &moved);
	assert_int_equal(moved.err.code, EIO);
	assert_words(moved.err.msg, "impossible file name");
	assert_int_equal(moved.entries, 0);
	sandbox_info(sandbox, &info);
	assert_int_equal(info.state, SANDBOX_FAILED);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, harness_setup, harness_teardown)
	const struct CMUnitTest tests[] = {
		TEST(entries_come_back),
		TEST(an_empty_directory_has_no_entries),
		TEST(a_missing_directory_is_an_error),
		TEST(more_entries_than_the_limit_are_an_error),
		TEST(a_name_with_a_slash_fails_the_sandbox),
	};
	int skip = harness_unavailable();

	return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
