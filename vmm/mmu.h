/* The guest's page tables as the guest sees them: walks, types, updates.
 *
 * The virtual machine is the security boundary, so validation here serves
 * correctness only; what must hold for safety is that no argument makes the
 * VMM touch anything but guest memory. */
#ifndef RAMET_VMM_MMU_H
#define RAMET_VMM_MMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/machine.h"

#define PTE_PRESENT  0x001ull
#define PTE_WRITE    0x002ull
#define PTE_USER     0x004ull
#define PTE_ACCESSED 0x020ull
#define PTE_DIRTY    0x040ull
#define PTE_LARGE    0x080ull
#define PTE_NX       (1ull << 63)
#define PTE_FRAME    0x000ffffffffff000ull

/* A frame's byte in the level table: 0 = not a page table, else its level,
 * plus for level 4 which hypervisor entries it carries. */
#define LEVEL_MASK        0x07u
#define LEVEL_ROOT_USER   0x10u
#define LEVEL_ROOT_KERNEL 0x20u

/* The root tables that are active in the vCPU's current mode. */
uint64_t mmu_root(const struct machine *m);

/* Translates a linear address through `root`. 0 or -EFAULT. */
int mmu_translate(const struct machine *m, uint64_t root, uint64_t va, uint64_t *gpa);

/* Copies to or from linear addresses of the guest kernel (its root tables). 0, -EFAULT. */
int mmu_copy_in(const struct machine *m, void *buf, uint64_t va, size_t len);
int mmu_copy_out(const struct machine *m, uint64_t va, const void *buf, size_t len);

/* Reads up to `len` bytes of code at `va` in the current mode; returns how many. */
size_t mmu_fetch(const struct machine *m, uint64_t va, void *buf, size_t len);

/* Makes a table and all below it known at this level, and fits its entries to
 * a guest whose kernel runs at CPL 3 (user bit set everywhere). */
int mmu_pin(struct machine *m, uint64_t gpa, unsigned int level);
void mmu_unpin(struct machine *m, uint64_t gpa);

/* Makes a pinned or pinnable table the kernel's or the user's root; user root 0
 * means none. Installs the hypervisor's entries in it. 0 or -EINVAL. */
int mmu_load_root(struct machine *m, uint64_t gpa, bool user);

/* Hypercalls. `done` counts completed operations for the guest. 0 or -errno;
 * -E2BIG after more than a million of them between two entries of the guest. */
int mmu_update(struct machine *m, uint64_t va, uint64_t count, uint64_t *done);
int mmu_extended(struct machine *m, uint64_t va, uint64_t count, uint64_t *done);
int mmu_update_va(struct machine *m, uint64_t va, uint64_t pte, uint64_t flags);

/* A kernel write fault on a read-only page table that the guest expects to be
 * writable: makes the mapping writable. True when that resolved the fault. */
bool mmu_fix_table_write(struct machine *m, uint64_t va);

/* The guest has been left anew: it may have more work done for it. */
void mmu_work_reset(struct machine *m);

/* Forgets everything pending: the backend has committed it. */
void mmu_pending_clear(struct machine *m);

#endif
