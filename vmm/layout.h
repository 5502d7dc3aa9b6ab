/* Where things are in guest-physical and guest-virtual space.
 *
 * Guest memory is one flat range from 0: the RAM that the guest is told of,
 * then the "meta" pages that belong to its state but not to its RAM: one byte
 * per frame that tells its page-table level, and the pages shared with the
 * hypervisor (shared_info, grant table). A snapshot or fork takes exactly this
 * range. The hypervisor area and the machine-to-physical table lie far above
 * any RAM and are rebuilt by every worker. */
#ifndef RAMET_VMM_LAYOUT_H
#define RAMET_VMM_LAYOUT_H

#define PAGE_SHIFT   12
#define PAGE_SIZE    4096ull
#define PAGE_MASK    (~(PAGE_SIZE - 1))
#define PAGE_SIZE_2M 0x200000ull

#define RAM_BYTES_MIN (64ull << 20)
#define RAM_BYTES_MAX (32ull << 30)

/* Shared pages, from the start of the second half of the meta range. */
#define PV_PAGES            16u
#define PV_PAGE_SHARED_INFO 0u
#define PV_PAGE_GRANT       1u /* first of GRANT_FRAMES_MAX */
#define GRANT_FRAMES_MAX    8u

#define HV_GPA    0x1000000000ull /* 64 GiB */
#define M2P_GPA   0x1100000000ull /* 68 GiB */
/* RAM a second time, where page-table stores are to go unseen by a KVM that
 * shadows page tables (backend_software_shim.c). */
#define ALIAS_GPA 0x2000000000ull

/* PML4 slot 257 holds the M2P table and the hypervisor area, slot 258 a direct
 * map of guest memory for the in-guest fast path. Slot 256 cannot be used on
 * every KVM; Linux asks for the M2P address with XENMEM_machphys_mapping and
 * leaves slots 256-271 to the hypervisor (arch-x86/xen-x86_64.h). */
#define HV_PML4_SLOT  257u
#define DM_PML4_SLOT  258u
#define HV_PML4_FIRST 256u
#define HV_PML4_LAST  271u
#define M2P_VA        0xffff808000000000ull
#define HV_VA         0xffff808040000000ull
#define DM_VA         0xffff810000000000ull
#define DM_ALIAS_VA   (DM_VA + (256ull << 30))

#ifndef __ASSEMBLER__
/* Bytes of guest memory, RAM and meta: what a snapshot or fork takes. */
static inline unsigned long long guest_memory_bytes(unsigned long long ram_bytes)
{
	unsigned long long levels = ram_bytes >> PAGE_SHIFT;

	levels = (levels + PAGE_SIZE_2M - 1) & ~(PAGE_SIZE_2M - 1);
	return ram_bytes + levels + PAGE_SIZE_2M;
}

/* Pages of the hypervisor area (index; VA = HV_VA + index * PAGE_SIZE). Pages
 * named *_USER are what the guest's user page tables map in the place of the
 * page of the same name without the suffix. */
enum hv_page {
	HV_PAGE_GDT = 0,
	HV_PAGE_TSS = 1,
	HV_PAGE_IDT = 2,
	HV_PAGE_STUBS = 3, /* 256 gates of 16 bytes */
	HV_PAGE_STACK = 4, /* CPL-0 stack, four pages; grows down from HV_PAGE_STACK_END */
	HV_PAGE_STACK_END = 8,
	HV_PAGE_IST = 8, /* stack of gates that use IST 1, two pages */
	HV_PAGE_IST_END = 10,
	HV_PAGE_TSS_USER = 10,
	HV_PAGE_IDT_USER = 11,
	HV_PAGE_FAST_STUBS = 12, /* CPL-0 entry stubs of the fast path */
	HV_PAGE_ENTRY_USER = 13, /* the system-call entry of user page tables */
	HV_PAGE_DATA = 14,       /* struct shim_data */
	HV_PAGE_SHIM_STACK = 16, /* stack of the fast path, four pages */
	HV_PAGE_SHIM_STACK_END = 20,
	HV_PAGE_SHIM = 32, /* code of the fast path; its first page is LSTAR */
	HV_PAGE_SHIM_END = 48,
	HV_PAGE_OPS = 64, /* generated CPL-0 code that commits page-table changes */
	HV_PAGE_OPS_END = 128,
	HV_PAGE_LIST = 128, /* its operands */
	HV_PAGE_LIST_END = 144,
	HV_PAGE_TABLES = 256, /* page tables of slots 257 and 258 */
	HV_PAGE_COUNT = 512,
};
#endif

#define HV_SIZE           (HV_PAGE_COUNT * PAGE_SIZE)
#define HV_PAGE_VA(page)  (HV_VA + (unsigned long long)(page)*PAGE_SIZE)
#define HV_PAGE_GPA(page) (HV_GPA + (unsigned long long)(page)*PAGE_SIZE)

/* Selectors. Linux's Xen PV code expects the flat ring-3 ones. */
#define SEL_KERNEL_CS 0x10
#define SEL_KERNEL_SS 0x18
#define SEL_USER32_CS 0x23
#define SEL_USER_SS   0x2b
#define SEL_USER_CS   0x33
#define SEL_TSS       0x40
#define GDT_LIMIT     0x4f

/* Ports by which in-guest code reaches the VMM. 0..31: exception of that
 * vector, frame on the CPL-0 stack. */
#define PORT_SYSCALL  0x80 /* registers as the syscall instruction left them */
#define PORT_COMPAT   0x81 /* compat-mode syscall: arrives at CSTAR */
#define PORT_OPS_DONE 0x82
#define PORT_FAULT    0x83 /* page fault seen by the fast path: state in struct shim_data */
#define PORT_GP       0x84 /* #GP seen by the fast path, frame on the IST stack */
#define PORT_BP       0x85 /* #BP seen by the fast path, as PORT_FAULT */
#define PORT_FIRST    0x80
#define PORT_LAST     0x85
#define PORT_INT80    0x86 /* `int 0x80`, as an exception; from CPL 0, so not in the I/O bitmap */

#endif
