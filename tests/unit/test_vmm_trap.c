/* Frames of Xen's PV ABI, word by word, and HYPERVISOR_iret back. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/fake/fake_machine.h"
#include "vmm/evtchn.h"
#include "vmm/trap.h"
#include "vmm/xen_abi.h"

#define HANDLER 0xffffffff80001000ull
#define STACK (FAKE_SCRATCH + 0x1000) /* grows down from here */
#define USER_RIP 0x401234ull
#define USER_RSP 0x7ffc00001238ull

static int setup(void **state)
{
	struct machine *m = fake_machine_new();

	m->vcpu.kernel_sp = FAKE_VA(STACK);
	m->pv.event_callback = HANDLER + 0x100;
	m->pv.syscall_callback = HANDLER + 0x200;
	vcpu_info_set_mask(m, 0);
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	fake_machine_free(*state);
	return 0;
}

static void in_user_mode(struct machine *m)
{
	m->vcpu.kernel_mode = false;
	m->vcpu.regs = (struct kvm_regs){ .rip = USER_RIP,
					  .rsp = USER_RSP,
					  .rcx = 0xc0c0,
					  .r11 = 0x1111,
					  .rflags = 0x10246 };
}

/* The words on the kernel's stack, from its top. */
static void frame_get(const struct machine *m, uint64_t *words, size_t count)
{
	uint64_t at = m->vcpu.regs.rsp - FAKE_BASE;

	assert_int_equal(m->vcpu.regs.rsp % 8, 0);
	assert_int_equal(guest_read(&m->mem, at, words, count * 8), 0);
}

static void a_user_exception_with_error_code(void **state)
{
	struct machine *m = *state;
	uint64_t w[8];

	m->pv.traps[VECTOR_PF] = (struct trap_gate){ .address = HANDLER, .masks_events = true };
	in_user_mode(m);
	trap_exception(m, VECTOR_PF, 0x2, 0xdead000);
	assert_false(m->ended);
	assert_true(m->vcpu.kernel_mode);
	assert_int_equal(m->vcpu.regs.rip, HANDLER);
	assert_int_equal(m->vcpu.regs.rsp, FAKE_VA(STACK) - 64);
	assert_int_equal(m->vcpu.regs.rflags, 0x202);
	frame_get(m, w, 8);
	assert_int_equal(w[0], 0xc0c0);
	assert_int_equal(w[1], 0x1111);
	assert_int_equal(w[2], 0x6); /* a write, by user space */
	assert_int_equal(w[3], USER_RIP);
	assert_int_equal(w[4], SEL_USER_CS); /* upcalls were not masked */
	assert_int_equal(w[5], 0x10246);
	assert_int_equal(w[6], USER_RSP);
	assert_int_equal(w[7], SEL_USER_SS);
	assert_int_equal(vcpu_info_get(m)->arch.cr2, 0xdead000);
	assert_int_equal(vcpu_info_mask(m), 1);
}

static void a_kernel_exception_without_error_code(void **state)
{
	struct machine *m = *state;
	uint64_t w[7];

	m->pv.traps[VECTOR_UD] = (struct trap_gate){ .address = HANDLER };
	vcpu_info_set_mask(m, 1);
	m->vcpu.regs.rip = HANDLER + 0x800;
	m->vcpu.regs.rsp = FAKE_VA(STACK) + 0x48;
	m->vcpu.regs.rflags = 0x246;
	trap_exception(m, VECTOR_UD, 0, 0);
	/* 16-byte aligned above the frame. */
	assert_int_equal(m->vcpu.regs.rsp, FAKE_VA(STACK) + 0x40 - 56);
	frame_get(m, w, 7);
	assert_int_equal(w[2], HANDLER + 0x800);
	assert_int_equal(w[3], 0xe030 | 1ull << 32); /* RPL 0, upcalls were masked */
	assert_int_equal(w[4], 0x46);		     /* so IF is clear */
	assert_int_equal(w[5], FAKE_VA(STACK) + 0x48);
	assert_int_equal(w[6], 0xe02b);
	assert_int_equal(vcpu_info_mask(m), 1);
}

static void the_kernels_faults_are_not_user_spaces(void **state)
{
	struct machine *m = *state;
	uint64_t w[3];

	m->pv.traps[VECTOR_PF] = (struct trap_gate){ .address = HANDLER };
	m->vcpu.regs.rsp = FAKE_VA(STACK);
	trap_exception(m, VECTOR_PF, 0x6, 0x1000);
	frame_get(m, w, 3);
	assert_int_equal(w[2], 0x2);
}

static void vectors_with_error_codes_are_the_architectures(void **state)
{
	static const uint8_t with[] = { 8, 10, 11, 12, 13, 14, 17, 21 };
	struct machine *m = *state;

	for (unsigned int v = 0; v < 32; v++) {
		bool has = memchr(with, (int)v, sizeof(with)) != NULL;

		m->pv.traps[v].address = HANDLER;
		in_user_mode(m);
		trap_exception(m, (uint8_t)v, 0, 0);
		assert_int_equal(m->vcpu.regs.rsp, FAKE_VA(STACK) - (has ? 64 : 56));
	}
}

static void a_debug_exception_says_single_step(void **state)
{
	struct machine *m = *state;

	m->pv.traps[VECTOR_DB].address = HANDLER;
	in_user_mode(m);
	trap_exception(m, VECTOR_DB, 0, 0);
	assert_true(m->pv.debugreg[6] & 0x4000);
}

static void a_system_call_enters_the_kernel(void **state)
{
	struct machine *m = *state;
	uint64_t w[7];

	m->pv.syscall_masks_events = true;
	in_user_mode(m);
	m->vcpu.regs.rax = 39;
	trap_syscall(m);
	assert_int_equal(m->vcpu.regs.rip, HANDLER + 0x200);
	assert_int_equal(m->vcpu.regs.rax, 39);
	frame_get(m, w, 7);
	assert_int_equal(w[2], USER_RIP);
	assert_int_equal(w[3], SEL_USER_CS);
	assert_int_equal(w[5], USER_RSP);
	assert_int_equal(vcpu_info_mask(m), 1);
}

static void upcalls_wait_for_the_mask(void **state)
{
	struct machine *m = *state;

	assert_false(trap_upcall_wanted(m));
	vcpu_info_get(m)->evtchn_upcall_pending = 1;
	assert_true(trap_upcall_wanted(m));
	vcpu_info_set_mask(m, 1);
	assert_false(trap_upcall_wanted(m));
	vcpu_info_set_mask(m, 0);
	m->pv.event_callback = 0;
	assert_false(trap_upcall_wanted(m));
	m->pv.event_callback = HANDLER + 0x100;
	in_user_mode(m);
	trap_upcall(m);
	assert_int_equal(m->vcpu.regs.rip, HANDLER + 0x100);
	assert_int_equal(vcpu_info_mask(m), 1);
	assert_false(trap_upcall_wanted(m));
}

static void a_missing_handler_ends_the_guest(void **state)
{
	struct machine *m = *state;

	in_user_mode(m);
	trap_exception(m, VECTOR_GP, 0, 0);
	assert_true(m->ended);
	assert_int_equal(m->end_reason, END_GUEST_FAULT);
	assert_non_null(strstr(m->end_text, "no handler"));
}

static void a_bad_kernel_stack_ends_the_guest(void **state)
{
	static const uint64_t stacks[] = { 0,
					   8,
					   FAKE_HOLE_VA + 32,
					   FAKE_BASE + 16,
					   HV_VA + 0x1000,
					   DM_VA + 0x1000,
					   1ull << 47,
					   ~0ull };

	for (size_t i = 0; i < sizeof(stacks) / sizeof(stacks[0]); i++) {
		struct machine *m = fake_machine_new();

		m->pv.traps[VECTOR_GP].address = HANDLER;
		m->vcpu.kernel_sp = stacks[i];
		in_user_mode(m);
		trap_exception(m, VECTOR_GP, 0, 0);
		assert_true(m->ended);
		assert_int_equal(m->end_reason, END_GUEST_FAULT);
		assert_non_null(strstr(m->end_text, "stack"));
		fake_machine_free(m);
	}
	(void)state;
}

/* ---- iret ---- */

static void iret(struct machine *m, const struct iret_context *f)
{
	m->vcpu.kernel_mode = true;
	m->vcpu.regs.rsp = fake_put(m, 0, f, sizeof(*f));
	trap_iret(m);
}

static const struct iret_context to_user = { .rax = 1,
					     .r11 = 2,
					     .rcx = 3,
					     .rip = USER_RIP,
					     .cs = SEL_USER_CS,
					     .rflags = 0x3346,
					     .rsp = USER_RSP,
					     .ss = SEL_USER_SS };

static void iret_goes_back_to_user_space(void **state)
{
	struct machine *m = *state;

	vcpu_info_set_mask(m, 1);
	iret(m, &to_user);
	assert_false(m->vcpu.kernel_mode);
	assert_int_equal(m->vcpu.cs, SEL_USER_CS);
	assert_int_equal(m->vcpu.regs.rip, USER_RIP);
	assert_int_equal(m->vcpu.regs.rsp, USER_RSP);
	assert_int_equal(m->vcpu.regs.rax, 1);
	assert_int_equal(m->vcpu.regs.r11, 2);
	assert_int_equal(m->vcpu.regs.rcx, 3);
	assert_int_equal(m->vcpu.regs.rflags, 0x346); /* no IOPL */
	assert_int_equal(vcpu_info_mask(m), 0);
}

static void iret_from_a_system_call_leaves_what_sysret_would(void **state)
{
	struct machine *m = *state;
	struct iret_context f = to_user;

	f.flags = VGCF_in_syscall;
	iret(m, &f);
	assert_int_equal(m->vcpu.regs.rcx, USER_RIP);
	assert_int_equal(m->vcpu.regs.r11, 0x346);
}

static void iret_within_the_kernel(void **state)
{
	struct machine *m = *state;
	struct iret_context f = to_user;

	f.cs = 0xe030;
	f.rip = HANDLER;
	f.rsp = FAKE_VA(STACK);
	f.rflags = 0x46; /* IF clear: events stay masked */
	iret(m, &f);
	assert_true(m->vcpu.kernel_mode);
	assert_int_equal(m->vcpu.regs.rip, HANDLER);
	assert_int_equal(m->vcpu.regs.rflags, 0x246);
	assert_int_equal(vcpu_info_mask(m), 1);
	assert_false(m->ended);
}

static void iret_to_compat_code(void **state)
{
	struct machine *m = *state;
	struct iret_context f = to_user;

	f.cs = SEL_USER32_CS;
	iret(m, &f);
	assert_int_equal(m->vcpu.cs, SEL_USER32_CS);
}

static void iret_to_nowhere_is_a_fault_of_user_space(void **state)
{
	static const uint64_t places[] = { 1ull << 47, 0x8000000000000000ull, 0xffff7fffffffffffull };
	struct machine *m = *state;

	m->pv.traps[VECTOR_GP].address = HANDLER;
	for (size_t i = 0; i < 2 * sizeof(places) / sizeof(places[0]); i++) {
		struct iret_context f = to_user;

		if (i % 2)
			f.rip = places[i / 2];
		else
			f.rsp = places[i / 2];
		iret(m, &f);
		assert_false(m->ended);
		assert_true(m->vcpu.kernel_mode);
		assert_int_equal(m->vcpu.regs.rip, HANDLER);
	}
}

static void iret_to_other_segments_is_a_fault_of_user_space(void **state)
{
	static const uint64_t segments[] = { 0x3, 0x13, 0x1b, 0x2b, 0x43, 0xffff };
	struct machine *m = *state;

	m->pv.traps[VECTOR_GP].address = HANDLER;
	for (size_t i = 0; i < sizeof(segments) / sizeof(segments[0]); i++) {
		struct iret_context f = to_user;

		f.cs = segments[i];
		iret(m, &f);
		assert_false(m->ended);
		assert_int_equal(m->vcpu.regs.rip, HANDLER);
	}
}

static void a_kernel_that_goes_nowhere_is_ended(void **state)
{
	struct machine *m = *state;
	struct iret_context f = to_user;

	f.cs = 0xe030;
	f.rip = 1ull << 47;
	iret(m, &f);
	assert_true(m->ended);
	assert_int_equal(m->end_reason, END_GUEST_FAULT);
}

static void iret_without_a_frame_ends_the_guest(void **state)
{
	struct machine *m = *state;

	m->vcpu.regs.rsp = FAKE_HOLE_VA - 64;
	trap_iret(m);
	assert_true(m->ended);
	assert_non_null(strstr(m->end_text, "iret"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_user_exception_with_error_code),
		TEST(a_kernel_exception_without_error_code),
		TEST(the_kernels_faults_are_not_user_spaces),
		TEST(vectors_with_error_codes_are_the_architectures),
		TEST(a_debug_exception_says_single_step),
		TEST(a_system_call_enters_the_kernel),
		TEST(upcalls_wait_for_the_mask),
		TEST(a_missing_handler_ends_the_guest),
		TEST(a_bad_kernel_stack_ends_the_guest),
		TEST(iret_goes_back_to_user_space),
		TEST(iret_from_a_system_call_leaves_what_sysret_would),
		TEST(iret_within_the_kernel),
		TEST(iret_to_compat_code),
		TEST(iret_to_nowhere_is_a_fault_of_user_space),
		TEST(iret_to_other_segments_is_a_fault_of_user_space),
		TEST(a_kernel_that_goes_nowhere_is_ended),
		TEST(iret_without_a_frame_ends_the_guest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
