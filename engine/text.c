/* Text from outside, made printable: see text.h. */
#include "engine/text.h"

#include <stdint.h>

size_t text_printable(char *out, size_t size, const void *text, size_t length)
{
	const uint8_t *in = text;
	size_t n = 0;

	for (size_t i = 0; i < length && in[i] && n + 1 < size; i++) {
		uint8_t c = in[i];

		if (c == '\n' || c == '\r' || c == '\t')
			c = ' ';
		else if (c < 0x20 || c > 0x7e)
			c = '?';
		if (c == ' ' && (!n || out[n - 1] == ' '))
			continue; /* CR LF, indentation */
		out[n++] = (char)c;
	}
	while (n && out[n - 1] == ' ')
		n--;
	out[n] = '\0';
	return n;
}
