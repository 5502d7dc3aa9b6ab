/* GET /v1/sandboxes/{id}/files/list?path=...: the entries of a directory. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/server/request.h"
#include "api/server/text.h"
#include "guest/protocol.h"
#include "lib/cleanup.h"

#define ENTRY_COST 200 /* bytes of memory per entry beside its name, roughly */

struct listing {
	struct file_transfer *transfer; /* NULL when it has ended */
	json_t *entries;
	size_t bytes;
};

static const char *const list_query[] = { "path", NULL };

static void list_release(struct request *request)
{
	struct listing *listing = request->state;

	request->state = NULL;
	if (!listing)
		return;
	if (listing->transfer)
		file_abandon(listing->transfer);
	json_decref(listing->entries);
	free(listing);
}

static const char *kind_name(int kind)
{
	switch (kind) {
	case FILE_REGULAR:
		return "file";
	case FILE_DIRECTORY:
		return "directory";
	case FILE_SYMLINK:
		return "symlink";
	}
	return "other";
}

static json_t *entry_json(const struct file_info *info)
{
	json_t *entry = json_object();
	char mode[8];

	(void)snprintf(mode, sizeof(mode), "%04o", info->mode & 07777);
	if (entry &&
	    !json_set_bytes(entry, "name", "name_encoding", info->name, strlen(info->name)) &&
	    !json_object_set_new(entry, "kind", json_string(kind_name(info->kind))) &&
	    !json_object_set_new(entry, "size", json_integer((json_int_t)info->size)) &&
	    !json_object_set_new(entry, "mode", json_string(mode)) &&
	    !json_object_set_new(entry, "mtime", json_time(info->mtime_ns)))
		return entry;
	json_decref(entry);
	return NULL;
}

static void list_entry(void *arg, const struct file_info *info)
{
	struct request *request = arg;
	struct listing *listing = request->state;

	if (!listing->transfer)
		return;
	listing->bytes += strlen(info->name) + ENTRY_COST;
	if (listing->bytes > API_LIST_BYTES_MAX) {
		reply_error(request, MHD_HTTP_CONTENT_TOO_LARGE, "too_large",
			    "the directory has too many entries to list");
	} else if (json_array_append_new(listing->entries, entry_json(info))) {
		reply_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, "out_of_memory",
			    "out of memory");
	} else {
		return;
	}
	file_abandon(take_ptr(listing->transfer));
}

static void list_done(void *arg, const struct file_result *result, const struct ramet_err *err)
{
	struct request *request = arg;
	struct listing *listing = request->state;
	const char *path = uri_param(&request->uri, "path");
	json_t *object;

	(void)result;
	listing->transfer = NULL;
	if (err && err->code) {
		reply_engine_error(request, err);
		return;
	}
	object = json_object();
	if (object && (json_set_bytes(object, "path", "path_encoding", path, strlen(path)) ||
		       json_object_set(object, "entries", listing->entries))) {
		json_decref(object);
		object = NULL;
	}
	reply_json(request, MHD_HTTP_OK, object);
}

static const struct file_callbacks callbacks = { .entry = list_entry, .done = list_done };

static void list_end(struct request *request)
{
	const char *path = request_guest_path(request);
	struct ramet_err err = { 0 };
	struct listing *listing;
	struct sandbox *sandbox;

	sandbox = path ? request_sandbox(request, true) : NULL;
	if (!sandbox)
		return;
	listing = calloc(1, sizeof(*listing));
	if (!listing) {
		reply_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, "out_of_memory",
			    "out of memory");
		return;
	}
	listing->entries = json_array();
	request->state = listing;
	if (sandbox_list(sandbox, path, &callbacks, request, &listing->transfer, &err))
		reply_engine_error(request, &err);
}

const struct request_ops route_list = {
	.params = list_query,
	.missing = "path_not_found",
	.failed = "io_error",
	.end = list_end,
	.release = list_release,
};
