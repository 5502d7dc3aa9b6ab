/* GET /v1/sandboxes/{id}/files?path=...: a file's bytes.
 *
 * The guest hashes what it read and the engine what it received; only when
 * both agree does the client get the end: the last byte of a file of known
 * size, the last chunk of one of unknown size. A transfer that fails ends the
 * connection early, which no HTTP client takes for success. Files of at most
 * API_SMALL_FILE_MAX bytes are checked before the reply begins. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/server/request.h"
#include "lib/cleanup.h"
#include "lib/log.h"

struct piece {
	struct piece *next;
	size_t len, sent;
	char data[];
};

struct download {
	struct file_transfer *transfer; /* NULL when it has ended */
	struct piece *first, **last;
	uint64_t size; /* UINT64_MAX: unknown */
	uint64_t received, passed, credited;
	uint64_t xxh3;
	uint32_t mode;
	bool done, failed;
	struct MHD_Response *response; /* to add the trailer to; not a reference of ours */
};

static const char *const download_query[] = { "path", NULL };

static void download_release(struct request *request)
{
	struct download *download = request->state;
	struct piece *next;

	request->state = NULL;
	if (!download)
		return;
	if (download->transfer)
		file_abandon(download->transfer);
	for (struct piece *piece = download->first; piece; piece = next) {
		next = piece->next;
		free(piece);
	}
	free(download);
}

/* Copies out what may be sent now. */
static size_t pieces_read(struct download *download, char *buf, size_t size)
{
	size_t done = 0;

	if (download->size != UINT64_MAX && !download->done) {
		uint64_t may = download->size - 1 - download->passed; /* size is not 0 here */

		if (size > may)
			size = (size_t)may;
	}
	while (download->first && done < size) {
		struct piece *piece = download->first;
		size_t part = piece->len - piece->sent;

		if (part > size - done)
			part = size - done;
		memcpy(buf + done, piece->data + piece->sent, part);
		piece->sent += part;
		done += part;
		if (piece->sent < piece->len)
			break;
		download->first = piece->next;
		if (!download->first)
			download->last = &download->first;
		free(piece);
	}
	download->passed += done;
	return done;
}

/* Returns to the engine what was not returned yet of the first `upto` bytes. */
static void credit_return(struct download *download, uint64_t upto)
{
	if (!download->transfer || upto <= download->credited)
		return;
	file_consumed(download->transfer, (size_t)(upto - download->credited));
	download->credited = upto;
}

static ssize_t download_read(void *arg, uint64_t position, char *buf, size_t size)
{
	struct request *request = arg;
	struct download *download = request->state;
	size_t len;

	(void)position;
	if (request->gone || !download || download->failed)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	len = pieces_read(download, buf, size);
	credit_return(download, download->passed);
	if (len)
		return (ssize_t)len;
	if (download->done)
		return MHD_CONTENT_READER_END_OF_STREAM;
	request_suspend(request);
	return 0;
}

static void reply_start(struct request *request)
{
	struct download *download = request->state;
	struct MHD_Response *response = MHD_create_response_from_callback(
		download->size, 64 * 1024, download_read, request, NULL);
	char text[24];

	if (response) {
		(void)snprintf(text, sizeof(text), "%04o", download->mode & 07777);
		(void)MHD_add_response_header(response, "X-Ramet-Mode", text);
		(void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
					      "application/octet-stream");
		(void)snprintf(text, sizeof(text), "%016" PRIx64, download->xxh3);
		if (download->done)
			(void)MHD_add_response_header(response, "X-Ramet-XXH3", text);
		else if (download->size == UINT64_MAX)
			(void)MHD_add_response_header(response, MHD_HTTP_HEADER_TRAILER,
						      "X-Ramet-XXH3");
	}
	download->response = response;
	request_set_timeout(request, API_STALL_TIMEOUT_S);
	reply_response(request, MHD_HTTP_OK, response);
}

static void download_opened(void *arg, uint64_t size, uint32_t mode)
{
	struct request *request = arg;
	struct download *download = request->state;

	download->size = size;
	download->mode = mode;
	if (size > API_SMALL_FILE_MAX && size != UINT64_MAX)
		reply_start(request);
}

static void download_fail(struct request *request, const struct ramet_err *err)
{
	struct download *download = request->state;

	if (!request->queued && !request->response) {
		reply_engine_error(request, err);
		return;
	}
	log_warn("download from sandbox %s failed midway: %s", request->sandbox_id, err->msg);
	download->failed = true;
	request_wake(request);
}

static void download_data(void *arg, const char *data, size_t len)
{
	struct request *request = arg;
	struct download *download = request->state;
	struct piece *piece = NULL;
	struct ramet_err err;

	if (download->failed)
		return;
	if (len > download->size - download->received) {
		err_set(&err, EIO, "the file grew while it was read");
	} else {
		piece = malloc(sizeof(*piece) + len);
		if (!piece)
			err_set(&err, ENOMEM, "out of memory");
	}
	if (!piece) {
		file_abandon(take_ptr(download->transfer));
		download_fail(request, &err);
		return;
	}
	memcpy(piece->data, data, len);
	*piece = (struct piece){ .len = len };
	*download->last = piece;
	download->last = &piece->next;
	download->received += len;
	/* The last byte waits for the transfer's end, which must not wait for it. */
	if (download->received == download->size)
		credit_return(download, download->received);
	if (download->size == UINT64_MAX && !request->queued && !request->response)
		reply_start(request);
	else
		request_wake(request);
}

static void download_done(void *arg, const struct file_result *result, const struct ramet_err *err)
{
	struct request *request = arg;
	struct download *download = request->state;
	struct ramet_err short_err;
	char hash[20];

	download->transfer = NULL;
	if (result && download->size != UINT64_MAX && download->received != download->size) {
		err_set(&short_err, EIO, "the file shrank while it was read");
		result = NULL;
		err = &short_err;
	}
	if (!result) {
		download_fail(request, err);
		return;
	}
	download->done = true;
	download->xxh3 = result->xxh3;
	if (!request->queued && !request->response) {
		reply_start(request);
		return;
	}
	if (download->size == UINT64_MAX) {
		(void)snprintf(hash, sizeof(hash), "%016" PRIx64, download->xxh3);
		(void)MHD_add_response_footer(download->response, "X-Ramet-XXH3", hash);
	}
	request_wake(request);
}

static const struct file_callbacks callbacks = {
	.opened = download_opened,
	.data = download_data,
	.done = download_done,
};

static void download_end(struct request *request)
{
	const char *path = request_guest_path(request);
	struct ramet_err err = { 0 };
	struct download *download;
	struct sandbox *sandbox;

	sandbox = path ? request_sandbox(request, true) : NULL;
	if (!sandbox)
		return;
	download = calloc(1, sizeof(*download));
	if (!download) {
		reply_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, "out_of_memory",
			    "out of memory");
		return;
	}
	download->last = &download->first;
	download->size = UINT64_MAX;
	request->state = download;
	if (sandbox_download(sandbox, path, &callbacks, request, &download->transfer, &err))
		reply_engine_error(request, &err);
}

const struct request_ops route_download = {
	.params = download_query,
	.missing = "path_not_found",
	.failed = "io_error",
	.end = download_end,
	.release = download_release,
};
