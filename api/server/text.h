/* Bytes from a guest as JSON text: UTF-8 where they are UTF-8, else base64. */
#ifndef RAMET_API_TEXT_H
#define RAMET_API_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether `data` is well-formed UTF-8 (RFC 3629: no overlong forms, no
 * surrogates, nothing above U+10FFFF). */
bool utf8_valid(const char *data, size_t len);

/* How many bytes at the end of `data` (0..3) are the beginning of a sequence
 * that more bytes could complete. */
size_t utf8_incomplete_tail(const char *data, size_t len);

/* Base64 with padding (RFC 4648 section 4), NUL-terminated, the caller's to
 * free; NULL when out of memory. */
char *base64_encode(const char *data, size_t len);

/* Sets object[key] to the text and, when it had to be base64, object[encoding]
 * to "base64". Returns 0 or -ENOMEM. */
int json_set_bytes(json_t *object, const char *key, const char *encoding, const char *data,
		   size_t len);

#endif
