/* The frame parser: see frame.h. */
#include "guest/agent/frame.h"

#include <errno.h>
#include <string.h>

#define NOT_FOR_US UINT32_MAX

/* The fixed part of each type that the host may send. */
static uint32_t fixed_size(uint8_t type)
{
	switch (type) {
	case MSG_EXEC:
		return sizeof(struct msg_exec);
	case MSG_CREDIT:
		return sizeof(struct msg_credit);
	case MSG_FILE_OPEN:
		return sizeof(struct msg_file_open);
	case MSG_FILE_READ:
		return sizeof(struct msg_file_read);
	case MSG_FILE_WRITE:
		return sizeof(struct msg_file_write);
	case MSG_FILE_CLOSE:
		return sizeof(struct msg_file_close);
	case MSG_RESEED:
		return sizeof(struct msg_reseed);
	case MSG_TREE:
		return sizeof(struct msg_tree);
	case MSG_EXEC_DATA:
	case MSG_CANCEL:
	case MSG_FILE_LIST:
	case MSG_PING:
	case MSG_SHUTDOWN:
	case MSG_RECLAIM:
		return 0;
	default:
		return NOT_FOR_US;
	}
}

static const char *header_fault(const struct frame_header *header)
{
	uint32_t fixed;

	if (header->magic != FRAME_MAGIC)
		return "bad magic";
	if (header->version != PROTOCOL_VERSION)
		return "unknown protocol version";
	fixed = fixed_size(header->type);
	if (fixed == NOT_FOR_US)
		return "unknown message type";
	if (header->length > FRAME_PAYLOAD_MAX)
		return "frame too long";
	if (header->length < fixed)
		return "frame shorter than its message";
	if (header->id == 0)
		return "request without an id";
	return NULL;
}

ssize_t frame_parse(const uint8_t *buf, size_t len, struct frame *frame, const char **why)
{
	struct frame_header header;
	const char *fault;

	if (len < sizeof(header))
		return 0;
	memcpy(&header, buf, sizeof(header));
	fault = header_fault(&header);
	if (fault) {
		*why = fault;
		return -EPROTO;
	}
	if (len - sizeof(header) < header.length)
		return 0;
	frame->type = header.type;
	frame->id = header.id;
	frame->length = header.length;
	frame->payload = buf + sizeof(header);
	return (ssize_t)(sizeof(header) + header.length);
}
