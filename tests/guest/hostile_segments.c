/* Segments: local descriptor tables of the attacker's own, every selector in
 * every segment register, and FS and GS bases that point at the kernel or
 * nowhere, each followed by system calls, context switches and signals. */
#include "fault.h"
#include "hostile.h"
#include "suite.h"

#include <asm/ldt.h>
#include <asm/prctl.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A system call without libc: its errno lives behind FS. */
static inline long raw_call(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(number), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return result;
}

/* One local descriptor, what to load it into, and with which selector bits. */
enum into { INTO_DS, INTO_ES, INTO_FS, INTO_GS, INTO_SS, INTO_CS };

struct ldt_case {
	const char *name;
	enum into into;
	struct user_desc desc;
};

#define DESC(...)                                                                                  \
	{                                                                                          \
		.limit = 0xfffff, .limit_in_pages = 1, .useable = 1, __VA_ARGS__                   \
	}

static const struct ldt_case ldt_cases[] = {
	{ "data-ds", INTO_DS, DESC(.seg_32bit = 1) },
	{ "data-es-expand-down", INTO_ES, DESC(.seg_32bit = 1, .contents = 1) },
	{ "data-gs-kernel-base", INTO_GS, DESC(.seg_32bit = 1, .base_addr = 0xfffff000) },
	{ "data-fs-base", INTO_FS, DESC(.seg_32bit = 1, .base_addr = LOW_PAGE) },
	{ "data-ss", INTO_SS, DESC(.seg_32bit = 1) },
	{ "data-ss-16bit", INTO_SS, DESC(.seg_32bit = 0) },
	{ "not-present-gs", INTO_GS, DESC(.seg_32bit = 1, .seg_not_present = 1) },
	{ "not-present-ss", INTO_SS, DESC(.seg_32bit = 1, .seg_not_present = 1) },
	{ "read-only-ss", INTO_SS, DESC(.seg_32bit = 1, .read_exec_only = 1) },
	{ "tiny-limit-ds", INTO_DS, { .limit = 0, .useable = 1, .seg_32bit = 1 } },
	{ "code-cs-32", INTO_CS, DESC(.seg_32bit = 1, .contents = 2) },
	{ "code-cs-16", INTO_CS, DESC(.contents = 2) },
	{ "code-cs-conforming", INTO_CS, DESC(.seg_32bit = 1, .contents = 3) },
	{ "code-cs-long-bit", INTO_CS, DESC(.seg_32bit = 1, .contents = 2, .lm = 1) },
	{ "code-cs-not-present", INTO_CS,
	  DESC(.seg_32bit = 1, .contents = 2, .seg_not_present = 1) },
	{ "code-cs-high-base", INTO_CS,
	  DESC(.seg_32bit = 1, .contents = 2, .base_addr = 0xf0000000) },
};

/* Makes system calls and context switches with the segment loaded. */
static void machine_use(void)
{
	for (unsigned i = 0; i < 20; i++) {
		raw_call(SYS_getpid, 0, 0, 0);
		raw_call(SYS_sched_yield, 0, 0, 0);
	}
}

__attribute__((no_stack_protector)) static void selector_load(enum into into, uint16_t sel)
{
	uint32_t was = 0x2b;

	switch (into) {
	case INTO_DS:
		__asm__ volatile("movw %w0, %%ds" : : "r"(sel));
		machine_use();
		__asm__ volatile("movw %w0, %%ds" : : "r"(0));
		break;
	case INTO_ES:
		__asm__ volatile("movw %w0, %%es" : : "r"(sel));
		machine_use();
		__asm__ volatile("movw %w0, %%es" : : "r"(0));
		break;
	case INTO_GS:
		__asm__ volatile("movw %w0, %%gs" : : "r"(sel));
		machine_use();
		__asm__ volatile("movw %w0, %%gs" : : "r"(0));
		break;
	case INTO_SS:
		__asm__ volatile("movw %w0, %%ss" : : "r"(sel));
		machine_use();
		__asm__ volatile("movw %w0, %%ss" : : "r"(was));
		break;
	case INTO_CS:
		/* UD2 is there; the fault itself is taken with this CS. */
		__asm__ volatile("pushq %0; pushq %1; lretq" : : "r"((uint64_t)sel), "r"(LOW_PAGE));
		break;
	case INTO_FS:
		break; /* see fs_load */
	}
}

/* FS holds libc's thread pointer: put it back before anything else runs. If
 * the load faults, nothing has changed. */
__attribute__((no_stack_protector)) static void fs_load(uint16_t sel)
{
	uint64_t base = 0;

	raw_call(SYS_arch_prctl, ARCH_GET_FS, (long)&base, 0);
	__asm__ volatile("movw %w0, %%fs" : : "r"(sel));
	machine_use();
	raw_call(SYS_arch_prctl, ARCH_SET_FS, (long)base, 0);
}

static int ldt_child(void *arg)
{
	const struct ldt_case *l = arg;
	struct user_desc desc = l->desc;

	if (!low_page())
		return EXIT_UNABLE;
	desc.entry_number = 3;
	if (syscall(SYS_modify_ldt, 0x11, &desc, sizeof(desc)) != 0)
		return errno == ENOSYS ? EXIT_UNABLE : 1;
	if (l->into == INTO_FS)
		fs_load(3 << 3 | 7);
	else
		selector_load(l->into, 3 << 3 | 7);
	return 0;
}

/* Fills the table, replaces entries while they are loaded, and lets a child
 * inherit it. */
static int ldt_full_child(void *arg)
{
	struct user_desc desc = DESC(.seg_32bit = 1);
	uint8_t table[256];

	(void)arg;
	for (unsigned i = 0; i < 8192; i += 127) {
		desc.entry_number = i;
		if (syscall(SYS_modify_ldt, 0x11, &desc, sizeof(desc)) != 0)
			return errno == ENOSYS ? EXIT_UNABLE : 1;
	}
	desc.entry_number = 8192;
	if (syscall(SYS_modify_ldt, 0x11, &desc, sizeof(desc)) == 0)
		return EXIT_BREACH;
	selector_load(INTO_GS, 127 << 3 | 7);
	__asm__ volatile("movw %w0, %%gs" : : "r"((uint16_t)(127 << 3 | 7)));
	desc = (struct user_desc){ .entry_number = 127, .read_exec_only = 1, .seg_not_present = 1 };
	syscall(SYS_modify_ldt, 0x11, &desc, sizeof(desc));
	machine_use();
	pid_t pid = fork();

	if (pid == 0) {
		machine_use();
		_exit(0);
	}
	struct outcome o = child_wait(pid, 10000);

	return syscall(SYS_modify_ldt, 0, table, sizeof(table)) < 0 || o.kind != OUTCOME_EXIT;
}

/* Every selector up to a bound, in DS, ES and GS: refused or harmless. */
static int selectors_child(void *arg)
{
	enum into into = (enum into)(uintptr_t)arg;

	fault_catch(0);
	for (volatile unsigned sel = 0; sel < 0x400; sel++)
		FAULT_TRY(selector_load(into, (uint16_t)sel));
	for (volatile unsigned sel = 0xe000; sel < 0xe080; sel++)
		FAULT_TRY(selector_load(into, (uint16_t)sel));
	FAULT_TRY(selector_load(into, 0xffff));
	return 0;
}

static int fs_selectors_child(void *arg)
{
	(void)arg;
	fault_catch(0);
	for (volatile unsigned sel = 0; sel < 0x100; sel++)
		FAULT_TRY(fs_load((uint16_t)sel));
	for (volatile unsigned sel = 0xe000; sel < 0xe080; sel++)
		FAULT_TRY(fs_load((uint16_t)sel));
	return 0;
}

/* Null and odd selectors in all data segments while signals arrive. */
static int null_child(void *arg)
{
	(void)arg;
	signal(SIGUSR1, SIG_IGN);
	for (unsigned i = 0; i < 50; i++) {
		for (uint16_t sel = 0; sel < 4; sel++) {
			selector_load(INTO_DS, sel);
			selector_load(INTO_ES, sel);
			selector_load(INTO_GS, sel);
			fs_load(sel);
		}
		kill(getpid(), SIGUSR1);
	}
	return 0;
}

/* The kernel must refuse such bases ... */
static int prctl_child(void *arg)
{
	uintptr_t base = (uintptr_t)arg;

	if (base < 0x00007ffffffff000u)
		return 0;
	return raw_call(SYS_arch_prctl, ARCH_SET_GS, (long)base, 0) == 0 ? EXIT_BREACH : 0;
}

/* ... and survive those that user space can set by itself: afterwards the
 * memory behind them must still be out of reach. */
static int wrgsbase_child(void *arg)
{
	uint64_t base = (uint64_t)(uintptr_t)arg;
	uint8_t byte = 0;

	fault_catch(0);
	FAULT_TRY(__asm__ volatile("wrgsbase %0" : : "r"(base)));
	if (fault_last.sig)
		return 0;
	machine_use();
	FAULT_TRY(__asm__ volatile("movb %%gs:0, %0" : "=r"(byte)));
	if (base >= 0x00007ffffffff000u && !fault_last.sig)
		return EXIT_BREACH;
	FAULT_TRY(__asm__ volatile("ud2"));
	FAULT_TRY(__asm__ volatile("int3"));
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	return child_wait(pid, 10000).kind != OUTCOME_EXIT;
}

/* Leaves FS at the address: nothing of libc works any more, so the end is a
 * raw system call. */
__attribute__((no_stack_protector)) static int wrfsbase_child(void *arg)
{
	uint64_t base = (uint64_t)(uintptr_t)arg;

	__asm__ volatile("wrfsbase %0" : : "r"(base));
	machine_use();
	raw_call(SYS_exit_group, 0, 0, 0);
	return EXIT_BREACH;
}

static int wrgsbase_fault_child(void *arg)
{
	uint64_t base = (uint64_t)(uintptr_t)arg;

	/* A fault, unhandled, with the base in place. */
	__asm__ volatile("wrgsbase %0; movq %%gs:8, %%rax; ud2" : : "r"(base) : "rax");
	return 0;
}

static void bases_try(struct check *c, struct sanity *s, bool verbose)
{
	static const struct {
		const char *name;
		int (*run)(void *arg);
		enum expect expect;
	} kinds[] = {
		{ "arch-prctl-gs", prctl_child, WANT_DONE },
		{ "wrgsbase", wrgsbase_child, WANT_DONE },
		{ "wrgsbase-fault", wrgsbase_fault_child, WANT_FAULT },
		{ "wrfsbase", wrfsbase_child, WANT_ANY },
	};
	char name[64];

	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		for (size_t i = 0; i < bad_address_count; i++) {
			struct attack a = { name, kinds[k].run, bad_addresses[i], kinds[k].expect };

			snprintf(name, sizeof(name), "%s-%lx", kinds[k].name, bad_addresses[i]);
			attack_run(c, &a, s, verbose);
		}
	}
}

int hostile_segments_main(int argc, char **argv)
{
	bool verbose = param_get(argc, argv, "verbose", 0, 0, 1);
	static const struct attack attacks[] = {
		{ "ldt-full", ldt_full_child, 0, WANT_ANY },
		{ "selectors-ds", selectors_child, INTO_DS, WANT_DONE },
		{ "selectors-es", selectors_child, INTO_ES, WANT_DONE },
		{ "selectors-gs", selectors_child, INTO_GS, WANT_DONE },
		{ "selectors-fs", fs_selectors_child, 0, WANT_DONE },
		{ "selectors-ss", selectors_child, INTO_SS, WANT_ANY },
		{ "null-selectors", null_child, 0, WANT_DONE },
	};
	struct check c = { 0 };
	struct sanity s;
	char name[64];

	if (sanity_init(&s))
		return 1;
	for (size_t i = 0; i < ARRAY_SIZE(ldt_cases); i++) {
		struct attack a = { name, ldt_child, (uintptr_t)&ldt_cases[i], WANT_ANY };

		snprintf(name, sizeof(name), "ldt-%s", ldt_cases[i].name);
		attack_run(&c, &a, &s, verbose);
	}
	attacks_run(&c, attacks, ARRAY_SIZE(attacks), &s, verbose);
	bases_try(&c, &s, verbose);
	return check_finish(&c);
}
