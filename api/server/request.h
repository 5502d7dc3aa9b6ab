/* One HTTP request, from its first line to its last byte sent.
 *
 * A route is a struct request_ops. MHD drives it: begin() when the headers are
 * in, body() for each piece of the body (or the body is collected for routes
 * that take JSON), end() when it is complete. Any of them may answer with a
 * reply function; if none did, the connection is suspended until somebody
 * does, from an engine callback. release() comes exactly once, also when the
 * client went away, and must let go of everything begun in the engine. */
#ifndef RAMET_API_REQUEST_H
#define RAMET_API_REQUEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/server/server.h"
#include "api/server/uri.h"

struct request_ops {
	size_t json_max; /* > 0: the body is JSON of at most this size, collected for end() */
	const char *const *params; /* allowed query parameters, NULL-terminated; NULL: none */
	const char *missing; /* error code for ENOENT from the engine; NULL: the general one */
	const char *failed;  /* the same for EIO */
	const char *busy;    /* error code of a 409 for EBUSY; NULL: EBUSY is a limit, 429 */
	void (*begin)(struct request *request);
	/* Takes body bytes; returns how many. When it takes fewer it must have
	 * arranged for request_wake(). NULL: the request has no body. */
	size_t (*body)(struct request *request, const char *data, size_t len);
	void (*end)(struct request *request);
	void (*release)(struct request *request);
	/* The daemon stops while the reply streams: ends it properly. NULL: it is cut. */
	void (*stop)(struct request *request);
};

struct request {
	struct server *server;
	struct request *next, *prev;
	struct MHD_Connection *connection; /* known from begin() on */
	char *target;                      /* the raw request target */
	bool target_too_long;
	struct uri uri;
	const char *sandbox_id; /* from the path; NULL on routes without */
	const char *other_id;   /* the second one in the path; NULL */
	const struct request_ops *ops;
	void *state; /* the route's own, freed by its release() */
	uint64_t start_ns;

	char *body; /* collected JSON */
	size_t body_len, body_room;
	size_t drained;

	struct MHD_Response *response; /* to be queued as soon as MHD allows */
	unsigned int status;
	bool begun, ended, queued, suspended, gone;
	sd_event_source *hangup;
};

/* ---- request.c: life cycle ---- */

/* MHD hooks; see MHD_OPTION_URI_LOG_CALLBACK, _NOTIFY_COMPLETED. */
void *request_new(void *server, const char *target, struct MHD_Connection *connection);
enum MHD_Result request_handle(void *server, struct MHD_Connection *connection, const char *url,
			       const char *method, const char *version, const char *data,
			       size_t *len, void **state);
void request_completed(void *server, struct MHD_Connection *connection, void **state,
		       enum MHD_RequestTerminationCode why);

/* Stops reading from and writing to the client until request_wake(). */
void request_suspend(struct request *request);
void request_wake(struct request *request);

/* Lets go of the engine and makes MHD drop the connection at its next turn. */
void request_abort(struct request *request);

/* Gives a client that does not read or write longer than an idle one gets. */
void request_set_timeout(struct request *request, unsigned int seconds);

/* Frees the collected body. */
void request_body_free(struct request *request);

/* The sandbox named in the path; answers 404 or, with `ready` and the sandbox
 * not ready, 409, and returns NULL. Valid until the next return to the loop. */
struct sandbox *request_sandbox(struct request *request, bool ready);
/* The same for any id. */
struct sandbox *request_sandbox_by_id(struct request *request, const char *id, bool ready);

/* ---- router.c ---- */

/* Finds the route of a request whose target is parsed; answers 404 or 405. */
void request_route(struct request *request, const char *method);

/* ---- reply.c: exactly one of these per request ---- */

/* Sends `object` (reference taken) with "timings" completed by total_ms. */
void reply_json(struct request *request, unsigned int status, json_t *object);
void reply_error(struct request *request, unsigned int status, const char *code, const char *fmt,
		 ...) __attribute__((format(printf, 4, 5)));
/* What an engine error means over HTTP. */
void reply_engine_error(struct request *request, const struct ramet_err *err);
/* Takes the response over; it is sent when MHD allows. */
void reply_response(struct request *request, unsigned int status, struct MHD_Response *response);
void reply_bytes(struct request *request, const char *type, const void *data, size_t len);

/* The pair that stands for an engine error: status and code. */
struct error_kind {
	int number;
	unsigned int status;
	const char *code;
};
const struct error_kind *error_kind_find(int number);

/* {"code","message"}; the message is made valid UTF-8. */
json_t *error_object(const char *code, const char *message);

/* Nanoseconds as JSON milliseconds, to the microsecond. */
json_t *json_ms(uint64_t ns);
#define JSON_REPLY_FLAGS (JSON_COMPACT | JSON_REAL_PRECISION(15))

/* Nanoseconds since 1970 as an RFC 3339 string in UTC. */
json_t *json_time(int64_t ns);

/* ---- validate.c ---- */

enum field_type { FIELD_STRING, FIELD_INTEGER, FIELD_BOOLEAN, FIELD_OBJECT, FIELD_ARRAY };

struct field {
	const char *name;
	enum field_type type;
	bool required;
	bool nul_allowed; /* FIELD_STRING: may contain U+0000 */
	/* FIELD_INTEGER: value; FIELD_STRING: bytes; FIELD_ARRAY: items, which the
	 * route checks. */
	json_int_t min, max;
};

/* Parses the collected body and holds it to `fields` (ended by a NULL name).
 * An empty body is an empty object. Answers 400 and returns NULL on error;
 * else the object is the caller's. */
json_t *request_json(struct request *request, const struct field *fields);

/* Whether text is 1..max bytes of [a-z0-9._-] starting with a letter or digit. */
bool name_valid(const char *text, size_t max);

/* The "path" parameter: absolute, of a sane length; else answers 400, NULL. */
const char *request_guest_path(struct request *request);

/* ---- sandbox_json.c ---- */

/* What is known of a sandbox, and what its creation took. */
json_t *sandbox_json(const struct sandbox *sandbox);
json_t *timings_json(const struct sandbox_timings *timings);

/* Adds the pairs of `object` (NULL: none) to `metadata`; they live as long as
 * the object. Answers 400 and returns false when they are not acceptable. */
bool metadata_read(struct request *request, json_t *object, size_t *count,
		   const char *metadata[METADATA_MAX][2]);

/* ---- pending.c: engine calls that outlive their request ---- */

struct pending {
	struct server *server;
	struct request *request; /* NULL when the client is gone */
	struct pending *next, *prev;
	char id[SANDBOX_ID_MAX];
};

/* Before the engine call, whose argument it is. Answers 503 and returns NULL
 * without memory. */
struct pending *pending_begin(struct request *request);
/* After the engine call: when it returned -errno answers with `err` and frees
 * `pending`; else the request waits for pending_end(). */
void pending_begun(struct pending *pending, int r, const struct ramet_err *err);
/* In the engine's callback: frees `pending`. Returns the request to answer, or
 * NULL when its client is gone. */
struct request *pending_end(struct pending *pending);

/* One that no callback comes for any more; NULL is fine. */
void pending_free(struct pending *pending);

/* A request_ops.release for routes whose state is a struct pending: the engine
 * call goes on without the client. */
void pending_release(struct request *request);

/* Answers 503. */
void reply_no_memory(struct request *request);

/* ---- the routes ---- */

extern const struct request_ops route_create, route_sandboxes, route_info, route_delete,
	route_console, route_exec, route_upload, route_download, route_list, route_healthz,
	route_version, route_capacity, route_fork, route_merge, route_pause, route_resume,
	route_tree, route_reclaim, route_diff;

#endif
