/* The byte rings of guest/channel.h, seen from the guest. */
#ifndef RAMET_GUEST_RING_H
#define RAMET_GUEST_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "guest/channel.h"

struct ring {
	struct channel_ring *shared;
	uint8_t *data;
	uint32_t size; /* a power of two */
};

/* Both return the number of bytes moved (0: empty or full) or -EPROTO when the
 * indices cannot be right. *wake is set when the other side waits for this. */
ssize_t ring_read(struct ring *ring, void *buf, size_t size, bool *wake);
ssize_t ring_write(struct ring *ring, const void *buf, size_t size, bool *wake);

/* Announces that this side is about to sleep until there are bytes (room).
 * Returns true when there are some already: do not sleep. */
bool ring_wait_data(struct ring *ring);
bool ring_wait_room(struct ring *ring);

/* Makes the ring impossible, which ends the channel by channel.h's rule. */
void ring_poison(struct ring *ring);

#endif
