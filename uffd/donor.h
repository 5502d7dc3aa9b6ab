/* Donors: whoever fills a layer that still has holes, exactly one per layer.
 *
 * A donor has the pages (a retired worker's frozen guest memory, or any other
 * mapping that no longer changes) and copies the given ranges of them into the
 * layer: first what children wait for, else what they are known to need soon, else the small
 * ranges before the large. Pages go in with
 * UFFDIO_COPY, through a mapping of its own, because a page must be complete
 * the moment it is in the layer: from then on children map it unasked.
 *
 * The caller drives it from its own loop, with one thread:
 *
 *     while (!donor_done(d)) {
 *             wait for donor_fd(d) and the caller's own, timeout 0
 *             donor_step(d, &err);
 *     }
 *     donor_finish(d, &err);      // nobody waits any more, nothing is mapped
 *     layer_seal(layer, &err);
 *
 * Reading the source may wait for the donors of the layers below it. These
 * are other processes with older layers, so such waits end; a source mapped from the
 * very layer to be filled is refused. While it waits a donor serves nobody.
 *
 * If a donor fails or dies before donor_finish() its children wait forever at
 * the pages that are missing (each holds its own userfaultfd) and never read
 * zeros instead; whoever supervises them must end them.
 *
 * System calls: mmap, munmap, fstat (newfstatat with AT_EMPTY_PATH), close,
 * epoll_create1, epoll_ctl, epoll_wait, preadv2, read, brk and friends by malloc; ioctl
 * USERFAULTFD_IOC_NEW, UFFDIO_API, UFFDIO_REGISTER, UFFDIO_UNREGISTER,
 * UFFDIO_COPY, UFFDIO_WAKE. Afterwards layer_seal(): fcntl F_GET_SEALS and
 * F_ADD_SEALS. See userfaultfd(2), ioctl_userfaultfd(2). */
#ifndef RAMET_UFFD_DONOR_H
#define RAMET_UFFD_DONOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "uffd/ranges.h"

#define DONOR_CHILDREN_MAX 2048u /* each takes a descriptor */
#define DONOR_DEMANDED_MAX 4096u

struct donor;

struct donor_params {
	int device;    /* /dev/userfaultfd; needed by donor_create() only */
	int layer;     /* open for writing, all of `ranges` empty; needed by donor_create() only */
	uint64_t size; /* of the layer and the source, bytes */
	const uint8_t *source;      /* must not change, nor be unmapped, until donor_finish() */
	const struct range *ranges; /* what the layer shall hold: see ranges_check() */
	size_t range_count;
	/* Filled before all others, in this order; what is not to be filled is left out. May be
	 * NULL; not kept. */
	const struct range *first;
	size_t first_count;
	const int *source_layers; /* descriptors of all layers that `source` is mapped from */
	size_t source_layer_count;
	/* A child broke the protocol and is served no longer: it will hang. Must not call the
	 * donor. May be NULL. */
	void (*child_failed)(void *arg, uint32_t child, const struct ramet_err *err);
	void *arg;
};

/* -EINVAL: bad ranges or sizes; -ELOOP: `layer` is one of source_layers;
 * -EBUSY: the layer is sealed; -ENOMEM, -EMFILE, -errno. */
int donor_create(struct donor **donor, const struct donor_params *params, struct ramet_err *err);

/* Closes and unmaps everything; see above for what it means to children
 * before donor_finish(). NULL is allowed. */
void donor_destroy(struct donor *donor);

/* Readable while a child waits. Valid until donor_destroy(). */
int donor_fd(const struct donor *donor);

/* Serves a child that mapped the layer at `base` (the address of offset 0 in
 * its process) and watches `ranges` of it, which are its extents of this layer,
 * with `uffd` (stitch_watch()). Takes over `uffd` on success. `id` is the
 * caller's name for the child. After donor_finish() the child is only freed
 * of its watch. -EINVAL: not such a descriptor, bad ranges or ranges that this
 * donor does not fill; -EUSERS: too many children; -ENOMEM, -errno. */
int donor_add_child(struct donor *donor, uint32_t id, int uffd, uint64_t base,
		    const struct range *ranges, size_t count, struct ramet_err *err);

/* Forgets a child that has ended; an unknown `id` is no error. */
void donor_remove_child(struct donor *donor, uint32_t id);

/* Answers what children wait for now, without copying ahead. Bounded work.
 * -ENOMEM: no memory for the layer's pages; -EFAULT: the source is not
 * readable; -EUCLEAN: somebody else wrote to the layer; -errno. After an error
 * the layer cannot be completed. */
int donor_serve(struct donor *donor, struct ramet_err *err);

/* donor_serve(), then copies up to 128 KiB ahead (64 KiB when children were
 * waiting), so the next call is never far. Errors as there. */
int donor_step(struct donor *donor, struct ramet_err *err);

/* Whether children waited at the last look, or what was named first is still being
 * copied. Otherwise there is no hurry. */
bool donor_wanted(const struct donor *donor);

/* Whether every page of the ranges is in the layer. */
bool donor_done(const struct donor *donor);

/* Once done: stops all children's watches of the layer (a fault that began
 * before its page came would wait forever otherwise), lets go of the children
 * and of the layer's mapping, so that the layer can be sealed. The source is
 * not needed any more. Calling it again is no error. -EAGAIN: not done. */
int donor_finish(struct donor *donor, struct ramet_err *err);

struct donor_stats {
	uint64_t bytes;    /* to be filled */
	uint64_t filled;   /* of these */
	uint64_t demanded; /* filled because a child waited */
	uint64_t events;   /* faults of children */
	uint64_t late;     /* of these, for pages that were there by then */
	uint32_t children; /* being served */
	uint32_t failed;   /* for breaking the protocol */
	uint64_t copy_ns;  /* time in UFFDIO_COPY, waits for lower layers included */
};

void donor_stats(const struct donor *donor, struct donor_stats *stats);

/* The pages that children demanded first, in that order, up to
 * DONOR_DEMANDED_MAX: what to fetch early next time. Offsets in bytes; the
 * donor's, valid until the next call of it. */
const uint64_t *donor_demanded(const struct donor *donor, size_t *count);

#endif
