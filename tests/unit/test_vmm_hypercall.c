/* The small hypercalls, and all of them with hostile arguments. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/clock.h"
#include "tests/fake/fake_machine.h"
#include "vmm/console.h"
#include "vmm/evtchn.h"
#include "vmm/hypercall.h"
#include "vmm/mmu.h"
#include "vmm/timekeeping.h"
#include "vmm/xen_abi.h"

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

static int64_t trap_table(struct machine *m, const struct trap_info *t, size_t count)
{
	return fake_call(m, __HYPERVISOR_set_trap_table, fake_put(m, 0, t, count * sizeof(*t)), 0,
			 0, 0);
}

static void trap_tables_are_taken(void **state)
{
	struct machine *m = *state;
	const struct trap_info t[] = {
		{ .vector = 14, .flags = 4, .cs = 0xe033, .address = FAKE_VA(0x1000) },
		{ .vector = 3, .flags = 3, .cs = 0xe033, .address = FAKE_VA(0x2000) },
		{ .vector = 0 },
		{ .vector = 5, .address = FAKE_VA(0x3000) },
	};

	assert_int_equal(trap_table(m, t, 4), 0);
	assert_int_equal(m->pv.traps[14].address, FAKE_VA(0x1000));
	assert_true(m->pv.traps[14].masks_events);
	assert_int_equal(m->pv.traps[3].dpl, 3);
	assert_int_equal(m->pv.traps[5].address, 0);
	assert_int_equal(fake_backend(m)->pv_changes, 1);
	assert_int_equal(fake_call(m, __HYPERVISOR_set_trap_table, 0, 0, 0, 0), 0);
	assert_int_equal(m->pv.traps[14].address, 0);
}

static void hostile_trap_tables_are_refused(void **state)
{
	struct machine *m = *state;
	const struct trap_info bad = { .vector = 14, .address = 1ull << 50 };
	struct trap_info *endless = calloc(300, sizeof(*endless));

	assert_non_null(endless);
	assert_int_equal(trap_table(m, &bad, 1), -EINVAL);
	assert_int_equal(m->pv.traps[14].address, 0);
	assert_int_equal(fake_call(m, __HYPERVISOR_set_trap_table, FAKE_HOLE_VA - 8, 0, 0, 0),
			 -EFAULT);
	for (unsigned int i = 0; i < 300; i++)
		endless[i] = (struct trap_info){ .vector = (uint8_t)i, .address = FAKE_VA(i) };
	assert_int_equal(trap_table(m, endless, 300), 0); /* ends by itself */
	free(endless);
}

static int64_t callback(struct machine *m, uint16_t type, uint16_t flags, uint64_t address)
{
	const struct callback_register r = { .type = type, .flags = flags, .address = address };

	return fake_call(m, __HYPERVISOR_callback_op, CALLBACKOP_register,
			 fake_put(m, 0, &r, sizeof(r)), 0, 0);
}

static void callbacks_are_taken(void **state)
{
	struct machine *m = *state;
	const struct callback_unregister u = { .type = CALLBACKTYPE_event };

	assert_int_equal(callback(m, CALLBACKTYPE_event, 0, FAKE_VA(1)), 0);
	assert_int_equal(callback(m, CALLBACKTYPE_failsafe, 0, FAKE_VA(2)), 0);
	assert_int_equal(callback(m, CALLBACKTYPE_syscall, CALLBACKF_mask_events, FAKE_VA(3)), 0);
	assert_int_equal(m->pv.event_callback, FAKE_VA(1));
	assert_int_equal(m->pv.failsafe_callback, FAKE_VA(2));
	assert_int_equal(m->pv.syscall_callback, FAKE_VA(3));
	assert_true(m->pv.syscall_masks_events);
	assert_int_equal(fake_call(m, __HYPERVISOR_callback_op, CALLBACKOP_unregister,
				   fake_put(m, 0, &u, sizeof(u)), 0, 0),
			 0);
	assert_int_equal(m->pv.event_callback, 0);
	assert_int_equal(callback(m, CALLBACKTYPE_sysenter, 0, FAKE_VA(1)), -ENOSYS);
	assert_int_equal(callback(m, CALLBACKTYPE_event, 0, 1ull << 47), -EINVAL);
	assert_int_equal(fake_call(m, __HYPERVISOR_callback_op, 2, FAKE_VA(0), 0, 0), -ENOSYS);
}

static void memory_is_described(void **state)
{
	struct machine *m = *state;
	struct xen_memory_map map = { .nr_entries = 1 };
	uint64_t buffer = FAKE_VA(FAKE_SCRATCH + 64), range[2];
	struct xen_machphys_mapping mapping;

	memcpy(&map.buffer, &buffer, sizeof(buffer));
	assert_int_equal(fake_call(m, __HYPERVISOR_memory_op, XENMEM_memory_map,
				   fake_put(m, 0, &map, sizeof(map)), 0, 0),
			 0);
	fake_get(m, 64, range, sizeof(range));
	assert_int_equal(range[0], 0);
	assert_int_equal(range[1], FAKE_RAM);
	map.nr_entries = 0;
	assert_int_equal(fake_call(m, __HYPERVISOR_memory_op, XENMEM_memory_map,
				   fake_put(m, 0, &map, sizeof(map)), 0, 0),
			 -EINVAL);
	assert_int_equal(fake_call(m, __HYPERVISOR_memory_op, XENMEM_machphys_mapping,
				   FAKE_VA(FAKE_SCRATCH), 0, 0),
			 0);
	fake_get(m, 0, &mapping, sizeof(mapping));
	assert_int_equal(mapping.v_start, M2P_VA);
	assert_int_equal(mapping.max_mfn, (FAKE_RAM >> PAGE_SHIFT) - 1);
	assert_int_equal(fake_call(m, __HYPERVISOR_memory_op, 99, 0, 0, 0), -ENOSYS);
}

static void only_one_vcpu_is_up(void **state)
{
	struct machine *m = *state;

	assert_int_equal(fake_call(m, __HYPERVISOR_vcpu_op, VCPUOP_is_up, 0, 0, 0), 1);
	for (uint64_t cpu = 1; cpu < 70; cpu++)
		assert_int_equal(fake_call(m, __HYPERVISOR_vcpu_op, VCPUOP_is_up, cpu, 0, 0),
				 -ENOENT);
	assert_int_equal(fake_call(m, __HYPERVISOR_vcpu_op, VCPUOP_initialise, ~0ull, 0, 0),
			 -ENOENT);
}

static int64_t time_area(struct machine *m, uint64_t va)
{
	return fake_call(m, __HYPERVISOR_vcpu_op, VCPUOP_register_vcpu_time_memory_area, 0,
			 fake_put(m, 0, &va, sizeof(va)), 0);
}

static void the_guests_clock_follows_ours(void **state)
{
	struct machine *m = *state;
	struct vcpu_time_info t;

	assert_int_equal(time_area(m, FAKE_VA(0x300040)), 0);
	assert_int_equal(m->pv.time_info_gpa, 0x300040);
	time_start(m, 123456);
	time_publish(m);
	assert_int_equal(guest_read(&m->mem, 0x300040, &t, sizeof(t)), 0);
	assert_int_equal(t.system_time, 123456);
	assert_int_equal(t.version % 2, 0);
	assert_memory_equal(&t.tsc_timestamp, &vcpu_info_get(m)->time.tsc_timestamp,
			    sizeof(t) - offsetof(struct vcpu_time_info, tsc_timestamp));
	assert_int_equal(time_area(m, 0), 0);
	assert_int_equal(m->pv.time_info_gpa, 0);
	assert_int_equal(time_area(m, FAKE_HOLE_VA), -EFAULT);
	assert_int_equal(time_area(m, FAKE_VA(0x300fe8)), -EFAULT);
	assert_int_equal(time_area(m, FAKE_VA(0x300044)), -EFAULT);
	assert_int_equal(time_area(m, HV_VA), -EFAULT);
}

static int64_t end(struct machine *m, unsigned int reason)
{
	const struct sched_shutdown s = { .reason = reason };

	return fake_call(m, __HYPERVISOR_sched_op, SCHEDOP_shutdown, fake_put(m, 0, &s, sizeof(s)),
			 0, 0);
}

static void the_end_has_a_reason(void **state)
{
	static const struct {
		unsigned int shutdown;
		enum end_reason reason;
	} cases[] = { { SHUTDOWN_poweroff, END_POWEROFF },
		      { SHUTDOWN_reboot, END_REBOOT },
		      { SHUTDOWN_crash, END_PANIC },
		      { SHUTDOWN_suspend, END_GUEST_FAULT },
		      { 12345, END_GUEST_FAULT } };

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct machine *m = fake_machine_new();

		console_output(m, "the last line", 13);
		assert_int_equal(end(m, cases[i].shutdown), 0);
		assert_true(m->ended);
		assert_int_equal(m->end_reason, cases[i].reason);
		assert_true(strlen(m->end_text) > 10);
		if (cases[i].reason == END_PANIC)
			assert_non_null(strstr(m->end_text, "the last line"));
		(void)end(m, SHUTDOWN_reboot); /* the first reason stays */
		assert_int_equal(m->end_reason, cases[i].reason);
		fake_machine_free(m);
	}
	(void)state;
}

static void blocking_unmasks_events(void **state)
{
	struct machine *m = *state;

	assert_int_equal(fake_call(m, __HYPERVISOR_sched_op, SCHEDOP_block, 0, 0, 0), 0);
	assert_true(m->blocked);
	assert_int_equal(vcpu_info_mask(m), 0);
	assert_int_equal(fake_call(m, __HYPERVISOR_sched_op, SCHEDOP_yield, 0, 0, 0), 0);
	assert_int_equal(fake_call(m, __HYPERVISOR_sched_op, 77, 0, 0, 0), -ENOSYS);
}

static void segment_bases_are_set_by_role(void **state)
{
	struct machine *m = *state;
	const uint64_t *bases = fake_backend(m)->bases;

	assert_int_equal(fake_call(m, __HYPERVISOR_set_segment_base, SEGBASE_FS, 0x1000, 0, 0), 0);
	assert_int_equal(
		fake_call(m, __HYPERVISOR_set_segment_base, SEGBASE_GS_KERNEL, FAKE_BASE, 0, 0), 0);
	assert_int_equal(fake_call(m, __HYPERVISOR_set_segment_base, SEGBASE_GS_USER, 0x2000, 0, 0),
			 0);
	assert_int_equal(bases[BASE_FS], 0x1000);
	assert_int_equal(bases[BASE_GS_KERNEL], FAKE_BASE);
	assert_int_equal(bases[BASE_GS_USER], 0x2000);
	assert_int_equal(fake_call(m, __HYPERVISOR_set_segment_base, SEGBASE_GS_USER_SEL, 0, 0, 0),
			 0);
	assert_int_equal(bases[BASE_GS_USER], 0);
	for (uint64_t which = 0; which < 3; which++)
		assert_int_equal(
			fake_call(m, __HYPERVISOR_set_segment_base, which, 1ull << 47, 0, 0),
			-EINVAL);
	assert_int_equal(fake_call(m, __HYPERVISOR_set_segment_base, 4, 0, 0, 0), -EINVAL);
}

static void descriptors_are_plain_memory(void **state)
{
	struct machine *m = *state;
	uint64_t value;

	assert_int_equal(fake_call(m, __HYPERVISOR_update_descriptor, FAKE_SCRATCH + 8, 0x77, 0, 0),
			 0);
	fake_get(m, 8, &value, sizeof(value));
	assert_int_equal(value, 0x77);
	assert_int_equal(fake_call(m, __HYPERVISOR_update_descriptor, FAKE_SCRATCH + 4, 0, 0, 0),
			 -EINVAL);
	assert_int_equal(fake_call(m, __HYPERVISOR_update_descriptor, FAKE_RAM, 0, 0, 0), -EINVAL);
	assert_int_equal(fake_call(m, __HYPERVISOR_update_descriptor, HV_GPA, 0, 0, 0), -EINVAL);
	assert_int_equal(fake_call(m, __HYPERVISOR_update_descriptor, ~7ull, 0, 0, 0), -EINVAL);
}

static void there_are_no_breakpoints(void **state)
{
	struct machine *m = *state;

	assert_int_equal(fake_call(m, __HYPERVISOR_set_debugreg, 0, 0, 0, 0), 0);
	assert_int_equal(fake_call(m, __HYPERVISOR_set_debugreg, 0, 0x1000, 0, 0), -EINVAL);
	assert_int_equal(fake_call(m, __HYPERVISOR_set_debugreg, 7, 0x400, 0, 0), 0);
	assert_int_equal(fake_call(m, __HYPERVISOR_get_debugreg, 7, 0, 0, 0), 0x400);
	assert_int_equal(fake_call(m, __HYPERVISOR_set_debugreg, 8, 0, 0, 0), -EINVAL);
	assert_int_equal(fake_call(m, __HYPERVISOR_get_debugreg, 8, 0, 0, 0), -EINVAL);
	assert_int_equal(fake_call(m, __HYPERVISOR_get_debugreg, ~0ull, 0, 0, 0), -EINVAL);
}

static void multicalls_do_each(void **state)
{
	struct machine *m = *state;
	struct multicall_entry e[3] = { { .op = __HYPERVISOR_xen_version },
					{ .op = __HYPERVISOR_multicall },
					{ .op = __HYPERVISOR_stack_switch,
					  .args = { 0, 0x5000 } } };

	assert_int_equal(
		fake_call(m, __HYPERVISOR_multicall, fake_put(m, 0, e, sizeof(e)), 3, 0, 0), 0);
	fake_get(m, 0, e, sizeof(e));
	assert_int_equal(e[0].result, 4 << 16 | 17);
	assert_int_equal((int64_t)e[1].result, -EINVAL); /* no recursion */
	assert_int_equal(e[2].result, 0);
	assert_int_equal(m->vcpu.kernel_sp, 0x5000);
	assert_int_equal(fake_call(m, __HYPERVISOR_multicall, FAKE_VA(0), 1ull << 40, 0, 0),
			 -EINVAL);
	assert_int_equal(fake_call(m, __HYPERVISOR_multicall, FAKE_HOLE_VA - 32, 1, 0, 0), -EFAULT);
}

static void batches_report_what_was_done(void **state)
{
	struct machine *m = *state;
	const struct mmu_update u[2] = { { .ptr = FAKE_RAM }, { .ptr = 0 } };
	uint32_t done = 77;

	(void)fake_put(m, 256, &done, sizeof(done));
	assert_int_equal(fake_call(m, __HYPERVISOR_mmu_update, fake_put(m, 0, u, sizeof(u)), 2,
				   FAKE_VA(FAKE_SCRATCH + 256), DOMID_SELF),
			 -EINVAL);
	fake_get(m, 256, &done, sizeof(done));
	assert_int_equal(done, 0);
	assert_int_equal(fake_call(m, __HYPERVISOR_mmu_update, 0, 0, FAKE_HOLE_VA, DOMID_SELF),
			 -EFAULT);
}

static void console_writes_are_bounded(void **state)
{
	struct machine *m = *state;

	assert_int_equal(fake_call(m, __HYPERVISOR_console_io, CONSOLEIO_write, 5,
				   fake_put(m, 0, "hello", 5), 0),
			 0);
	assert_memory_equal(m->console_tail, "hello", 5);
	assert_int_equal(
		fake_call(m, __HYPERVISOR_console_io, CONSOLEIO_write, ~0ull, FAKE_VA(0), 0),
		-EINVAL);
	assert_int_equal(
		fake_call(m, __HYPERVISOR_console_io, CONSOLEIO_write, 5000, FAKE_HOLE_VA - 16, 0),
		-EFAULT);
	assert_int_equal(fake_call(m, __HYPERVISOR_console_io, CONSOLEIO_read, 5, FAKE_VA(0), 0),
			 0);
}

static void unknown_numbers_are_not_implemented(void **state)
{
	static const uint64_t numbers[] = { 11, 40, 63, 64, 0x7fffffff, 0xffffffff };
	struct machine *m = *state;

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		assert_int_equal(fake_call(m, numbers[i], ~0ull, ~0ull, ~0ull, ~0ull), -ENOSYS);
	assert_int_equal(fake_call(m, RAMET_HYPERCALL, 99, 0, 0, 0), -ENOSYS);
}

static uint64_t random_next(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return *seed >> 24;
}

static uint64_t random_argument(uint64_t *seed)
{
	static const uint64_t edges[] = { 0,          1,           2,      0xfff,
					  PAGE_SIZE,  FAKE_RAM,    HV_GPA, FAKE_HOLE_VA,
					  1ull << 47, 1ull << 52,  HV_VA,  DM_VA,
					  M2P_VA,     0xffffffffu, ~0ull };
	uint64_t r = random_next(seed);

	if (r % 3 == 0)
		return edges[(r >> 8) % (sizeof(edges) / sizeof(edges[0]))];
	if (r % 3 == 1)
		return (r >> 8) % 64;
	return FAKE_VA(FAKE_SCRATCH + (r >> 8) % 0x4000);
}

/* Hostile kernels end their own guest at worst; sanitizers watch the VMM. */
static void random_hypercalls_are_survived(void **state)
{
	uint64_t seed = 5;

	for (unsigned int machine = 0; machine < 40; machine++) {
		struct machine *m = fake_machine_new();

		for (unsigned int i = 0; i < 1500 && !m->ended; i++) {
			/* Structures of small random words. */
			for (unsigned int w = 0; w < 8; w++) {
				uint64_t word = random_argument(&seed);

				(void)fake_put(m, random_next(&seed) % 0x4000, &word, sizeof(word));
			}
			(void)fake_call(m, random_next(&seed) % 57, random_argument(&seed),
					random_argument(&seed), random_argument(&seed),
					random_argument(&seed));
			m->vcpu.kernel_mode = true;
			m->blocked = false;
			if (vcpu_info_pending(m) && i % 5 == 0)
				vcpu_info_get(m)->evtchn_upcall_pending = 0;
		}
		if (m->ended)
			assert_true(strlen(m->end_text) > 10);
		fake_machine_free(m);
	}
	(void)state;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static int64_t free_pages(struct machine *m, uint64_t first, uint64_t count, uint64_t va)
{
	return fake_call(m, RAMET_HYPERCALL, RAMET_OP_FREE_PAGES, first, count, va);
}

static void hostile_lists_of_free_pages_are_refused(void **state)
{
	struct machine *m = *state;
	static const uint64_t ones[FREE_PAGES_MAX / 64] = { ~0ull };
	uint64_t va = fake_put(m, 0, ones, sizeof(ones));
	uint64_t frames = guest_frames(&m->mem);

	assert_int_equal(free_pages(m, 0, FREE_PAGES_MAX + 64, va), -EINVAL);
	assert_int_equal(free_pages(m, 0, ~63ull, va), -EINVAL);
	assert_int_equal(free_pages(m, 0, 1ull << 32, va), -EINVAL);
	assert_int_equal(free_pages(m, 0, 65, va), -EINVAL);
	assert_int_equal(free_pages(m, 32, 64, va), -EINVAL);
	assert_int_equal(free_pages(m, frames, 64, va), -EINVAL);
	assert_int_equal(free_pages(m, ~63ull, 64, va), -EINVAL);
	assert_int_equal(free_pages(m, frames - 64, 128, va), -EINVAL);
	assert_int_equal(free_pages(m, 0, 64, FAKE_HOLE_VA), -EFAULT);
	assert_int_equal(free_pages(m, 0, 128, FAKE_HOLE_VA - 8), -EFAULT);
	assert_int_equal(free_pages(m, 0, 0, FAKE_HOLE_VA), 0);
}

static void the_wall_clock_is_told(void **state)
{
	uint64_t before = clock_wall_ns() / 1000, after;
	int64_t told = fake_call(*state, RAMET_HYPERCALL, RAMET_OP_WALL_CLOCK, 0, 0, 0);

	after = clock_wall_ns() / 1000;
	assert_in_range(told, 0, WALL_CLOCK_MASK);
	assert_true((((uint64_t)told - before) & WALL_CLOCK_MASK) <= after - before);
}

static void unknown_calls_of_our_own_are_refused(void **state)
{
	assert_int_equal(fake_call(*state, RAMET_HYPERCALL, 0, 0, 0, 0), -ENOSYS);
	assert_int_equal(fake_call(*state, RAMET_HYPERCALL, 5, 0, 0, 0), -ENOSYS);
	assert_int_equal(fake_call(*state, RAMET_HYPERCALL, ~0ull, 0, 0, 0), -ENOSYS);
}

/* No balloon: the frames of this machine cannot be exchanged. */
static void reservations_cannot_be_changed(void **state)
{
	const uint64_t commands[] = { XENMEM_increase_reservation, XENMEM_decrease_reservation,
				      XENMEM_populate_physmap, XENMEM_exchange };

	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		assert_int_equal(fake_call(*state, __HYPERVISOR_memory_op, commands[i],
					   FAKE_VA(FAKE_SCRATCH), 0, 0),
				 -ENOSYS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(trap_tables_are_taken),
		TEST(hostile_trap_tables_are_refused),
		TEST(callbacks_are_taken),
		TEST(memory_is_described),
		TEST(hostile_lists_of_free_pages_are_refused),
		TEST(the_wall_clock_is_told),
		TEST(unknown_calls_of_our_own_are_refused),
		TEST(reservations_cannot_be_changed),
		TEST(only_one_vcpu_is_up),
		TEST(the_guests_clock_follows_ours),
		TEST(the_end_has_a_reason),
		TEST(blocking_unmasks_events),
		TEST(segment_bases_are_set_by_role),
		TEST(descriptors_are_plain_memory),
		TEST(there_are_no_breakpoints),
		TEST(multicalls_do_each),
		TEST(batches_report_what_was_done),
		TEST(console_writes_are_bounded),
		TEST(unknown_numbers_are_not_implemented),
		TEST(random_hypercalls_are_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
