/* POST /v1/sandboxes/{id}/diff: which files differ in another sandbox, and in how
 * much memory. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "api/server/diff_text.h"
#include "api/server/limits.h"
#include "api/server/request.h"
#include "api/server/text.h"
#include "lib/cleanup.h"
#include "lib/clock.h"

struct comparison {
	struct diff *diff;      /* NULL when it has ended */
	struct diff_text *text; /* NULL: no contents are wanted */
	json_t *reply;          /* until it is sent */
	uint64_t text_start_ns;
};

static const struct field diff_fields[] = {
	{ .name = "other",
	  .type = FIELD_STRING,
	  .required = true,
	  .min = 1,
	  .max = SANDBOX_ID_MAX },
	{ .name = "paths", .type = FIELD_ARRAY, .min = 1, .max = TREE_ROOTS_MAX },
	{ .name = "text", .type = FIELD_BOOLEAN },
	{ .name = NULL },
};

static void diff_release(struct request *request)
{
	struct comparison *comparison = request->state;

	request->state = NULL;
	if (!comparison)
		return;
	if (comparison->diff)
		diff_abandon(comparison->diff);
	diff_text_free(comparison->text);
	json_decref(comparison->reply);
	free(comparison);
}

/* ---- the reply ---- */

static const char *kind_name(uint32_t mode)
{
	if (S_ISREG(mode))
		return "file";
	if (S_ISDIR(mode))
		return "directory";
	return S_ISLNK(mode) ? "symlink" : "other";
}

static json_t *side_json(const struct diff_side *side)
{
	char mode[8];

	if (!side->mode)
		return json_null();
	(void)snprintf(mode, sizeof(mode), "%04o", side->mode & 07777);
	return json_pack("{s:s, s:I, s:s, s:I, s:I, s:o}", "kind", kind_name(side->mode), "size",
			 (json_int_t)side->size, "mode", mode, "uid", (json_int_t)side->uid, "gid",
			 (json_int_t)side->gid, "mtime", json_time(side->mtime_ns));
}

static json_t *changed_json(unsigned int what)
{
	static const struct {
		unsigned int bit;
		const char *name;
	} names[] = {
		{ DIFF_KIND, "kind" },   { DIFF_CONTENT, "content" },       { DIFF_MODE, "mode" },
		{ DIFF_OWNER, "owner" }, { DIFF_UNREADABLE, "unreadable" },
	};
	json_t *list = json_array();

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (what & names[i].bit)
			(void)json_array_append_new(list, json_string(names[i].name));
	return list;
}

static json_t *entry_json(const struct diff_entry *entry)
{
	json_t *json = json_pack("{s:o, s:o}", "old", side_json(&entry->sides[0]), "new",
				 side_json(&entry->sides[1]));

	if (json &&
	    !json_set_bytes(json, "path", "path_encoding", entry->path, strlen(entry->path)) &&
	    (entry->change != DIFF_MODIFIED ||
	     !json_object_set_new(json, "changed", changed_json(entry->what))))
		return json;
	json_decref(json);
	return NULL;
}

static json_t *memory_json(const struct diff_memory *memory)
{
	if (!memory->known)
		return json_null();
	return json_pack("{s:I, s:I, s:I}", "pages", (json_int_t)memory->pages, "pages_a",
			 (json_int_t)memory->own[0], "pages_b", (json_int_t)memory->own[1]);
}

/* Fills the three lists and notes which texts are wanted. */
static int entries_add(struct comparison *comparison, const struct diff_result *result)
{
	static const char *const names[] = {
		[DIFF_ADDED] = "added", [DIFF_REMOVED] = "removed", [DIFF_MODIFIED] = "modified"
	};

	for (size_t i = 0; i < result->count; i++) {
		const struct diff_entry *entry = &result->entries[i];
		json_t *list = json_object_get(comparison->reply, names[entry->change]);
		json_t *json = entry_json(entry);

		if (json_array_append_new(list, json))
			return -ENOMEM;
		if (comparison->text && diff_text_add(comparison->text, entry, json) < 0)
			return -ENOMEM;
	}
	return 0;
}

static json_t *reply_make(const struct diff_result *result)
{
	return json_pack("{s:[], s:[], s:[], s:o, s:{s:I, s:I}, s:{s:o, s:o}}", "added", "removed",
			 "modified", "memory", memory_json(&result->memory), "walked", "a",
			 (json_int_t)result->walked[0], "b", (json_int_t)result->walked[1],
			 "timings", "memory_ms", json_ms(result->memory_ns), "files_ms",
			 json_ms(result->files_ns));
}

static void diff_reply(struct request *request)
{
	struct comparison *comparison = request->state;

	reply_json(request, MHD_HTTP_OK, take_ptr(comparison->reply));
}

static void texts_fetched(struct request *request)
{
	struct comparison *comparison = request->state;
	json_t *timings = json_object_get(comparison->reply, "timings");

	(void)json_object_set_new(timings, "text_ms",
				  json_ms(clock_monotonic_ns() - comparison->text_start_ns));
	diff_reply(request);
}

static void compared(void *arg, const struct diff_result *result, const struct ramet_err *err)
{
	struct request *request = arg;
	struct comparison *comparison = request->state;

	comparison->diff = NULL;
	if (!result) {
		reply_engine_error(request, err);
		return;
	}
	comparison->reply = reply_make(result);
	if (!comparison->reply || entries_add(comparison, result) < 0) {
		reply_no_memory(request);
		return;
	}
	comparison->text_start_ns = clock_monotonic_ns();
	if (!comparison->text || !diff_text_start(comparison->text))
		diff_reply(request);
}

/* ---- the request ---- */

/* Points into `list`. */
static bool paths_read(struct request *request, const json_t *list, const char **paths)
{
	size_t i;
	json_t *item;

	json_array_foreach(list, i, item)
	{
		paths[i] = json_string_value(item);
		if (!paths[i] || strlen(paths[i]) != json_string_length(item) ||
		    paths[i][0] != '/') {
			reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_path",
				    "\"paths\" must have absolute paths, without U+0000");
			return false;
		}
		if (json_string_length(item) > PATH_LENGTH_MAX) {
			reply_error(request, MHD_HTTP_BAD_REQUEST, "invalid_path",
				    "a path is longer than %u bytes", PATH_LENGTH_MAX);
			return false;
		}
	}
	return true;
}

static void diff_begin(struct request *request, json_t *body)
{
	const json_t *list = json_object_get(body, "paths");
	const char *ids[2] = { request->sandbox_id,
			       json_string_value(json_object_get(body, "other")) };
	const char *paths[TREE_ROOTS_MAX];
	struct diff_params params = { json_array_size(list), paths };
	struct sandbox *a, *b = NULL;
	struct comparison *comparison;
	struct ramet_err err = { 0 };

	if (!paths_read(request, list, paths))
		return;
	a = request_sandbox(request, true);
	if (a)
		b = request_sandbox_by_id(request, ids[1], true);
	if (!b)
		return;
	comparison = calloc(1, sizeof(*comparison));
	if (comparison && json_is_true(json_object_get(body, "text"))) {
		comparison->text = diff_text_new(request, ids, texts_fetched);
		if (!comparison->text)
			free(take_ptr(comparison));
	}
	request->state = comparison;
	if (!comparison)
		reply_no_memory(request);
	else if (sandbox_diff(a, b, &params, compared, request, &comparison->diff, &err) < 0)
		reply_engine_error(request, &err);
}

static void diff_route_end(struct request *request)
{
	json_t *body = request_json(request, diff_fields);

	if (!body)
		return;
	diff_begin(request, body);
	json_decref(body);
}

const struct request_ops route_diff = {
	.json_max = API_DIFF_BODY_MAX,
	.missing = "path_not_found",
	.busy = "sandbox_busy",
	.end = diff_route_end,
	.release = diff_release,
};
