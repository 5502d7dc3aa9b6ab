/* See bench_http.h. Sources: RFC 9112 (messages), unix(7), epoll(7). */
#include "perf/bench_http.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "lib/cleanup.h"
#include "lib/clock.h"

#define OPEN_MS 10000 /* for the first answer on a connection */

struct connection {
	int fd;
	struct http_call *call; /* under way */
	size_t sent;
	char *data; /* what came of the reply */
	size_t len, room;
};

struct http_pool {
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	int epoll_fd;
	size_t count;
	struct connection connections[];
};

int http_call_init(struct http_call *call, const char *method, const char *path, const char *body,
		   struct ramet_err *err)
{
	int len;

	*call = (struct http_call){ 0 };
	len = asprintf(&call->request,
		       "%s %s HTTP/1.1\r\nHost: ramet\r\n%sContent-Length: %zu\r\n\r\n%s", method,
		       path, body ? "Content-Type: application/json\r\n" : "",
		       body ? strlen(body) : 0, body ? body : "");
	if (len < 0) {
		call->request = NULL;
		return err_set(err, ENOMEM, "no memory for a request");
	}
	call->request_len = (size_t)len;
	return 0;
}

void http_call_clear(struct http_call *call)
{
	free(call->request);
	free(call->body);
	*call = (struct http_call){ 0 };
}

/* ---- one connection ---- */

static void connection_close(struct connection *c)
{
	close_fd(&c->fd);
	free(c->data);
	*c = (struct connection){ .fd = -1 };
}

static int connection_watch(const struct http_pool *pool, struct connection *c, uint32_t events,
			    int op, struct ramet_err *err)
{
	struct epoll_event event = { .events = events, .data.ptr = c };

	if (epoll_ctl(pool->epoll_fd, op, c->fd, &event) < 0)
		return err_errno(err, errno, "epoll");
	return 0;
}

/* Sends what is left; waits for room with EPOLLOUT. */
static int connection_send(const struct http_pool *pool, struct connection *c,
			   struct ramet_err *err)
{
	const struct http_call *call = c->call;

	while (c->sent < call->request_len) {
		ssize_t n = send(c->fd, call->request + c->sent, call->request_len - c->sent,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN)
			return connection_watch(pool, c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD, err);
		if (n < 0)
			return err_errno(err, errno, "cannot send a request");
		c->sent += (size_t)n;
	}
	return 0;
}

static int connection_start(const struct http_pool *pool, struct connection *c,
			    struct http_call *call, struct ramet_err *err)
{
	c->call = call;
	c->sent = 0;
	c->len = 0;
	call->sent_ns = clock_monotonic_ns();
	return connection_send(pool, c, err);
}

static int connection_receive(struct connection *c, struct ramet_err *err)
{
	ssize_t n;

	if (c->room - c->len < 65536) {
		size_t room = c->room ? 2 * c->room : 131072;
		char *grown = realloc(c->data, room);

		if (!grown)
			return err_set(err, ENOMEM, "no memory for a reply");
		c->data = grown;
		c->room = room;
	}
	n = recv(c->fd, c->data + c->len, c->room - c->len - 1, MSG_DONTWAIT);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n == 0 && !c->call) { /* nothing happened on it for too long */
		connection_close(c);
		return 0;
	}
	if (n <= 0 || !c->call)
		return err_set(err, EPROTO, "the daemon %s",
			       n > 0 ? "answers what nobody asked" : "closed a connection");
	c->len += (size_t)n;
	c->data[c->len] = '\0';
	return 0;
}

/* 1: the reply is complete, and the call has it; 0: not yet. */
static int connection_parse(struct connection *c, struct ramet_err *err)
{
	struct http_call *call = c->call;
	char *end = c->data ? strstr(c->data, "\r\n\r\n") : NULL;
	size_t head, length;
	char *field;
	int status;

	if (!end)
		return 0;
	head = (size_t)(end - c->data) + 4;
	*end = '\0';
	field = strcasestr(c->data, "\r\ncontent-length:");
	if (sscanf(c->data, "HTTP/1.1 %d", &status) != 1 || !field ||
	    sscanf(field + 17, "%zu", &length) != 1)
		return err_set(err, EPROTO, "a reply without status or length: %.200s", c->data);
	*end = '\r';
	if (c->len < head + length)
		return 0;
	call->done_ns = clock_monotonic_ns();
	call->status = status;
	call->body = strndup(c->data + head, length);
	if (!call->body)
		return err_set(err, ENOMEM, "no memory for a reply");
	call->body_len = length;
	c->call = NULL;
	return 1;
}

/* ---- all of them ---- */

static int run_on(struct http_pool *pool, struct connection *only, struct http_call *calls,
		  size_t count, int timeout_ms, struct ramet_err *err);

static int connection_open(struct http_pool *pool, struct connection *c, struct ramet_err *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct http_call hello;
	int r;

	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return err_errno(err, errno, "socket");
	(void)strcpy(address.sun_path, pool->path);
	if (connect(c->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return err_errno(err, errno, "cannot connect to %s", pool->path);
	r = connection_watch(pool, c, EPOLLIN, EPOLL_CTL_ADD, err);
	if (r == 0)
		r = http_call_init(&hello, "GET", "/v1/healthz", NULL, err);
	if (r < 0)
		return r;
	r = run_on(pool, c, &hello, 1, OPEN_MS, err);
	http_call_clear(&hello);
	return r;
}

int http_pool_create(const char *path, size_t count, struct http_pool **pool, struct ramet_err *err)
{
	struct http_pool *new;
	int r = 0;

	if (!count || count > HTTP_CONNECTIONS_MAX || strlen(path) >= sizeof(new->path))
		return err_set(err, EINVAL, "1 to %u connections, and a path below %zu bytes",
			       HTTP_CONNECTIONS_MAX, sizeof(new->path));
	new = calloc(1, sizeof(*new) + count * sizeof(new->connections[0]));
	if (!new)
		return err_set(err, ENOMEM, "no memory for connections");
	(void)strcpy(new->path, path);
	new->count = count;
	for (size_t i = 0; i < count; i++)
		new->connections[i].fd = -1;
	new->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (new->epoll_fd < 0)
		r = err_errno(err, errno, "epoll");
	if (r == 0)
		r = http_pool_refresh(new, err);
	if (r < 0) {
		http_pool_destroy(new);
		return r;
	}
	*pool = new;
	return 0;
}

int http_pool_refresh(struct http_pool *pool, struct ramet_err *err)
{
	for (size_t i = 0; i < pool->count; i++) {
		struct connection *c = &pool->connections[i];
		char byte;
		int r;

		if (c->fd >= 0 && recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
		    errno == EAGAIN)
			continue;
		connection_close(c);
		r = connection_open(pool, c, err);
		if (r < 0)
			return r;
	}
	return 0;
}

void http_pool_destroy(struct http_pool *pool)
{
	if (!pool)
		return;
	for (size_t i = 0; i < pool->count; i++)
		connection_close(&pool->connections[i]);
	close_fd(&pool->epoll_fd);
	free(pool);
}

/* 1 when its call is done. */
static int connection_event(struct http_pool *pool, struct connection *c, uint32_t events,
			    struct ramet_err *err)
{
	int r = 0;

	if (events & EPOLLOUT && c->call) {
		r = connection_send(pool, c, err);
		if (r == 0 && c->sent == c->call->request_len)
			r = connection_watch(pool, c, EPOLLIN, EPOLL_CTL_MOD, err);
	}
	if (r == 0 && c->fd >= 0 && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		r = connection_receive(c, err);
		if (r == 0 && c->call)
			r = connection_parse(c, err);
	}
	return r;
}

/* Runs calls on connection `only`, or on all when that is NULL. */
static int run_on(struct http_pool *pool, struct connection *only, struct http_call *calls,
		  size_t count, int timeout_ms, struct ramet_err *err)
{
	size_t connections = only ? 1 : pool->count, started, done = 0;
	uint64_t deadline = clock_monotonic_ns() + (uint64_t)timeout_ms * 1000000;
	struct epoll_event events[64];
	int r;

	for (started = 0; started < count && started < connections; started++) {
		r = connection_start(pool, only ? only : &pool->connections[started],
				     &calls[started], err);
		if (r < 0)
			return r;
	}
	while (done < count) {
		uint64_t now = clock_monotonic_ns();
		int n = epoll_wait(pool->epoll_fd, events, 64,
				   now < deadline ? (int)((deadline - now) / 1000000) + 1 : 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_set(err, ETIMEDOUT, "%zu of %zu calls have no answer after %d s",
				       count - done, count, timeout_ms / 1000);
		for (int i = 0; i < n; i++) {
			struct connection *c = events[i].data.ptr;

			r = connection_event(pool, c, events[i].events, err);
			if (r > 0) {
				done++;
				r = started < count
					    ? connection_start(pool, c, &calls[started++], err)
					    : 0;
			}
			if (r < 0)
				return r;
		}
	}
	return 0;
}

int http_run(struct http_pool *pool, struct http_call *calls, size_t count, int timeout_ms,
	     struct ramet_err *err)
{
	return run_on(pool, NULL, calls, count, timeout_ms, err);
}
