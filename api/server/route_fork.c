/* POST .../fork, .../merge_into/{winner}, .../pause, .../resume; GET /v1/tree. */
#include <stdio.h>
#include <string.h>

#include "api/server/limits.h"
#include "api/server/request.h"

/* ---- fork ---- */

static const struct field fork_fields[] = {
	{ .name = "n", .type = FIELD_INTEGER, .min = 1, .max = API_FORK_CHILDREN_MAX },
	{ .name = "metadata", .type = FIELD_OBJECT },
	{ .name = "keep_random", .type = FIELD_BOOLEAN },
	{ .name = NULL },
};

static json_t *fork_timings_json(const struct fork_timings *timings)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "reserve_ms",
			 json_ms(timings->reserve_ns), "quiesce_ms", json_ms(timings->quiesce_ns),
			 "pause_ms", json_ms(timings->pause_ns), "state_ms",
			 json_ms(timings->state_ns), "map_ms", json_ms(timings->map_ns),
			 "parent_ms", json_ms(timings->parent_ns), "stitch_ms",
			 json_ms(timings->stitch_ns), "first_answer_ms", json_ms(timings->first_ns),
			 "all_answers_ms", json_ms(timings->total_ns));
}

static json_t *child_json(const struct fork_child *child, unsigned int index)
{
	if (child->sandbox)
		return sandbox_json(child->sandbox);
	return json_pack("{s:i, s:o}", "fork_index", (int)index, "error",
			 error_object(error_kind_find(child->err.code)->code, child->err.msg));
}

static json_t *children_json(const struct fork_result *result)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < result->count; i++)
		(void)json_array_append_new(list, child_json(&result->children[i], i));
	return list;
}

/* Nobody knows their ids. */
static void children_close(const struct fork_result *result)
{
	struct ramet_err ignored;

	for (unsigned int i = 0; result && i < result->count; i++)
		if (result->children[i].sandbox)
			(void)sandbox_close(result->children[i].sandbox, NULL, NULL, &ignored);
}

static void forked(void *arg, const struct fork_result *result, const struct ramet_err *err)
{
	const struct server *server = ((struct pending *)arg)->server;
	struct request *request = pending_end(arg);

	if (!request) {
		if (!server->stopping)
			children_close(result);
		return;
	}
	if (!result) {
		reply_engine_error(request, err);
		return;
	}
	reply_json(request, MHD_HTTP_CREATED,
		   json_pack("{s:o, s:I, s:I, s:o}", "children", children_json(result),
			     "dirty_pages", (json_int_t)result->timings.dirty_pages, "range_pages",
			     (json_int_t)result->timings.range_pages, "timings",
			     fork_timings_json(&result->timings)));
}

static void fork_begin(struct request *request, json_t *body)
{
	json_t *n = json_object_get(body, "n");
	struct fork_params params = {
		.count = n ? (unsigned int)json_integer_value(n) : 1,
		.keep_random = json_is_true(json_object_get(body, "keep_random")),
	};
	struct sandbox *parent = request_sandbox(request, true);
	struct ramet_err err = { 0 };
	struct pending *pending;

	if (!parent || !metadata_read(request, json_object_get(body, "metadata"),
				      &params.metadata_count, params.metadata))
		return;
	pending = pending_begin(request);
	if (pending)
		pending_begun(pending, sandbox_fork(parent, &params, forked, pending, &err), &err);
}

static void fork_end(struct request *request)
{
	json_t *body = request_json(request, fork_fields);

	if (!body)
		return;
	fork_begin(request, body);
	json_decref(body);
}

const struct request_ops route_fork = {
	.json_max = API_CREATE_BODY_MAX,
	.busy = "sandbox_busy",
	.end = fork_end,
	.release = pending_release,
};

/* ---- merge, pause, resume ---- */

/* A sandbox_cb: what became of a sandbox that goes on. */
static void changed(void *arg, struct sandbox *sandbox, const struct ramet_err *err)
{
	struct request *request = pending_end(arg);

	if (!request)
		return;
	if (sandbox)
		reply_json(request, MHD_HTTP_OK, sandbox_json(sandbox));
	else
		reply_engine_error(request, err);
}

static void merge_end(struct request *request)
{
	struct sandbox *parent = request_sandbox(request, true);
	struct sandbox *winner =
		parent ? request_sandbox_by_id(request, request->other_id, true) : NULL;
	struct ramet_err err = { 0 };
	struct pending *pending = winner ? pending_begin(request) : NULL;

	if (pending)
		pending_begun(pending, sandbox_merge(parent, winner, changed, pending, &err), &err);
}

const struct request_ops route_merge = {
	.busy = "sandbox_busy",
	.end = merge_end,
	.release = pending_release,
};

static void pause_end(struct request *request)
{
	struct sandbox *sandbox = request_sandbox(request, true);
	struct ramet_err err = { 0 };
	struct pending *pending = sandbox ? pending_begin(request) : NULL;

	if (pending)
		pending_begun(pending, sandbox_pause(sandbox, changed, pending, &err), &err);
}

const struct request_ops route_pause = {
	.busy = "sandbox_busy",
	.end = pause_end,
	.release = pending_release,
};

static void resume_end(struct request *request)
{
	struct sandbox *sandbox = request_sandbox(request, false);
	struct ramet_err err = { 0 };
	struct sandbox_info info;

	if (!sandbox)
		return;
	sandbox_info(sandbox, &info);
	if (info.state != SANDBOX_PAUSED) {
		reply_error(request, MHD_HTTP_CONFLICT, "sandbox_not_paused",
			    "sandbox \"%s\" is not paused", request->sandbox_id);
		return;
	}
	if (sandbox_resume(sandbox, &err) < 0)
		reply_engine_error(request, &err);
	else
		reply_json(request, MHD_HTTP_OK, sandbox_json(sandbox));
}

const struct request_ops route_resume = { .end = resume_end };

/* ---- tree ---- */

static bool tree_append(void *arg, struct sandbox *sandbox, unsigned int depth)
{
	json_t *object = sandbox_json(sandbox);

	if (object)
		(void)json_object_set_new(object, "tree_depth", json_integer((json_int_t)depth));
	return !json_array_append_new(arg, object);
}

static void tree_end(struct request *request)
{
	json_t *list = json_array();

	engine_tree(request->server->engine, tree_append, list);
	reply_json(request, MHD_HTTP_OK, json_pack("{s:o}", "sandboxes", list));
}

const struct request_ops route_tree = { .end = tree_end };
