/* POST /v1/sandboxes/{id}/exec: runs code, answers with a stream of NDJSON
 * lines or, when asked, with one JSON object.
 *
 * Credit: in a stream, output bytes are returned to the engine when their line
 * went to the client, so a slow client slows the guest and this process holds
 * at most one credit window per exec. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/server/exec_events.h"
#include "api/server/request.h"
#include "api/server/text.h"
#include "engine/limits.h"
#include "guest/protocol.h"
#include "lib/log.h"

struct bytes {
	char *data;
	size_t len, room;
};

struct exec_call {
	struct exec *exec; /* NULL when it has ended */
	bool stream;
	struct event_queue events;
	/* One object instead of a stream: */
	struct bytes text[EVENT_STREAMS];
	json_t *notices;
	bool result_open; /* the newline after the result is due */
	size_t collected, collect_max;
	uint64_t dropped;
};

static const struct field exec_fields[] = {
	{ .name = "code",
	  .type = FIELD_STRING,
	  .required = true,
	  .min = 0,
	  .max = CODE_LENGTH_MAX },
	{ .name = "language", .type = FIELD_STRING, .min = 1, .max = 16 },
	{ .name = "timeout_ms", .type = FIELD_INTEGER, .min = 1, .max = API_TIMEOUT_MS_MAX },
	{ .name = "output_limit", .type = FIELD_INTEGER, .min = 1, .max = API_OUTPUT_LIMIT_MAX },
	{ .name = NULL },
};

static const char *const exec_query[] = { "stream", NULL };

static void exec_release(struct request *request)
{
	struct exec_call *call = request->state;

	request->state = NULL;
	if (!call)
		return;
	if (call->exec)
		exec_abandon(call->exec);
	event_queue_clear(&call->events);
	for (int i = 0; i < EVENT_STREAMS; i++)
		free(call->text[i].data);
	json_decref(call->notices);
	free(call);
}

/* ---- stream ---- */

static ssize_t stream_read(void *arg, uint64_t position, char *buf, size_t size)
{
	struct request *request = arg;
	struct exec_call *call = request->state;
	size_t credit, len;

	(void)position;
	if (request->gone || !call)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	len = event_queue_read(&call->events, buf, size, &credit);
	if (call->exec && credit)
		exec_consumed(call->exec, credit);
	if (len)
		return (ssize_t)len;
	if (call->events.ended)
		return MHD_CONTENT_READER_END_OF_STREAM;
	request_suspend(request);
	return 0;
}

/* Starts the reply with the first line, so that an exec that cannot start has
 * a status of its own; afterwards wakes the connection for more. */
static void stream_advance(struct request *request)
{
	struct exec_call *call = request->state;
	struct MHD_Response *response;

	if (request->queued || request->response) {
		request_wake(request);
		return;
	}
	if (!call->events.first)
		return;
	response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 64 * 1024, stream_read,
						     request, NULL);
	if (response) {
		(void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
					      "application/x-ndjson");
		(void)MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	}
	request_set_timeout(request, API_STALL_TIMEOUT_S);
	reply_response(request, MHD_HTTP_OK, response);
}

/* ---- one object ---- */

static int bytes_append(struct bytes *bytes, const char *data, size_t len)
{
	if (bytes->len + len > bytes->room) {
		size_t room = bytes->room ? bytes->room : 1024;
		char *grown;

		while (room < bytes->len + len)
			room *= 2;
		grown = realloc(bytes->data, room);
		if (!grown)
			return -ENOMEM;
		bytes->data = grown;
		bytes->room = room;
	}
	memcpy(bytes->data + bytes->len, data, len);
	bytes->len += len;
	return 0;
}

static int result_close(struct exec_call *call)
{
	if (!call->result_open)
		return 0;
	call->result_open = false;
	return bytes_append(&call->text[OUTPUT_STDOUT], "\n", 1);
}

static int notice_append(struct exec_call *call, const char *data, size_t len)
{
	json_t *text = utf8_valid(data, len) ? json_stringn(data, len) : NULL;

	return json_array_append_new(call->notices, text ? text : json_string("(not text)"))
		       ? -ENOMEM
		       : 0;
}

static int output_collect(struct exec_call *call, int stream, const char *data, size_t len)
{
	if (!output_stream_name(stream))
		return -EINVAL;
	/* The agent keeps the limit; a guest that forged its agent might not. */
	if (len > call->collect_max - call->collected) {
		call->dropped += len;
		return 0;
	}
	call->collected += len;
	if (stream == OUTPUT_NOTICE)
		return notice_append(call, data, len);
	if (stream == OUTPUT_RESULT) {
		call->result_open = true;
		if (bytes_append(&call->text[OUTPUT_STDOUT], data, len))
			return -ENOMEM;
	} else if (result_close(call)) {
		return -ENOMEM;
	}
	return bytes_append(&call->text[stream], data, len);
}

static json_t *object_build(struct exec_call *call, const struct exec_exit *exit)
{
	const struct bytes *text = call->text;
	json_t *object = json_object();
	int ret = object ? result_close(call) : -ENOMEM;

	if (!ret)
		ret = json_set_bytes(object, "stdout", "stdout_encoding", text[OUTPUT_STDOUT].data,
				     text[OUTPUT_STDOUT].len);
	if (!ret)
		ret = json_set_bytes(object, "stderr", "stderr_encoding", text[OUTPUT_STDERR].data,
				     text[OUTPUT_STDERR].len);
	if (!ret && text[OUTPUT_RESULT].len)
		ret = json_set_bytes(object, "result", "result_encoding", text[OUTPUT_RESULT].data,
				     text[OUTPUT_RESULT].len);
	else if (!ret)
		ret = json_object_set_new(object, "result", json_null());
	if (!ret)
		ret = json_object_set(object, "notices", call->notices);
	if (!ret)
		ret = exec_exit_fields(object, exit, call->dropped);
	if (!ret)
		return object;
	json_decref(object);
	return NULL;
}

/* ---- engine callbacks ---- */

static void exec_output(void *arg, int stream, uint64_t time_ns, const char *data, size_t len)
{
	struct request *request = arg;
	struct exec_call *call = request->state;
	int ret;

	if (call->stream) {
		ret = event_queue_output(&call->events, stream, time_ns, data, len);
	} else {
		ret = output_collect(call, stream, data, len);
		exec_consumed(call->exec, len);
	}
	if (ret) {
		log_error("exec of sandbox %s: its output was lost: %s", request->sandbox_id,
			  strerrordesc_np(-ret));
		request_abort(request);
		return;
	}
	if (call->stream)
		stream_advance(request);
}

static void exec_done(void *arg, const struct exec_exit *exit, const struct ramet_err *err)
{
	struct request *request = arg;
	struct exec_call *call = request->state;

	call->exec = NULL;
	if (!exit && !request->queued && !request->response) {
		reply_engine_error(request, err);
	} else if (!call->stream) {
		reply_json(request, MHD_HTTP_OK, object_build(call, exit));
	} else if (event_queue_end(&call->events, exit, err)) {
		log_error("exec of sandbox %s: out of memory for its end", request->sandbox_id);
		request_abort(request);
	} else {
		stream_advance(request);
	}
}

static const struct exec_callbacks callbacks = { .output = exec_output, .done = exec_done };

static void exec_stop(struct request *request)
{
	struct exec_call *call = request->state;
	struct exec *exec = call ? call->exec : NULL;
	struct ramet_err err;

	if (!exec)
		return;
	err_set(&err, ESHUTDOWN, "the daemon is stopping");
	exec_done(request, NULL, &err);
	exec_abandon(exec);
}

/* ---- start ---- */

static bool stream_wanted(struct request *request, bool *stream)
{
	const char *param = uri_param(&request->uri, "stream");
	const char *accept = MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND,
							 MHD_HTTP_HEADER_ACCEPT);

	if (!param) {
		*stream = !accept || !strstr(accept, "application/json") ||
			  strstr(accept, "application/x-ndjson");
		return true;
	}
	*stream = !strcmp(param, "true");
	if (*stream || !strcmp(param, "false"))
		return true;
	reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_parameter",
		    "\"stream\" must be \"true\" or \"false\"");
	return false;
}

static bool language_read(struct request *request, json_t *body, int *language)
{
	const char *name = json_string_value(json_object_get(body, "language"));

	*language = !name || !strcmp(name, "python") ? EXEC_PYTHON : EXEC_BASH;
	if (*language == EXEC_PYTHON || !strcmp(name, "bash"))
		return true;
	reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_request",
		    "\"language\" must be \"python\" or \"bash\"");
	return false;
}

static struct exec_call *call_new(bool stream, uint64_t output_limit)
{
	struct exec_call *call = calloc(1, sizeof(*call));

	if (!call)
		return NULL;
	call->stream = stream;
	call->collect_max = (size_t)output_limit + API_COLLECT_SLACK;
	event_queue_init(&call->events);
	call->notices = json_array();
	return call;
}

static void exec_start(struct request *request, struct sandbox *sandbox, json_t *body, bool stream)
{
	const json_t *code = json_object_get(body, "code");
	struct exec_params params = {
		.code = json_string_value(code),
		.code_length = json_string_length(code),
		.timeout_ms = (uint32_t)json_integer_value(json_object_get(body, "timeout_ms")),
		.output_limit = (uint64_t)json_integer_value(json_object_get(body, "output_limit")),
	};
	struct ramet_err err = { 0 };
	struct exec_call *call;
	int ret;

	if (!language_read(request, body, &params.language))
		return;
	if (!params.output_limit)
		params.output_limit = limits_default.output_default;
	call = call_new(stream, params.output_limit);
	request->state = call;
	if (!call)
		ret = err_set(&err, ENOMEM, "out of memory");
	else
		ret = sandbox_exec(sandbox, &params, &callbacks, request, &call->exec, &err);
	if (ret)
		reply_engine_error(request, &err);
}

static void exec_end(struct request *request)
{
	struct sandbox *sandbox;
	bool stream;
	json_t *body;

	if (!stream_wanted(request, &stream))
		return;
	body = request_json(request, exec_fields);
	if (!body)
		return;
	sandbox = request_sandbox(request, true);
	if (sandbox)
		exec_start(request, sandbox, body, stream);
	json_decref(body);
}

const struct request_ops route_exec = {
	.json_max = API_EXEC_BODY_MAX,
	.params = exec_query,
	.end = exec_end,
	.release = exec_release,
	.stop = exec_stop,
};
