/* Guest bytes as JSON text: api/server/text.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/server/text.h"

/* Encodes without any of the decoder's logic. */
static size_t encode(uint32_t point, char *out)
{
	if (point < 0x80) {
		out[0] = (char)point;
		return 1;
	}
	if (point < 0x800) {
		out[0] = (char)(0xc0 | point >> 6);
		out[1] = (char)(0x80 | (point & 63));
		return 2;
	}
	if (point < 0x10000) {
		out[0] = (char)(0xe0 | point >> 12);
		out[1] = (char)(0x80 | (point >> 6 & 63));
		out[2] = (char)(0x80 | (point & 63));
		return 3;
	}
	out[0] = (char)(0xf0 | point >> 18);
	out[1] = (char)(0x80 | (point >> 12 & 63));
	out[2] = (char)(0x80 | (point >> 6 & 63));
	out[3] = (char)(0x80 | (point & 63));
	return 4;
}

static void every_code_point_is_valid_and_its_prefixes_incomplete(void **state)
{
	char text[8] = "x";

	(void)state;
	for (uint32_t point = 0; point <= 0x10ffff; point++) {
		size_t len = encode(point, text + 1);
		int surrogate = point >= 0xd800 && point <= 0xdfff;

		assert_int_equal(utf8_valid(text, len + 1), !surrogate);
		assert_int_equal(utf8_incomplete_tail(text, len + 1), 0);
		for (size_t part = 1; part < len; part++) {
			assert_false(utf8_valid(text, part + 1));
			if (!surrogate)
				assert_int_equal(utf8_incomplete_tail(text, part + 1), part);
		}
	}
}

static void malformed_bytes_are_invalid_and_no_beginning(void **state)
{
	static const char *const bad[] = {
		"\x80",
		"\xbf",
		"\xc0\x80",
		"\xc1\xbf",
		"\xe0\x80\x80",
		"\xe0\x9f\xbf",
		"\xed\xa0\x80",
		"\xf0\x80\x80\x80",
		"\xf0\x8f\xbf\xbf",
		"\xf4\x90\x80\x80",
		"\xf5\x80\x80\x80",
		"\xff",
		"\xfe",
		"a\xffz",
		"\xe2\x28\xa1",
		"\xc3\x28",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_false(utf8_valid(bad[i], strlen(bad[i])));
		assert_int_equal(utf8_incomplete_tail(bad[i], strlen(bad[i])), 0);
	}
	/* Beginnings that nothing can complete. */
	assert_int_equal(utf8_incomplete_tail("\xe0\x80", 2), 0);
	assert_int_equal(utf8_incomplete_tail("\xed\xa0", 2), 0);
	assert_int_equal(utf8_incomplete_tail("\xf4\x90", 2), 0);
	assert_int_equal(utf8_incomplete_tail("\xc0", 1), 0);
}

static void empty_text_is_valid(void **state)
{
	(void)state;
	assert_true(utf8_valid("", 0));
	assert_int_equal(utf8_incomplete_tail("", 0), 0);
}

static void base64_of_the_rfc_vectors(void **state)
{
	static const char *const vectors[][2] = {
		{ "", "" },
		{ "f", "Zg==" },
		{ "fo", "Zm8=" },
		{ "foo", "Zm9v" },
		{ "foob", "Zm9vYg==" },
		{ "fooba", "Zm9vYmE=" },
		{ "foobar", "Zm9vYmFy" },
		{ "\xfb\xff\xbf", "+/+/" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		char *text = base64_encode(vectors[i][0], strlen(vectors[i][0]));

		assert_non_null(text);
		assert_string_equal(text, vectors[i][1]);
		free(text);
	}
}

static void text_and_bytes_in_json(void **state)
{
	json_t *object = json_object();

	(void)state;
	assert_int_equal(json_set_bytes(object, "text", "e1", "h\xc3\xa9\0!", 5), 0);
	assert_int_equal(json_set_bytes(object, "raw", "e2", "\xff", 1), 0);
	assert_int_equal(json_set_bytes(object, "none", "e3", NULL, 0), 0);
	assert_int_equal(json_string_length(json_object_get(object, "text")), 5);
	assert_null(json_object_get(object, "e1"));
	assert_string_equal(json_string_value(json_object_get(object, "raw")), "/w==");
	assert_string_equal(json_string_value(json_object_get(object, "e2")), "base64");
	assert_string_equal(json_string_value(json_object_get(object, "none")), "");
	assert_null(json_object_get(object, "e3"));
	json_decref(object);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_code_point_is_valid_and_its_prefixes_incomplete),
		cmocka_unit_test(malformed_bytes_are_invalid_and_no_beginning),
		cmocka_unit_test(empty_text_is_valid),
		cmocka_unit_test(base64_of_the_rfc_vectors),
		cmocka_unit_test(text_and_bytes_in_json),
	};

	return cmocka_run_group_tests_name("api_text", tests, NULL, NULL);
}
