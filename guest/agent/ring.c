/* Ring buffers in shared memory: see ring.h.
 *
 * The index this side owns is read back from shared memory as well: nobody
 * else writes it, and after a fork of the machine memory is all there is. */
#include "guest/agent/ring.h"

#include <errno.h>
#include <string.h>

#include "guest/agent/util.h"

static uint32_t load(const uint32_t *field)
{
	return __atomic_load_n(field, __ATOMIC_ACQUIRE);
}

static void store(uint32_t *field, uint32_t value)
{
	__atomic_store_n(field, value, __ATOMIC_RELEASE);
}

/* After an index moved: does the other side sleep? */
static bool waiter_take(uint32_t *waits)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!load(waits))
		return false;
	store(waits, 0);
	return true;
}

static void waiter_set(uint32_t *waits)
{
	store(waits, 1);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

ssize_t ring_read(struct ring *ring, void *buf, size_t size, bool *wake)
{
	uint32_t cons = load(&ring->shared->cons);
	uint32_t used = load(&ring->shared->prod) - cons;
	uint32_t at = cons & (ring->size - 1);
	size_t n, first;

	if (used > ring->size)
		return -EPROTO;
	n = min_size(size, used);
	if (n == 0)
		return 0;
	first = min_size(n, ring->size - at);
	memcpy(buf, ring->data + at, first);
	memcpy((uint8_t *)buf + first, ring->data, n - first);
	store(&ring->shared->cons, cons + (uint32_t)n);
	*wake |= waiter_take(&ring->shared->writer_waits);
	return (ssize_t)n;
}

ssize_t ring_write(struct ring *ring, const void *buf, size_t size, bool *wake)
{
	uint32_t prod = load(&ring->shared->prod);
	uint32_t used = prod - load(&ring->shared->cons);
	uint32_t at = prod & (ring->size - 1);
	size_t n, first;

	if (used > ring->size)
		return -EPROTO;
	n = min_size(size, ring->size - used);
	if (n == 0)
		return 0;
	first = min_size(n, ring->size - at);
	memcpy(ring->data + at, buf, first);
	memcpy(ring->data, (const uint8_t *)buf + first, n - first);
	store(&ring->shared->prod, prod + (uint32_t)n);
	*wake |= waiter_take(&ring->shared->reader_waits);
	return (ssize_t)n;
}

bool ring_wait_data(struct ring *ring)
{
	waiter_set(&ring->shared->reader_waits);
	return load(&ring->shared->prod) != load(&ring->shared->cons);
}

bool ring_wait_room(struct ring *ring)
{
	waiter_set(&ring->shared->writer_waits);
	return load(&ring->shared->prod) - load(&ring->shared->cons) != ring->size;
}

void ring_poison(struct ring *ring)
{
	store(&ring->shared->prod, load(&ring->shared->cons) + ring->size + 1);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}
