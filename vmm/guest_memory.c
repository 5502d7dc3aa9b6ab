/* Guest memory: see guest_memory.h. */
#include "vmm/guest_memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static uint64_t align_2m(uint64_t value)
{
	return (value + PAGE_SIZE_2M - 1) & ~(PAGE_SIZE_2M - 1);
}

int guest_memory_layout(struct guest_memory *mem, uint64_t ram_bytes, struct ramet_err *err)
{
	if (ram_bytes < RAM_BYTES_MIN || ram_bytes > RAM_BYTES_MAX || ram_bytes % PAGE_SIZE_2M)
		return err_set(
			err, EINVAL,
			"guest memory of %llu bytes is not supported: use a multiple of 2 MiB "
			"from %llu MiB to %llu MiB",
			(unsigned long long)ram_bytes, RAM_BYTES_MIN >> 20, RAM_BYTES_MAX >> 20);
	*mem = (struct guest_memory){ .ram_bytes = ram_bytes, .levels_gpa = ram_bytes };
	mem->pv_gpa = ram_bytes + align_2m(ram_bytes >> PAGE_SHIFT);
	mem->size = guest_memory_bytes(ram_bytes);
	return 0;
}

static int reserve(struct guest_memory *m, struct ramet_err *err)
{
	void *base;

	/* Aligned to 2 MiB so that the host can use huge pages. */
	base = mmap(NULL, m->size + PAGE_SIZE_2M, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return err_errno(err, errno, "cannot reserve %llu bytes for guest memory",
				 (unsigned long long)m->size);
	m->base = (uint8_t *)align_2m((uint64_t)base);
	if (m->base != base)
		(void)munmap(base, (size_t)(m->base - (uint8_t *)base));
	if ((uint8_t *)base + PAGE_SIZE_2M != m->base)
		(void)munmap(m->base + m->size, (size_t)((uint8_t *)base + PAGE_SIZE_2M - m->base));
	return 0;
}

int guest_memory_create(struct guest_memory *mem, uint64_t ram_bytes, struct ramet_err *err)
{
	struct guest_memory m;
	int rc = guest_memory_layout(&m, ram_bytes, err);

	if (!rc)
		rc = reserve(&m, err);
	if (rc)
		return rc;
	if (mprotect(m.base, m.size, PROT_READ | PROT_WRITE)) {
		int code = errno;

		guest_memory_destroy(&m);
		return err_errno(err, code, "cannot map %llu bytes of guest memory",
				 (unsigned long long)m.size);
	}
	/* A boot touches most of RAM: one fault per 2 MiB halves its time. Of the
	 * tables behind RAM it touches little. */
	(void)madvise(m.base, m.ram_bytes, MADV_HUGEPAGE);
	(void)madvise(m.base, m.size, MADV_DONTDUMP);
	*mem = m;
	return 0;
}

int guest_memory_reserve(struct guest_memory *mem, uint64_t ram_bytes, struct ramet_err *err)
{
	struct guest_memory m;
	int rc = guest_memory_layout(&m, ram_bytes, err);

	if (rc)
		return rc;
	m.touched = calloc(m.size / PAGE_SIZE / 64, sizeof(*m.touched));
	if (!m.touched)
		return err_set(err, ENOMEM, "no memory to record touched pages");
	rc = reserve(&m, err);
	if (rc) {
		free(m.touched);
		return rc;
	}
	*mem = m;
	return 0;
}

void guest_memory_destroy(struct guest_memory *mem)
{
	if (mem->base)
		(void)munmap(mem->base, mem->size);
	free(mem->touched);
	mem->base = NULL;
	mem->touched = NULL;
}

int guest_read(const struct guest_memory *mem, uint64_t gpa, void *buf, size_t len)
{
	const void *p = guest_ptr(mem, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(buf, p, len);
	return 0;
}

int guest_write(const struct guest_memory *mem, uint64_t gpa, const void *buf, size_t len)
{
	void *p = guest_ptr(mem, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(p, buf, len);
	return 0;
}
