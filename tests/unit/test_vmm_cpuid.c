/* The processor that guests see: what must be hidden is, what must be there is,
 * and the XSAVE sizes are those that Linux computes for itself. */
#include <cpuid.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/fake/fake_machine.h"
#include "vmm/cpuid.h"

#define BIT(n) (1u << (n))

static int setup(void **state)
{
	struct machine *m = fake_machine_new();

	cpuid_expose(m, cpuid_xcr0(NULL));
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	fake_machine_free(*state);
	return 0;
}

static struct cpuid_result query(const struct machine *m, uint32_t leaf, uint32_t subleaf)
{
	struct cpuid_result r;

	cpuid_query(m, leaf, subleaf, &r);
	return r;
}

static struct cpuid_result host(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid_result r;

	__cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
	return r;
}

static void what_a_pv_guest_cannot_use_is_hidden(void **state)
{
	const uint32_t ecx = BIT(2) | BIT(3) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(10) | BIT(15) |
			     BIT(17) | BIT(21) | BIT(24);
	const uint32_t edx = BIT(1) | BIT(2) | BIT(3) | BIT(7) | BIT(11) | BIT(12) | BIT(13) |
			     BIT(14) | BIT(17) | BIT(21) | BIT(22) | BIT(28) | BIT(29) | BIT(31);
	const uint32_t ebx7 = BIT(0) | BIT(1) | BIT(2) | BIT(4) | BIT(7) | BIT(10) | BIT(11) |
			      BIT(12) | BIT(14) | BIT(15) | BIT(20) | BIT(25);
	const uint32_t ecx7 = BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(7) | BIT(16) | BIT(22);
	const struct machine *m = *state;

	assert_int_equal(query(m, 1, 0).ecx & ecx, 0);
	assert_int_equal(query(m, 1, 0).edx & edx, 0);
	assert_int_equal(query(m, 7, 0).ebx & ebx7, 0);
	assert_int_equal(query(m, 7, 0).ecx & ecx7, 0);
	assert_int_equal(query(m, 7, 0).edx &
				 ~(BIT(2) | BIT(3) | BIT(4) | BIT(8) | BIT(10) | BIT(14)),
			 0);
	/* SVM, IBS; 1 GiB pages, RDTSCP. */
	assert_int_equal(query(m, 0x80000001, 0).ecx & (BIT(2) | BIT(10)), 0);
	assert_int_equal(query(m, 0x80000001, 0).edx & (BIT(26) | BIT(27)), 0);
	assert_int_equal(query(m, 0x8000000a, 0).eax, 0);
}

static void what_it_needs_is_there(void **state)
{
	const struct machine *m = *state;

	/* hypervisor, OSXSAVE; FXSR, SSE, SSE2; long mode, NX, SYSCALL */
	assert_int_equal(query(m, 1, 0).ecx & (BIT(31) | BIT(27)), BIT(31) | BIT(27));
	assert_int_equal(query(m, 1, 0).edx & (BIT(24) | BIT(25) | BIT(26)),
			 BIT(24) | BIT(25) | BIT(26));
	assert_int_equal(query(m, 0x80000001, 0).edx & (BIT(29) | BIT(20) | BIT(11)),
			 BIT(29) | BIT(20) | BIT(11));
	/* RDRAND, if the host has it: without, guests wait for entropy. */
	assert_int_equal(query(m, 1, 0).ecx & BIT(30), host(1, 0).ecx & BIT(30));
}

static void nothing_is_invented(void **state)
{
	const struct machine *m = *state;

	assert_int_equal(query(m, 1, 0).ecx & ~(host(1, 0).ecx | BIT(31) | BIT(27)), 0);
	assert_int_equal(query(m, 1, 0).edx & ~host(1, 0).edx, 0);
	assert_int_equal(query(m, 7, 0).ebx & ~host(7, 0).ebx, 0);
	assert_int_equal(query(m, 7, 0).ecx & ~host(7, 0).ecx, 0);
	assert_int_equal(query(m, 0x80000001, 0).ecx & ~host(0x80000001, 0).ecx, 0);
	assert_int_equal(query(m, 0x80000001, 0).edx & ~host(0x80000001, 0).edx, 0);
}

/* As Linux does it: xstate_calculate_size() and the compacted offsets. */
static void check_xsave(const struct machine *m)
{
	uint32_t standard = 576, compacted = 576;

	for (uint32_t i = 2; i < 63; i++) {
		struct cpuid_result r = query(m, 0xd, i);

		if (!(m->xcr0 >> i & 1)) {
			assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
			continue;
		}
		assert_true(r.eax > 0);
		if (r.ebx + r.eax > standard)
			standard = r.ebx + r.eax;
		if (r.ecx & 2)
			compacted = (compacted + 63) & ~63u;
		compacted += r.eax;
	}
	assert_int_equal(query(m, 0xd, 0).eax, (uint32_t)m->xcr0);
	assert_int_equal(query(m, 0xd, 0).edx, 0);
	assert_int_equal(query(m, 0xd, 0).ebx, standard);
	assert_int_equal(query(m, 0xd, 0).ecx, standard);
	assert_int_equal(query(m, 0xd, 1).ebx, compacted);
	assert_int_equal(query(m, 0xd, 1).eax & ~7u, 0); /* no XSAVES */
	assert_int_equal(query(m, 0xd, 1).ecx | query(m, 0xd, 1).edx, 0);
	assert_true(standard <= 4096);
}

static void xsave_sizes_fit_the_exposed_components(void **state)
{
	struct machine *m = *state;
	uint64_t full = m->xcr0;

	check_xsave(m);
	cpuid_expose(m, 3);
	check_xsave(m);
	if (full & 4) {
		cpuid_expose(m, 7);
		check_xsave(m);
	}
}

static void exposed_components_are_the_hosts(void **state)
{
	const struct machine *m = *state;
	struct cpuid_result r = host(0xd, 0);

	assert_int_equal(m->xcr0 & 3, 3);
	assert_int_equal(m->xcr0 & ~(uint64_t)0xe7, 0);
	if (host(0, 0).eax >= 0xd)
		assert_int_equal(m->xcr0 & ~(((uint64_t)r.edx << 32 | r.eax) | 3), 0);
}

static void there_is_one_processor(void **state)
{
	const struct machine *m = *state;

	assert_int_equal(query(m, 1, 0).ebx >> 16, 1); /* one, with APIC id 0 */
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(query(m, 0xb, i).ebx, 0);
		assert_int_equal(query(m, 0xb, i).edx, 0);
	}
	assert_int_equal(query(m, 0x8000001e, 0).eax, 0);
	assert_int_equal(query(m, 0x80000008, 0).ecx, 0);
}

static void xen_is_announced(void **state)
{
	struct machine *m = *state;
	struct cpuid_result r = query(m, 0x40000000, 0);
	char name[13] = "";

	memcpy(name, &r.ebx, 4);
	memcpy(name + 4, &r.ecx, 4);
	memcpy(name + 8, &r.edx, 4);
	assert_string_equal(name, "XenVMMXenVMM");
	assert_true(r.eax >= 0x40000002);
	m->tsc_khz = 2345678;
	assert_int_equal(query(m, 0x40000003, 0).ecx, 2345678);
	/* "never emulated" would make newer Linux prefer the TSC to the PV clock. */
	assert_int_not_equal(query(m, 0x40000003, 0).ebx, 2);
}

static void unknown_leaves_are_zero(void **state)
{
	static const uint32_t leaves[] = { 0x1000, 0x7fffffff, 0x40000010, 0x400000ff,
					   0x80001000, 0xc0000000, 0xffffffff };
	const struct machine *m = *state;

	for (size_t i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++) {
		struct cpuid_result r = query(m, leaves[i], 0);

		assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
	}
}

static void the_hash_is_of_the_processor_not_of_time(void **state)
{
	struct machine *m = *state;
	uint64_t hash = cpuid_hash(m);

	assert_int_equal(cpuid_hash(m), hash);
	m->tsc_khz++;
	m->tsc_mul++;
	assert_int_equal(cpuid_hash(m), hash);
	cpuid_expose(m, m->xcr0 == 3 ? 7 : 3);
	assert_int_not_equal(cpuid_hash(m), hash);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_a_pv_guest_cannot_use_is_hidden),
		TEST(what_it_needs_is_there),
		TEST(nothing_is_invented),
		TEST(xsave_sizes_fit_the_exposed_components),
		TEST(exposed_components_are_the_hosts),
		TEST(there_is_one_processor),
		TEST(xen_is_announced),
		TEST(unknown_leaves_are_zero),
		TEST(the_hash_is_of_the_processor_not_of_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
