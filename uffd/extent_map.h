/* Extent maps: which layer holds each page of a guest's memory.
 *
 * A map covers [0, size) completely with sorted extents; within a layer the
 * offset is the guest-physical address. Layers are numbers to the map: indices
 * into the table of whoever owns it. Neighbours of the same layer are always
 * one extent, so equal maps have equal extents. The same structure serves
 * disks. Pure logic; a map is one allocation, freed with free(). */
#ifndef RAMET_UFFD_EXTENT_MAP_H
#define RAMET_UFFD_EXTENT_MAP_H

#include <stddef.h>
#include <stdint.h>

#include "lib/cleanup.h"
#include "lib/err.h"
#include "uffd/ranges.h"

#define EXTENT_ZERO UINT32_MAX /* no layer: memory that reads as zeros */

/* max_map_count allows 65530 mappings; a map this long is slow long before. */
#define EXTENT_MAP_MAX    1024u
#define EXTENT_LAYERS_MAX 256u

/* Bytes [start, end). */
struct extent {
	uint64_t start, end;
	uint32_t layer; /* < EXTENT_LAYERS_MAX, or EXTENT_ZERO */
};

struct extent_map {
	uint64_t size;
	size_t count; /* 1..EXTENT_MAP_MAX */
	struct extent extents[];
};

#define cleanup_extent_map cleanup_free

/* A map of one extent. -EINVAL: bad size or layer; -ENOMEM. */
int extent_map_create(struct extent_map **map, uint64_t size, uint32_t layer,
		      struct ramet_err *err);

/* -ENOMEM. */
int extent_map_copy(struct extent_map **map, const struct extent_map *from, struct ramet_err *err);

/* A new map: `below` with `ranges` (see ranges_check) replaced by `layer`.
 * -EINVAL: bad ranges or layer; -E2BIG: more than EXTENT_MAP_MAX extents, flatten
 * first; -ENOMEM. */
int extent_map_overlay(struct extent_map **map, const struct extent_map *below,
		       const struct range *ranges, size_t count, uint32_t layer,
		       struct ramet_err *err);

/* Joins neighbouring ranges of `list`, cheapest first (fewest bytes taken in
 * for each extent saved), until an overlay of `below` with a layer that is not
 * in it has at most `budget` extents or one range is left. Returns the number
 * of extents that overlay will have; above `budget`, flatten. `list` must
 * satisfy ranges_check(below->size). */
size_t extent_map_fit(const struct extent_map *below, struct range_list *list, size_t budget);

/* The extent of `at`, which must be below map->size. */
const struct extent *extent_map_find(const struct extent_map *map, uint64_t at);

/* Stores the layers in use in ascending order, without EXTENT_ZERO; `layers`
 * has room for EXTENT_LAYERS_MAX. Returns how many there are. */
size_t extent_map_layers(const struct extent_map *map, uint32_t *layers);

/* Pages of `layer`, which may be EXTENT_ZERO. */
uint64_t extent_map_pages(const struct extent_map *map, uint32_t layer);

/* The ranges of one layer: what a child registers, and unregisters. -ENOMEM. */
int extent_map_layer_ranges(struct range_list **list, const struct extent_map *map, uint32_t layer,
			    struct ramet_err *err);

/* The ranges of any layer: what a flat copy has to hold. -ENOMEM. */
int extent_map_backed_ranges(struct range_list **list, const struct extent_map *map,
			     struct ramet_err *err);

/* Renumbers the layers in use to 0, 1, 2... in the order of their old numbers.
 * kept[new] = old, with room for EXTENT_LAYERS_MAX. Returns how many there are. */
size_t extent_map_compact(struct extent_map *map, uint32_t *kept);

/* ---- on the wire: little-endian, the same on disk ---- */

#define EXTENT_MAP_MAGIC          0x3150414du /* "MAP1" */
#define EXTENT_MAP_HEADER         16u         /* u32 magic, u32 count, u64 size */
#define EXTENT_MAP_ENTRY          16u /* u64 end, u32 layer, u32 zero; starts at the last end */
#define EXTENT_MAP_ENCODED(count) (EXTENT_MAP_HEADER + (count)*EXTENT_MAP_ENTRY)

/* Writes EXTENT_MAP_ENCODED(map->count) bytes to `buf` and returns their
 * number. -ENOSPC: `room` is less. */
int extent_map_encode(const struct extent_map *map, void *buf, size_t room);

/* Reads what extent_map_encode() wrote; it must be exactly `len` bytes and use
 * no layer from `layer_count` on. -EINVAL with a sentence that says what is
 * wrong; -ENOMEM. */
int extent_map_decode(struct extent_map **map, const void *buf, size_t len, uint32_t layer_count,
		      struct ramet_err *err);

#endif
