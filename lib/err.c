/* Error context: see err.h. */
#include "lib/err.h"

#include <stdio.h>
#include <string.h>

static void err_format(struct ramet_err *err, int code, const char *fmt, va_list ap)
	__attribute__((format(printf, 3, 0)));

static void err_format(struct ramet_err *err, int code, const char *fmt, va_list ap)
{
	err->code = code;
	(void)vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
}

int err_set(struct ramet_err *err, int code, const char *fmt, ...)
{
	if (err) {
		va_list ap;

		va_start(ap, fmt);
		err_format(err, code, fmt, ap);
		va_end(ap);
	}
	return -code;
}

int err_errno(struct ramet_err *err, int code, const char *fmt, ...)
{
	if (err) {
		va_list ap;
		size_t len;

		va_start(ap, fmt);
		err_format(err, code, fmt, ap);
		va_end(ap);
		len = strlen(err->msg);
		(void)snprintf(err->msg + len, sizeof(err->msg) - len, ": %s",
			       strerrordesc_np(code) ? strerrordesc_np(code) : "unknown error");
	}
	return -code;
}

int err_prefix(struct ramet_err *err, const char *fmt, ...)
{
	char tail[sizeof(err->msg)];
	va_list ap;
	size_t len;

	if (!err)
		return -1;
	memcpy(tail, err->msg, sizeof(tail));
	va_start(ap, fmt);
	err_format(err, err->code, fmt, ap);
	va_end(ap);
	len = strlen(err->msg);
	(void)snprintf(err->msg + len, sizeof(err->msg) - len, ": %s", tail);
	return -err->code;
}
