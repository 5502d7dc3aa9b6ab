/* The hypervisor area: the pages of descriptors, gates, stacks and code that
 * every address space of the guest carries in PML4 slots 257 and 258.
 *
 * There are two views of it: one in the root tables of the guest kernel, one
 * in those of its user space. A page can be mapped differently, or not at
 * all, in each. Nothing here is part of the guest's state. */
#ifndef RAMET_VMM_HV_AREA_H
#define RAMET_VMM_HV_AREA_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/layout.h"
#include "vmm/machine.h"

enum hv_view { HV_VIEW_KERNEL, HV_VIEW_USER };

#define HV_MAP_WRITE 1u
#define HV_MAP_USER  2u /* accessible at CPL 3 */

/* Host address of a page of the area. */
static inline void *hv_page_ptr(const struct machine *m, unsigned int page)
{
	return m->hv + page * PAGE_SIZE;
}

/* Host address of [va, va + len) when it lies in the area and in pages
 * [first, last), else NULL. For reading frames at an address the guest chose. */
void *hv_va_ptr(const struct machine *m, uint64_t va, size_t len, unsigned int first,
		unsigned int last);

/* Builds the empty views in an area that is all zeros: the machine-to-physical table (readable by the guest
 * kernel) and the direct map of guest memory, which user space never has.
 * `direct_map_flags`: HV_MAP_*. */
void hv_views_init(struct machine *m, unsigned int direct_map_flags);

/* Adds a second direct map, at DM_ALIAS_VA, of RAM by its alias addresses. */
void hv_alias_map(struct machine *m, unsigned int flags);

/* Maps page `at` of one view to page `page` of the area. */
void hv_map(struct machine *m, enum hv_view view, unsigned int at, unsigned int page,
	    unsigned int flags);

/* Writes a GDT with Linux's flat segments and the TSS descriptor. */
void hv_gdt_init(struct machine *m);

/* Writes a TSS: CPL-0 and IST 1 stacks, and an I/O bitmap that opens only the
 * given ports (a bit mask from PORT_FIRST on). */
void hv_tss_init(struct machine *m, unsigned int page, uint32_t open_ports);

/* One gate of the IDT in `page`. */
void hv_gate_set(struct machine *m, unsigned int page, uint8_t vector, uint64_t handler,
		 uint16_t selector, unsigned int dpl, unsigned int ist);

/* Fills a stub page: gate `vector` executes `out %al, $vector`, which reaches
 * the VMM with the exception frame on the stack. Vectors above 31 share one
 * stub with 31: no such gate is ever taken. */
void hv_stubs_init(struct machine *m, unsigned int page);

#define HV_STUB_SIZE 16u
#define HV_TSS_LIMIT (0x68 + PORT_LAST / 8 + 1)

#endif
