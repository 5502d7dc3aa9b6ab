/* Guest memory: one flat host mapping, one checked accessor.
 *
 * Everything the VMM reads or writes of a guest goes through the functions
 * below; no other code holds a pointer into guest memory across an exit. The
 * guest may change memory at any time, so callers copy before they check. */
#ifndef RAMET_VMM_GUEST_MEMORY_H
#define RAMET_VMM_GUEST_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "vmm/layout.h"

struct guest_memory {
	uint8_t *base;       /* host address of gpa 0 */
	uint64_t ram_bytes;  /* what the guest is told it has */
	uint64_t size;       /* ram_bytes + meta */
	uint64_t levels_gpa; /* page-table level of each frame, one byte each */
	uint64_t pv_gpa;     /* PV_PAGES shared pages */
	/* A bit for each page that the VMM has had a pointer to, since KVM's dirty
	 * log does not see what is written through one. NULL: not recorded. */
	uint64_t *touched;
};

/* Computes the layout for `ram_bytes` without mapping anything: base is NULL.
 * -EINVAL with a sentence for an unsupported size. */
int guest_memory_layout(struct guest_memory *mem, uint64_t ram_bytes, struct ramet_err *err);

/* Computes the layout for `ram_bytes` (RAM_BYTES_MIN..RAM_BYTES_MAX, a
 * multiple of 2 MiB) and maps private, lazily allocated memory for it.
 * -EINVAL with a sentence for an unsupported size, -ENOMEM. */
int guest_memory_create(struct guest_memory *mem, uint64_t ram_bytes, struct ramet_err *err);
/* The same, but only reserves the addresses: memory is stitched in later
 * (uffd/stitch.h). Records what the VMM touches. */
int guest_memory_reserve(struct guest_memory *mem, uint64_t ram_bytes, struct ramet_err *err);
void guest_memory_destroy(struct guest_memory *mem);

static inline void guest_touch(const struct guest_memory *mem, uint64_t gpa, size_t len)
{
	for (uint64_t page = gpa >> PAGE_SHIFT; len && page <= (gpa + len - 1) >> PAGE_SHIFT;
	     page++)
		mem->touched[page / 64] |= 1ull << (page % 64);
}

/* Host pointer to [gpa, gpa + len), or NULL when any of it is not guest memory. */
static inline void *guest_ptr(const struct guest_memory *mem, uint64_t gpa, size_t len)
{
	if (gpa >= mem->size || len > mem->size - gpa)
		return NULL;
	if (mem->touched)
		guest_touch(mem, gpa, len);
	return mem->base + gpa;
}

/* Whether [gpa, gpa + len) is in the guest's RAM proper (not the meta pages). */
static inline bool guest_ram_has(const struct guest_memory *mem, uint64_t gpa, size_t len)
{
	return gpa < mem->ram_bytes && len <= mem->ram_bytes - gpa;
}

/* As guest_ptr(), for RAM proper. */
static inline void *guest_ram_ptr(const struct guest_memory *mem, uint64_t gpa, size_t len)
{
	return guest_ram_has(mem, gpa, len) ? guest_ptr(mem, gpa, len) : NULL;
}

/* Copies from or to guest-physical memory. 0 or -EFAULT. */
int guest_read(const struct guest_memory *mem, uint64_t gpa, void *buf, size_t len);
int guest_write(const struct guest_memory *mem, uint64_t gpa, const void *buf, size_t len);

static inline uint64_t guest_frames(const struct guest_memory *mem)
{
	return mem->ram_bytes >> PAGE_SHIFT;
}

static inline uint64_t guest_pv_page_gpa(const struct guest_memory *mem, unsigned int page)
{
	return mem->pv_gpa + page * PAGE_SIZE;
}

#endif
