/* Stitching: a guest's memory mapped from layers, in the child that runs it.
 *
 * Mappings are private and writable, so the kernel copies what the guest
 * writes and nobody else sees it. KVM notices mappings that change under a
 * memslot, so the slot may exist before.
 *
 * Layers that are still being filled have holes. A child registers its
 * extents of each such layer with a userfaultfd of their own (one for each
 * layer, because each has its own donor) before anything touches them, gives
 * the donor a copy of the descriptor and keeps its own: should the donor die,
 * faults then wait forever instead of reading zeros.
 *
 * System calls: mmap, fstat (newfstatat with AT_EMPTY_PATH), close; ioctl
 * USERFAULTFD_IOC_NEW, UFFDIO_API, UFFDIO_REGISTER, UFFDIO_UNREGISTER. */
#ifndef RAMET_UFFD_STITCH_H
#define RAMET_UFFD_STITCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "uffd/extent_map.h"

/* Reserves `size` bytes of address space, aligned to 2 MiB, without access.
 * munmap() gives it back. -ENOMEM, -EINVAL. */
int stitch_reserve(uint8_t **base, uint64_t size, struct ramet_err *err);

/* Maps `map` over the reservation [base, base + map->size): layer i from
 * layer_fds[i], which stay the caller's and may be closed afterwards. About
 * 4 us for each mapping, of which there are at most as many as extents. On failure the whole range
 * is a reservation again. With `above`, zero memory and layer 0 are there already, from a map for
 * which stitch_fits_above() holds. -EINVAL: a layer number without a descriptor, or a layer that is
 * too short; -ENOMEM: too many mappings; -errno. */
int stitch(uint8_t *base, const struct extent_map *map, bool above, const int *layer_fds,
	   size_t count, struct ramet_err *err);

/* Whether all zero memory and all of layer 0 that `map` shows is where `below` has
 * it, which has nothing else. That layer 0 is the same is for the caller to know. */
bool stitch_fits_above(const struct extent_map *map, const struct extent_map *below);

/* Registers all extents of `layer` for missing pages, through the open
 * /dev/userfaultfd `device`. Returns the userfaultfd, the caller's; the donor
 * gets a duplicate. -ENOENT: the map has no extent of that layer; -errno. */
int stitch_watch(uint8_t *base, const struct extent_map *map, uint32_t layer, int device,
		 struct ramet_err *err);

/* Undoes stitch_watch() for a filled layer; then `uffd` may be closed. Donors do
 * this for their children (donor.h), so a child need not. -errno. */
int stitch_unwatch(uint8_t *base, const struct extent_map *map, uint32_t layer, int uffd,
		   struct ramet_err *err);

#endif
