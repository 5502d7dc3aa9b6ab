/* Frames of guest/protocol.h as they come in from the host. */
#ifndef RAMET_GUEST_FRAME_H
#define RAMET_GUEST_FRAME_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "guest/protocol.h"

#define FRAME_SIZE_MAX (sizeof(struct frame_header) + FRAME_PAYLOAD_MAX)

struct frame {
	uint8_t type;
	uint32_t id;
	uint32_t length;
	const uint8_t *payload; /* inside the buffer that was parsed; unaligned */
};

/* Looks at the `len` bytes at `buf`. Returns the size of the whole frame at
 * its start and fills `frame`; 0 when more bytes are needed; -EPROTO with the
 * reason in *why when no peer that follows the protocol can have sent this.
 * Bad headers are refused before their payload is waited for. */
ssize_t frame_parse(const uint8_t *buf, size_t len, struct frame *frame, const char **why);

#endif
