/* A machine without KVM for unit tests: guest memory, page tables that map its
 * first FAKE_MAPPED bytes at FAKE_BASE, event channels, and a back-end that
 * only counts. */
#ifndef RAMET_TESTS_FAKE_MACHINE_H
#define RAMET_TESTS_FAKE_MACHINE_H

#include "vmm/machine.h"

#define FAKE_RAM     (64ull << 20)
#define FAKE_BASE    0xffffffff80000000ull
#define FAKE_MAPPED  (16ull << 20)
#define FAKE_VA(gpa) (FAKE_BASE + (gpa))

/* The page tables, one after the other, mapped read-only. */
#define FAKE_ROOT       0x100000ull
#define FAKE_L3         0x101000ull
#define FAKE_L2         0x102000ull
#define FAKE_L1         0x103000ull
#define FAKE_TABLES_END (FAKE_L1 + (FAKE_MAPPED >> 21) * PAGE_SIZE)
#define FAKE_SCRATCH    0x200000ull               /* for arguments; free from here on */
#define FAKE_HOLE_VA    (FAKE_BASE + FAKE_MAPPED) /* the first address that is not mapped */

struct fake_backend {
	unsigned int commits, pv_changes;
	uint64_t bases[3];
};

/* Aborts when there is no memory. */
struct machine *fake_machine_new(void);
void fake_machine_free(struct machine *m);

struct fake_backend *fake_backend(const struct machine *m);

/* Puts an argument at FAKE_SCRATCH + offset and returns its linear address. */
uint64_t fake_put(struct machine *m, uint64_t offset, const void *data, size_t len);
void fake_get(const struct machine *m, uint64_t offset, void *data, size_t len);

/* Makes a hypercall of the guest kernel; returns rax. */
int64_t fake_call(struct machine *m, uint64_t nr, uint64_t a0, uint64_t a1, uint64_t a2,
		  uint64_t a3);

#endif
