/* Grant tables, version 1 (xen/grant_table.h): how the guest lends pages.
 *
 * Frame numbers are guest-physical, so a grant is checked, not mapped. */
#ifndef RAMET_VMM_GRANT_H
#define RAMET_VMM_GRANT_H

#include <stdint.h>

#include "vmm/machine.h"

/* HYPERVISOR_grant_table_op. Its result or -errno. */
int64_t grant_hypercall(struct machine *m, uint64_t command, uint64_t arg, uint64_t count);

/* The page behind a reference that the guest granted to domain 0 for writing.
 * 0, or -EACCES when the entry does not say so, -EINVAL out of range. */
int grant_page(const struct machine *m, uint32_t ref, uint64_t *gpa);

#endif
