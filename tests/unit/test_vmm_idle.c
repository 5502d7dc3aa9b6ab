/* When a guest counts as idle: a while after it was last talked to, once. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/fake/fake_machine.h"
#include "vmm/idle.h"

#define BEGIN    1000000000000ull /* some time */
#define SECOND   1000000000ull
#define WHOLE_MS ((int)(IDLE_AFTER_NS / 1000000))

static int setup(void **state)
{
	struct machine *m = fake_machine_new();

	m->probe.kind = KVM_KIND_SOFTWARE;
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	fake_machine_free(*state);
	return 0;
}

static void it_takes_a_while(void **state)
{
	struct machine *m = *state;

	assert_int_equal(idle_wait_ms(m, BEGIN), WHOLE_MS);
	assert_int_equal(idle_wait_ms(m, BEGIN + SECOND), WHOLE_MS - 1000);
	assert_int_equal(idle_wait_ms(m, BEGIN + IDLE_AFTER_NS - 1), 1);
	assert_int_equal(idle_wait_ms(m, BEGIN + IDLE_AFTER_NS), 0);
	assert_int_equal(idle_wait_ms(m, BEGIN + 2 * IDLE_AFTER_NS), 0);
}

static void what_comes_in_starts_it_again(void **state)
{
	struct machine *m = *state;

	(void)idle_wait_ms(m, BEGIN);
	m->stats.channel_to_guest = 1;
	assert_int_equal(idle_wait_ms(m, BEGIN + IDLE_AFTER_NS), WHOLE_MS);
	assert_int_equal(idle_wait_ms(m, BEGIN + 2 * IDLE_AFTER_NS), 0);
}

static void what_goes_out_starts_it_again(void **state)
{
	struct machine *m = *state;

	(void)idle_wait_ms(m, BEGIN);
	m->stats.channel_to_host = 1;
	assert_int_equal(idle_wait_ms(m, BEGIN + IDLE_AFTER_NS), WHOLE_MS);
}

/* Whatever the guest does by itself in between. */
static void it_is_trimmed_once(void **state)
{
	struct machine *m = *state;

	(void)idle_wait_ms(m, BEGIN);
	assert_int_equal(idle_wait_ms(m, BEGIN + IDLE_AFTER_NS), 0);
	(void)idle_trim(m, NULL);
	assert_int_equal(idle_wait_ms(m, BEGIN + IDLE_AFTER_NS), -1);
	assert_int_equal(idle_wait_ms(m, BEGIN + 9 * IDLE_AFTER_NS), -1);
	m->stats.channel_to_guest++;
	assert_int_equal(idle_wait_ms(m, BEGIN + 9 * IDLE_AFTER_NS), WHOLE_MS);
	assert_int_equal(idle_wait_ms(m, BEGIN + 10 * IDLE_AFTER_NS), 0);
}

static void nothing_is_to_be_had_where_nothing_is_shadowed(void **state)
{
	struct machine *m = *state;

	m->probe.kind = KVM_KIND_HARDWARE;
	assert_int_equal(idle_wait_ms(m, BEGIN), -1);
	assert_int_equal(idle_wait_ms(m, BEGIN + IDLE_AFTER_NS), -1);
}

/* This machine has no KVM. */
static void a_trim_that_fails_says_so(void **state)
{
	struct ramet_err err = { 0 };

	assert_int_equal(idle_trim(*state, &err), -EBADF);
	assert_non_null(strstr(err.msg, "KVM_SET_USER_MEMORY_REGION"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(it_takes_a_while),
		TEST(what_comes_in_starts_it_again),
		TEST(what_goes_out_starts_it_again),
		TEST(it_is_trimmed_once),
		TEST(nothing_is_to_be_had_where_nothing_is_shadowed),
		TEST(a_trim_that_fails_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
