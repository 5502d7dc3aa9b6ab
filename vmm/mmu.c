/* Page-table walks, table types and the page-table hypercalls: see mmu.h. */
#include "vmm/mmu.h"

#include <errno.h>
#include <string.h>

#include "vmm/xen_abi.h"

#define MMU_OPS_MAX (1u << 20) /* per exit; Linux batches at most a few hundred */

uint64_t mmu_root(const struct machine *m)
{
	const struct vcpu *v = &m->vcpu;

	if (v->kernel_mode || !v->user_cr3 || m->isolation == ISOLATION_FAST)
		return v->kernel_cr3;
	return v->user_cr3;
}

/* The entry for `va` at `level` (or the large leaf above it), NULL when a table
 * on the way is absent. */
static uint64_t *walk(const struct machine *m, uint64_t root, uint64_t va, unsigned int level,
		      unsigned int *found)
{
	uint64_t table = root & PTE_FRAME;

	for (unsigned int l = 4;; l--) {
		uint64_t *entries = guest_ram_ptr(&m->mem, table, PAGE_SIZE);
		uint64_t *entry;

		if (!entries)
			return NULL;
		entry = &entries[(va >> (PAGE_SHIFT + 9 * (l - 1))) & 511];
		*found = l;
		if (l == level || (l < 4 && (*entry & PTE_LARGE) && (*entry & PTE_PRESENT)))
			return entry;
		if (!(*entry & PTE_PRESENT))
			return NULL;
		table = *entry & PTE_FRAME;
	}
}

int mmu_translate(const struct machine *m, uint64_t root, uint64_t va, uint64_t *gpa)
{
	unsigned int level;
	const uint64_t *entry = walk(m, root, va, 1, &level);
	uint64_t offset_mask;

	if (!entry || !(*entry & PTE_PRESENT))
		return -EFAULT;
	offset_mask = (1ull << (PAGE_SHIFT + 9 * (level - 1))) - 1;
	*gpa = (*entry & PTE_FRAME & ~offset_mask) | (va & offset_mask);
	return 0;
}

static int copy(const struct machine *m, uint64_t root, uint64_t va, void *buf, size_t len,
		bool out)
{
	uint8_t *p = buf;

	while (len) {
		size_t chunk = PAGE_SIZE - (va & ~PAGE_MASK);
		uint64_t gpa;
		void *host;

		if (chunk > len)
			chunk = len;
		if (mmu_translate(m, root, va, &gpa))
			return -EFAULT;
		host = guest_ptr(&m->mem, gpa, chunk);
		if (!host)
			return -EFAULT;
		if (out)
			memcpy(host, p, chunk);
		else
			memcpy(p, host, chunk);
		p += chunk;
		va += chunk;
		len -= chunk;
	}
	return 0;
}

int mmu_copy_in(const struct machine *m, void *buf, uint64_t va, size_t len)
{
	return copy(m, m->vcpu.kernel_cr3, va, buf, len, false);
}

int mmu_copy_out(const struct machine *m, uint64_t va, const void *buf, size_t len)
{
	return copy(m, m->vcpu.kernel_cr3, va, (void *)buf, len, true);
}

size_t mmu_fetch(const struct machine *m, uint64_t va, void *buf, size_t len)
{
	size_t done = 0;

	while (done < len && !copy(m, mmu_root(m), va + done, (uint8_t *)buf + done, 1, false))
		done++;
	return done;
}

static uint8_t *level_of(const struct machine *m, uint64_t gpa)
{
	if (gpa >= m->mem.ram_bytes)
		return NULL;
	return guest_ptr(&m->mem, m->mem.levels_gpa + (gpa >> PAGE_SHIFT), 1);
}

static unsigned int level_get(const struct machine *m, uint64_t gpa)
{
	const uint8_t *level = level_of(m, gpa);

	return level ? *level & LEVEL_MASK : 0;
}

/* A writable mapping of a frame ends its life as a page table. */
static void level_drop_if_writable(struct machine *m, uint64_t pte)
{
	uint8_t *level = level_of(m, pte & PTE_FRAME);

	if ((pte & (PTE_PRESENT | PTE_WRITE)) == (PTE_PRESENT | PTE_WRITE) && level)
		*level = 0;
}

static void pend_touch(struct machine *m, uint64_t gpa)
{
	struct mmu_pending *p = &m->mmu;

	if (p->touch_count == MMU_PENDING_MAX)
		m->ops->mmu_commit(m);
	p->touch[p->touch_count++] = gpa;
}

static void pend_invlpg(struct machine *m, uint64_t va)
{
	struct mmu_pending *p = &m->mmu;

	if (p->invlpg_count == sizeof(p->invlpg) / sizeof(p->invlpg[0]))
		p->flush = true;
	else
		p->invlpg[p->invlpg_count++] = va;
}

void mmu_pending_clear(struct machine *m)
{
	m->mmu.touch_count = 0;
	m->mmu.invlpg_count = 0;
	m->mmu.flush = false;
}

void mmu_work_reset(struct machine *m)
{
	m->mmu.operations = 0;
	m->mmu.tables = 0;
}

static bool operation_allowed(struct machine *m)
{
	return m->mmu.operations++ < MMU_OPS_MAX;
}

/* True when the processor may go on using the old entry until it faults. */
static bool pte_change_is_benign(uint64_t old, uint64_t new)
{
	if (!(old & PTE_PRESENT))
		return true;
	return (new &PTE_PRESENT) && ((old ^ new) & (PTE_FRAME | PTE_LARGE)) == 0 &&
	       !(old & ~new &(PTE_WRITE | PTE_USER)) && !(new & ~old &PTE_NX);
}

static void pte_store(struct machine *m, uint64_t gpa, uint64_t *entry, uint64_t value)
{
	uint64_t old = *entry;

	__atomic_store_n(entry, value, __ATOMIC_RELEASE);
	if (old != value && !pte_change_is_benign(old, value))
		pend_touch(m, gpa);
}

/* ---- pinning ---- */

static void root_install(struct machine *m, uint64_t root, bool user)
{
	uint64_t *entries = guest_ram_ptr(&m->mem, root, PAGE_SIZE);
	uint8_t *level = level_of(m, root);
	uint64_t tables = HV_PAGE_GPA(HV_PAGE_TABLES);
	/* hv_area.c lays the four top tables out in this order. */
	uint64_t hv = tables + (user ? PAGE_SIZE : 0);
	uint64_t dm = user ? 0 : tables + 2 * PAGE_SIZE;
	uint64_t access = PTE_PRESENT | PTE_WRITE | PTE_USER;

	if (!entries || !level)
		return;
	pte_store(m, root + HV_PML4_SLOT * 8, &entries[HV_PML4_SLOT], hv | access);
	pte_store(m, root + DM_PML4_SLOT * 8, &entries[DM_PML4_SLOT], dm ? dm | access : 0);
	*level = (uint8_t)(4 | (user ? LEVEL_ROOT_USER : LEVEL_ROOT_KERNEL));
}

/* Linux's kernel root has its direct map in slot 272; its user root has not. */
static bool root_looks_like_user(const struct machine *m, const uint64_t *entries)
{
	return m->isolation != ISOLATION_FAST && !(entries[HV_PML4_LAST + 1] & PTE_PRESENT);
}

static void pin_table(struct machine *m, uint64_t gpa, unsigned int level)
{
	uint64_t *entries = guest_ram_ptr(&m->mem, gpa, PAGE_SIZE);
	uint8_t *type = level_of(m, gpa);

	/* A tree has fewer tables than there are frames; tables that contain
	 * themselves have no end. */
	if (!entries || !type || m->mmu.tables++ >= guest_frames(&m->mem))
		return;
	*type = (uint8_t)level;
	for (unsigned int i = 0; i < 512; i++) {
		uint64_t e = entries[i];

		if (!(e & PTE_PRESENT))
			continue;
		if (level == 4 && i >= HV_PML4_FIRST && i <= HV_PML4_LAST)
			continue;
		if (!(e & PTE_USER))
			__atomic_fetch_or(&entries[i], PTE_USER, __ATOMIC_RELAXED);
		if (level == 1 || ((e & PTE_LARGE) && level < 4))
			continue;
		/* The kernel half is shared by all roots: walk it once only, or
		 * the cost of a fork grows with RAM. */
		if (level == 4 && i > HV_PML4_LAST && level_get(m, e & PTE_FRAME) == 3)
			continue;
		pin_table(m, e & PTE_FRAME, level - 1);
	}
	if (level == 4)
		root_install(m, gpa, root_looks_like_user(m, entries));
}

int mmu_pin(struct machine *m, uint64_t gpa, unsigned int level)
{
	gpa &= PTE_FRAME;
	if (!guest_ram_ptr(&m->mem, gpa, PAGE_SIZE))
		return -EINVAL;
	pin_table(m, gpa, level);
	return 0;
}

static void unpin_table(struct machine *m, uint64_t gpa, unsigned int level)
{
	const uint64_t *entries = guest_ram_ptr(&m->mem, gpa, PAGE_SIZE);
	uint8_t *type = level_of(m, gpa);
	unsigned int limit = level == 4 ? HV_PML4_FIRST : 512;

	if (!entries || !type || !*type)
		return;
	*type = 0;
	if (level <= 1)
		return;
	for (unsigned int i = 0; i < limit; i++)
		if ((entries[i] & PTE_PRESENT) && !((entries[i] & PTE_LARGE) && level < 4))
			unpin_table(m, entries[i] & PTE_FRAME, level - 1);
}

void mmu_unpin(struct machine *m, uint64_t gpa)
{
	gpa &= PTE_FRAME;
	unpin_table(m, gpa, level_get(m, gpa));
}

/* ---- hypercalls ---- */

static int update_one(struct machine *m, uint64_t ptr, uint64_t value, bool keep_ad)
{
	uint64_t gpa = ptr & ~7ull;
	uint64_t *entry = guest_ram_ptr(&m->mem, gpa, sizeof(*entry));
	unsigned int level = level_get(m, gpa);

	if (!entry)
		return -EINVAL;
	if (keep_ad)
		value |= *entry & (PTE_ACCESSED | PTE_DIRTY);
	if (level == 4) {
		unsigned int slot = (unsigned int)(gpa >> 3) & 511;

		if (slot >= HV_PML4_FIRST && slot <= HV_PML4_LAST)
			return 0; /* the hypervisor's own slots stay as they are */
	}
	if (value & PTE_PRESENT) {
		if (level > 1 && !((value & PTE_LARGE) && level < 4))
			(void)mmu_pin(m, value, level - 1);
		if (level == 1)
			level_drop_if_writable(m, value);
		value |= PTE_USER;
	}
	pte_store(m, gpa, entry, value);
	return 0;
}

int mmu_update(struct machine *m, uint64_t va, uint64_t count, uint64_t *done)
{
	*done = 0;
	for (; *done < count; ++*done, va += sizeof(struct mmu_update)) {
		struct mmu_update u;
		unsigned int command;
		int rc = 0;

		if (!operation_allowed(m))
			return -E2BIG;
		if (mmu_copy_in(m, &u, va, sizeof(u)))
			return -EFAULT;
		command = u.ptr & 3;
		if (command == MMU_NORMAL_PT_UPDATE || command == MMU_PT_UPDATE_PRESERVE_AD)
			rc = update_one(m, u.ptr & ~3ull, u.val,
					command == MMU_PT_UPDATE_PRESERVE_AD);
		else if (command != MMU_MACHPHYS_UPDATE) /* the identity map never changes */
			rc = -ENOSYS;
		if (rc)
			return rc;
	}
	return 0;
}

int mmu_load_root(struct machine *m, uint64_t gpa, bool user)
{
	uint8_t *level = level_of(m, gpa);
	bool install_user = user && m->isolation != ISOLATION_FAST;
	uint8_t want = (uint8_t)(4 | (install_user ? LEVEL_ROOT_USER : LEVEL_ROOT_KERNEL));

	if (user && !gpa) {
		m->vcpu.user_cr3 = 0;
		return 0;
	}
	if (!level)
		return -EINVAL;
	if ((*level & LEVEL_MASK) != 4)
		pin_table(m, gpa, 4);
	if (*level != want)
		root_install(m, gpa, install_user);
	if (user) {
		m->vcpu.user_cr3 = gpa;
	} else {
		if (m->vcpu.kernel_cr3 == gpa)
			m->mmu.flush = true;
		m->vcpu.kernel_cr3 = gpa;
	}
	return 0;
}

static int extended_one(struct machine *m, const struct mmuext_op *op)
{
	uint64_t gpa = (uint64_t)op->arg1.mfn << PAGE_SHIFT;
	void *page;

	if (op->cmd <= MMUEXT_NEW_BASEPTR || op->cmd == MMUEXT_NEW_USER_BASEPTR ||
	    op->cmd == MMUEXT_CLEAR_PAGE)
		if (op->arg1.mfn > guest_frames(&m->mem))
			return -EINVAL;
	switch (op->cmd) {
	case MMUEXT_PIN_L1_TABLE:
	case MMUEXT_PIN_L2_TABLE:
	case MMUEXT_PIN_L3_TABLE:
	case MMUEXT_PIN_L4_TABLE:
		return mmu_pin(m, gpa, op->cmd - MMUEXT_PIN_L1_TABLE + 1);
	case MMUEXT_UNPIN_TABLE:
		mmu_unpin(m, gpa);
		return 0;
	case MMUEXT_NEW_BASEPTR:
		return mmu_load_root(m, gpa, false);
	case MMUEXT_NEW_USER_BASEPTR:
		return mmu_load_root(m, gpa, true);
	case MMUEXT_TLB_FLUSH_LOCAL:
	case MMUEXT_TLB_FLUSH_MULTI:
	case MMUEXT_TLB_FLUSH_ALL:
		m->mmu.flush = true;
		return 0;
	case MMUEXT_INVLPG_LOCAL:
	case MMUEXT_INVLPG_MULTI:
	case MMUEXT_INVLPG_ALL:
		pend_invlpg(m, op->arg1.linear_addr);
		return 0;
	case MMUEXT_FLUSH_CACHE:
	case MMUEXT_FLUSH_CACHE_GLOBAL:
		return 0; /* no device of this machine bypasses the caches */
	case MMUEXT_SET_LDT:
		/* Linux installs an empty LDT at every start; a real one is refused
		 * by modify_ldt(2) returning this error. */
		return op->arg2.nr_ents ? -EINVAL : 0;
	case MMUEXT_CLEAR_PAGE:
		page = guest_ram_ptr(&m->mem, gpa, PAGE_SIZE);
		if (!page)
			return -EINVAL;
		memset(page, 0, PAGE_SIZE);
		return 0;
	default:
		return -ENOSYS;
	}
}

int mmu_extended(struct machine *m, uint64_t va, uint64_t count, uint64_t *done)
{
	*done = 0;
	for (; *done < count; ++*done, va += sizeof(struct mmuext_op)) {
		struct mmuext_op op;
		int rc;

		if (!operation_allowed(m))
			return -E2BIG;
		if (mmu_copy_in(m, &op, va, sizeof(op)))
			return -EFAULT;
		rc = extended_one(m, &op);
		if (rc)
			return rc;
	}
	return 0;
}

int mmu_update_va(struct machine *m, uint64_t va, uint64_t pte, uint64_t flags)
{
	unsigned int level;
	uint64_t *entry = walk(m, m->vcpu.kernel_cr3, va, 1, &level);

	if (!entry || level != 1)
		return -EINVAL;
	if (pte & PTE_PRESENT) {
		level_drop_if_writable(m, pte);
		pte |= PTE_USER;
	}
	pte_store(m, (uint64_t)((uint8_t *)entry - m->mem.base), entry, pte);
	if ((flags & UVMF_FLUSHTYPE_MASK) == UVMF_INVLPG)
		pend_invlpg(m, va);
	else if ((flags & UVMF_FLUSHTYPE_MASK) == UVMF_TLB_FLUSH)
		m->mmu.flush = true;
	return 0;
}

bool mmu_fix_table_write(struct machine *m, uint64_t va)
{
	unsigned int level;
	uint64_t *entry = walk(m, m->vcpu.kernel_cr3, va, 1, &level);

	if (!entry || level != 1 || !(*entry & PTE_PRESENT) || !level_get(m, *entry & PTE_FRAME))
		return false;
	__atomic_fetch_or(entry, PTE_WRITE, __ATOMIC_RELAXED);
	return true;
}
