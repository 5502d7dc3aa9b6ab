/* Stitching: see stitch.h. */
#include "uffd/stitch.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "lib/cleanup.h"
#include "uffd/layer.h"
#include "uffd/userfault.h"

#define HUGE_PAGE (2ull << 20)

#define RESERVE_FLAGS (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

int stitch_reserve(uint8_t **base, uint64_t size, struct ramet_err *err)
{
	int rc = ranges_size_check(size, err);
	uint8_t *area, *aligned;
	size_t head;

	if (rc)
		return rc;
	area = mmap(NULL, size + HUGE_PAGE, PROT_NONE, RESERVE_FLAGS, -1, 0);
	if (area == MAP_FAILED)
		return err_errno(err, errno, "cannot reserve %llu bytes of address space",
				 (unsigned long long)size);
	head = (size_t)(-(uintptr_t)area & (HUGE_PAGE - 1));
	aligned = area + head;
	if (head)
		(void)munmap(area, head);
	(void)munmap(aligned + size, HUGE_PAGE - head);
	*base = aligned;
	return 0;
}

/* Every layer used has a descriptor and reaches as far as it is used. */
static int layers_check(const struct extent_map *map, const int *layer_fds, size_t count,
			struct ramet_err *err)
{
	uint32_t layers[EXTENT_LAYERS_MAX];
	size_t used = extent_map_layers(map, layers);

	for (size_t i = 0; i < used; i++) {
		struct layer_stat st;
		int rc;

		if (layers[i] >= count)
			return err_set(err, EINVAL, "memory layer %u of %zu was not given",
				       layers[i], count);
		rc = layer_stat(layer_fds[layers[i]], &st, err);
		if (rc)
			return rc;
		if (st.size < map->size)
			return err_set(err, EINVAL,
				       "memory layer %u has %llu bytes, its map has %llu",
				       layers[i], (unsigned long long)st.size,
				       (unsigned long long)map->size);
	}
	return 0;
}

/* One mapping: what later ones do not cover is extents of `layer`. */
struct stretch {
	uint32_t layer;
	uint64_t start, end;
};

/* Zero memory lies below layer 0, and so on. */
static uint32_t layer_height(uint32_t layer)
{
	return layer == EXTENT_ZERO ? 0 : layer + 1;
}

/* The mappings to make, in order: at most one per extent, and fewer where extents
 * of a layer lie between those of a lower one, which is mapped first and in one
 * piece. Every layer has the same offsets, so that is right wherever it shows.
 * `open` has room for as many indices as there are extents. */
static size_t stretches_find(const struct extent_map *map, struct stretch *stretches, size_t *open)
{
	size_t count = 0, depth = 0;

	for (size_t i = 0; i < map->count; i++) {
		const struct extent *e = &map->extents[i];

		while (depth &&
		       layer_height(stretches[open[depth - 1]].layer) > layer_height(e->layer))
			depth--;
		if (depth && stretches[open[depth - 1]].layer == e->layer) {
			stretches[open[depth - 1]].end = e->end;
			continue;
		}
		open[depth++] = count;
		stretches[count++] = (struct stretch){ e->layer, e->start, e->end };
	}
	return count;
}

static int stretch_map(uint8_t *base, const struct stretch *s, const int *layer_fds)
{
	bool zero = s->layer == EXTENT_ZERO;
	int flags = MAP_FIXED | MAP_PRIVATE | MAP_NORESERVE | (zero ? MAP_ANONYMOUS : 0);
	void *at = mmap(base + s->start, s->end - s->start, PROT_READ | PROT_WRITE, flags,
			zero ? -1 : layer_fds[s->layer], zero ? 0 : (off_t)s->start);

	return at == MAP_FAILED ? -errno : 0;
}

/* Whether memory that `below` was stitched for already shows this extent. */
static bool extent_is_below(const struct extent *e, const struct extent_map *below)
{
	for (uint64_t at = e->start; at < e->end;) {
		const struct extent *b = extent_map_find(below, at);

		if (!b || b->layer != e->layer)
			return false;
		at = b->end;
	}
	return true;
}

static bool layer_is_lowest(uint32_t layer)
{
	return layer == EXTENT_ZERO || layer == 0;
}

bool stitch_fits_above(const struct extent_map *map, const struct extent_map *below)
{
	if (map->size != below->size)
		return false;
	for (size_t i = 0; i < below->count; i++)
		if (!layer_is_lowest(below->extents[i].layer))
			return false;
	for (size_t i = 0; i < map->count; i++)
		if (layer_is_lowest(map->extents[i].layer) &&
		    !extent_is_below(&map->extents[i], below))
			return false;
	return true;
}

int stitch(uint8_t *base, const struct extent_map *map, bool above, const int *layer_fds,
	   size_t count, struct ramet_err *err)
{
	cleanup_free struct stretch *stretches = calloc(map->count + 1, sizeof(*stretches));
	cleanup_free size_t *open = calloc(map->count + 1, sizeof(*open));
	size_t wanted;
	int rc = layers_check(map, layer_fds, count, err);

	if (rc)
		return rc;
	if (!stretches || !open)
		return err_set(err, ENOMEM, "no memory to map guest memory");
	wanted = stretches_find(map, stretches, open);
	for (size_t i = 0; i < wanted; i++) {
		if (above && layer_is_lowest(stretches[i].layer))
			continue;
		rc = stretch_map(base, &stretches[i], layer_fds);
		if (rc == 0)
			continue;
		(void)mmap(base, map->size, PROT_NONE, RESERVE_FLAGS | MAP_FIXED, -1, 0);
		return err_errno(err, -rc, "cannot make mapping %zu of %zu of guest memory", i,
				 wanted);
	}
	return 0;
}

int stitch_watch(uint8_t *base, const struct extent_map *map, uint32_t layer, int device,
		 struct ramet_err *err)
{
	cleanup_close int uffd = userfault_new(device, err);
	bool any = false;

	if (uffd < 0)
		return uffd;
	for (size_t i = 0; i < map->count; i++) {
		const struct extent *e = &map->extents[i];
		int rc;

		if (e->layer != layer || layer == EXTENT_ZERO)
			continue;
		any = true;
		rc = userfault_register(uffd, (uint64_t)base + e->start, e->end - e->start, err);
		if (rc)
			return rc;
	}
	if (!any)
		return err_set(err, ENOENT, "guest memory has no page of layer %u to watch", layer);
	return take_fd(&uffd);
}

int stitch_unwatch(uint8_t *base, const struct extent_map *map, uint32_t layer, int uffd,
		   struct ramet_err *err)
{
	for (size_t i = 0; i < map->count; i++) {
		const struct extent *e = &map->extents[i];
		int rc;

		if (e->layer != layer || layer == EXTENT_ZERO)
			continue;
		rc = userfault_unregister(uffd, (uint64_t)base + e->start, e->end - e->start, err);
		if (rc)
			return rc;
	}
	return 0;
}
