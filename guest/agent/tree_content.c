/* Hashes of contents: see struct tree_entry in guest/protocol.h.
 *
 * Every content is read, whatever the file's times say: a store through a shared
 * mapping does not change them on tmpfs, and root can set the clock. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "guest/agent/tree_walk.h"

static void hash_store(XXH128_hash_t value, uint64_t hash[2])
{
	hash[0] = value.low64;
	hash[1] = value.high64;
}

void tree_hash_bytes(const void *data, size_t length, uint64_t hash[2])
{
	hash_store(XXH3_128bits(data, length), hash);
}

static bool is_zero(const uint8_t *data, size_t length)
{
	return data[0] == 0 && !memcmp(data, data + 1, length - 1);
}

/* `data` begins at block `number` of the file. */
static void blocks_hash(XXH3_state_t *state, uint64_t number, const uint8_t *data, size_t length)
{
	while (length) {
		size_t part = length < TREE_BLOCK ? length : TREE_BLOCK;

		if (!is_zero(data, part)) {
			(void)XXH3_128bits_update(state, &number, sizeof(number));
			(void)XXH3_128bits_update(state, data, part);
		}
		number++;
		data += part;
		length -= part;
	}
}

/* Reads up to `length` bytes. Returns less only at the end of the file. */
static ssize_t read_at(int fd, uint8_t *buffer, size_t length, uint64_t offset)
{
	size_t done = 0;

	while (done < length) {
		ssize_t n = pread(fd, buffer + done, length - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

/* The block in which the next data begins, from `offset` on; `size`: none. */
static uint64_t data_next(int fd, uint64_t offset, uint64_t size)
{
	off_t at = lseek(fd, (off_t)offset, SEEK_DATA);

	if (at < 0)
		return errno == ENXIO ? size : offset;
	if ((uint64_t)at >= size)
		return size;
	return (uint64_t)at / TREE_BLOCK * TREE_BLOCK;
}

int tree_hash_file(int fd, const struct stat *st, uint8_t *buffer, uint64_t *size, uint64_t hash[2])
{
	uint64_t end = (uint64_t)st->st_size, offset = 0;
	bool holes = (uint64_t)st->st_blocks < end / 512;
	XXH3_state_t state;

	(void)XXH3_128bits_reset(&state);
	while (offset < end) {
		size_t want;
		ssize_t n;

		if (holes)
			offset = data_next(fd, offset, end);
		want = end - offset < TREE_READ_SIZE ? (size_t)(end - offset) : TREE_READ_SIZE;
		n = read_at(fd, buffer, want, offset);
		if (n < 0)
			return (int)n;
		blocks_hash(&state, offset / TREE_BLOCK, buffer, (size_t)n);
		offset += (size_t)n;
		if ((size_t)n < want)
			end = offset; /* it became shorter */
	}
	*size = end;
	hash_store(XXH3_128bits_digest(&state), hash);
	return 0;
}
