/* HTTP calls to the daemon, many at once, over connections that are open
 * before they are needed: a client that costs little beside what it measures.
 *
 * One thread, one epoll; replies must have a Content-Length, as all of the
 * daemon's JSON has. */
#ifndef RAMET_PERF_BENCH_HTTP_H
#define RAMET_PERF_BENCH_HTTP_H

#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

#define HTTP_CONNECTIONS_MAX 400u /* the daemon has 512 */

struct http_call {
	char *request; /* all bytes of it; the caller's */
	size_t request_len;

	/* Set by http_run(). */
	uint64_t sent_ns, done_ns; /* monotonic */
	int status;
	char *body; /* with a NUL behind; the caller's to free */
	size_t body_len;
};

struct http_pool;

/* Connects `count` times to the Unix socket `path`; every connection has had an
 * answer when this returns. */
int http_pool_create(const char *path, size_t count, struct http_pool **pool,
		     struct ramet_err *err);
void http_pool_destroy(struct http_pool *pool); /* NULL is fine */

/* Opens again what the daemon has closed meanwhile. */
int http_pool_refresh(struct http_pool *pool, struct ramet_err *err);

/* Makes all calls at once, in order, each on a connection of its own as long as
 * there are some. -ETIMEDOUT after `timeout_ms`, -EPROTO, -errno: then the pool
 * is of no more use. */
int http_run(struct http_pool *pool, struct http_call *calls, size_t count, int timeout_ms,
	     struct ramet_err *err);

/* Fills in `call`'s request; `body` (JSON) may be NULL. -ENOMEM. */
int http_call_init(struct http_call *call, const char *method, const char *path, const char *body,
		   struct ramet_err *err);
void http_call_clear(struct http_call *call);

#endif
