/* Replies: JSON with timings, and errors with the right status. See request.h. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/server/request.h"
#include "api/server/text.h"
#include "lib/clock.h"
#include "lib/log.h"

static const struct error_kind error_kinds[] = {
	{ EINVAL, 400, "invalid_request" },
	{ ENAMETOOLONG, 400, "name_too_long" },
	{ EISDIR, 400, "is_a_directory" },
	{ ENOTDIR, 400, "not_a_directory" },
	{ ELOOP, 400, "too_many_links" },
	{ ENXIO, 400, "not_a_file" },
	{ EACCES, 403, "permission_denied" },
	{ EPERM, 403, "permission_denied" },
	{ EROFS, 403, "read_only" },
	{ ENOENT, 404, "not_found" },
	{ ESRCH, 404, "not_found" },
	{ ECANCELED, 409, "cancelled" },
	{ EALREADY, 409, "sandbox_closing" },
	{ ENOTCONN, 409, "sandbox_not_ready" },
	{ EEXIST, 409, "exists" },
	{ ETXTBSY, 409, "file_busy" },
	{ EFBIG, 413, "too_large" },
	{ E2BIG, 413, "too_large" },
	{ EMSGSIZE, 413, "too_large" },
	{ EAGAIN, 429, "limit_reached" },
	{ EBUSY, 429, "limit_reached" },
	{ EMFILE, 429, "limit_reached" },
	{ ENFILE, 503, "out_of_files" },
	{ ENOMEM, 503, "out_of_memory" },
	{ ESHUTDOWN, 503, "stopping" },
	{ ETIMEDOUT, 504, "timed_out" },
	{ ENOSPC, 507, "no_space" },
	{ EDQUOT, 507, "no_space" },
	{ EIO, 500, "sandbox_failed" },
	{ ECONNRESET, 500, "sandbox_died" },
	{ EPIPE, 500, "sandbox_died" },
	{ EPROTO, 500, "sandbox_died" },
	{ 0, 500, "internal" },
};

const struct error_kind *error_kind_find(int number)
{
	const struct error_kind *kind = error_kinds;

	while (kind->number && kind->number != number)
		kind++;
	return kind;
}

json_t *json_ms(uint64_t ns)
{
	return json_real((double)((ns + 500) / 1000) / 1000.0);
}

json_t *json_time(int64_t ns)
{
	int64_t seconds = ns / 1000000000, rest = ns % 1000000000;
	char text[48], whole[32];
	struct tm tm;
	time_t when;

	if (rest < 0) {
		rest += 1000000000;
		seconds--;
	}
	when = (time_t)seconds;
	if (!gmtime_r(&when, &tm) || !strftime(whole, sizeof(whole), "%Y-%m-%dT%H:%M:%S", &tm))
		return json_null();
	(void)snprintf(text, sizeof(text), "%s.%03dZ", whole, (int)(rest / 1000000));
	return json_string(text);
}

json_t *error_object(const char *code, const char *message)
{
	char safe[sizeof(((struct ramet_err *)NULL)->msg)];

	(void)snprintf(safe, sizeof(safe), "%s", message);
	/* Cutting may have split a sequence, and a path need not be UTF-8. */
	if (!utf8_valid(safe, strlen(safe)))
		for (char *c = safe; *c; c++)
			if ((unsigned char)*c >= 0x80)
				*c = '?';
	return json_pack("{s:s, s:s}", "code", code, "message", safe);
}

void reply_response(struct request *request, unsigned int status, struct MHD_Response *response)
{
	if (!response) {
		log_error("out of memory while answering a request");
		request_abort(request);
		return;
	}
	request->status = status;
	request->response = response;
	request_wake(request);
}

void reply_bytes(struct request *request, const char *type, const void *data, size_t len)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(
		len, (void *)(uintptr_t)data, MHD_RESPMEM_MUST_COPY);

	if (response)
		(void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	reply_response(request, MHD_HTTP_OK, response);
}

void reply_json(struct request *request, unsigned int status, json_t *object)
{
	struct MHD_Response *response = NULL;
	json_t *timings = json_object_get(object, "timings");
	char *text = NULL;

	if (object && !timings) {
		timings = json_object();
		if (json_object_set_new(object, "timings", timings))
			timings = NULL;
	}
	if (timings && !json_object_set_new(timings, "total_ms",
					    json_ms(clock_monotonic_ns() - request->start_ns)))
		text = json_dumps(object, JSON_REPLY_FLAGS);
	json_decref(object);
	if (text)
		response =
			MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
	if (response)
		(void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
					      "application/json");
	else
		free(text);
	reply_response(request, status, response);
}

void reply_error(struct request *request, unsigned int status, const char *code, const char *fmt,
		 ...)
{
	char message[sizeof(((struct ramet_err *)NULL)->msg)];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	log_debug("request %p: %u %s: %s", (void *)request, status, code, message);
	reply_json(request, status, json_pack("{s:o}", "error", error_object(code, message)));
}

void reply_no_memory(struct request *request)
{
	reply_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, "out_of_memory", "out of memory");
}

void reply_engine_error(struct request *request, const struct ramet_err *err)
{
	const struct error_kind *kind = error_kind_find(err->code);
	unsigned int status = kind->status;
	const char *code = kind->code;

	if (err->code == ENOENT && request->ops && request->ops->missing)
		code = request->ops->missing;
	if (err->code == EIO && request->ops && request->ops->failed)
		code = request->ops->failed;
	if (err->code == EBUSY && request->ops && request->ops->busy) {
		status = MHD_HTTP_CONFLICT;
		code = request->ops->busy;
	}
	reply_error(request, status, code, "%s", err->msg[0] ? err->msg : "the operation failed");
}
