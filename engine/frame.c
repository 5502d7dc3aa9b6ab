/* Frames over a byte stream: see frame.h. */
#include "engine/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire is little endian");

#define PARSER_SIZE_MIN 16384u
#define QUEUE_SIZE_MIN  4096u
#define KEEP_SIZE       65536u /* an idle connection keeps no larger buffer */

/* What the protocol allows: who sends a type, and how long it may be. */
struct frame_rule {
	uint8_t type;
	uint8_t direction; /* enum frame_direction */
	uint8_t needs_id;
	uint8_t exact; /* nothing follows the fixed struct */
	uint32_t fixed;
	const char *name;
};

static const struct frame_rule frame_rules[] = {
	{ MSG_HELLO, FRAME_TO_HOST, 0, 1, sizeof(struct msg_hello), "HELLO" },
	{ MSG_OK, FRAME_TO_HOST, 1, 1, 0, "OK" },
	{ MSG_ERROR, FRAME_TO_HOST, 1, 0, sizeof(struct msg_error), "ERROR" },
	{ MSG_OUTPUT, FRAME_TO_HOST, 1, 0, sizeof(struct msg_output), "OUTPUT" },
	{ MSG_EXIT, FRAME_TO_HOST, 1, 1, sizeof(struct msg_exit), "EXIT" },
	{ MSG_FILE_OPENED, FRAME_TO_HOST, 1, 1, sizeof(struct msg_file_opened), "FILE_OPENED" },
	{ MSG_FILE_DATA, FRAME_TO_HOST, 1, 0, 0, "FILE_DATA" },
	{ MSG_FILE_CLOSED, FRAME_TO_HOST, 1, 1, sizeof(struct msg_file_closed), "FILE_CLOSED" },
	{ MSG_FILE_ENTRIES, FRAME_TO_HOST, 1, 0, sizeof(struct msg_file_entries), "FILE_ENTRIES" },
	{ MSG_TREE_ENTRIES, FRAME_TO_HOST, 1, 0, sizeof(struct msg_tree_entries), "TREE_ENTRIES" },
	{ MSG_EXEC, FRAME_TO_AGENT, 1, 1, sizeof(struct msg_exec), "EXEC" },
	{ MSG_EXEC_DATA, FRAME_TO_AGENT, 1, 0, 0, "EXEC_DATA" },
	{ MSG_CREDIT, FRAME_TO_AGENT, 1, 1, sizeof(struct msg_credit), "CREDIT" },
	{ MSG_CANCEL, FRAME_TO_AGENT, 1, 1, 0, "CANCEL" },
	{ MSG_FILE_OPEN, FRAME_TO_AGENT, 1, 0, sizeof(struct msg_file_open), "FILE_OPEN" },
	{ MSG_FILE_READ, FRAME_TO_AGENT, 1, 1, sizeof(struct msg_file_read), "FILE_READ" },
	{ MSG_FILE_WRITE, FRAME_TO_AGENT, 1, 0, sizeof(struct msg_file_write), "FILE_WRITE" },
	{ MSG_FILE_CLOSE, FRAME_TO_AGENT, 1, 1, sizeof(struct msg_file_close), "FILE_CLOSE" },
	{ MSG_FILE_LIST, FRAME_TO_AGENT, 1, 0, 0, "FILE_LIST" },
	{ MSG_RESEED, FRAME_TO_AGENT, 1, 0, sizeof(struct msg_reseed), "RESEED" },
	{ MSG_PING, FRAME_TO_AGENT, 1, 1, 0, "PING" },
	{ MSG_SHUTDOWN, FRAME_TO_AGENT, 1, 1, 0, "SHUTDOWN" },
	{ MSG_TREE, FRAME_TO_AGENT, 1, 0, sizeof(struct msg_tree), "TREE" },
	{ MSG_RECLAIM, FRAME_TO_AGENT, 1, 1, 0, "RECLAIM" },
	{ MSG_RECLAIMED, FRAME_TO_HOST, 1, 1, sizeof(struct msg_reclaimed), "RECLAIMED" },
};

static const struct frame_rule *frame_rule_find(uint8_t type)
{
	for (size_t i = 0; i < sizeof(frame_rules) / sizeof(frame_rules[0]); i++)
		if (frame_rules[i].type == type)
			return &frame_rules[i];
	return NULL;
}

const char *frame_type_name(uint8_t type)
{
	const struct frame_rule *rule = frame_rule_find(type);

	return rule ? rule->name : "unknown";
}

void frame_parser_init(struct frame_parser *parser, enum frame_direction direction)
{
	*parser = (struct frame_parser){ .direction = direction };
}

void frame_parser_free(struct frame_parser *parser)
{
	free(parser->buf);
	*parser = (struct frame_parser){ .direction = parser->direction };
}

/* The size of the frame being received, as far as it is known and sane. */
static size_t parser_wanted(const struct frame_parser *parser)
{
	struct frame_header header;

	if (parser->end - parser->start < sizeof(header))
		return sizeof(header);
	memcpy(&header, parser->buf + parser->start, sizeof(header));
	if (header.length > FRAME_PAYLOAD_MAX)
		return sizeof(header); /* frame_parser_next() refuses it */
	return sizeof(header) + header.length;
}

/* Moves what is left to the front and gives a large, now idle buffer back. */
static void parser_compact(struct frame_parser *parser)
{
	size_t left = parser->end - parser->start;

	if (!left && parser->size > KEEP_SIZE) {
		frame_parser_free(parser);
		return;
	}
	if (parser->start && left)
		memmove(parser->buf, parser->buf + parser->start, left);
	parser->start = 0;
	parser->end = left;
}

void *frame_parser_space(struct frame_parser *parser, size_t *room)
{
	size_t wanted, size;
	uint8_t *buf;

	parser_compact(parser);
	wanted = parser_wanted(parser);
	/* A frame that does not fit what is there is likely one of a series. */
	size = wanted > PARSER_SIZE_MIN ? wanted + wanted / 2 : PARSER_SIZE_MIN;
	if (parser->size < wanted || parser->size == parser->end) {
		if (size <= parser->end)
			size = parser->end + PARSER_SIZE_MIN;
		buf = realloc(parser->buf, size);
		if (!buf)
			return NULL;
		parser->buf = buf;
		parser->size = size;
	}
	*room = parser->size - parser->end;
	return parser->buf + parser->end;
}

void frame_parser_added(struct frame_parser *parser, size_t bytes)
{
	parser->end += bytes;
}

static int frame_check(const struct frame_parser *parser, const struct frame_header *header,
		       struct ramet_err *err)
{
	const struct frame_rule *rule;

	if (header->magic != FRAME_MAGIC)
		return err_set(err, EPROTO, "a frame began with 0x%04x instead of 0x%04x",
			       header->magic, FRAME_MAGIC);
	if (header->version != PROTOCOL_VERSION)
		return err_set(err, EPROTO, "a frame has protocol version %u instead of %u",
			       header->version, PROTOCOL_VERSION);
	rule = frame_rule_find(header->type);
	if (!rule)
		return err_set(err, EPROTO, "a frame has the unknown type %u", header->type);
	if (rule->direction != parser->direction)
		return err_set(err, EPROTO, "a frame of type %s came from the wrong side",
			       rule->name);
	if (header->length > FRAME_PAYLOAD_MAX || header->length < rule->fixed ||
	    (rule->exact && header->length != rule->fixed))
		return err_set(err, EPROTO, "a frame of type %s has the impossible length %u",
			       rule->name, header->length);
	if (rule->needs_id && !header->id)
		return err_set(err, EPROTO, "a frame of type %s has no id", rule->name);
	return 0;
}

int frame_parser_next(struct frame_parser *parser, struct frame *frame, struct ramet_err *err)
{
	size_t left = parser->end - parser->start;
	struct frame_header header;
	int r;

	if (left < sizeof(header))
		return 0;
	memcpy(&header, parser->buf + parser->start, sizeof(header));
	r = frame_check(parser, &header, err);
	if (r < 0)
		return r;
	if (left - sizeof(header) < header.length)
		return 0;
	*frame = (struct frame){
		.type = header.type,
		.id = header.id,
		.length = header.length,
		.payload = parser->buf + parser->start + sizeof(header),
	};
	parser->start += sizeof(header) + header.length;
	return 1;
}

void frame_fixed(const struct frame *frame, void *fixed, size_t size)
{
	memcpy(fixed, frame->payload, size);
}

void frame_queue_init(struct frame_queue *queue, size_t max)
{
	*queue = (struct frame_queue){ .max = max };
}

void frame_queue_free(struct frame_queue *queue)
{
	free(queue->buf);
	*queue = (struct frame_queue){ .max = queue->max };
}

size_t frame_queue_length(const struct frame_queue *queue)
{
	return queue->end - queue->start;
}

/* Makes room for `more` bytes behind the waiting ones. */
static int queue_reserve(struct frame_queue *queue, size_t more)
{
	size_t length = frame_queue_length(queue);
	size_t size = queue->size ? queue->size : QUEUE_SIZE_MIN;
	uint8_t *buf;

	if (more > queue->max || length > queue->max - more)
		return -ENOBUFS;
	if (queue->size - queue->end >= more)
		return 0;
	/* Moving is worth it only when it frees half the buffer; else grow. */
	while (size < length + more || (length > size / 2 && size < queue->max))
		size *= 2;
	if (size > queue->size) {
		buf = malloc(size);
		if (!buf)
			return -ENOMEM;
		if (length)
			memcpy(buf, queue->buf + queue->start, length);
		free(queue->buf);
		queue->buf = buf;
		queue->size = size;
	} else {
		memmove(queue->buf, queue->buf + queue->start, length);
	}
	queue->start = 0;
	queue->end = length;
	return 0;
}

int frame_queue_put(struct frame_queue *queue, uint8_t type, uint32_t id, const void *fixed,
		    size_t fixed_length, const void *data, size_t length)
{
	struct frame_header header = {
		.magic = FRAME_MAGIC,
		.version = PROTOCOL_VERSION,
		.type = type,
		.length = (uint32_t)(fixed_length + length),
		.id = id,
	};
	int r;

	if (fixed_length > FRAME_PAYLOAD_MAX || length > FRAME_PAYLOAD_MAX - fixed_length)
		return -EMSGSIZE;
	r = queue_reserve(queue, sizeof(header) + fixed_length + length);
	if (r < 0)
		return r;
	memcpy(queue->buf + queue->end, &header, sizeof(header));
	queue->end += sizeof(header);
	if (fixed_length)
		memcpy(queue->buf + queue->end, fixed, fixed_length);
	queue->end += fixed_length;
	if (length)
		memcpy(queue->buf + queue->end, data, length);
	queue->end += length;
	return 0;
}

const void *frame_queue_peek(const struct frame_queue *queue, size_t *length)
{
	*length = frame_queue_length(queue);
	return *length ? queue->buf + queue->start : NULL;
}

void frame_queue_drop(struct frame_queue *queue, size_t bytes)
{
	queue->start += bytes;
	if (queue->start < queue->end)
		return;
	queue->start = 0;
	queue->end = 0;
	if (queue->size > KEEP_SIZE)
		frame_queue_free(queue);
}
