/* Uploads: the caller's bytes are gathered into chunks and written with
 * several writes in flight. The guest writes to a temporary file and renames
 * it when size and hash agree at the close. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/file.h"

static bool upload_moving(const struct file_transfer *t)
{
	return t->open && !t->closing && !t->error.code;
}

/* A chunk is there and should go. */
static bool upload_due(const struct file_transfer *t)
{
	return t->chunk_used == FILE_CHUNK_MAX || (t->finished && t->chunk_used);
}

/* Sends the chunk if it may go now. */
static bool upload_send(struct file_transfer *t)
{
	struct msg_file_write write = { .handle = t->handle, .offset = t->moved };

	if (!upload_moving(t) || !upload_due(t) || !file_slot_free(t))
		return false;
	if (!agent_writable(t->set->agent)) {
		if (!t->waiter.waiting)
			file_progress(t);
		agent_wait(t->set->agent, &t->waiter);
		return false;
	}
	if (XXH3_64bits_update(t->hash, t->chunk, t->chunk_used) != XXH_OK)
		return false; /* only for a NULL state */
	file_slot_send(t, MSG_FILE_WRITE, (uint32_t)t->chunk_used, &write, sizeof(write), t->chunk);
	t->moved += t->chunk_used;
	t->chunk_used = 0;
	return true;
}

static void upload_close_when_done(struct file_transfer *t)
{
	if (upload_moving(t) && t->finished && !t->chunk_used && !t->slot_count)
		file_close_handle(t);
}

static void upload_proceed(struct file_transfer *t)
{
	(void)upload_send(t);
	upload_close_when_done(t);
	if (!t->wants_writable || t->finished || t->abandoned || t->error.code ||
	    t->chunk_used == FILE_CHUNK_MAX)
		return;
	t->wants_writable = false;
	if (t->callbacks.writable)
		t->callbacks.writable(t->arg);
}

static void upload_opened(struct file_transfer *t, const struct msg_file_opened *opened)
{
	(void)t;
	(void)opened;
}

static int upload_answered(struct file_transfer *t, struct file_slot *slot,
			   const struct frame *frame, struct ramet_err *err)
{
	(void)t;
	(void)slot;
	return frame->type == MSG_OK ? 0 : agent_unexpected(frame, "FILE_WRITE", err);
}

static const struct file_kind_ops upload_ops = {
	.name = "upload",
	.opened = upload_opened,
	.answered = upload_answered,
	.proceed = upload_proceed,
};

int file_upload(struct file_set *set, const char *path, uint32_t mode,
		const struct file_callbacks *callbacks, void *arg, struct file_transfer **transfer,
		struct ramet_err *err)
{
	struct file_transfer *t;
	int r;

	if (mode & ~07777u)
		return err_set(err, EINVAL, "mode %o has more than permission bits", mode);
	r = file_make(set, &upload_ops, path, callbacks, arg, &t, err);
	if (r < 0)
		return r;
	t->chunk = malloc(FILE_CHUNK_MAX);
	if (t->chunk)
		r = file_open(t, path, FILE_OPEN_WRITE, mode, err);
	else
		r = err_set(err, ENOMEM, "no memory for an upload");
	if (r < 0) {
		file_unmake(t);
		return r;
	}
	*transfer = t;
	return 0;
}

size_t file_write(struct file_transfer *transfer, const char *data, size_t len)
{
	size_t taken = 0;

	if (transfer->finished || transfer->error.code || transfer->ending)
		return 0;
	while (taken < len) {
		size_t room = FILE_CHUNK_MAX - transfer->chunk_used;
		size_t n = len - taken < room ? len - taken : room;

		memcpy(transfer->chunk + transfer->chunk_used, data + taken, n);
		transfer->chunk_used += n;
		taken += n;
		if (transfer->chunk_used == FILE_CHUNK_MAX && !upload_send(transfer))
			break;
	}
	if (taken < len)
		transfer->wants_writable = true;
	return taken;
}

void file_finish(struct file_transfer *transfer)
{
	if (transfer->finished || transfer->ending)
		return;
	transfer->finished = true;
	(void)upload_send(transfer);
	upload_close_when_done(transfer);
}
