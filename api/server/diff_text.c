/* Fetches contents from both sandboxes, one path at a time: see diff_text.h.
 *
 * They are only passed on. Comparing lines is the client's, so that the daemon
 * does not have to understand what a guest wrote. */
#include "api/server/diff_text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "api/server/limits.h"
#include "api/server/text.h"
#include "lib/cleanup.h"

struct text_job {
	json_t *json; /* borrowed */
	char *path;
	bool wanted[2];
};

struct text_side {
	struct diff_text *text;
	struct file_transfer *transfer; /* NULL: none, or it has ended */
	char *data;
	size_t length;
	const char *omitted; /* why there is no text; NULL: there is */
};

struct diff_text {
	struct request *request;
	char ids[2][SANDBOX_ID_MAX];
	diff_text_done done;
	struct text_job *jobs;
	size_t count, room, next;
	size_t total; /* bytes of text so far */
	struct text_side sides[2];
};

struct diff_text *diff_text_new(struct request *request, const char *const ids[2],
				diff_text_done done)
{
	struct diff_text *text = calloc(1, sizeof(*text));

	if (!text)
		return NULL;
	text->request = request;
	text->done = done;
	for (size_t i = 0; i < 2; i++) {
		(void)snprintf(text->ids[i], sizeof(text->ids[i]), "%s", ids[i]);
		text->sides[i].text = text;
	}
	return text;
}

static void side_clear(struct text_side *side)
{
	if (side->transfer)
		file_abandon(take_ptr(side->transfer));
	free(take_ptr(side->data));
	side->length = 0;
	side->omitted = NULL;
}

void diff_text_free(struct diff_text *text)
{
	if (!text)
		return;
	for (size_t i = 0; i < 2; i++)
		side_clear(&text->sides[i]);
	for (size_t i = 0; i < text->count; i++)
		free(text->jobs[i].path);
	free(text->jobs);
	free(text);
}

static int omit(json_t *json, const char *why)
{
	return json_object_set_new(json, "text_omitted", json_string(why)) ? -ENOMEM : 0;
}

int diff_text_add(struct diff_text *text, const struct diff_entry *entry, json_t *json)
{
	bool wanted[2] = { S_ISREG(entry->sides[0].mode), S_ISREG(entry->sides[1].mode) };
	struct text_job *job;

	if (!wanted[0] && !wanted[1])
		return 0;
	if (entry->change == DIFF_MODIFIED && !(entry->what & (DIFF_KIND | DIFF_CONTENT)))
		return 0;
	if (entry->sides[0].size > API_DIFF_TEXT_FILE || entry->sides[1].size > API_DIFF_TEXT_FILE)
		return omit(json, "too_large");
	if (text->count == text->room) {
		size_t room = text->room ? 2 * text->room : 32;
		struct text_job *grown = realloc(text->jobs, room * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		text->jobs = grown;
		text->room = room;
	}
	job = &text->jobs[text->count];
	*job = (struct text_job){ json, strdup(entry->path), { wanted[0], wanted[1] } };
	if (!job->path)
		return -ENOMEM;
	text->count++;
	return 0;
}

/* ---- one path ---- */

static void side_data(void *arg, const char *data, size_t len)
{
	struct text_side *side = arg;

	if (side->omitted)
		return;
	if (len > API_DIFF_TEXT_FILE - side->length) {
		side->omitted = "too_large"; /* it has grown */
		return;
	}
	memcpy(side->data + side->length, data, len);
	side->length += len;
	if (side->transfer)
		file_consumed(side->transfer, len);
}

static const char *content_fault(const struct text_side *side)
{
	if (memchr(side->data, 0, side->length) || !utf8_valid(side->data, side->length))
		return "binary";
	if (side->text->total + side->length > API_DIFF_TEXT_ALL)
		return "limit";
	return NULL;
}

/* Puts what was fetched into the entry. */
static int job_finish(struct diff_text *text, const struct text_job *job)
{
	static const char *const names[2] = { "old", "new" };
	json_t *texts = json_object();
	const char *omitted = NULL;

	for (size_t i = 0; texts && i < 2; i++) {
		const struct text_side *side = &text->sides[i];

		if (!job->wanted[i])
			continue;
		if (!omitted)
			omitted = side->omitted ? side->omitted : content_fault(side);
		if (!omitted &&
		    json_object_set_new(texts, names[i], json_stringn(side->data, side->length)))
			goto lack;
		text->total += side->length;
	}
	if (!texts)
		return -ENOMEM;
	if (!omitted)
		return json_object_set_new(job->json, "text", texts) ? -ENOMEM : 0;
	json_decref(texts);
	return omit(job->json, omitted);
lack:
	json_decref(texts);
	return -ENOMEM;
}

static bool job_start(struct diff_text *text);

static void side_done(void *arg, const struct file_result *result, const struct ramet_err *err)
{
	struct text_side *side = arg;
	struct diff_text *text = side->text;
	int r;

	side->transfer = NULL;
	(void)err;
	if (!result && !side->omitted)
		side->omitted = "changed"; /* since it was compared */
	if (text->sides[0].transfer || text->sides[1].transfer)
		return;
	r = job_finish(text, &text->jobs[text->next++]);
	for (size_t i = 0; i < 2; i++)
		side_clear(&text->sides[i]);
	if (r < 0)
		reply_no_memory(text->request);
	else if (!job_start(text) && text->next == text->count)
		text->done(text->request);
}

static const struct file_callbacks callbacks = { .data = side_data, .done = side_done };

static bool side_start(struct diff_text *text, size_t i, const char *path)
{
	struct text_side *side = &text->sides[i];
	struct request *request = text->request;
	struct sandbox *sandbox = request_sandbox_by_id(request, text->ids[i], true);
	struct ramet_err err;

	if (!sandbox)
		return false;
	side->data = malloc(API_DIFF_TEXT_FILE);
	if (!side->data) {
		reply_no_memory(request);
		return false;
	}
	if (sandbox_download(sandbox, path, &callbacks, side, &side->transfer, &err) == 0)
		return true;
	reply_engine_error(request, &err);
	return false;
}

/* Starts the next path. False when there is none, or the request was answered. */
static bool job_start(struct diff_text *text)
{
	const struct text_job *job = &text->jobs[text->next];

	if (text->next == text->count)
		return false;
	for (size_t i = 0; i < 2; i++) {
		if (job->wanted[i] && !side_start(text, i, job->path)) {
			text->next = text->count + 1; /* answered */
			side_clear(&text->sides[0]);
			side_clear(&text->sides[1]);
			return false;
		}
	}
	return true;
}

bool diff_text_start(struct diff_text *text)
{
	return text->count && (job_start(text) || text->next > text->count);
}
