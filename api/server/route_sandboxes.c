/* POST and GET /v1/sandboxes, GET and DELETE /v1/sandboxes/{id}, its console. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/server/request.h"
#include "lib/cleanup.h"
#include "vmm/control.h"

#define MIB (1024u * 1024)

/* ---- create ---- */

static const struct field create_fields[] = {
	{ .name = "template", .type = FIELD_STRING, .min = 1, .max = 64 },
	{ .name = "memory_mb", .type = FIELD_INTEGER, .min = 1, .max = API_MEMORY_MB_MAX },
	{ .name = "isolation", .type = FIELD_STRING, .min = 1, .max = 16 },
	{ .name = "metadata", .type = FIELD_OBJECT },
	{ .name = "plain", .type = FIELD_BOOLEAN },
	{ .name = NULL },
};

static bool params_read(struct request *request, json_t *body, struct sandbox_params *params)
{
	const char *isolation = json_string_value(json_object_get(body, "isolation"));

	params->template_name = json_string_value(json_object_get(body, "template"));
	if (params->template_name && !name_valid(params->template_name, 64)) {
		reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_request",
			    "\"template\" has lower-case letters, digits, \".\", \"_\" and \"-\" "
			    "and starts with a letter or digit");
		return false;
	}
	if (!isolation || !strcmp(isolation, "full")) {
		params->isolation = ISOLATION_FULL;
	} else if (!strcmp(isolation, "fast")) {
		params->isolation = ISOLATION_FAST;
	} else {
		reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_request",
			    "\"isolation\" must be \"full\" or \"fast\"");
		return false;
	}
	params->memory_bytes =
		(uint64_t)json_integer_value(json_object_get(body, "memory_mb")) * MIB;
	params->plain = json_is_true(json_object_get(body, "plain"));
	return metadata_read(request, json_object_get(body, "metadata"), &params->metadata_count,
			     params->metadata);
}

static void created(void *arg, struct sandbox *sandbox, const struct ramet_err *err)
{
	const struct server *server = ((struct pending *)arg)->server;
	struct request *request = pending_end(arg);
	struct ramet_err ignored;
	char location[sizeof("/v1/sandboxes/") + SANDBOX_ID_MAX];
	struct sandbox_info info;
	json_t *object;

	if (!request) {
		if (sandbox && !server->stopping) /* nobody knows its id */
			(void)sandbox_close(sandbox, NULL, NULL, &ignored);
		return;
	}
	if (!sandbox) {
		reply_engine_error(request, err);
		return;
	}
	sandbox_info(sandbox, &info);
	object = sandbox_json(sandbox);
	if (object)
		(void)json_object_set_new(object, "timings", timings_json(&info.timings));
	(void)snprintf(location, sizeof(location), "/v1/sandboxes/%s", info.id);
	reply_json(request, MHD_HTTP_CREATED, object);
	if (request->response)
		(void)MHD_add_response_header(request->response, MHD_HTTP_HEADER_LOCATION,
					      location);
}

static void create_end(struct request *request)
{
	struct sandbox_params params = { 0 };
	struct pending *pending;
	struct ramet_err err = { 0 };
	json_t *body = request_json(request, create_fields);

	if (!body)
		return;
	pending = params_read(request, body, &params) ? pending_begin(request) : NULL;
	if (pending)
		pending_begun(pending,
			      engine_sandbox_create(request->server->engine, &params, created,
						    pending, &err),
			      &err);
	json_decref(body);
}

const struct request_ops route_create = {
	.json_max = API_CREATE_BODY_MAX,
	.missing = "template_not_found",
	.end = create_end,
	.release = pending_release,
};

/* ---- list and info ---- */

static bool sandbox_append(void *arg, struct sandbox *sandbox)
{
	return !json_array_append_new(arg, sandbox_json(sandbox));
}

static void sandboxes_end(struct request *request)
{
	json_t *list = json_array();

	engine_sandbox_each(request->server->engine, sandbox_append, list);
	reply_json(request, MHD_HTTP_OK, json_pack("{s:o}", "sandboxes", list));
}

const struct request_ops route_sandboxes = { .end = sandboxes_end };

static void info_end(struct request *request)
{
	struct sandbox *sandbox = request_sandbox(request, false);

	if (sandbox)
		reply_json(request, MHD_HTTP_OK, sandbox_json(sandbox));
}

const struct request_ops route_info = { .end = info_end };

static void console_end(struct request *request)
{
	struct sandbox *sandbox = request_sandbox(request, false);
	cleanup_free char *text = NULL;

	if (!sandbox)
		return;
	text = malloc(API_CONSOLE_MAX);
	if (!text) {
		reply_no_memory(request);
		return;
	}
	reply_bytes(request, "application/octet-stream", text,
		    sandbox_console(sandbox, text, API_CONSOLE_MAX));
}

const struct request_ops route_console = { .end = console_end };

/* ---- delete ---- */

static void closed(void *arg, struct sandbox *sandbox, const struct ramet_err *err)
{
	struct request *request;
	char id[SANDBOX_ID_MAX];

	(void)sandbox;
	memcpy(id, ((struct pending *)arg)->id, sizeof(id));
	request = pending_end(arg);
	if (!request)
		return;
	if (err && err->code)
		reply_engine_error(request, err);
	else
		reply_json(request, MHD_HTTP_OK,
			   json_pack("{s:s, s:s}", "id", id, "state", "closed"));
}

static void delete_end(struct request *request)
{
	const char *merged = engine_merged_into(request->server->engine, request->sandbox_id);
	struct sandbox *sandbox;
	struct ramet_err err = { 0 };
	struct pending *pending;

	if (merged) { /* its guest is another sandbox's now */
		reply_json(request, MHD_HTTP_OK,
			   json_pack("{s:s, s:s, s:s}", "id", request->sandbox_id, "state",
				     "merged", "merged_into", merged));
		return;
	}
	sandbox = request_sandbox(request, false);
	pending = sandbox ? pending_begin(request) : NULL;
	if (!pending)
		return;
	(void)snprintf(pending->id, sizeof(pending->id), "%s", request->sandbox_id);
	pending_begun(pending, sandbox_close(sandbox, closed, pending, &err), &err);
}

const struct request_ops route_delete = { .end = delete_end, .release = pending_release };
