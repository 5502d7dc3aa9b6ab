/* A fork as a trace: see cli.h. One row for the parent, one for each child,
 * times in microseconds since the call ("Trace Event Format", complete events
 * and metadata; https://ui.perfetto.dev opens it). */
#include <errno.h>
#include <string.h>

#include "api/cli/cli.h"

#define PROCESS    1 /* all rows belong to one */
#define PARENT_ROW 0

/* A phase that took no time worth telling is in the trace all the same. */
static double phase_us(const json_t *timings, const char *name)
{
	return json_number_value(json_object_get(timings, name)) * 1000;
}

static void event_add(json_t *events, int row, const char *name, double start, double duration,
		      json_t *args)
{
	(void)json_array_append_new(events,
				    json_pack("{s:s, s:s, s:s, s:i, s:i, s:f, s:f, s:o*}", "name",
					      name, "cat", "fork", "ph", "X", "pid", PROCESS, "tid",
					      row, "ts", start, "dur", duration, "args", args));
}

/* Names a row, and puts it in its place. */
static void row_add(json_t *events, int row, const char *name)
{
	(void)json_array_append_new(events, json_pack("{s:s, s:s, s:i, s:i, s:{s:s}}", "name",
						      "thread_name", "ph", "M", "pid", PROCESS,
						      "tid", row, "args", "name", name));
	(void)json_array_append_new(events,
				    json_pack("{s:s, s:s, s:i, s:i, s:{s:i}}", "name",
					      "thread_sort_index", "ph", "M", "pid", PROCESS, "tid",
					      row, "args", "sort_index", row));
}

static void parent_add(json_t *events, const json_t *reply)
{
	const json_t *timings = json_object_get(reply, "timings");
	double reserve = phase_us(timings, "reserve_ms");
	double quiesce = phase_us(timings, "quiesce_ms");
	double pause = phase_us(timings, "pause_ms");
	double state = phase_us(timings, "state_ms");
	double stopped = reserve + quiesce;

	row_add(events, PARENT_ROW, "parent");
	event_add(events, PARENT_ROW, "fork", 0, phase_us(timings, "total_ms"),
		  json_pack("{s:O?, s:O?}", "dirty_pages", json_object_get(reply, "dirty_pages"),
			    "range_pages", json_object_get(reply, "range_pages")));
	event_add(events, PARENT_ROW, "reserve", 0, reserve, NULL);
	event_add(events, PARENT_ROW, "quiesce", reserve, quiesce, NULL);
	event_add(events, PARENT_ROW, "parent", stopped, phase_us(timings, "parent_ms"), NULL);
	event_add(events, PARENT_ROW, "pause", stopped, pause, NULL);
	event_add(events, PARENT_ROW, "state", stopped + pause - state, state, NULL);
	event_add(events, PARENT_ROW, "map", stopped + pause, phase_us(timings, "map_ms"), NULL);
}

static void child_add(json_t *events, int row, const json_t *child)
{
	const json_t *timings = json_object_get(child, "create_timings");
	const char *id = json_string_value(json_object_get(child, "id"));
	double reserve = phase_us(timings, "reserve_ms");
	double stitched = reserve + phase_us(timings, "stitch_ms");
	char name[80];

	(void)snprintf(name, sizeof(name), "child %d %s", row - 1, id ? id : "failed");
	row_add(events, row, name);
	if (!id)
		return;
	event_add(events, row, "child", 0, phase_us(timings, "total_ms"),
		  json_pack("{s:O?}", "memory", json_object_get(child, "memory")));
	event_add(events, row, "reserve", 0, reserve, NULL);
	event_add(events, row, "stitch", reserve, stitched - reserve, NULL);
	event_add(events, row, "answer", stitched, phase_us(timings, "answer_ms"), NULL);
	event_add(events, row, "state", stitched, phase_us(timings, "state_ms"), NULL);
}

int fork_trace_write(FILE *out, const char *path, const json_t *reply)
{
	json_t *events = json_array(), *trace;
	json_t *child;
	size_t i;
	int failed;

	parent_add(events, reply);
	json_array_foreach(json_object_get(reply, "children"), i, child)
		child_add(events, (int)i + 1, child);
	trace = json_pack("{s:o, s:s}", "traceEvents", events, "displayTimeUnit", "ms");
	failed = json_dumpf(trace, out, JSON_COMPACT | JSON_REAL_PRECISION(15));
	json_decref(trace);
	if (failed || fputc('\n', out) == EOF || fflush(out))
		return cli_fail("cannot write %s: %s", path, strerror(errno));
	return CLI_OK;
}
