/* libmicrohttpd on the daemon's event loop: no threads of its own, its epoll
 * descriptor is one source of ours, its timeouts one timer. */
#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>

#include "api/server/request.h"
#include "lib/cleanup.h"
#include "lib/clock.h"
#include "lib/log.h"

/* Turns of MHD that server_stop() grants to get last answers out. Each turn
 * writes what the sockets take; a client that reads needs two or three. */
#define STOP_TURNS 16

static void http_log(void *arg, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));

static void http_log(void *arg, const char *fmt, va_list ap)
{
	char line[400];

	(void)arg;
	(void)vsnprintf(line, sizeof(line), fmt, ap);
	log_debug("http: %s", line);
}

static int http_run(sd_event_source *source, int fd, uint32_t events, void *arg)
{
	struct server *server = arg;

	(void)source;
	(void)fd;
	(void)events;
	(void)MHD_run(server->http);
	return 0;
}

static int http_timeout(sd_event_source *source, uint64_t usec, void *arg)
{
	struct server *server = arg;

	(void)source;
	(void)usec;
	server->timer_at = 0;
	(void)MHD_run(server->http);
	return 0;
}

static int http_woken(sd_event_source *source, void *arg)
{
	struct server *server = arg;

	(void)source;
	(void)MHD_run(server->http);
	return 0;
}

/* Before each wait: see that MHD runs again by the time that it names. A timer
 * that fires earlier does no harm, and saves setting it for every request. */
static int http_prepare(sd_event_source *source, void *arg)
{
	struct server *server = arg;
	MHD_UNSIGNED_LONG_LONG ms;
	uint64_t now;

	(void)source;
	if (MHD_get_timeout(server->http, &ms) != MHD_YES ||
	    sd_event_now(server->loop, CLOCK_MONOTONIC, &now) < 0)
		return 0;
	if (!ms) /* at once: a timer has a granularity */
		return sd_event_source_set_enabled(server->http_wake, SD_EVENT_ONESHOT);
	if (server->timer_at && server->timer_at <= now + ms * 1000)
		return 0;
	server->timer_at = now + ms * 1000;
	if (sd_event_source_set_time(server->http_timer, server->timer_at) < 0)
		return 0;
	return sd_event_source_set_enabled(server->http_timer, SD_EVENT_ONESHOT);
}

static int loop_attach(struct server *server, struct ramet_err *err)
{
	const union MHD_DaemonInfo *info =
		MHD_get_daemon_info(server->http, MHD_DAEMON_INFO_EPOLL_FD);
	int ret;

	if (!info)
		return err_set(err, EIO, "libmicrohttpd has no epoll descriptor");
	ret = sd_event_add_time_relative(server->loop, &server->http_timer, CLOCK_MONOTONIC, 0,
					 1000, http_timeout, server);
	if (ret >= 0)
		ret = sd_event_source_set_enabled(server->http_timer, SD_EVENT_OFF);
	if (ret >= 0)
		ret = sd_event_add_defer(server->loop, &server->http_wake, http_woken, server);
	if (ret >= 0)
		ret = sd_event_source_set_enabled(server->http_wake, SD_EVENT_OFF);
	if (ret >= 0)
		ret = sd_event_add_io(server->loop, &server->http_io, info->epoll_fd, EPOLLIN,
				      http_run, server);
	if (ret >= 0)
		ret = sd_event_source_set_prepare(server->http_io, http_prepare);
	if (ret < 0)
		return err_errno(err, -ret, "cannot watch the HTTP connections");
	return 0;
}

int server_start(struct server *server, struct listener *listener, struct ramet_err *err)
{
	int ret;

	server->started_ns = clock_monotonic_ns();
	server->http = MHD_start_daemon(
		MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
		request_handle, server, MHD_OPTION_EXTERNAL_LOGGER, http_log, NULL,
		MHD_OPTION_LISTEN_SOCKET, listener->fd, MHD_OPTION_URI_LOG_CALLBACK, request_new,
		server, MHD_OPTION_NOTIFY_COMPLETED, request_completed, server,
		MHD_OPTION_CONNECTION_LIMIT, API_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
		API_IDLE_TIMEOUT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)API_CONNECTION_MEMORY, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
		MHD_OPTION_END);
	if (!server->http)
		return err_set(err, EIO, "libmicrohttpd did not start");
	listener->fd = -1; /* MHD closes it */
	ret = loop_attach(server, err);
	if (ret)
		server_stop(server);
	return ret;
}

/* Answers or ends everything that is under way. */
static void requests_end(struct server *server)
{
	struct request *next;

	for (struct request *request = server->requests; request; request = next) {
		next = request->next;
		if (request->suspended && !request->queued && !request->response)
			reply_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, "stopping",
				    "the daemon is stopping");
		else if (request->queued && request->ops && request->ops->stop)
			request->ops->stop(request);
		else if (request->queued && request->suspended)
			request_abort(request);
	}
	for (int turn = 0; server->requests && turn < STOP_TURNS; turn++)
		(void)MHD_run(server->http);
	for (struct request *request = server->requests; request; request = request->next)
		request_abort(request);
}

void server_stop(struct server *server)
{
	if (!server->http)
		return;
	server->stopping = true;
	requests_end(server);
	server->http_io = sd_event_source_disable_unref(server->http_io);
	server->http_timer = sd_event_source_disable_unref(server->http_timer);
	server->http_wake = sd_event_source_disable_unref(server->http_wake);
	MHD_stop_daemon(server->http);
	server->http = NULL;
}

void server_clear(struct server *server)
{
	while (server->pending)
		pending_free(server->pending);
}
