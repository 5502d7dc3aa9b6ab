/* The host's memory, from /proc/meminfo and from texts like it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "lib/meminfo.h"

static const struct meminfo untouched = { 11, 22 };

/* Parses `text` over a struct that says when nothing was stored. */
static int parse(const char *text, struct meminfo *info)
{
	FILE *file = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
	int r;

	assert_non_null(file);
	*info = untouched;
	r = meminfo_parse(file, info);
	assert_int_equal(fclose(file), 0);
	return r;
}

static void assert_untouched(const struct meminfo *info)
{
	assert_int_equal(info->total, untouched.total);
	assert_int_equal(info->available, untouched.available);
}

static void kilobytes_become_bytes(void **state)
{
	struct meminfo info;

	(void)state;
	assert_int_equal(parse("MemTotal:       24670148 kB\n"
			       "MemFree:         1046236 kB\n"
			       "MemAvailable:   20971520 kB\n"
			       "Buffers:              12 kB\n",
			       &info),
			 0);
	assert_int_equal(info.total, 24670148ull << 10);
	assert_int_equal(info.available, 20971520ull << 10);
}

static void none_available_is_an_answer(void **state)
{
	struct meminfo info;

	(void)state;
	assert_int_equal(parse("MemAvailable: 0 kB\nMemTotal: 1 kB\n", &info), 0);
	assert_int_equal(info.total, 1024);
	assert_int_equal(info.available, 0);
}

static void both_must_be_told(void **state)
{
	struct meminfo info;

	(void)state;
	assert_int_equal(parse("MemTotal: 1024 kB\nMemFree: 512 kB\n", &info), -EIO);
	assert_untouched(&info);
	assert_int_equal(parse("MemAvailable: 512 kB\n", &info), -EIO);
	assert_untouched(&info);
	assert_int_equal(parse("MemTotal: much\nMemAvailable: 512 kB\n", &info), -EIO);
	assert_untouched(&info);
}

static void this_host_has_memory(void **state)
{
	struct meminfo info;

	(void)state;
	assert_int_equal(meminfo_read(&info), 0);
	assert_true(info.available > 0);
	assert_true(info.total > info.available);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kilobytes_become_bytes),
		cmocka_unit_test(none_available_is_an_answer),
		cmocka_unit_test(both_must_be_told),
		cmocka_unit_test(this_host_has_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
