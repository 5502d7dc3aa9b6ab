/* The start-up probe: its answers on this machine's KVM, that it leaves nothing
 * behind and never hangs, and what it makes of answers that do not fit. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/cleanup.h"
#include "lib/clock.h"
#include "vmm/probe.h"
#include "vmm/probe_guest.h"
#include "vmm/probe_vm.h"

#define RUNS    20u
#define FAST_US 15000u

static int kvm_open(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		print_message("skipped: cannot open /dev/kvm: %s\n", strerror(errno));
		skip();
	}
	return fd;
}

static struct probe_result fitting(enum kvm_kind kind)
{
	const bool software = kind == KVM_KIND_SOFTWARE;

	return (struct probe_result){
		.kind = kind,
		.syscall_cpl = software ? 3 : 0,
		.native_gates = software,
		.io_bitmap = software,
		.fsgsbase = software,
		.host_pte_add = true,
		.guest_pte_change = true,
		.root_switch = true,
		.irq_window = true,
		.cpl0_mips = software ? 1.5 : 700.0,
	};
}

static unsigned int fds_count(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int count = 0;

	assert_non_null(dir);
	while (readdir(dir))
		count++;
	(void)closedir(dir);
	return count;
}

static unsigned int lines_count(const char *path)
{
	cleanup_file FILE *file = fopen(path, "re");
	unsigned int count = 0;

	assert_non_null(file);
	for (int c; (c = getc(file)) != EOF;)
		count += c == '\n';
	return count;
}

static void this_kvm_can_run_a_guest(void **state)
{
	cleanup_close int fd = kvm_open();
	struct probe_result r = { 0 };
	struct ramet_err err = { 0 };

	(void)state;
	assert_int_equal(probe_run(fd, &r, &err), 0);
	assert_true(r.kind == KVM_KIND_SOFTWARE || r.kind == KVM_KIND_HARDWARE);
	assert_int_equal(r.syscall_cpl, r.kind == KVM_KIND_SOFTWARE ? 3 : 0);
	assert_true(probe_slot_usable(&r, 257));
	assert_true(probe_slot_usable(&r, 258));
	assert_true(r.host_pte_add);
	assert_true(r.guest_pte_change);
	assert_true(r.exit_us > 0);
	assert_true(r.cpl0_mips > 0);
	assert_int_equal(r.fast_paths_ok, r.reason[0] == '\0');
}

static void answers_repeat(void **state)
{
	cleanup_close int fd = kvm_open();
	struct probe_result first, r;

	(void)state;
	assert_int_equal(probe_run(fd, &first, NULL), 0);
	for (unsigned int i = 0; i < RUNS; i++) {
		assert_int_equal(probe_run(fd, &r, NULL), 0);
		assert_int_equal(r.kind, first.kind);
		assert_int_equal(r.native_gates, first.native_gates);
		assert_int_equal(r.io_bitmap, first.io_bitmap);
		assert_int_equal(r.fsgsbase, first.fsgsbase);
		assert_int_equal(r.host_pte_change, first.host_pte_change);
		assert_int_equal(r.root_switch, first.root_switch);
		assert_int_equal(r.irq_window, first.irq_window);
		assert_int_equal(r.fast_paths_ok, first.fast_paths_ok);
	}
}

static void takes_a_few_milliseconds(void **state)
{
	cleanup_close int fd = kvm_open();
	uint32_t best = UINT32_MAX;
	struct probe_result r;

	(void)state;
	for (unsigned int i = 0; i < RUNS; i++) {
		assert_int_equal(probe_run(fd, &r, NULL), 0);
		if (r.duration_us < best)
			best = r.duration_us;
	}
	assert_in_range(best, 1, FAST_US);
}

static void leaves_nothing_behind(void **state)
{
	cleanup_close int fd = kvm_open();
	unsigned int fds, maps, timers;
	sigset_t before, after;
	struct probe_result r;

	(void)state;
	assert_int_equal(probe_run(fd, &r, NULL), 0); /* libraries settle */
	fds = fds_count();
	maps = lines_count("/proc/self/maps");
	timers = lines_count("/proc/self/timers");
	assert_int_equal(sigprocmask(SIG_SETMASK, NULL, &before), 0);
	for (unsigned int i = 0; i < RUNS; i++)
		assert_int_equal(probe_run(fd, &r, NULL), 0);
	assert_int_equal(sigprocmask(SIG_SETMASK, NULL, &after), 0);
	assert_int_equal(fds_count(), fds);
	assert_int_equal(lines_count("/proc/self/maps"), maps);
	assert_int_equal(lines_count("/proc/self/timers"), timers);
	assert_memory_equal(&before, &after, sizeof(uint64_t));
}

static void a_guest_that_never_answers_is_stopped(void **state)
{
	cleanup_close int fd = kvm_open();
	struct ramet_err err = { 0 };
	struct probe_stop stop;
	struct probe_vm vm;
	uint64_t start;

	(void)state;
	assert_int_equal(probe_vm_create(&vm, fd, &err), 0);
	start = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	/* Five steps of their own would take longer than the whole may. */
	for (unsigned int i = 0; i < 5; i++) {
		probe_vm_start(&vm, probe_code(PROBE_HOME_SLOT, probe_u_spin), 3);
		probe_vm_run(&vm, &stop);
		assert_int_equal(stop.kind, PROBE_STOP_LATE);
	}
	assert_true(clock_ns(CLOCK_THREAD_CPUTIME_ID) - start < 2ull * PROBE_LIMIT_MS * 1000000);
	probe_vm_destroy(&vm);
}

static void the_vm_goes_on_after_a_late_step(void **state)
{
	cleanup_close int fd = kvm_open();
	struct probe_stop stop;
	struct probe_vm vm;

	(void)state;
	assert_int_equal(probe_vm_create(&vm, fd, NULL), 0);
	probe_vm_start(&vm, probe_code(PROBE_HOME_SLOT, probe_u_spin), 3);
	probe_vm_run(&vm, &stop);
	assert_int_equal(stop.kind, PROBE_STOP_LATE);
	probe_vm_start(&vm, probe_code(PROBE_HOME_SLOT, probe_u_tick), 3);
	probe_vm_run(&vm, &stop);
	assert_int_equal(stop.kind, PROBE_STOP_PORT);
	assert_int_equal(stop.port, PROBE_PORT_TICK);
	probe_vm_destroy(&vm);
}

static void a_descriptor_that_is_not_kvm_is_refused(void **state)
{
	cleanup_close int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct probe_result r, untouched;
	struct ramet_err err = { 0 };

	(void)state;
	memset(&r, 0x5a, sizeof(r));
	memset(&untouched, 0x5a, sizeof(untouched));
	assert_true(fd >= 0);
	assert_int_equal(probe_run(fd, &r, &err), -ENOTTY);
	assert_non_null(strstr(err.msg, "/dev/kvm"));
	assert_int_equal(probe_run(-1, &r, &err), -EBADF);
	assert_memory_equal(&r, &untouched, sizeof(r));
}

static void fitting_answers_allow_the_fast_paths(void **state)
{
	(void)state;
	for (int kind = KVM_KIND_SOFTWARE; kind <= KVM_KIND_HARDWARE; kind++) {
		struct probe_result r = fitting((enum kvm_kind)kind);

		probe_judge(&r);
		assert_true(r.fast_paths_ok);
		assert_string_equal(r.reason, "");
	}
}

static void a_speed_of_the_other_kind_is_a_contradiction(void **state)
{
	struct probe_result software = fitting(KVM_KIND_SOFTWARE);
	struct probe_result hardware = fitting(KVM_KIND_HARDWARE);

	(void)state;
	software.cpl0_mips = 700;
	hardware.cpl0_mips = 1.5;
	probe_judge(&software);
	probe_judge(&hardware);
	assert_false(software.fast_paths_ok);
	assert_false(hardware.fast_paths_ok);
	assert_non_null(strstr(software.reason, "speed"));
	assert_non_null(strstr(hardware.reason, "speed"));
}

/* Each fact that a kind relies on, taken away alone, must show. */
static void every_missing_fact_refuses_the_fast_paths(void **state)
{
	static const struct {
		size_t fact;
		bool hardware_too;
	} needed[] = {
		{ offsetof(struct probe_result, host_pte_add), true },
		{ offsetof(struct probe_result, guest_pte_change), true },
		{ offsetof(struct probe_result, root_switch), true },
		{ offsetof(struct probe_result, irq_window), true },
		{ offsetof(struct probe_result, io_bitmap), false },
		{ offsetof(struct probe_result, native_gates), false },
		{ offsetof(struct probe_result, fsgsbase), false },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		for (int kind = KVM_KIND_SOFTWARE; kind <= KVM_KIND_HARDWARE; kind++) {
			struct probe_result r = fitting((enum kvm_kind)kind);

			*(bool *)((char *)&r + needed[i].fact) = false;
			probe_judge(&r);
			assert_int_equal(r.fast_paths_ok,
					 kind == KVM_KIND_HARDWARE && !needed[i].hardware_too);
			assert_int_equal(r.fast_paths_ok, r.reason[0] == '\0');
		}
	}
}

static void slots_not_tried_are_not_usable(void **state)
{
	struct probe_result r = { .slot_count = 2, .slots = { { 257, true }, { 258, false } } };

	(void)state;
	assert_true(probe_slot_usable(&r, 257));
	assert_false(probe_slot_usable(&r, 258));
	assert_false(probe_slot_usable(&r, 0));
}

static void kinds_have_names(void **state)
{
	(void)state;
	assert_string_equal(probe_kind_name(KVM_KIND_SOFTWARE), "software");
	assert_string_equal(probe_kind_name(KVM_KIND_HARDWARE), "hardware");
	assert_string_equal(probe_kind_name((enum kvm_kind)0), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(this_kvm_can_run_a_guest),
		cmocka_unit_test(answers_repeat),
		cmocka_unit_test(takes_a_few_milliseconds),
		cmocka_unit_test(leaves_nothing_behind),
		cmocka_unit_test(a_guest_that_never_answers_is_stopped),
		cmocka_unit_test(the_vm_goes_on_after_a_late_step),
		cmocka_unit_test(a_descriptor_that_is_not_kvm_is_refused),
		cmocka_unit_test(fitting_answers_allow_the_fast_paths),
		cmocka_unit_test(a_speed_of_the_other_kind_is_a_contradiction),
		cmocka_unit_test(every_missing_fact_refuses_the_fast_paths),
		cmocka_unit_test(slots_not_tried_are_not_usable),
		cmocka_unit_test(kinds_have_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
