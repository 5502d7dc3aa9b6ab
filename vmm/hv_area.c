/* The hypervisor area: see hv_area.h. Structures: AMD64 Architecture
 * Programmer's Manual volume 2, chapters 4 (segments), 8 (gates), 12 (TSS). */
#include "vmm/hv_area.h"

#include <string.h>

#include "vmm/mmu.h"

#define DIRECT_TABLES ((RAM_BYTES_MAX >> 30) + 1)

/* Page tables, in pages from HV_PAGE_TABLES. The first three are what root
 * tables point to (vmm/mmu.c, root_install). */
enum {
	TABLE_L3_KERNEL,
	TABLE_L3_USER,
	TABLE_L3_DIRECT,
	TABLE_L2_M2P,
	TABLE_L2_KERNEL,
	TABLE_L1_KERNEL,
	TABLE_L2_USER,
	TABLE_L1_USER,
	TABLE_L2_DIRECT, /* one per GiB of guest memory */
	TABLE_L2_ALIAS = TABLE_L2_DIRECT + DIRECT_TABLES,
	TABLE_END = TABLE_L2_ALIAS + DIRECT_TABLES,
};

_Static_assert(TABLE_END <= HV_PAGE_COUNT - HV_PAGE_TABLES, "page tables fit into their pages");

#define TABLE_ACCESS (PTE_PRESENT | PTE_WRITE | PTE_USER | PTE_ACCESSED | PTE_DIRTY)
#define LEAF_ACCESS  (PTE_PRESENT | PTE_ACCESSED | PTE_DIRTY)

static uint64_t *table_ptr(const struct machine *m, unsigned int table)
{
	return hv_page_ptr(m, HV_PAGE_TABLES + table);
}

static uint64_t table_entry(unsigned int table)
{
	return HV_PAGE_GPA(HV_PAGE_TABLES + table) | TABLE_ACCESS;
}

void *hv_va_ptr(const struct machine *m, uint64_t va, size_t len, unsigned int first,
		unsigned int last)
{
	if (va < HV_PAGE_VA(first) || va > HV_PAGE_VA(last) || len > HV_PAGE_VA(last) - va)
		return NULL;
	return m->hv + (va - HV_VA);
}

static uint64_t leaf_flags(unsigned int flags)
{
	return LEAF_ACCESS | (flags & HV_MAP_WRITE ? PTE_WRITE : 0) |
	       (flags & HV_MAP_USER ? PTE_USER : 0);
}

/* Maps `size` bytes from gpa `base` at entry `first` of the direct map's L3. */
static void direct_map(struct machine *m, unsigned int tables, unsigned int first, uint64_t size,
		       uint64_t base, unsigned int flags)
{
	for (uint64_t at = 0; at < size; at += PAGE_SIZE_2M) {
		unsigned int gib = (unsigned int)(at >> 30);

		table_ptr(m, TABLE_L3_DIRECT)[first + gib] = table_entry(tables + gib);
		table_ptr(m, tables + gib)[(at >> 21) & 511] =
			(base + at) | leaf_flags(flags) | PTE_LARGE | PTE_NX;
	}
}

void hv_views_init(struct machine *m, unsigned int direct_map_flags)
{
	unsigned int hv_slot = (unsigned int)(HV_VA >> 30) & 511;

	table_ptr(m, TABLE_L3_KERNEL)[0] = table_entry(TABLE_L2_M2P);
	table_ptr(m, TABLE_L3_KERNEL)[hv_slot] = table_entry(TABLE_L2_KERNEL);
	table_ptr(m, TABLE_L2_KERNEL)[0] = table_entry(TABLE_L1_KERNEL);
	table_ptr(m, TABLE_L3_USER)[hv_slot] = table_entry(TABLE_L2_USER);
	table_ptr(m, TABLE_L2_USER)[0] = table_entry(TABLE_L1_USER);
	for (uint64_t at = 0; at < m->m2p_size; at += PAGE_SIZE_2M)
		table_ptr(m, TABLE_L2_M2P)[at / PAGE_SIZE_2M] =
			(M2P_GPA + at) | leaf_flags(HV_MAP_USER) | PTE_LARGE | PTE_NX;
	direct_map(m, TABLE_L2_DIRECT, 0, m->mem.size, 0, direct_map_flags);
}

void hv_alias_map(struct machine *m, unsigned int flags)
{
	direct_map(m, TABLE_L2_ALIAS, (unsigned int)((DM_ALIAS_VA - DM_VA) >> 30), m->mem.ram_bytes,
		   ALIAS_GPA, flags);
}

void hv_map(struct machine *m, enum hv_view view, unsigned int at, unsigned int page,
	    unsigned int flags)
{
	uint64_t *l1 = table_ptr(m, view == HV_VIEW_KERNEL ? TABLE_L1_KERNEL : TABLE_L1_USER);

	l1[at] = HV_PAGE_GPA(page) | leaf_flags(flags);
}

void hv_gdt_init(struct machine *m)
{
	uint64_t *gdt = hv_page_ptr(m, HV_PAGE_GDT);
	uint64_t tss = HV_PAGE_VA(HV_PAGE_TSS);

	gdt[SEL_KERNEL_CS / 8] = 0x00af9b000000ffffull;
	gdt[SEL_KERNEL_SS / 8] = 0x00cf93000000ffffull;
	gdt[SEL_USER32_CS / 8] = 0x00cffb000000ffffull;
	gdt[SEL_USER_SS / 8] = 0x00cff3000000ffffull;
	gdt[SEL_USER_CS / 8] = 0x00affb000000ffffull;
	gdt[SEL_TSS / 8] = 0x0000890000000000ull | HV_TSS_LIMIT | ((tss & 0xffffff) << 16) |
			   (((tss >> 24) & 0xff) << 56);
	gdt[SEL_TSS / 8 + 1] = tss >> 32;
}

void hv_tss_init(struct machine *m, unsigned int page, uint32_t open_ports)
{
	uint8_t *tss = hv_page_ptr(m, page);
	uint64_t rsp0 = HV_PAGE_VA(HV_PAGE_STACK_END), ist1 = HV_PAGE_VA(HV_PAGE_IST_END);
	uint16_t bitmap = 0x68;

	memset(tss, 0, PAGE_SIZE);
	memcpy(tss + 0x04, &rsp0, sizeof(rsp0));
	memcpy(tss + 0x24, &ist1, sizeof(ist1));
	memcpy(tss + 0x66, &bitmap, sizeof(bitmap));
	memset(tss + bitmap, 0xff, HV_TSS_LIMIT - bitmap + 8);
	for (unsigned int i = 0; PORT_FIRST + i <= PORT_LAST; i++)
		if (open_ports & (1u << i))
			tss[bitmap + (PORT_FIRST + i) / 8] &=
				(uint8_t) ~(1u << ((PORT_FIRST + i) % 8));
}

void hv_gate_set(struct machine *m, unsigned int page, uint8_t vector, uint64_t handler,
		 uint16_t selector, unsigned int dpl, unsigned int ist)
{
	uint64_t *idt = hv_page_ptr(m, page);

	idt[2 * vector] = (handler & 0xffff) | ((uint64_t)selector << 16) | ((uint64_t)ist << 32) |
			  ((uint64_t)(0x8e | (dpl << 5)) << 40) |
			  (((handler >> 16) & 0xffff) << 48);
	idt[2 * vector + 1] = handler >> 32;
}

void hv_stubs_init(struct machine *m, unsigned int page)
{
	uint8_t *stubs = hv_page_ptr(m, page);

	for (unsigned int vector = 0; vector < 256; vector++) {
		/* out %al, $vector; jmp . */
		const uint8_t code[] = { 0xe6, (uint8_t)(vector < 32 ? vector : 31), 0xeb, 0xfe };

		memcpy(stubs + vector * HV_STUB_SIZE, code, sizeof(code));
	}
}
