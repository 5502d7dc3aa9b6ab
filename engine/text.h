/* Text from a guest or worker, made fit for sentences, logs and JSON. */
#ifndef RAMET_ENGINE_TEXT_H
#define RAMET_ENGINE_TEXT_H

#include <stddef.h>

/* Copies at most `length` bytes of `text` (up to a NUL) into `out` (with NUL,
 * at most `size` bytes): printable ASCII stays, line breaks and tabs become a
 * space, anything else '?'. Trailing spaces go. Returns the length. */
size_t text_printable(char *out, size_t size, const void *text, size_t length);

#endif
