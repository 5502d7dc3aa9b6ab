/* The API server's root object: one HTTP daemon on one engine and one loop. */
#ifndef RAMET_API_SERVER_H
#define RAMET_API_SERVER_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#include "engine/engine.h"
#include "lib/err.h"

#define RAMET_VERSION "0.1.0"

struct request;
struct pending;

struct server {
	sd_event *loop;
	struct engine *engine;
	struct MHD_Daemon *http;
	sd_event_source *http_io;
	sd_event_source *http_timer;
	uint64_t timer_at; /* when it fires, CLOCK_MONOTONIC in microseconds; 0: not armed */
	sd_event_source *http_wake; /* armed when a connection was resumed */
	struct request *requests;   /* those that MHD knows */
	struct pending *pending;    /* engine calls whose callback is due */
	size_t body_bytes;          /* JSON bodies held now */
	uint64_t started_ns;
	bool stopping;
};

/* ---- listen.c ---- */

struct listener {
	int fd; /* the caller's until server_start() takes it */
	dev_t device;
	ino_t inode;
	char path[108];
};

/* Listens on the Unix socket `path` with permission bits `mode`. A socket file
 * that nobody answers on is replaced. -EADDRINUSE: somebody answers. */
int listener_open(const char *path, mode_t mode, struct listener *listener, struct ramet_err *err);

/* Removes the socket file if it is still this one, and closes the fd. */
void listener_close(struct listener *listener);

/* ---- http.c ---- */

/* Serves HTTP on `listener` from `server->loop`; takes over the fd. */
int server_start(struct server *server, struct listener *listener, struct ramet_err *err);

/* Answers what waits with 503, ends streams, closes every connection. Engine
 * callbacks may still come afterwards, until server_clear(). */
void server_stop(struct server *server);

/* Frees what remains; after engine_destroy(). */
void server_clear(struct server *server);

#endif
