/* PUT /v1/sandboxes/{id}/files?path=...&mode=...: the body becomes a file.
 *
 * The body goes to the guest as fast as the guest takes it and is never held:
 * when the transfer is full, the connection is suspended until it is writable.
 * The engine hashes what it sends and the guest what it wrote; the file appears
 * under its name only if both agree. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/server/request.h"
#include "api/server/text.h"

static const char *const upload_query[] = { "path", "mode", NULL };

static void upload_writable(void *arg)
{
	request_wake(arg);
}

static void upload_done(void *arg, const struct file_result *result, const struct ramet_err *err)
{
	struct request *request = arg;
	char hash[20];
	json_t *object;

	request->state = NULL;
	if (!result) {
		reply_engine_error(request, err);
		return;
	}
	(void)snprintf(hash, sizeof(hash), "%016" PRIx64, result->xxh3);
	object = json_pack("{s:I, s:s}", "size", (json_int_t)result->size, "xxh3", hash);
	if (object)
		(void)json_set_bytes(object, "path", "path_encoding",
				     uri_param(&request->uri, "path"),
				     strlen(uri_param(&request->uri, "path")));
	reply_json(request, MHD_HTTP_OK, object);
}

static const struct file_callbacks callbacks = {
	.writable = upload_writable,
	.done = upload_done,
};

/* Octal permission bits; absent: 0, which means the default. */
static bool mode_read(struct request *request, uint32_t *mode)
{
	const char *text = uri_param(&request->uri, "mode");

	*mode = 0;
	if (!text)
		return true;
	if (*text && strlen(text) <= 5 && strspn(text, "01234567") == strlen(text))
		*mode = (uint32_t)strtoul(text, NULL, 8);
	if (*mode >= 1 && *mode <= 07777)
		return true;
	reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_parameter",
		    "\"mode\" must be octal permission bits, 1 to 7777, for example 0644");
	return false;
}

static void upload_begin(struct request *request)
{
	const char *path = request_guest_path(request);
	struct file_transfer *transfer = NULL;
	struct ramet_err err = { 0 };
	struct sandbox *sandbox;
	uint32_t mode;

	if (!path || !mode_read(request, &mode))
		return;
	sandbox = request_sandbox(request, true);
	if (!sandbox)
		return;
	if (sandbox_upload(sandbox, path, mode, &callbacks, request, &transfer, &err))
		reply_engine_error(request, &err);
	else
		request->state = transfer;
}

static size_t upload_body(struct request *request, const char *data, size_t len)
{
	size_t taken = request->state ? file_write(request->state, data, len) : len;

	if (taken < len)
		request_suspend(request);
	return taken;
}

static void upload_end(struct request *request)
{
	if (request->state)
		file_finish(request->state);
}

static void upload_release(struct request *request)
{
	struct file_transfer *transfer = request->state;

	request->state = NULL;
	if (transfer)
		file_abandon(transfer);
}

const struct request_ops route_upload = {
	.params = upload_query,
	.missing = "path_not_found",
	.failed = "io_error",
	.begin = upload_begin,
	.body = upload_body,
	.end = upload_end,
	.release = upload_release,
};
