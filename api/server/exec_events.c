/* NDJSON lines of an exec: see exec_events.h. */
#include "api/server/exec_events.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/server/request.h"
#include "api/server/text.h"
#include "guest/protocol.h"
#include "lib/cleanup.h"

struct event_line {
	struct event_line *next;
	char *text; /* ends with a newline */
	size_t len, sent;
	size_t credit; /* output bytes that this line carries */
};

void event_queue_init(struct event_queue *queue)
{
	memset(queue, 0, sizeof(*queue));
	queue->last = &queue->first;
}

static void first_drop(struct event_queue *queue)
{
	struct event_line *line = queue->first;

	queue->first = line->next;
	if (!queue->first)
		queue->last = &queue->first;
	free(line->text);
	free(line);
}

void event_queue_clear(struct event_queue *queue)
{
	while (queue->first)
		first_drop(queue);
}

const char *output_stream_name(int stream)
{
	switch (stream) {
	case OUTPUT_STDOUT:
		return "stdout";
	case OUTPUT_STDERR:
		return "stderr";
	case OUTPUT_RESULT:
		return "result";
	case OUTPUT_NOTICE:
		return "notice";
	}
	return NULL;
}

/* Appends `object` (reference taken) as a line. */
static int line_append(struct event_queue *queue, json_t *object, size_t credit)
{
	struct event_line *line = calloc(1, sizeof(*line));
	char *text = object ? json_dumps(object, JSON_REPLY_FLAGS) : NULL;
	size_t len = text ? strlen(text) : 0;
	char *grown = text ? realloc(text, len + 2) : NULL;

	json_decref(object);
	if (!line || !grown) {
		free(grown ? grown : text);
		free(line);
		return -ENOMEM;
	}
	memcpy(grown + len, "\n", 2);
	line->text = grown;
	line->len = len + 1;
	line->credit = credit;
	*queue->last = line;
	queue->last = &line->next;
	return 0;
}

static int output_append(struct event_queue *queue, int stream, const char *data, size_t len)
{
	json_t *object = json_pack("{s:s}", "type", output_stream_name(stream));

	if (!object || json_set_bytes(object, "data", "encoding", data, len) ||
	    json_object_set_new(object, "seq", json_integer((json_int_t)queue->next_seq)) ||
	    json_object_set_new(object, "ts", json_ms(queue->time_ns))) {
		json_decref(object);
		return -ENOMEM;
	}
	queue->next_seq++;
	return line_append(queue, object, len);
}

int event_queue_output(struct event_queue *queue, int stream, uint64_t time_ns, const char *data,
		       size_t len)
{
	cleanup_free char *joined = NULL;
	size_t carried, total, tail;

	if (!output_stream_name(stream))
		return -EINVAL;
	queue->time_ns = time_ns;
	carried = queue->carry[stream].len;
	total = carried + len;
	if (carried) {
		joined = malloc(total);
		if (!joined)
			return -ENOMEM;
		memcpy(joined, queue->carry[stream].bytes, carried);
		memcpy(joined + carried, data, len);
		data = joined;
	}
	tail = utf8_incomplete_tail(data, total);
	queue->carry[stream].len = tail;
	memcpy(queue->carry[stream].bytes, data + total - tail, tail);
	return total > tail ? output_append(queue, stream, data, total - tail) : 0;
}

int exec_exit_fields(json_t *object, const struct exec_exit *exit, uint64_t dropped_here)
{
	uint64_t dropped = exit->dropped + dropped_here;
	bool cut = exit->flags & EXIT_OUTPUT_CUT || dropped;
	json_t *fields = json_pack(
		"{s:i, s:b, s:b, s:b, s:b, s:b, s:b, s:I, s:{s:o, s:o, s:o}}", "exit_code",
		exit->exit_code, "timed_out", !!(exit->flags & EXIT_TIMED_OUT), "interrupted",
		!!(exit->flags & EXIT_INTERRUPTED), "cancelled", !!(exit->flags & EXIT_CANCELLED),
		"repl_restarted", !!(exit->flags & EXIT_REPL_RESTARTED), "state_lost",
		!!(exit->flags & EXIT_STATE_LOST), "output_cut", cut, "output_dropped",
		(json_int_t)dropped, "timings", "queue_ms", json_ms(exit->queue_ns), "run_ms",
		json_ms(exit->run_ns), "total_ms", json_ms(exit->total_ns));
	int ret = fields ? json_object_update(object, fields) : -1;

	json_decref(fields);
	return ret ? -ENOMEM : 0;
}

int event_queue_end(struct event_queue *queue, const struct exec_exit *exit,
		    const struct ramet_err *err)
{
	json_t *object;

	for (int stream = 1; stream < EVENT_STREAMS; stream++) {
		size_t len = queue->carry[stream].len;

		queue->carry[stream].len = 0;
		if (len && output_append(queue, stream, queue->carry[stream].bytes, len))
			return -ENOMEM;
	}
	queue->ended = true;
	if (!exit) {
		object = json_pack("{s:s, s:o, s:I, s:o}", "type", "error", "error",
				   error_object(error_kind_find(err->code)->code, err->msg), "seq",
				   (json_int_t)queue->next_seq++, "ts", json_ms(queue->time_ns));
		return line_append(queue, object, 0);
	}
	object = json_pack("{s:s, s:i, s:I, s:o}", "type", "exit", "data", exit->exit_code, "seq",
			   (json_int_t)queue->next_seq++, "ts", json_ms(exit->run_ns));
	if (object && exec_exit_fields(object, exit, 0)) {
		json_decref(object);
		return -ENOMEM;
	}
	return line_append(queue, object, 0);
}

size_t event_queue_read(struct event_queue *queue, char *buf, size_t size, size_t *credit)
{
	size_t done = 0;

	*credit = 0;
	while (queue->first && done < size) {
		struct event_line *line = queue->first;
		size_t part = line->len - line->sent;

		if (part > size - done)
			part = size - done;
		memcpy(buf + done, line->text + line->sent, part);
		line->sent += part;
		done += part;
		if (line->sent == line->len) {
			*credit += line->credit;
			first_drop(queue);
		}
	}
	return done;
}
