/* Error context carried beside a -errno return value.
 *
 * A fallible function returns 0 or -errno and, when it was given one, fills a
 * struct ramet_err with a sentence for a person: what was wrong, with what,
 * and what to do. The sentence is set once, by whoever knows most; callers
 * that add nothing pass it on untouched. */
#ifndef RAMET_LIB_ERR_H
#define RAMET_LIB_ERR_H

#include <stdarg.h>
#include <stddef.h>

struct ramet_err {
	int code; /* positive errno; 0 when no error was recorded */
	char msg[500];
};

/* Records `code` (positive errno) and the formatted sentence in `err`, which
 * may be NULL. Returns -code, so that callers can `return err_set(...)`. */
int err_set(struct ramet_err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* As err_set(), with ": " and strerror(code) appended. */
int err_errno(struct ramet_err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "<context>: " before the recorded sentence. Returns -err->code. */
int err_prefix(struct ramet_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
