/* The NDJSON lines of a running exec, queued until the client takes them.
 *
 * Output is split at UTF-8 boundaries: a sequence that arrives in two pieces
 * goes out in one line; bytes that are not UTF-8 go out as base64. */
#ifndef RAMET_API_EXEC_EVENTS_H
#define RAMET_API_EXEC_EVENTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "engine/engine.h"

#define EVENT_STREAMS 5 /* enum output_stream, 1-based */

struct event_line;

struct event_queue {
	struct event_line *first, **last;
	uint64_t next_seq;
	uint64_t time_ns; /* of the last event */
	struct {
		char bytes[3];
		size_t len;
	} carry[EVENT_STREAMS]; /* beginnings of sequences */
	bool ended;
};

void event_queue_init(struct event_queue *queue);
void event_queue_clear(struct event_queue *queue);

/* The "type" of an output stream; NULL for a number that is none. */
const char *output_stream_name(int stream);

/* Adds output. -ENOMEM; -EINVAL: no such stream. */
int event_queue_output(struct event_queue *queue, int stream, uint64_t time_ns, const char *data,
		       size_t len);

/* Adds the last line: how the exec ended, or with `err` why it could not. */
int event_queue_end(struct event_queue *queue, const struct exec_exit *exit,
		    const struct ramet_err *err);

/* Copies out at most `size` bytes of lines; returns how many. *credit is set to
 * the number of output bytes whose lines were thereby taken completely. */
size_t event_queue_read(struct event_queue *queue, char *buf, size_t size, size_t *credit);

/* Sets exit_code, timed_out, ... in `object`. */
int exec_exit_fields(json_t *object, const struct exec_exit *exit, uint64_t dropped_here);

#endif
