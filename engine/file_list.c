/* Directory listings: one request, answered by frames of entries. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/file.h"
#include "lib/clock.h"

#define NAME_LENGTH_MAX 255u /* NAME_MAX of Linux */

/* Checks one name: a path component. */
static int list_check_name(const char *name, size_t length, struct ramet_err *err)
{
	if (!length || length > NAME_LENGTH_MAX || memchr(name, '/', length) ||
	    memchr(name, 0, length))
		return err_set(err, EPROTO, "the agent listed an impossible file name");
	return 0;
}

/* Beyond the limit the caller hears so at once; the guest's remaining entries
 * are passed over. */
static void list_overflow(struct file_transfer *t)
{
	struct ramet_err err;

	if (t->abandoned || t->size <= t->set->limits->list_entries)
		return;
	(void)err_set(&err, E2BIG, "the directory has more than %u entries (limit list_entries)",
		      t->set->limits->list_entries);
	t->abandoned = true;
	t->callbacks.done(t->arg, NULL, &err);
}

/* Hands out one entry; returns the bytes it took or a negative error. */
static int list_entry(struct file_transfer *t, const uint8_t *bytes, size_t left,
		      struct ramet_err *err)
{
	struct file_entry entry;
	char name[NAME_LENGTH_MAX + 1];
	struct file_info info;
	int r;

	if (left < sizeof(entry))
		return err_set(err, EPROTO, "the agent sent a cut list entry");
	memcpy(&entry, bytes, sizeof(entry));
	if (entry.name_length > left - sizeof(entry))
		return err_set(err, EPROTO, "the agent sent a cut list entry");
	if (entry.kind < FILE_REGULAR || entry.kind > FILE_OTHER)
		return err_set(err, EPROTO, "the agent listed a file of unknown kind %u",
			       entry.kind);
	r = list_check_name((const char *)bytes + sizeof(entry), entry.name_length, err);
	if (r < 0)
		return r;
	memcpy(name, bytes + sizeof(entry), entry.name_length);
	name[entry.name_length] = '\0';
	info = (struct file_info){
		.name = name,
		.size = entry.size,
		.mtime_ns = entry.mtime_ns,
		.mode = entry.mode & 07777,
		.kind = entry.kind,
	};
	t->size++;
	list_overflow(t);
	if (!t->abandoned)
		t->callbacks.entry(t->arg, &info);
	return (int)(sizeof(entry) + entry.name_length);
}

static void list_finish(struct file_transfer *t)
{
	struct file_result result = {
		.size = t->size,
		.total_ns = clock_monotonic_ns() - t->start_ns,
	};

	agent_request_end(&t->control);
	file_end(t, &result, NULL);
}

static int list_reply(struct agent_request *request, const struct frame *frame,
		      struct ramet_err *err)
{
	struct file_transfer *t =
		(void *)((char *)request - offsetof(struct file_transfer, control));
	struct msg_file_entries entries;
	size_t used = sizeof(entries);
	struct ramet_err refusal;

	if (frame->type == MSG_ERROR) {
		(void)agent_error(frame, &refusal);
		agent_request_end(request);
		file_end(t, NULL, &refusal);
		return 0;
	}
	if (frame->type != MSG_FILE_ENTRIES)
		return agent_unexpected(frame, "FILE_LIST", err);
	file_progress(t);
	frame_fixed(frame, &entries, sizeof(entries));
	for (uint32_t i = 0; i < entries.count; i++) {
		int r = list_entry(t, frame->payload + used, frame->length - used, err);

		if (r < 0)
			return r;
		used += (size_t)r;
	}
	if (used != frame->length)
		return err_set(err, EPROTO, "the agent sent bytes behind the list entries");
	if (!entries.count)
		list_finish(t);
	return 0;
}

static const struct file_kind_ops list_ops = { .name = "list" };

int file_list(struct file_set *set, const char *path, const struct file_callbacks *callbacks,
	      void *arg, struct file_transfer **transfer, struct ramet_err *err)
{
	struct file_transfer *t;
	int r = file_make(set, &list_ops, path, callbacks, arg, &t, err);

	if (r < 0)
		return r;
	t->control.reply = list_reply;
	file_progress(t);
	r = agent_request_send(set->agent, &t->control, MSG_FILE_LIST, NULL, 0, path, strlen(path),
			       err);
	if (r < 0) {
		file_unmake(t);
		return r;
	}
	*transfer = t;
	return 0;
}
