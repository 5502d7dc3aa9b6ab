/* The tail of a byte stream: see console.h. */
#include "engine/console.h"

#include <stdlib.h>
#include <string.h>

void console_init(struct console *console, size_t size)
{
	*console = (struct console){ .size = size };
}

void console_free(struct console *console)
{
	free(console->buf);
	console_init(console, console->size);
}

void console_add(struct console *console, const void *bytes, size_t length)
{
	const char *in = bytes;

	if (!console->buf)
		console->buf = malloc(console->size);
	if (!console->buf)
		return;
	if (length > console->size) {
		in += length - console->size;
		length = console->size;
	}
	while (length) {
		size_t room = console->size - console->next;
		size_t n = length < room ? length : room;

		memcpy(console->buf + console->next, in, n);
		console->next = (console->next + n) % console->size;
		console->used += n;
		in += n;
		length -= n;
	}
	if (console->used > console->size)
		console->used = console->size;
}

size_t console_copy(const struct console *console, char *buf, size_t size)
{
	size_t n = console->used < size ? console->used : size;
	size_t start, first;

	if (!n)
		return 0;
	start = (console->next + console->size - n) % console->size;
	first = console->size - start < n ? console->size - start : n;
	memcpy(buf, console->buf + start, first);
	memcpy(buf + first, console->buf, n - first);
	return n;
}
