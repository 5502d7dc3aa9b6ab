/* Outgoing frames: see outbox.h. */
#include "guest/agent/outbox.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ERROR_TEXT_MAX 512

uint8_t *outbox_begin(struct outbox *out, size_t max)
{
	size_t need = sizeof(struct frame_header) + max;

	if (out->head == out->tail)
		out->head = out->tail = 0;
	if (OUTBOX_SIZE - out->tail < need) {
		memmove(out->buf, out->buf + out->head, outbox_pending(out));
		out->tail -= out->head;
		out->head = 0;
	}
	if (OUTBOX_SIZE - out->tail < need)
		abort(); /* the caller did not look at outbox_room() */
	return out->buf + out->tail + sizeof(struct frame_header);
}

void outbox_end(struct outbox *out, uint8_t type, uint32_t id, size_t length)
{
	struct frame_header header = {
		.magic = FRAME_MAGIC,
		.version = PROTOCOL_VERSION,
		.type = type,
		.length = (uint32_t)length,
		.id = id,
	};

	memcpy(out->buf + out->tail, &header, sizeof(header));
	out->tail += sizeof(header) + length;
}

void outbox_frame(struct outbox *out, uint8_t type, uint32_t id, const void *data, size_t length)
{
	uint8_t *payload = outbox_begin(out, length);

	if (length)
		memcpy(payload, data, length);
	outbox_end(out, type, id, length);
}

void outbox_error(struct outbox *out, uint32_t id, int code, const char *fmt, ...)
{
	struct msg_error error = { .code = (uint32_t)code };
	uint8_t *payload = outbox_begin(out, sizeof(error) + ERROR_TEXT_MAX);
	va_list ap;
	int len;

	memcpy(payload, &error, sizeof(error));
	va_start(ap, fmt);
	len = vsnprintf((char *)payload + sizeof(error), ERROR_TEXT_MAX, fmt, ap);
	va_end(ap);
	if (len < 0)
		len = 0;
	if (len >= ERROR_TEXT_MAX)
		len = ERROR_TEXT_MAX - 1;
	outbox_end(out, MSG_ERROR, id, sizeof(error) + (size_t)len);
}
