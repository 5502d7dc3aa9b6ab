/* Guest bytes as JSON text: see text.h. */
#include "api/server/text.h"

#include <errno.h>
#include <stdlib.h>

#include "lib/cleanup.h"

/* Length of the sequence a lead byte announces; 0 when it cannot lead one. */
static size_t sequence_length(uint8_t lead)
{
	if (lead < 0x80)
		return 1;
	if (lead >= 0xc2 && lead <= 0xdf)
		return 2;
	if (lead >= 0xe0 && lead <= 0xef)
		return 3;
	if (lead >= 0xf0 && lead <= 0xf4)
		return 4;
	return 0;
}

/* Whether `byte` may stand at `index` (1..3) after `lead`. */
static bool continuation_valid(uint8_t lead, size_t index, uint8_t byte)
{
	uint8_t low = 0x80, high = 0xbf;

	if (index == 1) {
		if (lead == 0xe0)
			low = 0xa0;
		else if (lead == 0xed)
			high = 0x9f;
		else if (lead == 0xf0)
			low = 0x90;
		else if (lead == 0xf4)
			high = 0x8f;
	}
	return byte >= low && byte <= high;
}

/* How many of the `len` bytes fit one sequence that starts there: its whole
 * length when complete, less when the data ends inside it, 0 when malformed. */
static size_t sequence_match(const uint8_t *data, size_t len)
{
	size_t need = sequence_length(data[0]);

	for (size_t i = 1; i < need && i < len; i++)
		if (!continuation_valid(data[0], i, data[i]))
			return 0;
	return need < len ? need : len;
}

bool utf8_valid(const char *data, size_t len)
{
	const uint8_t *bytes = (const uint8_t *)data;

	for (size_t i = 0; i < len;) {
		size_t matched;

		if (bytes[i] < 0x80) {
			i++;
			continue;
		}
		matched = sequence_match(bytes + i, len - i);
		if (!matched || matched < sequence_length(bytes[i]))
			return false;
		i += matched;
	}
	return true;
}

size_t utf8_incomplete_tail(const char *data, size_t len)
{
	const uint8_t *bytes = (const uint8_t *)data;

	for (size_t tail = 1; tail <= 3 && tail <= len; tail++) {
		const uint8_t *lead = bytes + len - tail;

		if (*lead < 0x80)
			return 0;
		if (*lead < 0xc0)
			continue;
		return sequence_length(*lead) > tail && sequence_match(lead, tail) ? tail : 0;
	}
	return 0;
}

char *base64_encode(const char *data, size_t len)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const uint8_t *in = (const uint8_t *)data;
	char *text = malloc((len + 2) / 3 * 4 + 1);
	char *out = text;

	if (!text)
		return NULL;
	for (size_t i = 0; i < len; i += 3) {
		size_t left = len - i;
		uint32_t bits = (uint32_t)in[i] << 16;

		if (left > 1)
			bits |= (uint32_t)in[i + 1] << 8;
		if (left > 2)
			bits |= in[i + 2];
		*out++ = digits[bits >> 18];
		*out++ = digits[bits >> 12 & 63];
		*out++ = left > 1 ? digits[bits >> 6 & 63] : '=';
		*out++ = left > 2 ? digits[bits & 63] : '=';
	}
	*out = '\0';
	return text;
}

int json_set_bytes(json_t *object, const char *key, const char *encoding, const char *data,
		   size_t len)
{
	cleanup_free char *text = NULL;

	if (!len)
		data = ""; /* an empty buffer may be NULL */
	if (utf8_valid(data, len))
		return json_object_set_new_nocheck(object, key, json_stringn_nocheck(data, len))
			       ? -ENOMEM
			       : 0;
	text = base64_encode(data, len);
	if (!text || json_object_set_new_nocheck(object, key, json_string_nocheck(text)) ||
	    json_object_set_new_nocheck(object, encoding, json_string_nocheck("base64")))
		return -ENOMEM;
	return 0;
}
