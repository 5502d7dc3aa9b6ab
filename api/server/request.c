/* The life of a request between MHD and its route: see request.h.
 *
 * MHD 0.9.75 takes a response either in the first call of the access handler
 * or after the body was read, never between; and it does not watch the socket
 * of a suspended connection. So replies are parked in request->response until
 * a call in which they can be queued, and a hang-up of a suspended client is
 * watched for here. */
#include "api/server/request.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>

#include "lib/clock.h"
#include "lib/log.h"

struct header_tally {
	size_t bytes;
	size_t count;
};

void *request_new(void *server_arg, const char *target, struct MHD_Connection *connection)
{
	struct server *server = server_arg;
	struct request *request = calloc(1, sizeof(*request));

	if (!request)
		return NULL;
	request->server = server;
	request->connection = connection;
	request->start_ns = clock_monotonic_ns();
	request->target_too_long = strlen(target) > API_URL_MAX;
	request->target = strdup(request->target_too_long ? "/" : target);
	if (!request->target) {
		free(request);
		return NULL;
	}
	request->next = server->requests;
	if (request->next)
		request->next->prev = request;
	server->requests = request;
	return request;
}

static void request_release(struct request *request)
{
	const struct request_ops *ops = request->ops;

	request->ops = NULL;
	if (ops && ops->release)
		ops->release(request);
}

void request_body_free(struct request *request)
{
	request->server->body_bytes -= request->body_room;
	free(request->body);
	request->body = NULL;
	request->body_len = 0;
	request->body_room = 0;
}

void request_completed(void *server_arg, struct MHD_Connection *connection, void **state,
		       enum MHD_RequestTerminationCode why)
{
	struct server *server = server_arg;
	struct request *request = *state;

	(void)connection;
	if (!request)
		return;
	*state = NULL;
	log_debug("request %p: completed with %d", (void *)request, (int)why);
	request_release(request);
	(void)sd_event_source_disable_unref(request->hangup);
	if (request->response)
		MHD_destroy_response(request->response);
	request_body_free(request);
	if (request->prev)
		request->prev->next = request->next;
	else
		server->requests = request->next;
	if (request->next)
		request->next->prev = request->prev;
	uri_clear(&request->uri);
	free(request->target);
	free(request);
}

void request_set_timeout(struct request *request, unsigned int seconds)
{
	(void)MHD_set_connection_option(request->connection, MHD_CONNECTION_OPTION_TIMEOUT,
					seconds);
}

static int hangup_seen(sd_event_source *source, int fd, uint32_t events, void *arg)
{
	struct request *request = arg;

	(void)source;
	(void)fd;
	(void)events;
	log_debug("request %p: the client hung up", (void *)request);
	request_abort(request);
	return 0;
}

void request_suspend(struct request *request)
{
	const union MHD_ConnectionInfo *info;

	if (request->suspended)
		return;
	request->suspended = true;
	MHD_suspend_connection(request->connection);
	if (request->hangup)
		return;
	info = MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	/* No interest but EPOLLHUP, which is always reported: the peer closed both
	 * directions. A client that only ended its own sending is still served. */
	if (!info || sd_event_add_io(request->server->loop, &request->hangup, info->connect_fd, 0,
				     hangup_seen, request) < 0) {
		log_warn("cannot watch a client for its hang-up");
		return;
	}
	(void)sd_event_source_set_enabled(request->hangup, SD_EVENT_ONESHOT);
}

void request_wake(struct request *request)
{
	if (!request->suspended)
		return;
	request->suspended = false;
	MHD_resume_connection(request->connection);
	/* Without threads of its own MHD makes no wake-up descriptor and does not
	 * count resumed connections in MHD_get_timeout(). */
	(void)sd_event_source_set_enabled(request->server->http_wake, SD_EVENT_ONESHOT);
}

void request_abort(struct request *request)
{
	request->gone = true;
	request_release(request);
	request_wake(request);
}

static enum MHD_Result header_count(void *arg, enum MHD_ValueKind kind, const char *name,
				    size_t name_len, const char *value, size_t value_len)
{
	struct header_tally *tally = arg;

	(void)kind;
	(void)name;
	(void)value;
	tally->bytes += name_len + value_len;
	tally->count++;
	return MHD_YES;
}

static const char *request_header(struct request *request, const char *name)
{
	return MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name);
}

/* Sizes and the form of the target. */
static bool head_check(struct request *request)
{
	struct header_tally tally = { 0 };
	struct ramet_err err = { 0 };

	if (request->target_too_long) {
		reply_error(request, MHD_HTTP_URI_TOO_LONG, "uri_too_long",
			    "the request target is longer than %u bytes", API_URL_MAX);
		return false;
	}
	(void)MHD_get_connection_values_n(request->connection, MHD_HEADER_KIND, header_count,
					  &tally);
	if (tally.bytes > API_HEADERS_MAX || tally.count > API_HEADERS_COUNT_MAX) {
		reply_error(request, MHD_HTTP_REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large",
			    "the header fields exceed %u bytes or %u fields", API_HEADERS_MAX,
			    API_HEADERS_COUNT_MAX);
		return false;
	}
	if (uri_parse(request->target, &request->uri, &err)) {
		reply_engine_error(request, &err);
		return false;
	}
	return true;
}

static bool params_check(struct request *request)
{
	static const char *const none[] = { NULL };
	const char *const *known = request->ops->params ? request->ops->params : none;

	for (size_t i = 0; i < request->uri.param_count; i++) {
		const char *name = request->uri.params[i].name;
		size_t k = 0;

		while (known[k] && strcmp(known[k], name))
			k++;
		if (!known[k]) {
			reply_error(request, MHD_HTTP_BAD_REQUEST, "unknown_parameter",
				    "unknown query parameter \"%.64s\"", name);
			return false;
		}
	}
	return true;
}

/* Whether a declared body and its type suit the route. */
static bool body_check(struct request *request)
{
	const char *type = request_header(request, MHD_HTTP_HEADER_CONTENT_TYPE);
	const char *length = request_header(request, MHD_HTTP_HEADER_CONTENT_LENGTH);
	size_t type_len = type ? strcspn(type, "; \t") : 0;

	if (request->ops->json_max && type &&
	    (type_len != strlen("application/json") ||
	     strncasecmp(type, "application/json", type_len))) {
		reply_error(request, MHD_HTTP_UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type",
			    "the body must be application/json, not \"%.64s\"", type);
		return false;
	}
	if (request->ops->body && type && !strncasecmp(type, "multipart/", strlen("multipart/"))) {
		reply_error(request, MHD_HTTP_UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type",
			    "send the file's bytes as the body, not as %.64s", type);
		return false;
	}
	if (request->ops->json_max && length &&
	    strtoull(length, NULL, 10) > request->ops->json_max) {
		reply_error(request, MHD_HTTP_CONTENT_TOO_LARGE, "body_too_large",
			    "the body is larger than %zu bytes", request->ops->json_max);
		return false;
	}
	return true;
}

static void request_begin(struct request *request, const char *method)
{
	request_set_timeout(request, API_IDLE_TIMEOUT_S);
	if (request->server->stopping) {
		reply_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, "stopping",
			    "the daemon is stopping");
		return;
	}
	if (!head_check(request))
		return;
	request_route(request, method);
	if (!request->ops || !params_check(request) || !body_check(request))
		return;
	if (request->ops->begin)
		request->ops->begin(request);
}

/* Whether a refusal should go out before the body: the client waits for
 * 100-continue, or what it is about to send is too much to read and drop. */
static bool refuse_now(struct request *request)
{
	const char *expect = request_header(request, MHD_HTTP_HEADER_EXPECT);
	const char *length = request_header(request, MHD_HTTP_HEADER_CONTENT_LENGTH);

	return expect || (length && strtoull(length, NULL, 10) > API_DRAIN_MAX);
}

static enum MHD_Result response_queue(struct request *request)
{
	enum MHD_Result ret;

	request->queued = true;
	ret = MHD_queue_response(request->connection, request->status, request->response);
	MHD_destroy_response(request->response); /* MHD holds its own reference */
	request->response = NULL;
	return ret;
}

/* Grows the JSON body; answers with an error instead when it may not. */
static void body_collect(struct request *request, const char *data, size_t len)
{
	struct server *server = request->server;

	if (len > request->ops->json_max - request->body_len) {
		reply_error(request, MHD_HTTP_CONTENT_TOO_LARGE, "body_too_large",
			    "the body is larger than %zu bytes", request->ops->json_max);
		return;
	}
	if (request->body_len + len > request->body_room) {
		size_t room = request->body_room ? request->body_room * 2 : 4096;
		char *grown;

		while (room < request->body_len + len)
			room *= 2;
		if (room - request->body_room > API_BODIES_TOTAL_MAX - server->body_bytes) {
			reply_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, "overloaded",
				    "too many large requests at one time; try again");
			return;
		}
		grown = realloc(request->body, room);
		if (!grown) {
			reply_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, "out_of_memory",
				    "out of memory");
			return;
		}
		server->body_bytes += room - request->body_room;
		request->body = grown;
		request->body_room = room;
	}
	memcpy(request->body + request->body_len, data, len);
	request->body_len += len;
}

/* Returns how many bytes were taken. */
static size_t body_take(struct request *request, const char *data, size_t len)
{
	if (request->response) {
		request->drained += len;
		return len;
	}
	if (request->ops->body)
		return request->ops->body(request, data, len);
	if (request->ops->json_max)
		body_collect(request, data, len);
	else
		reply_error(request, MHD_HTTP_BAD_REQUEST, "unexpected_body",
			    "this request takes no body");
	return len;
}

enum MHD_Result request_handle(void *server, struct MHD_Connection *connection, const char *url,
			       const char *method, const char *version, const char *data,
			       size_t *len, void **state)
{
	struct request *request = *state;

	(void)server;
	(void)connection;
	(void)url;
	(void)version;
	if (!request || request->gone || request->drained > API_DRAIN_MAX)
		return MHD_NO;
	if (!request->begun) {
		request->begun = true;
		request_begin(request, method);
		return request->response && refuse_now(request) ? response_queue(request) : MHD_YES;
	}
	if (*len) {
		*len -= body_take(request, data, *len);
		return MHD_YES;
	}
	if (!request->ended) {
		request->ended = true;
		if (!request->response && request->ops->end)
			request->ops->end(request);
	}
	if (request->gone)
		return MHD_NO;
	if (request->response)
		return response_queue(request);
	if (!request->queued)
		request_suspend(request);
	return MHD_YES;
}

struct sandbox *request_sandbox(struct request *request, bool ready)
{
	return request_sandbox_by_id(request, request->sandbox_id, ready);
}

struct sandbox *request_sandbox_by_id(struct request *request, const char *id, bool ready)
{
	struct engine *engine = request->server->engine;
	struct sandbox *sandbox = engine_sandbox_find(engine, id);
	const char *merged = sandbox ? NULL : engine_merged_into(engine, id);
	struct sandbox_info info;

	if (merged) {
		reply_error(request, MHD_HTTP_NOT_FOUND, "sandbox_merged",
			    "sandbox \"%s\" was merged into \"%s\"; use that id", id, merged);
		return NULL;
	}
	if (!sandbox) {
		reply_error(request, MHD_HTTP_NOT_FOUND, "sandbox_not_found",
			    "there is no sandbox \"%s\"", id);
		return NULL;
	}
	if (!ready)
		return sandbox;
	sandbox_info(sandbox, &info);
	switch (info.state) {
	case SANDBOX_READY:
		return sandbox;
	case SANDBOX_FAILED:
		reply_error(request, MHD_HTTP_CONFLICT, "sandbox_failed",
			    "sandbox \"%s\" has failed: %s", id,
			    info.reason ? info.reason : "no reason was recorded");
		return NULL;
	case SANDBOX_CREATING:
		reply_error(request, MHD_HTTP_CONFLICT, "sandbox_not_ready",
			    "sandbox \"%s\" is still being created", id);
		return NULL;
	case SANDBOX_PAUSED:
		reply_error(request, MHD_HTTP_CONFLICT, "sandbox_paused",
			    "sandbox \"%s\" is paused; resume it first", id);
		return NULL;
	case SANDBOX_CLOSING:
		break;
	}
	reply_error(request, MHD_HTTP_CONFLICT, "sandbox_closing", "sandbox \"%s\" is being closed",
		    id);
	return NULL;
}
