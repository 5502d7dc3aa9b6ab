/* Request targets taken apart: api/server/uri.c. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/server/uri.h"

static void assert_refused(const char *target, int code, const char *message)
{
	struct uri uri = { .text = (char *)(uintptr_t) "untouched" };
	struct ramet_err err = { 0 };

	assert_int_equal(uri_parse(target, &uri, &err), -code);
	assert_int_equal(err.code, code);
	assert_string_equal(err.msg, message);
	assert_string_equal(uri.text, "untouched");
}

static void segments_are_split_and_decoded(void **state)
{
	struct uri uri;

	(void)state;
	assert_int_equal(uri_parse("/v1/a%20b/%7Ex", &uri, NULL), 0);
	assert_int_equal(uri.segment_count, 3);
	assert_string_equal(uri.segments[0], "v1");
	assert_string_equal(uri.segments[1], "a b");
	assert_string_equal(uri.segments[2], "~x");
	uri_clear(&uri);
}

static void trailing_slash_is_an_empty_segment(void **state)
{
	struct uri uri;

	(void)state;
	assert_int_equal(uri_parse("/v1/", &uri, NULL), 0);
	assert_int_equal(uri.segment_count, 2);
	assert_string_equal(uri.segments[1], "");
	uri_clear(&uri);
}

static void plus_is_a_space_only_in_the_query(void **state)
{
	struct uri uri;

	(void)state;
	assert_int_equal(uri_parse("/a+b?c+d=e+f%2Bg", &uri, NULL), 0);
	assert_string_equal(uri.segments[0], "a+b");
	assert_string_equal(uri_param(&uri, "c d"), "e f+g");
	uri_clear(&uri);
}

static void parameters_without_value_are_empty(void **state)
{
	struct uri uri;

	(void)state;
	assert_int_equal(uri_parse("/a?x&y=&&z=1=2", &uri, NULL), 0);
	assert_int_equal(uri.param_count, 3);
	assert_string_equal(uri_param(&uri, "x"), "");
	assert_string_equal(uri_param(&uri, "y"), "");
	assert_string_equal(uri_param(&uri, "z"), "1=2");
	assert_null(uri_param(&uri, "none"));
	uri_clear(&uri);
}

static void bytes_that_are_not_text_pass_through(void **state)
{
	struct uri uri;

	(void)state;
	assert_int_equal(uri_parse("/a?p=%ff%FE%01", &uri, NULL), 0);
	assert_string_equal(uri_param(&uri, "p"), "\xff\xfe\x01");
	uri_clear(&uri);
}

static void malformed_targets_are_refused(void **state)
{
	static const char percent[] = "the path has a \"%\" that two hex digits do not follow";

	(void)state;
	assert_refused("", EINVAL, "the request target must start with \"/\"");
	assert_refused("v1", EINVAL, "the request target must start with \"/\"");
	assert_refused("http://x/v1", EINVAL, "the request target must start with \"/\"");
	assert_refused("*", EINVAL, "the request target must start with \"/\"");
	assert_refused("/%", EINVAL, percent);
	assert_refused("/%4", EINVAL, percent);
	assert_refused("/%4g", EINVAL, percent);
	assert_refused("/%g4", EINVAL, percent);
	assert_refused("/a%00b", EINVAL, "the path contains %00");
	assert_refused("/a%2Fb", EINVAL, "a path segment contains an encoded \"/\"");
	assert_refused("/a?b=%00", EINVAL, "the query contains %00");
	assert_refused("/a?b=%", EINVAL, "the query has a \"%\" that two hex digits do not follow");
	assert_refused("/a?b=1&b=2", EINVAL, "query parameter \"b\" is given twice");
	assert_refused("/a?b=1&%62=2", EINVAL, "query parameter \"b\" is given twice");
}

static void counts_are_limited(void **state)
{
	struct uri uri;

	(void)state;
	assert_int_equal(uri_parse("/1/2/3/4/5/6", &uri, NULL), 0);
	uri_clear(&uri);
	assert_refused("/1/2/3/4/5/6/7", ENOENT, "no such resource");
	assert_int_equal(uri_parse("/a?1&2&3&4&5&6&7&8", &uri, NULL), 0);
	assert_int_equal(uri.param_count, 8);
	uri_clear(&uri);
	assert_refused("/a?1&2&3&4&5&6&7&8&9", EINVAL, "more than 8 query parameters");
}

static void clear_takes_an_empty_one(void **state)
{
	struct uri uri = { 0 };

	(void)state;
	uri_clear(&uri);
	uri_clear(&uri);
	assert_null(uri.text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(segments_are_split_and_decoded),
		cmocka_unit_test(trailing_slash_is_an_empty_segment),
		cmocka_unit_test(plus_is_a_space_only_in_the_query),
		cmocka_unit_test(parameters_without_value_are_empty),
		cmocka_unit_test(bytes_that_are_not_text_pass_through),
		cmocka_unit_test(malformed_targets_are_refused),
		cmocka_unit_test(counts_are_limited),
		cmocka_unit_test(clear_takes_an_empty_one),
	};

	return cmocka_run_group_tests_name("api_uri", tests, NULL, NULL);
}
