/* The hypervisor area on hardware-style KVMs: see backend_hardware.h. All of it
 * is supervisor-only and at the same place in both views, since code here
 * changes the page tables it runs in. */
#include <string.h>

#include "vmm/backend_common.h"
#include "vmm/backend_hardware.h"
#include "vmm/shim/shim_blob.h"
#include "vmm/trap.h"

/* Vectors that may arrive before the entry code has a stack: #DB behind MOV SS
 * comes on the first instruction of the kernel, NMI and #MC at any time. */
static bool vector_has_stack(unsigned int vector)
{
	return vector == VECTOR_DB || vector == VECTOR_NMI || vector == VECTOR_DF ||
	       vector == VECTOR_MC;
}

static void stubs_build(struct machine *m)
{
	/* A #DB that hit CPL-0 code is user space's doing and means nothing. */
	static const uint8_t debug[] = { 0xf6, 0x44,      0x24, 0x08, 0x03, /* testb $3, 8(%rsp) */
					 0x74, 0x04,                        /* jz 1f */
					 0xe6, VECTOR_DB, 0xeb, 0xfe,       /* out; jmp . */
					 0x48, 0xcf };                      /* 1: iretq */
	static const uint8_t int80[] = { 0xe6, PORT_INT80 };
	uint8_t *stubs = hv_page_ptr(m, HV_PAGE_STUBS);

	hv_stubs_init(m, HV_PAGE_STUBS);
	memcpy(stubs + VECTOR_DB * HV_STUB_SIZE, debug, sizeof(debug));
	memcpy(stubs + VECTOR_INT80 * HV_STUB_SIZE, int80, sizeof(int80));
}

static void gates_build(struct machine *m)
{
	for (unsigned int v = 0; v < 256; v++) {
		unsigned int dpl = v == VECTOR_BP || v == VECTOR_OF || v == VECTOR_INT80 ? 3 : 0;

		hv_gate_set(m, HV_PAGE_IDT, (uint8_t)v,
			    HV_PAGE_VA(HV_PAGE_STUBS) + v * HV_STUB_SIZE, SEL_KERNEL_CS, dpl,
			    vector_has_stack(v) ? 1 : 0);
	}
	if (!m->fast_path)
		return;
	hv_gate_set(m, HV_PAGE_IDT, VECTOR_PF, SHIM_ENTRY_VA + SHIM_OFFSET_FAULT, SEL_KERNEL_CS, 0,
		    0);
	hv_gate_set(m, HV_PAGE_IDT, VECTOR_BP, SHIM_ENTRY_VA + SHIM_OFFSET_BREAK, SEL_KERNEL_CS, 3,
		    0);
	hv_gate_set(m, HV_PAGE_IDT, VECTOR_GP, SHIM_ENTRY_VA + SHIM_OFFSET_GP, SEL_KERNEL_CS, 0, 0);
}

static void map_both(struct machine *m, unsigned int first, unsigned int end, unsigned int flags)
{
	for (unsigned int page = first; page < end; page++) {
		hv_map(m, HV_VIEW_KERNEL, page, page, flags);
		hv_map(m, HV_VIEW_USER, page, page, flags);
	}
}

/* No page here has HV_MAP_USER. */
static void views_build(struct machine *m)
{
	hv_views_init(m, HV_MAP_WRITE);
	map_both(m, HV_PAGE_GDT, HV_PAGE_IDT, HV_MAP_WRITE);
	map_both(m, HV_PAGE_IDT, HV_PAGE_STACK, 0);
	map_both(m, HV_PAGE_STACK, HV_PAGE_IST_END, HV_MAP_WRITE);
	map_both(m, HV_PAGE_ENTRY_USER, HV_PAGE_ENTRY_USER + 1, 0);
	map_both(m, HV_PAGE_OPS, HV_PAGE_LIST_END, 0);
	if (!m->fast_path)
		return;
	map_both(m, HV_PAGE_DATA, HV_PAGE_DATA + 1, HV_MAP_WRITE);
	map_both(m, HV_PAGE_SHIM_STACK, HV_PAGE_SHIM_STACK_END, HV_MAP_WRITE);
	map_both(m, HV_PAGE_SHIM, HV_PAGE_SHIM_END, 0);
}

void hardware_area_build(struct machine *m)
{
	hv_gdt_init(m);
	hv_tss_init(m, HV_PAGE_TSS, 0);
	backend_entry_page_init(m);
	stubs_build(m);
	gates_build(m);
	views_build(m);
	if (!m->fast_path)
		return;
	memcpy(hv_page_ptr(m, HV_PAGE_SHIM), shim_hardware_start,
	       (size_t)(shim_hardware_end - shim_hardware_start));
	backend_shim_init(m, true);
}
