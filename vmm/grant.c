/* Grant tables: see grant.h. */
#include "vmm/grant.h"

#include <errno.h>

#include "vmm/mmu.h"
#include "vmm/xen_abi.h"

#define GRANTS_PER_FRAME (PAGE_SIZE / sizeof(struct grant_entry_v1))

static bool is_self(domid_t dom)
{
	return dom == DOMID_SELF || dom == 1;
}

static int setup_table(struct machine *m, uint64_t arg)
{
	struct gnttab_setup_table op;

	if (mmu_copy_in(m, &op, arg, sizeof(op)))
		return -EFAULT;
	op.status = GNTST_okay;
	if (!is_self(op.dom))
		op.status = GNTST_permission_denied;
	else if (op.nr_frames > GRANT_FRAMES_MAX)
		op.status = GNTST_general_error;
	if (op.status == GNTST_okay) {
		uint64_t list = (uint64_t)op.frame_list.p;

		for (uint32_t i = 0; i < op.nr_frames; i++) {
			uint64_t frame =
				guest_pv_page_gpa(&m->mem, PV_PAGE_GRANT + i) >> PAGE_SHIFT;

			if (mmu_copy_out(m, list + i * sizeof(frame), &frame, sizeof(frame)))
				return -EFAULT;
		}
		if (op.nr_frames > m->pv.grant_frames)
			m->pv.grant_frames = op.nr_frames;
	}
	return mmu_copy_out(m, arg, &op, sizeof(op));
}

static int query_size(struct machine *m, uint64_t arg)
{
	struct gnttab_query_size op;

	if (mmu_copy_in(m, &op, arg, sizeof(op)))
		return -EFAULT;
	op.nr_frames = m->pv.grant_frames;
	op.max_nr_frames = GRANT_FRAMES_MAX;
	op.status = is_self(op.dom) ? GNTST_okay : GNTST_permission_denied;
	return mmu_copy_out(m, arg, &op, sizeof(op));
}

static int get_version(struct machine *m, uint64_t arg)
{
	struct gnttab_get_version op;

	if (mmu_copy_in(m, &op, arg, sizeof(op)))
		return -EFAULT;
	op.version = 1;
	return mmu_copy_out(m, arg, &op, sizeof(op));
}

int64_t grant_hypercall(struct machine *m, uint64_t command, uint64_t arg, uint64_t count)
{
	if (count != 1)
		return count ? -ENOSYS : 0; /* Linux never batches these */
	switch (command) {
	case GNTTABOP_setup_table:
		return setup_table(m, arg);
	case GNTTABOP_query_size:
		return query_size(m, arg);
	case GNTTABOP_get_version:
		return get_version(m, arg);
	default:
		return -ENOSYS; /* version 2 and mapping foreign pages do not exist here */
	}
}

int grant_page(const struct machine *m, uint32_t ref, uint64_t *gpa)
{
	struct grant_entry_v1 entry;
	uint64_t at = guest_pv_page_gpa(&m->mem, PV_PAGE_GRANT) + (uint64_t)ref * sizeof(entry);

	if (ref >= m->pv.grant_frames * GRANTS_PER_FRAME ||
	    guest_read(&m->mem, at, &entry, sizeof(entry)))
		return -EINVAL;
	if ((entry.flags & GTF_type_mask) != GTF_permit_access || (entry.flags & GTF_readonly) ||
	    entry.domid != 0)
		return -EACCES;
	if (entry.frame >= guest_frames(&m->mem))
		return -EINVAL;
	*gpa = (uint64_t)entry.frame << PAGE_SHIFT;
	return 0;
}
