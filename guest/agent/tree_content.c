/* Hashes of contents: see struct tree_entry in guest/protocol.h.
 *
 * Every content is read, whatever the file's times say: a store through a shared
 * mapping does not change them on tmpfs, and root can set the clock. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <errno.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "guest/agent/tree_walk.h"

#define CACHE_PAGE   4096u
#define CACHE_WINDOW (256u << 20)

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

/* How a file tells where it has holes. */
enum holes {
	HOLES_NONE,
	HOLES_SEEK,  /* lseek(2) */
	HOLES_CACHE, /* ramfs: what is not in the page cache, and reading puts it there */
};

static enum holes holes_kind(int fd, const struct stat *st)
{
	uint64_t size = (uint64_t)st->st_size;
	struct statfs fs;

	if (size <= TREE_BLOCK || (uint64_t)st->st_blocks >= size / 512)
		return HOLES_NONE;
	if (fstatfs(fd, &fs) == 0 && fs.f_type == RAMFS_MAGIC)
		return HOLES_CACHE;
	return HOLES_SEEK;
}

/* The block of the next data, from `offset` on; `size`: there is none. */
static uint64_t data_seek(int fd, uint64_t offset, uint64_t size)
{
	off_t at = lseek(fd, (off_t)offset, SEEK_DATA);

	if (at < 0)
		return errno == ENXIO ? size : offset;
	if ((uint64_t)at >= size)
		return size;
	return (uint64_t)at / TREE_BLOCK * TREE_BLOCK;
}

/* The same by mincore(2), a window at a time. */
static uint64_t data_cached(int fd, uint64_t offset, uint64_t size)
{
	static unsigned char resident[CACHE_WINDOW / CACHE_PAGE];

	while (offset < size) {
		size_t length =
			size - offset < CACHE_WINDOW ? (size_t)(size - offset) : CACHE_WINDOW;
		size_t pages = (length + CACHE_PAGE - 1) / CACHE_PAGE;
		void *at = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, (off_t)offset);
		const unsigned char *first;

		if (at == MAP_FAILED)
			return offset;
		if (mincore(at, length, resident) < 0)
			memset(resident, 1, pages);
		(void)munmap(at, length);
		first = memchr(resident, 1, pages);
		if (first)
			return (offset + (uint64_t)(first - resident) * CACHE_PAGE) / TREE_BLOCK *
			       TREE_BLOCK;
		offset += length;
	}
	return size;
}

int tree_hash_file(int fd, const struct stat *st, uint8_t *buffer, uint64_t *size, uint64_t hash[2])
{
	uint64_t end = (uint64_t)st->st_size, offset = 0;
	enum holes holes = holes_kind(fd, st);
	XXH3_state_t state;

	(void)XXH3_128bits_reset(&state);
	while (offset < end) {
		size_t want;
		ssize_t n;

		if (holes == HOLES_SEEK)
			offset = data_seek(fd, offset, end);
		else if (holes == HOLES_CACHE)
			offset = data_cached(fd, offset, end);
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
