/* Downloads: reads kept in flight within a window, hashed in order.
 *
 * A file whose size is known is read exactly as far as it reached when it was
 * opened, so one that grows meanwhile is not torn; one that shrinks is an
 * error. One without a size (as in /proc) is read piece by piece to its end. */
#include <errno.h>

#include "engine/file.h"

/* Where the last piece began to be shorter than asked; only unknown sizes. */
static bool download_complete(const struct file_transfer *t)
{
	return t->size != UINT64_MAX && t->moved == t->size;
}

static uint32_t download_next_length(const struct file_transfer *t)
{
	/* The read that met the end of a file of unknown size asked beyond it. */
	uint64_t left = t->size > t->asked ? t->size - t->asked : 0;

	if (t->size == UINT64_MAX)
		return t->slot_count ? 0 : FILE_CHUNK_MAX;
	return left < FILE_CHUNK_MAX ? (uint32_t)left : FILE_CHUNK_MAX;
}

static void download_proceed(struct file_transfer *t)
{
	while (t->open && !t->closing && !t->error.code && file_slot_free(t)) {
		uint32_t length = download_next_length(t);
		struct msg_file_read read = {
			.handle = t->handle,
			.length = length,
			.offset = t->asked,
		};

		if (!length || t->asked - t->consumed + length > t->set->limits->file_window)
			break;
		t->asked += length;
		file_slot_send(t, MSG_FILE_READ, length, &read, sizeof(read), NULL);
	}
	if (t->open && !t->closing && !t->error.code && !t->slot_count && download_complete(t))
		file_close_handle(t);
}

static void download_opened(struct file_transfer *t, const struct msg_file_opened *opened)
{
	t->size = opened->size;
	if (!t->abandoned && t->callbacks.opened)
		t->callbacks.opened(t->arg, opened->size, opened->mode & 07777);
}

static int download_answered(struct file_transfer *t, struct file_slot *slot,
			     const struct frame *frame, struct ramet_err *err)
{
	struct ramet_err cause;

	if (frame->type != MSG_FILE_DATA)
		return agent_unexpected(frame, "FILE_READ", err);
	if (frame->length > slot->length)
		return err_set(err, EPROTO, "the agent sent %zu bytes of a file instead of %u",
			       frame->length, slot->length);
	if (t->error.code)
		return 0; /* asked for before something went wrong */
	if (frame->length && XXH3_64bits_update(t->hash, frame->payload, frame->length) != XXH_OK)
		return err_set(err, EIO, "cannot hash a download");
	t->moved += frame->length;
	if (frame->length < slot->length && t->size != UINT64_MAX) {
		(void)err_set(&cause, EIO,
			      "the file shrank to %llu of %llu bytes while it was read",
			      (unsigned long long)t->moved, (unsigned long long)t->size);
		file_fail(t, &cause);
	} else if (frame->length < slot->length) {
		t->size = t->moved;
	}
	if (frame->length && !t->abandoned)
		t->callbacks.data(t->arg, (const char *)frame->payload, frame->length);
	return 0;
}

static const struct file_kind_ops download_ops = {
	.name = "download",
	.opened = download_opened,
	.answered = download_answered,
	.proceed = download_proceed,
};

int file_download(struct file_set *set, const char *path, const struct file_callbacks *callbacks,
		  void *arg, struct file_transfer **transfer, struct ramet_err *err)
{
	struct file_transfer *t;
	int r = file_make(set, &download_ops, path, callbacks, arg, &t, err);

	if (r < 0)
		return r;
	r = file_open(t, path, FILE_OPEN_READ, 0, err);
	if (r < 0) {
		file_unmake(t);
		return r;
	}
	*transfer = t;
	return 0;
}

void file_consumed(struct file_transfer *transfer, size_t bytes)
{
	uint64_t left = transfer->moved - transfer->consumed;

	transfer->consumed += bytes < left ? bytes : left;
	if (!transfer->abandoned && !transfer->ending)
		download_proceed(transfer);
}
