/* The tail of a byte stream: keeps the last bytes, forgets the rest. */
#ifndef RAMET_ENGINE_CONSOLE_H
#define RAMET_ENGINE_CONSOLE_H

#include <stddef.h>

struct console {
	char *buf;
	size_t size; /* kept at most */
	size_t used;
	size_t next; /* where the next byte goes, once full */
};

/* Allocates at the first byte. */
void console_init(struct console *console, size_t size);
void console_free(struct console *console);

/* Drops the bytes when memory is short. */
void console_add(struct console *console, const void *bytes, size_t length);

/* Copies the last min(size, kept) bytes, oldest first; returns how many. */
size_t console_copy(const struct console *console, char *buf, size_t size);

#endif
