/* Which pages were written: see dirty_log.h. */
#include "vmm/dirty_log.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "lib/cleanup.h"

static size_t bitmap_words(uint64_t bytes)
{
	return bytes / PAGE_SIZE / 64;
}

int dirty_log_start(struct machine *m, struct ramet_err *err)
{
	struct kvm_enable_cap manual_log = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
					     .args = { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE } };
	int rc;

	if (m->logged)
		return 0;
	if (!m->mem.touched)
		m->mem.touched = calloc(bitmap_words(m->mem.size), sizeof(*m->mem.touched));
	if (!m->mem.touched)
		return err_set(err, ENOMEM, "no memory to record touched pages");
	/* Reading must not protect pages again. */
	if (ioctl(m->vm_fd, KVM_ENABLE_CAP, &manual_log))
		return err_errno(err, errno, "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2");
	rc = machine_slot_set(m, SLOT_MEMORY, 0, m->mem.size, m->mem.base, KVM_MEM_LOG_DIRTY_PAGES,
			      err);
	if (!rc && m->aliased)
		rc = machine_slot_set(m, SLOT_ALIAS, ALIAS_GPA, m->mem.ram_bytes, m->mem.base,
				      KVM_MEM_LOG_DIRTY_PAGES, err);
	m->logged = !rc;
	return rc;
}

static int slot_read(const struct machine *m, uint32_t slot, uint64_t *log, size_t words,
		     uint64_t *bitmap, struct ramet_err *err)
{
	struct kvm_dirty_log request = { .slot = slot, .dirty_bitmap = log };

	if (ioctl(m->vm_fd, KVM_GET_DIRTY_LOG, &request))
		return err_errno(err, errno, "KVM_GET_DIRTY_LOG of slot %u", slot);
	for (size_t i = 0; i < words; i++)
		bitmap[i] |= log[i];
	return 0;
}

int dirty_log_read(const struct machine *m, uint64_t *bitmap, struct ramet_err *err)
{
	size_t words = bitmap_words(m->mem.size);
	cleanup_free uint64_t *log = calloc(words, sizeof(*log));
	int rc;

	if (!log)
		return err_set(err, ENOMEM, "no memory for the dirty log");
	rc = slot_read(m, SLOT_MEMORY, log, words, bitmap, err);
	if (!rc && m->aliased)
		rc = slot_read(m, SLOT_ALIAS, log, bitmap_words(m->mem.ram_bytes), bitmap, err);
	for (size_t i = 0; !rc && i < words; i++)
		bitmap[i] |= m->mem.touched[i];
	return rc;
}

int dirty_log_clear(struct machine *m, uint64_t first, uint32_t count, const uint64_t *mask,
		    struct ramet_err *err)
{
	struct kvm_clear_dirty_log request = { .slot = SLOT_MEMORY,
					       .first_page = first,
					       .num_pages = count,
					       .dirty_bitmap = (void *)(uintptr_t)mask };

	if (ioctl(m->vm_fd, KVM_CLEAR_DIRTY_LOG, &request))
		return err_errno(err, errno, "KVM_CLEAR_DIRTY_LOG");
	request.slot = SLOT_ALIAS;
	if (m->aliased && ioctl(m->vm_fd, KVM_CLEAR_DIRTY_LOG, &request))
		return err_errno(err, errno, "KVM_CLEAR_DIRTY_LOG of the alias");
	for (size_t i = 0; i < count / 64; i++)
		m->mem.touched[first / 64 + i] &= ~mask[i];
	return 0;
}
