/* Privileged instructions: what Linux executes is emulated, to the byte; all
 * else is left to the guest's own #GP handler with nothing changed. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/fake/fake_machine.h"
#include "vmm/emulate.h"
#include "vmm/evtchn.h"

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

/* Emulates the given bytes; returns whether it did, and checks that rip moved
 * by the instruction's length or not at all. */
static bool emulate(struct machine *m, const void *code, size_t length)
{
	static const uint8_t nops[16] = { 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
					  0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90 };
	uint64_t va = fake_put(m, 0, nops, sizeof(nops));
	bool done;

	(void)fake_put(m, 0, code, length);
	m->vcpu.regs.rip = va;
	done = emulate_privileged(m);
	assert_int_equal(m->vcpu.regs.rip, va + (done ? length : 0));
	return done;
}

#define CODE(...) ((const uint8_t[]){ __VA_ARGS__ }), sizeof((const uint8_t[]){ __VA_ARGS__ })

static void interrupt_flag_is_the_upcall_mask(void **state)
{
	struct machine *m = *state;

	assert_true(emulate(m, CODE(0xfb)));
	assert_int_equal(vcpu_info_mask(m), 0);
	assert_true(emulate(m, CODE(0xfa)));
	assert_int_equal(vcpu_info_mask(m), 1);
}

static void control_registers_are_fixed(void **state)
{
	struct machine *m = *state;
	struct kvm_regs *r = &m->vcpu.regs;

	assert_true(emulate(m, CODE(0x0f, 0x20, 0xc0))); /* mov %cr0, %rax */
	assert_int_equal(r->rax, 0x80050033);
	assert_true(emulate(m, CODE(0x41, 0x0f, 0x20, 0xdf))); /* mov %cr3, %r15 */
	assert_int_equal(r->r15, FAKE_ROOT);
	assert_true(emulate(m, CODE(0x0f, 0x20, 0xe3))); /* mov %cr4, %rbx */
	assert_int_equal(r->rbx & 0x20, 0x20);
	assert_true(emulate(m, CODE(0x44, 0x0f, 0x20, 0xc1))); /* mov %cr8, %rcx */
	assert_int_equal(r->rcx, 0);
	vcpu_info_set_cr2(m, 0x7777);
	assert_true(emulate(m, CODE(0x0f, 0x20, 0xd6))); /* mov %cr2, %rsi */
	assert_int_equal(r->rsi, 0x7777);
	r->rax = 0;
	assert_true(emulate(m, CODE(0x0f, 0x22, 0xd8))); /* mov %rax, %cr3 */
	assert_int_equal(m->vcpu.kernel_cr3, FAKE_ROOT);
	assert_false(emulate(m, CODE(0x0f, 0x20, 0xc8))); /* cr1 does not exist */
}

static void bases_are_read_and_written(void **state)
{
	static const uint32_t msrs[] = { 0xc0000100, 0xc0000101, 0xc0000102 };
	static const enum segment_base bases[] = { BASE_FS, BASE_GS_KERNEL, BASE_GS_USER };
	struct machine *m = *state;
	struct kvm_regs *r = &m->vcpu.regs;

	for (size_t i = 0; i < 3; i++) {
		r->rcx = msrs[i];
		r->rax = 0xffffffff12345678ull; /* the upper half does not count */
		r->rdx = 0x7f0f;
		assert_true(emulate(m, CODE(0x0f, 0x30)));
		assert_int_equal(fake_backend(m)->bases[bases[i]], 0x7f0f12345678ull);
		r->rax = r->rdx = ~0ull;
		assert_true(emulate(m, CODE(0x0f, 0x32)));
		assert_int_equal(r->rax, 0x12345678);
		assert_int_equal(r->rdx, 0x7f0f);
	}
}

static void unknown_registers_fault(void **state)
{
	static const uint32_t msrs[] = { 0, 0x1234, 0x174, 0xc0000082, 0xc0010000, 0xffffffff };
	struct machine *m = *state;

	for (size_t i = 0; i < sizeof(msrs) / sizeof(msrs[0]); i++) {
		m->vcpu.regs.rcx = msrs[i];
		m->vcpu.regs.rax = 0x55;
		assert_false(emulate(m, CODE(0x0f, 0x32)));
		assert_int_equal(m->vcpu.regs.rax, 0x55);
		assert_true(emulate(m, CODE(0x0f, 0x30))); /* writes are forgotten */
	}
}

static void there_are_no_ports(void **state)
{
	struct machine *m = *state;
	struct kvm_regs *r = &m->vcpu.regs;

	r->rax = 0x1122334455667788ull;
	assert_true(emulate(m, CODE(0xe4, 0x60)));
	assert_int_equal(r->rax, 0x11223344556677ffull);
	assert_true(emulate(m, CODE(0xe4, 0x42))); /* the PIT does count down */
	assert_int_equal(r->rax, 0x1122334455667700ull);
	r->rdx = 0x3f8;
	assert_true(emulate(m, CODE(0xec)));
	assert_int_equal(r->rax & 0xff, 0xff);
	r->rax = 0x1122334455660000ull;
	assert_true(emulate(m, CODE(0x66, 0xed)));
	assert_int_equal(r->rax, 0x112233445566ffffull);
	assert_true(emulate(m, CODE(0xed)));
	assert_int_equal(r->rax, 0xffffffff);
	assert_true(emulate(m, CODE(0xe6, 0x80)));
	assert_true(emulate(m, CODE(0xe7, 0x80)));
	assert_true(emulate(m, CODE(0xee)));
	assert_true(emulate(m, CODE(0x66, 0xef)));
}

static void harmless_ones_do_nothing(void **state)
{
	struct machine *m = *state;

	assert_true(emulate(m, CODE(0xf4)));	   /* hlt */
	assert_true(emulate(m, CODE(0x0f, 0x06))); /* clts */
	assert_true(emulate(m, CODE(0x0f, 0x09))); /* wbinvd */
}

static void debug_registers_are_memory(void **state)
{
	struct machine *m = *state;
	struct kvm_regs *r = &m->vcpu.regs;

	r->rax = 0xffff0ff0;
	assert_true(emulate(m, CODE(0x0f, 0x23, 0xf0))); /* mov %rax, %dr6 */
	assert_int_equal(m->pv.debugreg[6], 0xffff0ff0);
	assert_true(emulate(m, CODE(0x41, 0x0f, 0x21, 0xf0))); /* mov %dr6, %r8 */
	assert_int_equal(r->r8, 0xffff0ff0);
	r->rax = 0x401000;
	assert_true(emulate(m, CODE(0x0f, 0x23, 0xc0))); /* no breakpoints */
	assert_int_equal(m->pv.debugreg[0], 0);
}

static void other_instructions_are_left_alone(void **state)
{
	struct machine *m = *state;
	struct kvm_regs before;

	memset(&m->vcpu.regs, 0x5a, sizeof(m->vcpu.regs));
	for (unsigned int op = 0; op < 256; op++) {
		static const uint8_t known[] = { 0xf4, 0xfa, 0xfb, 0xe4, 0xe5, 0xe6, 0xe7,
						 0xec, 0xed, 0xee, 0xef, 0x0f, 0x66, 0x2e,
						 0x3e, 0xf2, 0xf3 };

		/* REX prefixes make the filler that follows the opcode. */
		if (memchr(known, (int)op, sizeof(known)) || (op & 0xf0) == 0x40)
			continue;
		before = m->vcpu.regs;
		assert_false(emulate(m, CODE((uint8_t)op)));
		before.rip = m->vcpu.regs.rip;
		assert_memory_equal(&before, &m->vcpu.regs, sizeof(before));
	}
}

static void endless_prefixes_end(void **state)
{
	struct machine *m = *state;
	uint8_t code[15];

	memset(code, 0x66, sizeof(code));
	assert_false(emulate(m, code, sizeof(code)));
	memset(code, 0x2e, sizeof(code));
	code[14] = 0xfa; /* 15 bytes: as long as an instruction may be */
	(void)emulate(m, code, sizeof(code));
}

/* Every opcode, cut off by the end of mapped memory behind each of its bytes. */
static void code_at_the_end_of_memory(void **state)
{
	static const uint8_t codes[][4] = { { 0x0f, 0x20, 0xc0 }, { 0x0f, 0x32 }, { 0x0f, 0x01, 0xd1 },
					    { 0xe4, 0x60 },	  { 0x66, 0xe7, 0x60 },
					    { 0x41, 0x0f, 0x20, 0xdf } };
	struct machine *m = *state;

	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		for (uint64_t n = 1; n < 4; n++) {
			uint64_t va = FAKE_HOLE_VA - n;

			assert_int_equal(guest_write(&m->mem, FAKE_MAPPED - n, codes[i], n), 0);
			m->vcpu.regs.rip = va;
			m->vcpu.regs.rcx = 0x1b;
			/* Emulated only when all of it was there. */
			if (emulate_privileged(m))
				assert_true(m->vcpu.regs.rip <= FAKE_HOLE_VA);
			else
				assert_int_equal(m->vcpu.regs.rip, va);
		}
	}
	m->vcpu.regs.rip = FAKE_HOLE_VA;
	assert_false(emulate_privileged(m));
	m->vcpu.regs.rip = ~0ull;
	assert_false(emulate_privileged(m));
	assert_false(emulate_prefixed_cpuid(m));
}

static void cpuid_with_xens_prefix(void **state)
{
	static const uint8_t code[] = { 0x0f, 0x0b, 'x', 'e', 'n', 0x0f, 0xa2 };
	struct machine *m = *state;
	struct kvm_regs *r = &m->vcpu.regs;
	uint64_t va = fake_put(m, 0, code, sizeof(code));

	r->rip = va;
	r->rax = 0xffffffff40000000ull;
	r->rcx = 0;
	assert_true(emulate_prefixed_cpuid(m));
	assert_int_equal(r->rip, va + sizeof(code));
	assert_int_equal(r->rbx, 0x566e6558);
	for (size_t i = 0; i < sizeof(code); i++) {
		uint8_t other[sizeof(code)];

		memcpy(other, code, sizeof(code));
		other[i] ^= 1;
		r->rip = fake_put(m, 0, other, sizeof(other));
		assert_false(emulate_prefixed_cpuid(m));
		assert_int_equal(r->rip, va);
	}
}

static uint64_t random_next(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return *seed >> 33;
}

static void random_code_moves_on_by_its_length(void **state)
{
	struct machine *m = *state;
	uint64_t seed = 11;

	for (unsigned int round = 0; round < 200000; round++) {
		uint8_t code[16];
		uint64_t va;

		for (size_t i = 0; i < sizeof(code); i++)
			code[i] = (uint8_t)random_next(&seed);
		if (round % 2)
			code[0] = 0x0f;
		va = fake_put(m, 0, code, sizeof(code));
		m->vcpu.regs.rip = va;
		if (emulate_privileged(m))
			assert_in_range(m->vcpu.regs.rip - va, 1, 15);
		else
			assert_int_equal(m->vcpu.regs.rip, va);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(interrupt_flag_is_the_upcall_mask),
		TEST(control_registers_are_fixed),
		TEST(bases_are_read_and_written),
		TEST(unknown_registers_fault),
		TEST(there_are_no_ports),
		TEST(harmless_ones_do_nothing),
		TEST(debug_registers_are_memory),
		TEST(other_instructions_are_left_alone),
		TEST(endless_prefixes_end),
		TEST(code_at_the_end_of_memory),
		TEST(cpuid_with_xens_prefix),
		TEST(random_code_moves_on_by_its_length),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
