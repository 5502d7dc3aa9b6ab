/* Extent maps on the wire and on disk: see extent_map.h. */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "uffd/extent_map.h"

static uint8_t *put32(uint8_t *p, uint32_t value)
{
	value = htole32(value);
	memcpy(p, &value, sizeof(value));
	return p + sizeof(value);
}

static uint8_t *put64(uint8_t *p, uint64_t value)
{
	value = htole64(value);
	memcpy(p, &value, sizeof(value));
	return p + sizeof(value);
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t value;

	memcpy(&value, p, sizeof(value));
	return le32toh(value);
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t value;

	memcpy(&value, p, sizeof(value));
	return le64toh(value);
}

int extent_map_encode(const struct extent_map *map, void *buf, size_t room)
{
	uint8_t *p = buf;

	if (room < EXTENT_MAP_ENCODED(map->count))
		return -ENOSPC;
	p = put32(p, EXTENT_MAP_MAGIC);
	p = put32(p, (uint32_t)map->count);
	p = put64(p, map->size);
	for (size_t i = 0; i < map->count; i++) {
		p = put64(p, map->extents[i].end);
		p = put32(p, map->extents[i].layer);
		p = put32(p, 0);
	}
	return (int)(p - (uint8_t *)buf);
}

static int header_check(const uint8_t *p, size_t len, struct ramet_err *err)
{
	uint32_t count;

	if (len < EXTENT_MAP_HEADER || get32(p) != EXTENT_MAP_MAGIC)
		return err_set(err, EINVAL, "%zu bytes do not begin like a memory map", len);
	count = get32(p + 4);
	if (!count || count > EXTENT_MAP_MAX)
		return err_set(err, EINVAL, "a memory map of %u extents is not possible: 1 to %u",
			       count, EXTENT_MAP_MAX);
	if (len != EXTENT_MAP_ENCODED(count))
		return err_set(err, EINVAL, "a memory map of %u extents is not %zu bytes long",
			       count, len);
	return ranges_size_check(get64(p + 8), err);
}

/* Reads extent i, which must go on where the one before it ended. */
static int entry_read(struct extent_map *map, const uint8_t *p, uint32_t layer_count,
		      struct ramet_err *err)
{
	size_t i = map->count;
	const struct extent *last = i ? &map->extents[i - 1] : NULL;
	struct extent e = { last ? last->end : 0, get64(p), get32(p + 8) };

	if (e.end <= e.start || e.end > map->size || e.end % RANGE_PAGE)
		return err_set(err, EINVAL,
			       "extent %zu of a memory map ends at %#llx: not a page after %#llx "
			       "and within %#llx",
			       i, (unsigned long long)e.end, (unsigned long long)e.start,
			       (unsigned long long)map->size);
	if (e.layer != EXTENT_ZERO && (e.layer >= layer_count || e.layer >= EXTENT_LAYERS_MAX))
		return err_set(err, EINVAL, "extent %zu of a memory map is in layer %u of %u", i,
			       e.layer, layer_count);
	if (get32(p + 12) || (last && last->layer == e.layer))
		return err_set(err, EINVAL,
			       "extent %zu of a memory map is not as this program writes it", i);
	map->extents[map->count++] = e;
	return 0;
}

int extent_map_decode(struct extent_map **map, const void *buf, size_t len, uint32_t layer_count,
		      struct ramet_err *err)
{
	cleanup_extent_map struct extent_map *m = NULL;
	const uint8_t *p = buf;
	uint32_t count;
	int rc = header_check(p, len, err);

	if (rc)
		return rc;
	count = get32(p + 4);
	m = malloc(sizeof(*m) + count * sizeof(m->extents[0]));
	if (!m)
		return err_set(err, ENOMEM, "no memory for a memory map of %u extents", count);
	m->size = get64(p + 8);
	m->count = 0;
	while (m->count < count) {
		rc = entry_read(m, p + EXTENT_MAP_ENCODED(m->count), layer_count, err);
		if (rc)
			return rc;
	}
	if (!m->count || m->extents[m->count - 1].end != m->size)
		return err_set(err, EINVAL, "a memory map of %#llx bytes ends before that",
			       (unsigned long long)m->size);
	*map = take_ptr(m);
	return 0;
}
