/* ELF64 loader for PV kernels: see elf_loader.h. Formats: elf(5), xen/elfnote.h. */
#include "vmm/elf_loader.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xen/elfnote.h>

#include "lib/cleanup.h"

#define PHDRS_MAX       64
#define NOTES_BYTES_MAX (64u * 1024)

static int read_exact(int fd, void *buf, size_t len, uint64_t offset)
{
	uint8_t *p = buf;

	while (len) {
		ssize_t n = pread(fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENOEXEC; /* the file is shorter than its headers say */
		p += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

static int segment_load(const struct guest_memory *mem, int fd, const Elf64_Phdr *ph,
			struct kernel_image *image, struct ramet_err *err)
{
	uint8_t *at = guest_ram_ptr(mem, ph->p_paddr, ph->p_memsz);
	int rc;

	if (!at || ph->p_filesz > ph->p_memsz)
		return err_set(
			err, ENOEXEC,
			"kernel segment at %#llx (%llu bytes) does not fit into %llu MiB of RAM",
			(unsigned long long)ph->p_paddr, (unsigned long long)ph->p_memsz,
			(unsigned long long)(mem->ram_bytes >> 20));
	rc = read_exact(fd, at, ph->p_filesz, ph->p_offset);
	if (rc)
		return err_errno(err, -rc, "cannot read the kernel's segment at %#llx",
				 (unsigned long long)ph->p_paddr);
	if (ph->p_paddr < image->start)
		image->start = ph->p_paddr;
	if (ph->p_paddr + ph->p_memsz > image->end)
		image->end = ph->p_paddr + ph->p_memsz;
	return 0;
}

static void note_apply(struct kernel_image *image, uint32_t type, const uint8_t *desc,
		       uint32_t size)
{
	uint64_t value;

	if (size != sizeof(value))
		return;
	memcpy(&value, desc, sizeof(value));
	if (type == XEN_ELFNOTE_ENTRY)
		image->entry = value;
	else if (type == XEN_ELFNOTE_VIRT_BASE)
		image->virt_base = value;
}

static void notes_parse(struct kernel_image *image, const uint8_t *notes, size_t len)
{
	size_t at = 0;

	while (len - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr h;
		uint64_t name, desc, next;

		memcpy(&h, notes + at, sizeof(h));
		name = at + sizeof(h);
		desc = name + (((uint64_t)h.n_namesz + 3) & ~3ull);
		next = desc + (((uint64_t)h.n_descsz + 3) & ~3ull);
		if (next > len)
			return;
		if (h.n_namesz == 4 && !memcmp(notes + name, "Xen", 4))
			note_apply(image, h.n_type, notes + desc, h.n_descsz);
		at = next;
	}
}

static int notes_load(int fd, const Elf64_Phdr *ph, struct kernel_image *image)
{
	size_t len = ph->p_filesz < NOTES_BYTES_MAX ? ph->p_filesz : NOTES_BYTES_MAX;
	cleanup_free uint8_t *notes = malloc(len ? len : 1);
	int rc;

	if (!notes)
		return -ENOMEM;
	rc = read_exact(fd, notes, len, ph->p_offset);
	if (!rc)
		notes_parse(image, notes, len);
	return rc;
}

static int header_check(const Elf64_Ehdr *eh, struct ramet_err *err)
{
	if (memcmp(eh->e_ident, ELFMAG, SELFMAG) || eh->e_ident[EI_CLASS] != ELFCLASS64 ||
	    eh->e_machine != EM_X86_64 || eh->e_type != ET_EXEC)
		return err_set(
			err, ENOEXEC,
			"the kernel is not an uncompressed x86-64 vmlinux (ELF64 executable)");
	if (eh->e_phentsize != sizeof(Elf64_Phdr) || !eh->e_phnum || eh->e_phnum > PHDRS_MAX)
		return err_set(err, ENOEXEC, "the kernel has %u program headers of %u bytes",
			       eh->e_phnum, eh->e_phentsize);
	return 0;
}

int kernel_load(const struct guest_memory *mem, int fd, struct kernel_image *image,
		struct ramet_err *err)
{
	struct kernel_image k = { .start = UINT64_MAX };
	Elf64_Phdr ph[PHDRS_MAX];
	Elf64_Ehdr eh;
	int rc;

	rc = read_exact(fd, &eh, sizeof(eh), 0);
	if (rc)
		return err_errno(err, -rc, "cannot read the kernel's ELF header");
	rc = header_check(&eh, err);
	if (rc)
		return rc;
	rc = read_exact(fd, ph, eh.e_phnum * sizeof(ph[0]), eh.e_phoff);
	if (rc)
		return err_errno(err, -rc, "cannot read the kernel's program headers");
	for (unsigned int i = 0; i < eh.e_phnum && !rc; i++) {
		if (ph[i].p_type == PT_LOAD)
			rc = segment_load(mem, fd, &ph[i], &k, err);
		else if (ph[i].p_type == PT_NOTE && (rc = notes_load(fd, &ph[i], &k)))
			err_errno(err, -rc, "cannot read the kernel's notes");
	}
	if (rc)
		return rc;
	if (!k.entry || !k.virt_base || !k.end)
		return err_set(err, ENOEXEC,
			       "the kernel has no Xen PV entry point: it needs CONFIG_XEN_PV=y");
	/* The first page tables map one range of at most 1 GiB from virt_base. */
	if (k.virt_base % (1ull << 30) || k.entry < k.virt_base || k.entry - k.virt_base >= k.end)
		return err_set(err, ENOEXEC,
			       "the kernel's entry %#llx or base address %#llx is not possible",
			       (unsigned long long)k.entry, (unsigned long long)k.virt_base);
	*image = k;
	return 0;
}
