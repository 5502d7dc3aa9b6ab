/* Extent maps: see extent_map.h. The wire form is in extent_codec.c. */
#include "uffd/extent_map.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

static struct extent_map *map_alloc(uint64_t size, size_t room)
{
	struct extent_map *map = malloc(sizeof(*map) + room * sizeof(map->extents[0]));

	if (map) {
		map->size = size;
		map->count = 0;
	}
	return map;
}

static int layer_check(uint32_t layer, struct ramet_err *err)
{
	if (layer < EXTENT_LAYERS_MAX || layer == EXTENT_ZERO)
		return 0;
	return err_set(err, EINVAL, "layer %u of a memory map is not below %u", layer,
		       EXTENT_LAYERS_MAX);
}

int extent_map_create(struct extent_map **map, uint64_t size, uint32_t layer, struct ramet_err *err)
{
	struct extent_map *m;
	int rc = ranges_size_check(size, err);

	if (rc == 0)
		rc = layer_check(layer, err);
	if (rc)
		return rc;
	m = map_alloc(size, 1);
	if (!m)
		return err_set(err, ENOMEM, "no memory for a memory map");
	m->extents[m->count++] = (struct extent){ 0, size, layer };
	*map = m;
	return 0;
}

int extent_map_copy(struct extent_map **map, const struct extent_map *from, struct ramet_err *err)
{
	struct extent_map *m = map_alloc(from->size, from->count);

	if (!m)
		return err_set(err, ENOMEM, "no memory for a memory map");
	m->count = from->count;
	memcpy(m->extents, from->extents, from->count * sizeof(m->extents[0]));
	*map = m;
	return 0;
}

/* Appends what follows the last extent, up to `end`. */
static void map_append(struct extent_map *map, uint64_t end, uint32_t layer)
{
	struct extent *last = map->count ? &map->extents[map->count - 1] : NULL;
	uint64_t start = last ? last->end : 0;

	if (end == start)
		return;
	if (last && last->layer == layer)
		last->end = end;
	else
		map->extents[map->count++] = (struct extent){ start, end, layer };
}

/* Appends `below` up to `end`; *at is the extent of it to go on with. */
static void map_append_below(struct extent_map *map, const struct extent_map *below, size_t *at,
			     uint64_t end)
{
	uint64_t done = map->count ? map->extents[map->count - 1].end : 0;

	while (below->extents[*at].end <= done && *at + 1 < below->count)
		++*at;
	for (; done < end; done = map->extents[map->count - 1].end) {
		const struct extent *e = &below->extents[*at];

		map_append(map, e->end < end ? e->end : end, e->layer);
		if (e->end <= end && *at + 1 < below->count)
			++*at;
	}
}

int extent_map_overlay(struct extent_map **map, const struct extent_map *below,
		       const struct range *ranges, size_t count, uint32_t layer,
		       struct ramet_err *err)
{
	cleanup_extent_map struct extent_map *m = NULL;
	size_t at = 0;
	int rc = ranges_check(ranges, count, below->size, err);

	if (rc == 0)
		rc = layer_check(layer, err);
	if (rc)
		return rc;
	m = map_alloc(below->size, below->count + 2 * count + 1);
	if (!m)
		return err_set(err, ENOMEM, "no memory for a memory map");
	for (size_t i = 0; i < count; i++) {
		map_append_below(m, below, &at, ranges[i].start);
		map_append(m, ranges[i].end, layer);
	}
	map_append_below(m, below, &at, below->size);
	if (m->count > EXTENT_MAP_MAX)
		return err_set(err, E2BIG,
			       "a memory map of %zu extents is too long (limit %u): flatten it "
			       "before it is forked again",
			       m->count, EXTENT_MAP_MAX);
	*map = take_ptr(m);
	return 0;
}

const struct extent *extent_map_find(const struct extent_map *map, uint64_t at)
{
	size_t low = 0, high = map->count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (map->extents[mid].end <= at)
			low = mid + 1;
		else
			high = mid;
	}
	return &map->extents[low];
}

/* Extents of `below` that [start, end) overlaps; 0 when it is empty. */
static size_t pieces(const struct extent_map *below, uint64_t start, uint64_t end)
{
	if (start == end)
		return 0;
	return (size_t)(extent_map_find(below, end - 1) - extent_map_find(below, start)) + 1;
}

static size_t overlay_count(const struct extent_map *below, const struct range_list *list)
{
	uint64_t at = 0;
	size_t count = list->count;

	for (size_t i = 0; i < list->count; i++) {
		count += pieces(below, at, list->ranges[i].start);
		at = list->ranges[i].end;
	}
	return count + pieces(below, at, below->size);
}

/* The range to join with the next one: least bytes for each extent saved,
 * which are the next range's and all in the gap. */
static size_t cheapest_join(const struct extent_map *below, const struct range_list *list,
			    size_t *saved)
{
	uint64_t best_bytes = 0;
	size_t best = 0;

	*saved = 0;
	for (size_t i = 0; i + 1 < list->count; i++) {
		uint64_t start = list->ranges[i].end, end = list->ranges[i + 1].start;
		size_t saves = 1 + pieces(below, start, end);

		/* bytes / saves < best_bytes / *saved */
		if (!*saved ||
		    (__uint128_t)(end - start) * *saved < (__uint128_t)best_bytes * saves) {
			best = i;
			best_bytes = end - start;
			*saved = saves;
		}
	}
	return best;
}

size_t extent_map_fit(const struct extent_map *below, struct range_list *list, size_t budget)
{
	size_t count = overlay_count(below, list);

	while (count > budget && list->count > 1) {
		size_t saved, i = cheapest_join(below, list, &saved);

		list->ranges[i].end = list->ranges[i + 1].end;
		memmove(&list->ranges[i + 1], &list->ranges[i + 2],
			(list->count - i - 2) * sizeof(list->ranges[0]));
		list->count--;
		count -= saved;
	}
	return count;
}

size_t extent_map_layers(const struct extent_map *map, uint32_t *layers)
{
	bool used[EXTENT_LAYERS_MAX] = { false };
	size_t count = 0;

	for (size_t i = 0; i < map->count; i++)
		if (map->extents[i].layer != EXTENT_ZERO)
			used[map->extents[i].layer] = true;
	for (uint32_t layer = 0; layer < EXTENT_LAYERS_MAX; layer++)
		if (used[layer])
			layers[count++] = layer;
	return count;
}

uint64_t extent_map_pages(const struct extent_map *map, uint32_t layer)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < map->count; i++)
		if (map->extents[i].layer == layer)
			bytes += map->extents[i].end - map->extents[i].start;
	return bytes >> RANGE_SHIFT;
}

/* The ranges of `layer`, or with EXTENT_ZERO those of any layer. */
static int map_ranges(struct range_list **list, const struct extent_map *map, uint32_t layer,
		      struct ramet_err *err)
{
	struct range_list *l = malloc(sizeof(*l) + map->count * sizeof(l->ranges[0]));

	if (!l)
		return err_set(err, ENOMEM, "no memory for a list of ranges");
	l->count = 0;
	for (size_t i = 0; i < map->count; i++) {
		const struct extent *e = &map->extents[i];

		if (layer == EXTENT_ZERO ? e->layer == EXTENT_ZERO : e->layer != layer)
			continue;
		if (l->count && l->ranges[l->count - 1].end == e->start)
			l->ranges[l->count - 1].end = e->end;
		else
			l->ranges[l->count++] = (struct range){ e->start, e->end };
	}
	*list = l;
	return 0;
}

int extent_map_layer_ranges(struct range_list **list, const struct extent_map *map, uint32_t layer,
			    struct ramet_err *err)
{
	if (layer >= EXTENT_LAYERS_MAX)
		return err_set(err, EINVAL, "%u is not a layer", layer);
	return map_ranges(list, map, layer, err);
}

int extent_map_backed_ranges(struct range_list **list, const struct extent_map *map,
			     struct ramet_err *err)
{
	return map_ranges(list, map, EXTENT_ZERO, err);
}

size_t extent_map_compact(struct extent_map *map, uint32_t *kept)
{
	size_t count = extent_map_layers(map, kept);
	uint32_t renumbered[EXTENT_LAYERS_MAX];

	for (uint32_t i = 0; i < count; i++)
		renumbered[kept[i]] = i;
	for (size_t i = 0; i < map->count; i++)
		if (map->extents[i].layer != EXTENT_ZERO)
			map->extents[i].layer = renumbered[map->extents[i].layer];
	return count;
}
