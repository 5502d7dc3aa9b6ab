/* cmocka assertions on attempts in the jail, see tests/fake/jailed.h. Include after cmocka.h. */
#ifndef RAMET_TESTS_FAKE_JAIL_ASSERT_H
#define RAMET_TESTS_FAKE_JAIL_ASSERT_H

#include "tests/fake/jailed.h"

/* Runs `attempt` in the jail; it must return `expected`. */
static inline void jail_returns(jailed_attempt attempt, const void *arg, int expected)
{
	const struct jailed how = JAILED_DEFAULT;
	struct outcome o = jailed_run(&how, attempt, arg);

	assert_false(o.timed_out);
	assert_true(o.reported);
	if (!o.entered)
		fail_msg("not jailed: %s", o.text);
	assert_int_equal(o.value, expected);
}

#endif
