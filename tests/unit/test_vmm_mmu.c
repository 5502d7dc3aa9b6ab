/* Page tables: walks, table types, and the hypercalls that change them, with
 * arguments that no guest in its right mind makes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/fake/fake_machine.h"
#include "vmm/mmu.h"
#include "vmm/xen_abi.h"

#define SPARE 0x300000ull /* frames that nothing uses */
#define ACCESS (PTE_PRESENT | PTE_WRITE | PTE_ACCESSED | PTE_DIRTY)

static uint64_t *entry_at(const struct machine *m, uint64_t gpa)
{
	uint64_t *e = guest_ram_ptr(&m->mem, gpa, sizeof(*e));

	assert_non_null(e);
	return e;
}

static unsigned int level_at(const struct machine *m, uint64_t gpa)
{
	uint8_t level;

	assert_int_equal(guest_read(&m->mem, m->mem.levels_gpa + (gpa >> PAGE_SHIFT), &level, 1), 0);
	return level;
}

static uint64_t l1_entry_gpa(uint64_t mapped)
{
	return FAKE_L1 + (mapped >> 21) * PAGE_SIZE + ((mapped >> PAGE_SHIFT) & 511) * 8;
}

static int setup(void **state)
{
	*state = fake_machine_new();
	return 0;
}

static int teardown(void **state)
{
	fake_machine_free(*state);
	return 0;
}

/* ---- walks ---- */

static void translation_follows_the_tables(void **state)
{
	struct machine *m = *state;
	uint64_t gpa = 0;

	assert_int_equal(mmu_translate(m, FAKE_ROOT, FAKE_VA(0x234567), &gpa), 0);
	assert_int_equal(gpa, 0x234567);
	assert_int_equal(mmu_translate(m, FAKE_ROOT, FAKE_HOLE_VA, &gpa), -EFAULT);
	assert_int_equal(mmu_translate(m, FAKE_ROOT, 0, &gpa), -EFAULT);
	assert_int_equal(mmu_translate(m, FAKE_ROOT, ~0ull, &gpa), -EFAULT);
	assert_int_equal(gpa, 0x234567);
}

static void large_pages_are_followed(void **state)
{
	struct machine *m = *state;
	uint64_t gpa;

	*entry_at(m, FAKE_L2 + 100 * 8) = 0x400000 | ACCESS | PTE_LARGE;
	assert_int_equal(mmu_translate(m, FAKE_ROOT, FAKE_VA(100 * PAGE_SIZE_2M + 0x12345), &gpa), 0);
	assert_int_equal(gpa, 0x412345);
	*entry_at(m, FAKE_L3 + 8) = 0x40000000ull | ACCESS | PTE_LARGE;
	assert_int_equal(mmu_translate(m, FAKE_ROOT, (FAKE_BASE & ~0x7fffffffffull) + 0x40000123, &gpa),
			 0);
	assert_int_equal(gpa, 0x40000123);
}

static void tables_outside_of_memory_end_a_walk(void **state)
{
	static const uint64_t frames[] = { FAKE_RAM, HV_GPA, M2P_GPA, PTE_FRAME, 1ull << 51 };
	struct machine *m = *state;
	uint64_t gpa;

	for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
		assert_int_equal(mmu_translate(m, frames[i], FAKE_VA(0), &gpa), -EFAULT);
		*entry_at(m, FAKE_L2) = frames[i] | ACCESS;
		assert_int_equal(mmu_translate(m, FAKE_ROOT, FAKE_VA(0), &gpa), -EFAULT);
	}
}

static void copies_end_where_memory_ends(void **state)
{
	struct machine *m = *state;
	uint8_t buf[2 * PAGE_SIZE];

	memset(buf, 0xcc, sizeof(buf));
	assert_int_equal(mmu_copy_out(m, FAKE_VA(0x5ff0), buf, sizeof(buf)), 0);
	assert_int_equal(mmu_copy_in(m, buf, FAKE_HOLE_VA - 8, 8), 0);
	assert_int_equal(mmu_copy_in(m, buf, FAKE_HOLE_VA - 8, 9), -EFAULT);
	assert_int_equal(mmu_copy_out(m, FAKE_HOLE_VA - 8, buf, 9), -EFAULT);
	assert_int_equal(mmu_copy_in(m, buf, ~0ull - 3, 8), -EFAULT);
	assert_int_equal(mmu_copy_in(m, buf, HV_VA, 8), -EFAULT);
	assert_int_equal(mmu_copy_out(m, DM_VA, buf, 8), -EFAULT);
	/* A leaf that points nowhere. */
	*entry_at(m, l1_entry_gpa(0x6000)) = HV_GPA | ACCESS;
	assert_int_equal(mmu_copy_in(m, buf, FAKE_VA(0x6000), 1), -EFAULT);
	assert_int_equal(mmu_copy_out(m, FAKE_VA(0x6000), buf, 1), -EFAULT);
}

static void fetching_stops_at_a_hole(void **state)
{
	struct machine *m = *state;
	uint8_t buf[15];

	assert_int_equal(mmu_fetch(m, FAKE_HOLE_VA - 4, buf, sizeof(buf)), 4);
	assert_int_equal(mmu_fetch(m, FAKE_HOLE_VA, buf, sizeof(buf)), 0);
	assert_int_equal(mmu_fetch(m, FAKE_VA(0), buf, sizeof(buf)), sizeof(buf));
}

static void the_mode_decides_the_root(void **state)
{
	struct machine *m = *state;

	assert_int_equal(mmu_root(m), FAKE_ROOT);
	m->vcpu.kernel_mode = false;
	assert_int_equal(mmu_root(m), FAKE_ROOT);
	m->vcpu.user_cr3 = SPARE;
	assert_int_equal(mmu_root(m), SPARE);
	m->isolation = ISOLATION_FAST;
	assert_int_equal(mmu_root(m), FAKE_ROOT);
}

/* ---- types ---- */

static void loading_a_root_types_its_tables(void **state)
{
	struct machine *m = *state;

	assert_int_equal(level_at(m, FAKE_ROOT), 4 | LEVEL_ROOT_KERNEL);
	assert_int_equal(level_at(m, FAKE_L3), 3);
	assert_int_equal(level_at(m, FAKE_L2), 2);
	assert_int_equal(level_at(m, FAKE_L1), 1);
	assert_int_equal(level_at(m, FAKE_SCRATCH), 0);
	assert_true(*entry_at(m, FAKE_ROOT + HV_PML4_SLOT * 8) & PTE_PRESENT);
	assert_true(*entry_at(m, FAKE_ROOT + DM_PML4_SLOT * 8) & PTE_PRESENT);
}

static void user_roots_have_no_direct_map(void **state)
{
	struct machine *m = *state;

	assert_int_equal(mmu_load_root(m, SPARE, true), 0);
	assert_int_equal(m->vcpu.user_cr3, SPARE);
	assert_int_equal(level_at(m, SPARE), 4 | LEVEL_ROOT_USER);
	assert_true(*entry_at(m, SPARE + HV_PML4_SLOT * 8) & PTE_PRESENT);
	assert_int_equal(*entry_at(m, SPARE + DM_PML4_SLOT * 8), 0);
	assert_true(*entry_at(m, SPARE + HV_PML4_SLOT * 8) !=
		    *entry_at(m, FAKE_ROOT + HV_PML4_SLOT * 8));
	assert_int_equal(mmu_load_root(m, 0, true), 0);
	assert_int_equal(m->vcpu.user_cr3, 0);
}

static void unpinning_forgets_the_types(void **state)
{
	struct machine *m = *state;

	*entry_at(m, SPARE) = (SPARE + 0x1000) | ACCESS;
	*entry_at(m, SPARE + 0x1000) = (SPARE + 0x2000) | ACCESS;
	*entry_at(m, SPARE + 0x2000) = (SPARE + 0x3000) | ACCESS;
	assert_int_equal(mmu_pin(m, SPARE, 4), 0);
	assert_int_equal(level_at(m, SPARE + 0x3000), 1);
	assert_true(*entry_at(m, SPARE) & PTE_USER);
	mmu_unpin(m, SPARE);
	for (uint64_t at = SPARE; at < SPARE + 0x4000; at += PAGE_SIZE)
		assert_int_equal(level_at(m, at), 0);
}

static void pinning_outside_of_memory_is_refused(void **state)
{
	struct machine *m = *state;

	assert_int_equal(mmu_pin(m, FAKE_RAM, 1), -EINVAL);
	assert_int_equal(mmu_pin(m, HV_GPA, 4), -EINVAL);
	assert_int_equal(mmu_pin(m, PTE_FRAME, 4), -EINVAL);
	assert_int_equal(mmu_load_root(m, FAKE_RAM, false), -EINVAL);
	assert_int_equal(mmu_load_root(m, HV_GPA, true), -EINVAL);
	mmu_unpin(m, HV_GPA);
}

static void a_table_that_contains_itself_ends(void **state)
{
	struct machine *m = *state;

	for (unsigned int i = 0; i < 8; i++)
		*entry_at(m, SPARE + i * 8) = SPARE | ACCESS;
	assert_int_equal(mmu_pin(m, SPARE, 4), 0);
	mmu_unpin(m, SPARE);
	assert_int_equal(mmu_load_root(m, SPARE, true), 0);
}

/* 512 * 512 * 512 tables, if nobody counted. */
static void a_tree_without_end_is_left(void **state)
{
	struct machine *m = *state;

	for (unsigned int i = 0; i < 512; i++)
		*entry_at(m, SPARE + i * 8) = SPARE | ACCESS;
	mmu_work_reset(m);
	assert_int_equal(mmu_pin(m, SPARE, 4), 0);
	assert_true(m->mmu.tables <= 4 * (FAKE_RAM >> PAGE_SHIFT) * 512);
	mmu_unpin(m, SPARE);
}

static void operations_of_one_exit_are_bounded(void **state)
{
	struct machine *m = *state;
	uint64_t done;

	mmu_work_reset(m);
	/* A page of zeroes: updates of the entry at 0 to 0. */
	assert_int_equal(mmu_update(m, FAKE_VA(SPARE), 1u << 19, &done), 0);
	assert_int_equal(mmu_update(m, FAKE_VA(SPARE), (1u << 19) + 1, &done), -E2BIG);
	assert_int_equal(done, 1u << 19);
	assert_int_equal(mmu_extended(m, FAKE_VA(SPARE), 1, &done), -E2BIG);
	mmu_work_reset(m);
	assert_int_equal(mmu_update(m, FAKE_VA(SPARE), 1, &done), 0);
}

static void table_writes_are_made_possible_once(void **state)
{
	struct machine *m = *state;

	assert_false(*entry_at(m, l1_entry_gpa(FAKE_L2)) & PTE_WRITE);
	assert_true(mmu_fix_table_write(m, FAKE_VA(FAKE_L2)));
	assert_true(*entry_at(m, l1_entry_gpa(FAKE_L2)) & PTE_WRITE);
	assert_false(mmu_fix_table_write(m, FAKE_VA(FAKE_SCRATCH)));
	assert_false(mmu_fix_table_write(m, FAKE_HOLE_VA));
	assert_false(mmu_fix_table_write(m, HV_VA));
}

/* ---- mmu_update ---- */

static int64_t update(struct machine *m, const struct mmu_update *u, uint64_t count)
{
	uint64_t done;

	return mmu_update(m, fake_put(m, 0, u, count * sizeof(*u)), count, &done);
}

static int64_t update_one(struct machine *m, uint64_t ptr, uint64_t value)
{
	const struct mmu_update u = { .ptr = ptr, .val = value };

	return update(m, &u, 1);
}

static void an_update_stores_and_remembers(void **state)
{
	struct machine *m = *state;
	uint64_t at = l1_entry_gpa(0x800000);

	assert_int_equal(update_one(m, at, 0x900000 | ACCESS), 0);
	assert_int_equal(*entry_at(m, at), 0x900000 | ACCESS | PTE_USER);
	assert_int_equal(m->mmu.touch_count, 1);
	assert_int_equal(m->mmu.touch[0], at);
}

static void additions_need_no_commit(void **state)
{
	struct machine *m = *state;
	uint64_t at = l1_entry_gpa(0x800000);

	assert_int_equal(update_one(m, at, 0), 0);
	assert_int_equal(m->mmu.touch_count, 1);
	mmu_pending_clear(m);
	assert_int_equal(update_one(m, at, 0x800000 | PTE_PRESENT), 0);
	assert_int_equal(update_one(m, at, 0x800000 | PTE_PRESENT | PTE_WRITE), 0);
	assert_int_equal(m->mmu.touch_count, 0);
	assert_int_equal(update_one(m, at, 0x800000 | PTE_PRESENT), 0);
	assert_int_equal(m->mmu.touch_count, 1);
}

static void preserving_keeps_accessed_and_dirty(void **state)
{
	struct machine *m = *state;
	uint64_t at = l1_entry_gpa(0x800000);

	assert_int_equal(update_one(m, at | MMU_PT_UPDATE_PRESERVE_AD, 0x800000 | PTE_PRESENT), 0);
	assert_int_equal(*entry_at(m, at),
			 0x800000 | PTE_PRESENT | PTE_USER | PTE_ACCESSED | PTE_DIRTY);
}

static void the_hypervisors_slots_stay(void **state)
{
	struct machine *m = *state;

	for (unsigned int slot = HV_PML4_FIRST; slot <= HV_PML4_LAST; slot++) {
		uint64_t before = *entry_at(m, FAKE_ROOT + slot * 8);

		assert_int_equal(update_one(m, FAKE_ROOT + slot * 8, 0x900000 | ACCESS), 0);
		assert_int_equal(*entry_at(m, FAKE_ROOT + slot * 8), before);
	}
}

static void a_writable_mapping_ends_a_tables_life(void **state)
{
	struct machine *m = *state;

	assert_int_equal(mmu_pin(m, SPARE, 1), 0);
	assert_int_equal(update_one(m, l1_entry_gpa(0x800000), SPARE | PTE_PRESENT), 0);
	assert_int_equal(level_at(m, SPARE), 1);
	assert_int_equal(update_one(m, l1_entry_gpa(0x800000), SPARE | ACCESS), 0);
	assert_int_equal(level_at(m, SPARE), 0);
}

static void new_tables_are_typed(void **state)
{
	struct machine *m = *state;

	assert_int_equal(update_one(m, FAKE_L2 + 511 * 8, SPARE | ACCESS), 0);
	assert_int_equal(level_at(m, SPARE), 1);
	assert_int_equal(update_one(m, FAKE_L2 + 510 * 8, FAKE_RAM | ACCESS), 0);
}

static void hostile_updates_are_refused(void **state)
{
	struct machine *m = *state;
	uint64_t done = 1;
	const struct mmu_update u = { .ptr = 0 };
	uint64_t va = fake_put(m, 0, &u, sizeof(u));

	assert_int_equal(update_one(m, FAKE_RAM, 0), -EINVAL);
	assert_int_equal(update_one(m, HV_GPA, 0), -EINVAL);
	assert_int_equal(update_one(m, ~7ull, 0), -EINVAL);
	assert_int_equal(update_one(m, FAKE_L1 | 3, 0), -ENOSYS);
	assert_int_equal(update_one(m, ~0ull & ~2ull, 0), 0); /* machine-to-physical: ignored */
	assert_int_equal(mmu_update(m, va, ~0ull, &done), -EFAULT); /* runs out of mapped memory */
	assert_int_equal(mmu_update(m, FAKE_HOLE_VA, 1, &done), -EFAULT);
	assert_int_equal(mmu_update(m, FAKE_HOLE_VA - 8, 1, &done), -EFAULT);
	assert_int_equal(mmu_update(m, 0, 0, &done), 0);
}

static void a_batch_says_how_far_it_came(void **state)
{
	struct machine *m = *state;
	const struct mmu_update u[] = { { l1_entry_gpa(0x800000), 0 },
					{ l1_entry_gpa(0x801000), 0 },
					{ FAKE_RAM, 0 },
					{ l1_entry_gpa(0x802000), 0 } };
	uint64_t done;

	assert_int_equal(mmu_update(m, fake_put(m, 0, u, sizeof(u)), 4, &done), -EINVAL);
	assert_int_equal(done, 2);
	assert_int_equal(*entry_at(m, l1_entry_gpa(0x801000)), 0);
	assert_int_not_equal(*entry_at(m, l1_entry_gpa(0x802000)), 0);
}

static void many_updates_are_committed_in_between(void **state)
{
	struct machine *m = *state;
	struct mmu_update *u = calloc(2048, sizeof(*u));

	assert_non_null(u);
	for (unsigned int round = 0; round < 4; round++) {
		for (unsigned int i = 0; i < 2048; i++)
			u[i] = (struct mmu_update){ l1_entry_gpa(0x800000 + i * PAGE_SIZE),
						    round % 2 ? 0x800000 | ACCESS : 0x900000 | ACCESS };
		assert_int_equal(update(m, u, 2048), 0);
		assert_true(m->mmu.touch_count <= MMU_PENDING_MAX);
	}
	assert_true(fake_backend(m)->commits >= 1);
	free(u);
}

/* ---- mmuext_op, update_va_mapping ---- */

static int64_t extended(struct machine *m, unsigned int cmd, uint64_t arg1, uint64_t arg2)
{
	struct mmuext_op op = { .cmd = cmd };
	uint64_t done;

	op.arg1.mfn = arg1;
	op.arg2.nr_ents = (unsigned int)arg2;
	return mmu_extended(m, fake_put(m, 0, &op, sizeof(op)), 1, &done);
}

static void extended_operations_work(void **state)
{
	struct machine *m = *state;

	assert_int_equal(extended(m, MMUEXT_PIN_L4_TABLE, SPARE >> PAGE_SHIFT, 0), 0);
	assert_int_equal(level_at(m, SPARE) & LEVEL_MASK, 4);
	assert_int_equal(extended(m, MMUEXT_NEW_USER_BASEPTR, SPARE >> PAGE_SHIFT, 0), 0);
	assert_int_equal(m->vcpu.user_cr3, SPARE);
	assert_int_equal(extended(m, MMUEXT_UNPIN_TABLE, SPARE >> PAGE_SHIFT, 0), 0);
	assert_int_equal(level_at(m, SPARE), 0);
	assert_int_equal(extended(m, MMUEXT_INVLPG_LOCAL, 0x1000, 0), 0);
	assert_int_equal(m->mmu.invlpg_count, 1);
	assert_false(m->mmu.flush);
	assert_int_equal(extended(m, MMUEXT_TLB_FLUSH_LOCAL, 0, 0), 0);
	assert_true(m->mmu.flush);
	*entry_at(m, SPARE) = 5;
	assert_int_equal(extended(m, MMUEXT_CLEAR_PAGE, SPARE >> PAGE_SHIFT, 0), 0);
	assert_int_equal(*entry_at(m, SPARE), 0);
}

static void many_invalidations_become_a_flush(void **state)
{
	struct machine *m = *state;

	for (uint64_t i = 0; i < 64; i++)
		assert_int_equal(extended(m, MMUEXT_INVLPG_LOCAL, i * PAGE_SIZE, 0), 0);
	assert_false(m->mmu.flush);
	assert_int_equal(extended(m, MMUEXT_INVLPG_LOCAL, 0, 0), 0);
	assert_true(m->mmu.flush);
}

static void hostile_extended_operations_are_refused(void **state)
{
	static const unsigned int with_frame[] = { MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L4_TABLE,
						   MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR,
						   MMUEXT_CLEAR_PAGE };
	static const uint64_t frames[] = { FAKE_RAM >> PAGE_SHIFT, HV_GPA >> PAGE_SHIFT, 1ull << 40,
					   1ull << 52, ~0ull };
	struct machine *m = *state;
	uint64_t done;

	for (size_t c = 0; c < sizeof(with_frame) / sizeof(with_frame[0]); c++)
		for (size_t f = 0; f < sizeof(frames) / sizeof(frames[0]); f++)
			assert_int_equal(extended(m, with_frame[c], frames[f], 0), -EINVAL);
	assert_int_equal(m->vcpu.kernel_cr3, FAKE_ROOT);
	assert_int_equal(m->vcpu.user_cr3, 0);
	assert_int_equal(extended(m, MMUEXT_SET_LDT, FAKE_VA(0), 16), -EINVAL);
	assert_int_equal(extended(m, MMUEXT_SET_LDT, 0, 0), 0);
	assert_int_equal(extended(m, 12345, 0, 0), -ENOSYS);
	assert_int_equal(mmu_extended(m, FAKE_HOLE_VA, 1, &done), -EFAULT);
}

static void one_mapping_is_changed_by_address(void **state)
{
	struct machine *m = *state;

	assert_int_equal(mmu_update_va(m, FAKE_VA(0x800000), 0x900000 | ACCESS, UVMF_INVLPG), 0);
	assert_int_equal(*entry_at(m, l1_entry_gpa(0x800000)), 0x900000 | ACCESS | PTE_USER);
	assert_int_equal(m->mmu.invlpg_count, 1);
	assert_int_equal(mmu_update_va(m, FAKE_VA(0x800000), 0, UVMF_TLB_FLUSH | UVMF_ALL), 0);
	assert_true(m->mmu.flush);
	assert_int_equal(mmu_update_va(m, FAKE_HOLE_VA, 0, 0), -EINVAL);
	assert_int_equal(mmu_update_va(m, HV_VA, ACCESS, 0), -EINVAL);
	assert_int_equal(mmu_update_va(m, DM_VA, ACCESS, 0), -EINVAL);
	*entry_at(m, FAKE_L2 + 100 * 8) = 0x400000 | ACCESS | PTE_LARGE;
	assert_int_equal(mmu_update_va(m, FAKE_VA(100 * PAGE_SIZE_2M), 0, 0), -EINVAL);
}

static uint64_t random_next(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return *seed >> 20;
}

/* Whatever the tables hold, walks and types stay inside of guest memory: the
 * sanitizers and the page behind it would tell. */
static void random_tables_are_survived(void **state)
{
	struct machine *m = *state;
	uint64_t seed = 3, gpa;

	for (unsigned int round = 0; round < 2000; round++) {
		uint64_t table = FAKE_ROOT + (random_next(&seed) % 4) * PAGE_SIZE;
		uint64_t value = random_next(&seed) << 12 | random_next(&seed) % 256;

		/* Half of them within RAM, so that walks go on. */
		if (round % 2)
			value = value % FAKE_RAM | PTE_PRESENT;
		(void)update_one(m, (table + (random_next(&seed) % 512) * 8), value);
		(void)mmu_translate(m, FAKE_ROOT, random_next(&seed) << 20, &gpa);
		(void)mmu_update_va(m, random_next(&seed) << 12, value, round % 4);
		(void)extended(m, round % 5 ? MMUEXT_PIN_L1_TABLE + round % 4 : MMUEXT_UNPIN_TABLE,
			       random_next(&seed) % (FAKE_RAM >> PAGE_SHIFT), 0);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(translation_follows_the_tables),
		TEST(large_pages_are_followed),
		TEST(tables_outside_of_memory_end_a_walk),
		TEST(copies_end_where_memory_ends),
		TEST(fetching_stops_at_a_hole),
		TEST(the_mode_decides_the_root),
		TEST(loading_a_root_types_its_tables),
		TEST(user_roots_have_no_direct_map),
		TEST(unpinning_forgets_the_types),
		TEST(pinning_outside_of_memory_is_refused),
		TEST(a_table_that_contains_itself_ends),
		TEST(a_tree_without_end_is_left),
		TEST(operations_of_one_exit_are_bounded),
		TEST(table_writes_are_made_possible_once),
		TEST(an_update_stores_and_remembers),
		TEST(additions_need_no_commit),
		TEST(preserving_keeps_accessed_and_dirty),
		TEST(the_hypervisors_slots_stay),
		TEST(a_writable_mapping_ends_a_tables_life),
		TEST(new_tables_are_typed),
		TEST(hostile_updates_are_refused),
		TEST(a_batch_says_how_far_it_came),
		TEST(many_updates_are_committed_in_between),
		TEST(extended_operations_work),
		TEST(many_invalidations_become_a_flush),
		TEST(hostile_extended_operations_are_refused),
		TEST(one_mapping_is_changed_by_address),
		TEST(random_tables_are_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
