/* Frames on their way to the host.
 *
 * One buffer of fixed size. Whoever adds a frame has made sure of the room:
 * requests are taken up only while OUTBOX_REPLY_ROOM is free, output of
 * commands is read only while OUTBOX_OUTPUT_ROOM is. */
#ifndef RAMET_GUEST_OUTBOX_H
#define RAMET_GUEST_OUTBOX_H

#include <stddef.h>
#include <stdint.h>

#include "guest/protocol.h"

#define OUTBOX_SIZE        (512u * 1024)
#define OUTPUT_CHUNK_MAX   (64u * 1024)
#define OUTBOX_REPLY_ROOM  (FILE_CHUNK_MAX + 8192u)
#define OUTBOX_OUTPUT_ROOM (OUTBOX_REPLY_ROOM + OUTPUT_CHUNK_MAX + 4096u)

struct outbox {
	size_t head, tail; /* buf[head..tail) waits to be sent */
	uint8_t buf[OUTBOX_SIZE];
};

static inline size_t outbox_pending(const struct outbox *out)
{
	return out->tail - out->head;
}

static inline size_t outbox_room(const struct outbox *out)
{
	return OUTBOX_SIZE - outbox_pending(out);
}

/* Returns where a payload of up to `max` bytes may be built. Nothing is added
 * until outbox_end(), which may be left out; aborts when there is no room. */
uint8_t *outbox_begin(struct outbox *out, size_t max);

/* Adds the frame whose first `length` payload bytes were built. */
void outbox_end(struct outbox *out, uint8_t type, uint32_t id, size_t length);

/* Adds a frame with a copy of `length` bytes. */
void outbox_frame(struct outbox *out, uint8_t type, uint32_t id, const void *data, size_t length);

/* Adds MSG_ERROR with `code` (positive errno) and a sentence. */
void outbox_error(struct outbox *out, uint32_t id, int code, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif
