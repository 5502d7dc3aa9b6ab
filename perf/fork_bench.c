/* The client of perf/perf_fork.py: makes calls to the daemon as fast as a client
 * can and says when each was answered.
 *
 * usage: fork_bench SOCKET CONNECTIONS
 *
 * Reads jobs from standard input, one JSON object per line, and answers each
 * with one line:
 *
 *   {"calls": [{"method", "path", "body"?}...],
 *    "then"?: {"code", "calls"?: [...]}}
 *   -> {"calls": [{"status", "sent_ms", "ms", "reply"}...],
 *       "then": [{"id"?, "status", "sent_ms", "ms", "reply"}...]}
 *
 * All calls are made at once. Then `code` is run in every sandbox that their
 * replies name ("id", or "id" of each of "children"), again at once, and before
 * these the calls of `then` are made. Times are milliseconds from when the first
 * call was sent. A job that fails ends the program. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "perf/bench_http.h"

#define TIMEOUT_MS 180000
#define CALLS_MAX  4096u

struct batch {
	size_t count;
	struct http_call calls[CALLS_MAX];
	const char *ids[CALLS_MAX]; /* of the sandbox, or NULL */
};

struct bench {
	struct http_pool *pool;
	struct batch first, then;
	json_t *job, *answer, *replies; /* of the first calls */
};

static void batch_clear(struct batch *batch)
{
	for (size_t i = 0; i < batch->count; i++)
		http_call_clear(&batch->calls[i]);
	batch->count = 0;
}

static int batch_add(struct batch *batch, const char *method, const char *path, const char *body,
		     const char *id, struct ramet_err *err)
{
	int r;

	if (batch->count == CALLS_MAX)
		return err_set(err, E2BIG, "a job of more than %u calls", CALLS_MAX);
	r = http_call_init(&batch->calls[batch->count], method, path, body, err);
	if (r == 0)
		batch->ids[batch->count++] = id;
	return r;
}

static int batch_add_calls(struct batch *batch, json_t *calls, struct ramet_err *err)
{
	json_t *call;
	size_t i;
	int r;

	json_array_foreach(calls, i, call)
	{
		cleanup_free char *text = NULL;
		const char *method, *path;
		json_t *body = NULL;

		if (json_unpack(call, "{s:s, s:s, s?o}", "method", &method, "path", &path, "body",
				&body))
			return err_set(err, EINVAL, "a call is {\"method\", \"path\", \"body\"}");
		text = body ? json_dumps(body, JSON_COMPACT) : NULL;
		r = batch_add(batch, method, path, text, NULL, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int batch_add_exec(struct batch *batch, const char *id, const char *body,
			  struct ramet_err *err)
{
	char path[128];

	(void)snprintf(path, sizeof(path), "/v1/sandboxes/%s/exec?stream=false", id);
	return batch_add(batch, "POST", path, body, id, err);
}

/* The sandboxes that a reply names. */
static int batch_add_execs(struct batch *batch, const json_t *reply, const char *body,
			   struct ramet_err *err)
{
	const char *id = json_string_value(json_object_get(reply, "id"));
	json_t *child;
	size_t i;
	int r = id ? batch_add_exec(batch, id, body, err) : 0;

	json_array_foreach(json_object_get(reply, "children"), i, child)
	{
		id = json_string_value(json_object_get(child, "id"));
		if (r == 0 && id)
			r = batch_add_exec(batch, id, body, err);
	}
	return r;
}

static double ms_since(uint64_t start, uint64_t now)
{
	return (double)(now - start) / 1e6;
}

/* What became of a batch, as JSON. */
static json_t *batch_report(const struct batch *batch, uint64_t start)
{
	json_t *list = json_array();

	for (size_t i = 0; i < batch->count; i++) {
		const struct http_call *call = &batch->calls[i];
		json_t *reply = json_loadb(call->body, call->body_len, 0, NULL);
		json_t *entry = json_pack("{s:i, s:f, s:f, s:o?}", "status", call->status,
					  "sent_ms", ms_since(start, call->sent_ns), "ms",
					  ms_since(start, call->done_ns), "reply", reply);

		if (entry && batch->ids[i])
			(void)json_object_set_new(entry, "id", json_string(batch->ids[i]));
		if (!entry || json_array_append_new(list, entry)) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* The second half; only what it needs of the replies is looked at before. */
static int job_then(struct bench *bench, json_t *then, struct ramet_err *err)
{
	json_t *code = json_object_get(then, "code");
	cleanup_free char *body = NULL;
	json_t *wrapped = json_pack("{s:O}", "code", code);
	int r;

	body = wrapped ? json_dumps(wrapped, JSON_COMPACT) : NULL;
	json_decref(wrapped);
	if (!body)
		return err_set(err, EINVAL, "then is {\"code\", \"calls\"}");
	r = batch_add_calls(&bench->then, json_object_get(then, "calls"), err);
	for (size_t i = 0; r == 0 && i < bench->first.count; i++) {
		const struct http_call *call = &bench->first.calls[i];
		json_t *reply = json_loadb(call->body, call->body_len, 0, NULL);

		r = batch_add_execs(&bench->then, reply, body, err);
		(void)json_array_append_new(bench->replies, reply); /* owns the ids */
	}
	if (r == 0)
		r = http_run(bench->pool, bench->then.calls, bench->then.count, TIMEOUT_MS, err);
	return r;
}

static int job_run(struct bench *bench, struct ramet_err *err)
{
	json_t *then = json_object_get(bench->job, "then");
	uint64_t start;
	int r = batch_add_calls(&bench->first, json_object_get(bench->job, "calls"), err);

	if (r == 0 && !bench->first.count)
		return err_set(err, EINVAL, "a job without calls");
	if (r == 0)
		r = http_pool_refresh(bench->pool, err);
	if (r == 0)
		r = http_run(bench->pool, bench->first.calls, bench->first.count, TIMEOUT_MS, err);
	if (r == 0 && then)
		r = job_then(bench, then, err);
	if (r < 0)
		return r;
	start = bench->first.calls[0].sent_ns;
	bench->answer = json_pack("{s:o, s:o}", "calls", batch_report(&bench->first, start), "then",
				  batch_report(&bench->then, start));
	return bench->answer ? 0 : err_set(err, ENOMEM, "no memory for an answer");
}

static void job_clear(struct bench *bench)
{
	batch_clear(&bench->first);
	batch_clear(&bench->then);
	json_decref(bench->replies);
	json_decref(bench->answer);
	json_decref(bench->job);
	bench->replies = bench->answer = bench->job = NULL;
}

static int jobs_run(struct bench *bench, struct ramet_err *err)
{
	cleanup_free char *line = NULL;
	size_t room = 0;
	ssize_t len;

	while ((len = getline(&line, &room, stdin)) > 0) {
		json_error_t where;
		int r;

		bench->replies = json_array();
		bench->job = json_loadb(line, (size_t)len, 0, &where);
		r = bench->job ? job_run(bench, err)
			       : err_set(err, EINVAL, "not JSON: %s", where.text);
		if (r == 0 && (json_dumpf(bench->answer, stdout, JSON_COMPACT) < 0 ||
			       putchar('\n') == EOF || fflush(stdout) == EOF))
			r = err_errno(err, errno, "cannot write");
		job_clear(bench);
		if (r < 0)
			return r;
	}
	return 0;
}

int main(int argc, char **argv)
{
	static struct bench bench;
	struct ramet_err err = { 0 };
	int r;

	if (argc != 3) {
		(void)fputs("usage: fork_bench SOCKET CONNECTIONS\n", stderr);
		return 2;
	}
	r = http_pool_create(argv[1], strtoul(argv[2], NULL, 10), &bench.pool, &err);
	if (r == 0)
		r = jobs_run(&bench, &err);
	http_pool_destroy(bench.pool);
	if (r < 0)
		(void)fprintf(stderr, "fork_bench: %s\n", err.msg);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
