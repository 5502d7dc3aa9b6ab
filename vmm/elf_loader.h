/* Loads an uncompressed Linux kernel (vmlinux, ELF64) with Xen's PV notes. */
#ifndef RAMET_VMM_ELF_LOADER_H
#define RAMET_VMM_ELF_LOADER_H

#include <stdint.h>

#include "lib/err.h"
#include "vmm/guest_memory.h"

struct kernel_image {
	uint64_t entry;     /* linear address of XEN_ELFNOTE_ENTRY */
	uint64_t virt_base; /* XEN_ELFNOTE_VIRT_BASE: linear address of gpa 0 */
	uint64_t start;     /* first gpa of the kernel */
	uint64_t end;       /* first gpa behind it */
};

/* Copies the loadable segments of `fd` to their physical addresses. Every
 * offset and size is checked against the file and the guest's RAM. -ENOEXEC
 * with a sentence for anything that is not such a kernel, -errno of read(2). */
int kernel_load(const struct guest_memory *mem, int fd, struct kernel_image *image,
		struct ramet_err *err);

#endif
