/* Entries of a guest's files as they come in: see walk.h. */
#include "engine/walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#define WINDOW (8 * TREE_PAGE_MAX) /* bytes held, or on their way */

struct walk_page {
	STAILQ_ENTRY(walk_page) link;
	size_t length, at;
	uint32_t left; /* entries from `at` on */
	uint8_t bytes[];
};

struct walk {
	struct agent_request request; /* first */
	const struct walk_roots *roots;
	struct walk_callbacks callbacks;
	void *arg;
	bool abandoned; /* lives on until the guest has answered */
	bool ended;
	STAILQ_HEAD(, walk_page) pages;
	size_t credit; /* bytes that the guest may still send */
	size_t root;   /* of the last entry that came */
	size_t last_length;
	char last[PATH_LENGTH_MAX];
};

static void walk_release(struct walk *walk)
{
	struct walk_page *page;

	agent_request_end(&walk->request);
	while ((page = STAILQ_FIRST(&walk->pages))) {
		STAILQ_REMOVE_HEAD(&walk->pages, link);
		free(page);
	}
	free(walk);
}

static bool is_at_or_below(const char *root, const char *path, size_t length)
{
	size_t n = strlen(root);

	if (n == 1) /* "/" */
		return true;
	return length >= n && !memcmp(root, path, n) && (length == n || path[n] == '/');
}

static int entry_check(struct walk *walk, const struct tree_entry *entry, const char *path,
		       struct ramet_err *err)
{
	size_t length = entry->path_length;

	if (!length || length > PATH_LENGTH_MAX || path[0] != '/' || memchr(path, 0, length))
		return err_set(err, EPROTO, "the agent's walk has an impossible path");
	if (walk->last_length && walk_compare(walk->last, walk->last_length, path, length) >= 0)
		return err_set(err, EPROTO, "the agent's walk is out of order");
	while (walk->root < walk->roots->count &&
	       !is_at_or_below(walk->roots->paths[walk->root], path, length))
		walk->root++;
	if (walk->root == walk->roots->count)
		return err_set(err, EPROTO, "the agent's walk went where it was not sent");
	memcpy(walk->last, path, length);
	walk->last_length = length;
	return 0;
}

static int page_check(struct walk *walk, const uint8_t *bytes, size_t length, uint32_t count,
		      struct ramet_err *err)
{
	size_t at = 0;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < count; i++) {
		struct tree_entry entry;

		if (length - at < sizeof(entry))
			return err_set(err, EPROTO, "the agent sent a cut entry of a walk");
		memcpy(&entry, bytes + at, sizeof(entry));
		at += sizeof(entry);
		if (entry.path_length > length - at)
			return err_set(err, EPROTO, "the agent sent a cut entry of a walk");
		r = entry_check(walk, &entry, (const char *)bytes + at, err);
		at += entry.path_length;
	}
	if (r == 0 && at != length)
		r = err_set(err, EPROTO, "the agent sent bytes behind the entries of a walk");
	return r;
}

/* The walk may be gone when this returns. */
static int page_take(struct walk *walk, const struct frame *frame, struct ramet_err *err)
{
	struct msg_tree_entries head;
	size_t length = frame->length - sizeof(head);
	const uint8_t *bytes = frame->payload + sizeof(head);
	struct walk_page *page;
	struct ramet_err lack;
	int r;

	if (frame->length > TREE_PAGE_MAX || frame->length > walk->credit)
		return err_set(err, EPROTO, "the agent sent more of a walk than it was allowed");
	walk->credit -= frame->length;
	frame_fixed(frame, &head, sizeof(head));
	r = page_check(walk, bytes, length, head.count, err);
	if (r < 0)
		return r;
	if (!head.count) {
		walk->ended = true;
		agent_request_end(&walk->request);
		walk->callbacks.arrived(walk->arg);
		return 0;
	}
	page = malloc(sizeof(*page) + length);
	if (!page) {
		(void)err_set(&lack, ENOMEM, "no memory for a walk");
		walk->callbacks.failed(walk->arg, &lack);
		return 0;
	}
	page->length = length;
	page->at = 0;
	page->left = head.count;
	memcpy(page->bytes, bytes, length);
	STAILQ_INSERT_TAIL(&walk->pages, page, link);
	walk->callbacks.arrived(walk->arg);
	return 0;
}

static int walk_reply(struct agent_request *request, const struct frame *frame,
		      struct ramet_err *err)
{
	struct walk *walk = (struct walk *)request;
	struct ramet_err refusal;

	if (frame->type != MSG_ERROR && frame->type != MSG_TREE_ENTRIES)
		return agent_unexpected(frame, "TREE", err);
	if (frame->type == MSG_ERROR)
		(void)agent_error(frame, &refusal);
	if (walk->abandoned) {
		struct msg_tree_entries head = { 0 };

		if (frame->type == MSG_TREE_ENTRIES)
			frame_fixed(frame, &head, sizeof(head));
		if (!head.count)
			walk_release(walk);
		return 0;
	}
	if (frame->type == MSG_ERROR) {
		agent_request_end(request);
		walk->callbacks.failed(walk->arg, &refusal);
		return 0;
	}
	return page_take(walk, frame, err);
}

static void walk_lost(struct agent_request *request, const struct ramet_err *err)
{
	struct walk *walk = (struct walk *)request;

	if (walk->abandoned)
		walk_release(walk);
	else
		walk->callbacks.failed(walk->arg, err);
}

static int walk_send(struct walk *walk, struct agent *agent, struct ramet_err *err)
{
	const struct walk_roots *roots = walk->roots;
	struct msg_tree message = { .root_count = (uint32_t)roots->count, .credit = WINDOW };
	size_t length = 0;
	char *bytes;
	int r;

	for (size_t i = 0; i < roots->count; i++)
		length += strlen(roots->paths[i]) + 1;
	if (length > FRAME_PAYLOAD_MAX - sizeof(message))
		return err_set(err, E2BIG, "the paths are longer than %zu bytes together",
			       FRAME_PAYLOAD_MAX - sizeof(message));
	bytes = malloc(length + 1);
	if (!bytes)
		return err_set(err, ENOMEM, "no memory for a walk");
	length = 0;
	for (size_t i = 0; i < roots->count; i++) {
		size_t n = strlen(roots->paths[i]) + 1;

		memcpy(bytes + length, roots->paths[i], n);
		length += n;
	}
	r = agent_request_send(agent, &walk->request, MSG_TREE, &message, sizeof(message), bytes,
			       length, err);
	free(bytes);
	return r;
}

int walk_start(struct agent *agent, const struct walk_roots *roots,
	       const struct walk_callbacks *callbacks, void *arg, struct walk **walk,
	       struct ramet_err *err)
{
	struct walk *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return err_set(err, ENOMEM, "no memory for a walk");
	STAILQ_INIT(&w->pages);
	w->request.reply = walk_reply;
	w->request.lost = walk_lost;
	w->roots = roots;
	w->callbacks = *callbacks;
	w->arg = arg;
	w->credit = WINDOW;
	r = walk_send(w, agent, err);
	if (r < 0) {
		walk_release(w);
		return r;
	}
	*walk = w;
	return 0;
}

enum walk_state walk_peek(const struct walk *walk, struct walk_entry *entry)
{
	const struct walk_page *page = STAILQ_FIRST(&walk->pages);

	if (!page)
		return walk->ended ? WALK_END : WALK_WAIT;
	memcpy(&entry->entry, page->bytes + page->at, sizeof(entry->entry));
	entry->path = (const char *)page->bytes + page->at + sizeof(entry->entry);
	entry->root = 0;
	while (!is_at_or_below(walk->roots->paths[entry->root], entry->path,
			       entry->entry.path_length))
		entry->root++;
	return WALK_ENTRY;
}

void walk_next(struct walk *walk)
{
	struct walk_page *page = STAILQ_FIRST(&walk->pages);
	struct msg_credit credit;
	struct tree_entry entry;

	memcpy(&entry, page->bytes + page->at, sizeof(entry));
	page->at += sizeof(entry) + entry.path_length;
	if (--page->left)
		return;
	credit.bytes = (uint32_t)(page->length + sizeof(struct msg_tree_entries));
	STAILQ_REMOVE_HEAD(&walk->pages, link);
	free(page);
	walk->credit += credit.bytes;
	if (walk->request.agent)
		agent_notify(walk->request.agent, walk->request.id, MSG_CREDIT, &credit,
			     sizeof(credit), NULL, 0);
}

void walk_free(struct walk *walk)
{
	if (!walk)
		return;
	if (!walk->request.agent) {
		walk_release(walk);
		return;
	}
	walk->abandoned = true;
	walk->roots = NULL;
	agent_notify(walk->request.agent, walk->request.id, MSG_CANCEL, NULL, 0, NULL, 0);
}
