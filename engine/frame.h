/* Frames of guest/protocol.h over a byte stream: an incremental parser and an
 * output queue. Pure logic without file descriptors; either end of the
 * connection can use it.
 *
 * What comes from the peer is hostile: a frame is handed out only when its
 * magic, version, type, direction, id and length are those of the protocol.
 * The contents of its fixed struct are the receiver's to check. */
#ifndef RAMET_ENGINE_FRAME_H
#define RAMET_ENGINE_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest/protocol.h"
#include "lib/err.h"

enum frame_direction { FRAME_TO_AGENT, FRAME_TO_HOST };

struct frame {
	uint8_t type; /* enum message_type */
	uint32_t id;
	size_t length;          /* of the payload */
	const uint8_t *payload; /* lives until the parser is used again; unaligned */
};

struct frame_parser {
	enum frame_direction direction;
	uint8_t *buf;
	size_t size;  /* allocated */
	size_t start; /* first byte not handed out */
	size_t end;   /* behind the last byte received */
};

/* `direction` is the one of the frames to parse. Allocates nothing yet. */
void frame_parser_init(struct frame_parser *parser, enum frame_direction direction);
void frame_parser_free(struct frame_parser *parser);

/* Where the next bytes from the stream go, and how many fit (never 0). NULL
 * when memory is short. Then frame_parser_added() says how many came. The
 * buffer never exceeds two frames of the largest size. */
void *frame_parser_space(struct frame_parser *parser, size_t *room);
void frame_parser_added(struct frame_parser *parser, size_t bytes);

/* 1 and the next frame; 0 when more bytes are needed; -EPROTO and a sentence
 * in `err` when the peer broke the protocol, for good. */
int frame_parser_next(struct frame_parser *parser, struct frame *frame, struct ramet_err *err);

/* Copies the payload's fixed struct; it is as long as the protocol says. */
void frame_fixed(const struct frame *frame, void *fixed, size_t size);

/* The name of a message type, for sentences. */
const char *frame_type_name(uint8_t type);

/* A bounded queue of bytes to send. */
struct frame_queue {
	size_t max;
	uint8_t *buf;
	size_t size;
	size_t start;
	size_t end;
};

void frame_queue_init(struct frame_queue *queue, size_t max);
void frame_queue_free(struct frame_queue *queue);

/* Bytes waiting. */
size_t frame_queue_length(const struct frame_queue *queue);

/* Appends one frame: its fixed struct, then `data`. All or nothing. -ENOBUFS
 * beyond the queue's maximum, -ENOMEM, -EMSGSIZE above FRAME_PAYLOAD_MAX. */
int frame_queue_put(struct frame_queue *queue, uint8_t type, uint32_t id, const void *fixed,
		    size_t fixed_length, const void *data, size_t length);

/* The waiting bytes, in one piece; then how many of them went out. */
const void *frame_queue_peek(const struct frame_queue *queue, size_t *length);
void frame_queue_drop(struct frame_queue *queue, size_t bytes);

#endif
