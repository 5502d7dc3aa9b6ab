/* A machine without KVM: see fake_machine.h. */
#include "tests/fake/fake_machine.h"

#include <stdlib.h>
#include <string.h>

#include "vmm/cpuid.h"
#include "vmm/evtchn.h"
#include "vmm/hypercall.h"
#include "vmm/mmu.h"
#include "vmm/timekeeping.h"

#define ACCESS (PTE_PRESENT | PTE_WRITE | PTE_USER | PTE_ACCESSED | PTE_DIRTY)

struct fake_backend *fake_backend(const struct machine *m)
{
	return m->backend;
}

static int fake_setup(struct machine *m, struct ramet_err *err)
{
	(void)m;
	(void)err;
	return 0;
}

static void fake_commit(struct machine *m)
{
	fake_backend(m)->commits++;
	mmu_pending_clear(m);
}

static int fake_base_get(struct machine *m, enum segment_base base, uint64_t *value)
{
	*value = fake_backend(m)->bases[base];
	return 0;
}

static int fake_base_set(struct machine *m, enum segment_base base, uint64_t value)
{
	fake_backend(m)->bases[base] = value;
	return 0;
}

static void fake_pv_changed(struct machine *m)
{
	fake_backend(m)->pv_changes++;
}

static const struct vcpu_ops fake_ops = {
	.name = "fake",
	.setup = fake_setup,
	.mmu_commit = fake_commit,
	.base_get = fake_base_get,
	.base_set = fake_base_set,
	.pv_changed = fake_pv_changed,
};

static uint64_t *table_at(const struct machine *m, uint64_t gpa)
{
	return guest_ram_ptr(&m->mem, gpa, PAGE_SIZE);
}

static void tables_build(struct machine *m)
{
	table_at(m, FAKE_ROOT)[(FAKE_BASE >> 39) & 511] = FAKE_L3 | ACCESS;
	table_at(m, FAKE_L3)[(FAKE_BASE >> 30) & 511] = FAKE_L2 | ACCESS;
	for (uint64_t at = 0; at < FAKE_MAPPED; at += PAGE_SIZE) {
		bool is_table = at >= FAKE_ROOT && at < FAKE_TABLES_END;
		uint64_t l1 = FAKE_L1 + (at >> 21) * PAGE_SIZE;

		table_at(m, FAKE_L2)[at >> 21] = l1 | ACCESS;
		table_at(m, l1)[(at >> PAGE_SHIFT) & 511] =
			at | (is_table ? ACCESS & ~PTE_WRITE : ACCESS);
	}
}

struct machine *fake_machine_new(void)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct ramet_err err;

	if (!m || guest_memory_create(&m->mem, FAKE_RAM, &err))
		abort();
	m->backend = calloc(1, sizeof(struct fake_backend));
	if (!m->backend)
		abort();
	m->ops = &fake_ops;
	m->isolation = ISOLATION_FULL;
	m->kvm_fd = m->vm_fd = m->vcpu_fd = m->signal_fd = m->channel_fd = -1;
	m->m2p_size = PAGE_SIZE_2M;
	m->tsc_khz = 2000000;
	m->tsc_mul = 1u << 31;
	cpuid_expose(m, 7);
	evtchn_init(m);
	tables_build(m);
	m->vcpu = (struct vcpu){ .cs = SEL_USER_CS,
				 .kernel_mode = true,
				 .regs = { .rip = FAKE_VA(FAKE_SCRATCH), .rflags = 0x202 } };
	if (mmu_load_root(m, FAKE_ROOT, false))
		abort();
	time_start(m, 0);
	mmu_pending_clear(m);
	return m;
}

void fake_machine_free(struct machine *m)
{
	guest_memory_destroy(&m->mem);
	free(m->backend);
	free(m);
}

uint64_t fake_put(struct machine *m, uint64_t offset, const void *data, size_t len)
{
	if (guest_write(&m->mem, FAKE_SCRATCH + offset, data, len))
		abort();
	return FAKE_VA(FAKE_SCRATCH + offset);
}

void fake_get(const struct machine *m, uint64_t offset, void *data, size_t len)
{
	if (guest_read(&m->mem, FAKE_SCRATCH + offset, data, len))
		abort();
}

int64_t fake_call(struct machine *m, uint64_t nr, uint64_t a0, uint64_t a1, uint64_t a2,
		  uint64_t a3)
{
	struct kvm_regs *r = &m->vcpu.regs;

	r->rax = nr;
	r->rdi = a0;
	r->rsi = a1;
	r->rdx = a2;
	r->r10 = a3;
	hypercall_dispatch(m);
	return (int64_t)r->rax;
}
