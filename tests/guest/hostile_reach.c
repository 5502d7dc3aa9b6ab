/* Guest user space reaching for the guest kernel and the hypervisor area: read,
 * write and jump at known addresses, then a scan of the whole kernel half for
 * anything that user space can read.
 *
 * Parameters: addr=ADDRESS tries one more address; max_pages=N is how many
 * read-only pages of the kernel half user space may see (entry code that some
 * machines must let it execute; default 4, none of them writable); jump=0
 * leaves out the jumps into the pages found. */
#include "fault.h"
#include "hostile.h"
#include "suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE          4096ul
#define SLOT          (1ul << 39)
#define GIB           (1ul << 30)
#define KERNEL_HALF   0xffff800000000000ul
#define USER_HALF_END 0x0000800000000000ul
#define VSYSCALL_PAGE 0xffffffffff600000ul
#define FOUND_MAX     256u
#define SCAN_TIMEOUT  120000

/* Exit: 0 refused in all three ways; otherwise BREACH. */
static int reach_child(void *arg)
{
	uintptr_t addr = *(const uintptr_t *)arg;
	uint8_t byte;

	fault_catch(0);
	if (fault_read(addr, &byte)) {
		printf("# %#lx is readable: %02x\n", addr, byte);
		return EXIT_BREACH;
	}
	/* The last page of user space may not be mapped, but nothing says more. */
	if (fault_last.sig != SIGSEGV)
		return EXIT_BREACH;
	if (fault_write(addr, 0xcc)) {
		printf("# %#lx is writable\n", addr);
		return EXIT_BREACH;
	}
	/* A jump to a non-canonical address faults at the jump itself. */
	bool canonical = addr >= KERNEL_HALF || addr < USER_HALF_END;

	if (!fault_exec_refused(addr) && (canonical || fault_last.sig != SIGSEGV)) {
		printf("# jump to %#lx: signal %d at %#lx\n", addr, fault_last.sig, fault_last.rip);
		return EXIT_BREACH;
	}
	return 0;
}

static void reach_check(struct check *c, uintptr_t addr, struct sanity *s)
{
	char name[48];
	struct attack a = { name, reach_child, (uintptr_t)&addr, WANT_DONE };

	snprintf(name, sizeof(name), "reach-%016lx", addr);
	attack_run(c, &a, s, false);
}

/* The kernel must refuse such addresses as system call arguments, too. */
static int argument_child(void *arg)
{
	int fds[2];
	char byte = 'x';

	(void)arg;
	if (pipe(fds))
		return EXIT_UNABLE;
	for (size_t i = 0; i < bad_address_count; i++) {
		void *p = (void *)bad_addresses[i];

		if (write(fds[1], p, 1) >= 0 ||
		    (write(fds[1], &byte, 1) == 1 && read(fds[0], p, 1) >= 0))
			return EXIT_BREACH;
		if (read(fds[0], &byte, 1) != 1)
			return 1;
	}
	return 0;
}

/* What the scanning child tells its parent, in shared memory. */
struct found {
	unsigned count, probes;
	uintptr_t page[FOUND_MAX];
	bool writable[FOUND_MAX];
};

static void scan_page(struct found *f, uintptr_t addr)
{
	uint8_t byte;

	addr &= ~(PAGE - 1);
	f->probes++;
	if (addr == VSYSCALL_PAGE || !fault_read(addr, &byte))
		return;
	for (unsigned i = 0; i < f->count; i++) {
		if (f->page[i] == addr)
			return;
	}
	if (f->count == FOUND_MAX)
		return;
	f->page[f->count] = addr;
	/* Writing back what was read changes nothing if it goes through. */
	f->writable[f->count] = fault_write(addr, byte);
	f->count++;
	/* Its neighbours are likely to be there as well. */
	if (addr >= KERNEL_HALF + PAGE)
		scan_page(f, addr - PAGE);
	if (addr < (uintptr_t)-1 - 2 * PAGE)
		scan_page(f, addr + PAGE);
}

static void scan_range(struct found *f, uintptr_t from, unsigned long n, unsigned long step)
{
	for (unsigned long i = 0; i < n; i++)
		scan_page(f, from + i * step);
}

static int scan_child(void *arg)
{
	struct found *f = arg;

	fault_catch(0);
	for (unsigned slot = 256; slot < 512; slot++) {
		uintptr_t base = KERNEL_HALF + (slot - 256) * SLOT;

		scan_range(f, base, 8, PAGE);
		scan_range(f, base + (2ul << 20), 8, 2ul << 20);
		scan_range(f, base + GIB, 16, GIB);
		scan_range(f, base + SLOT - 2 * PAGE, 2, PAGE);
		/* The hypervisor's own slots are looked at closely. */
		if (slot >= 256 && slot <= 259) {
			scan_range(f, base, 1024, PAGE);
			scan_range(f, base, 1024, 2ul << 20);
			scan_range(f, base, 512, GIB);
			for (unsigned g = 1; g < 8; g++)
				scan_range(f, base + g * GIB, 256, PAGE);
		}
	}
	for (size_t i = 0; i < bad_address_count; i++) {
		if (bad_addresses[i] >= KERNEL_HALF)
			scan_page(f, bad_addresses[i]);
	}
	scan_range(f, 0xffffffff80000000u, 1024, 2ul << 20);
	scan_range(f, 0xffffffffff000000u, 4095, PAGE);
	return 0;
}

/* One call into a found page with registers that a system call would have. */
struct jump {
	uintptr_t addr;
	uint64_t rcx, r11, rax;
};

static int jump_child(void *arg)
{
	const struct jump *j = arg;

	__asm__ volatile("movq %0, %%rdx\n\t"
			 "movq %1, %%rcx\n\t"
			 "movq %2, %%r11\n\t"
			 "movq %3, %%rax\n\t"
			 "call *%%rdx\n\t"
			 :
			 : "r"(j->addr), "r"(j->rcx), "r"(j->r11), "r"(j->rax)
			 : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory",
			   "cc");
	return 0;
}

static void jump_check(struct check *c, uintptr_t page, struct sanity *s)
{
	static const uint64_t rcx[] = { 0x8000000000000000u, 0xffffffff81000000u, LOW_PAGE,
					0x00007ffffffff000u };
	static const uint64_t r11[] = { 0x3202, 0x4202, 0x20202, 0x10302, 0x7f7fd7 };
	static const uint64_t rax[] = { 39, 23, 1, (uint64_t)-1 };
	unsigned bad = 0, n = 0;
	const char *insane = NULL;
	char name[48], text[64] = "";

	for (unsigned at = 0; at < PAGE && !insane; at += at < 512 ? 16 : 128) {
		struct jump j = { page + at, rcx[n % 4], r11[n % 5], rax[n / 4 % 4] };
		struct outcome o = child_run(jump_child, &j, 10000);

		n++;
		/* Where it goes is the attacker's own business as long as it ends. */
		if (o.kind == OUTCOME_NONE)
			bad++;
		if (o.kind == OUTCOME_TIMEOUT)
			printf("# jump to %#lx did not end\n", j.addr);
		insane = sanity_check(s);
		outcome_text(o, text, sizeof(text));
	}
	snprintf(name, sizeof(name), "jumps-into-%lx", page);
	check_that(c, !bad && !insane, name, "%s; last %s", insane ? insane : "no child", text);
}

static void scan_check(struct check *c, unsigned max_pages, bool jump, struct sanity *s)
{
	struct found *f =
		mmap(NULL, sizeof(*f), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned writable = 0;
	char text[64];

	if (f == MAP_FAILED)
		return;
	struct outcome o = child_run(scan_child, f, SCAN_TIMEOUT);

	check_that(c, o.kind == OUTCOME_EXIT && o.value == 0, "scan-kernel-half", "%s",
		   outcome_text(o, text, sizeof(text)));
	printf("# %u addresses probed, %u pages readable\n", f->probes, f->count);
	for (unsigned i = 0; i < f->count; i++) {
		writable += f->writable[i];
		if (i < 32)
			printf("# user space can read%s %#lx\n", f->writable[i] ? " and write" : "",
			       f->page[i]);
	}
	check_that(c, !writable, "no-kernel-page-writable", "%u pages are", writable);
	check_that(c, f->count <= max_pages, "few-kernel-pages-readable", "%u pages, at most %u",
		   f->count, max_pages);
	low_page();
	for (unsigned i = 0; jump && i < f->count && i < 8; i++)
		jump_check(c, f->page[i], s);
	munmap(f, sizeof(*f));
}

/* addr= as a full 64-bit number; 0 when it was not given. */
static uintptr_t address_get(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (!strncmp(argv[i], "addr=", 5))
			return strtoul(argv[i] + 5, NULL, 0);
	}
	return 0;
}

int hostile_reach_main(int argc, char **argv)
{
	uintptr_t extra = address_get(argc, argv);
	unsigned max_pages = (unsigned)param_get(argc, argv, "max_pages", 4, 0, FOUND_MAX);
	bool jump = param_get(argc, argv, "jump", 1, 0, 1);
	static const struct attack arguments = { "kernel-addresses-as-arguments", argument_child, 0,
						 WANT_DONE };
	struct check c = { 0 };
	struct sanity s;

	if (sanity_init(&s))
		return 1;
	for (size_t i = 0; i < bad_address_count; i++)
		reach_check(&c, bad_addresses[i], &s);
	if (extra) {
		reach_check(&c, extra, &s);
		jump_check(&c, extra & ~(PAGE - 1), &s);
	}
	attack_run(&c, &arguments, &s, false);
	scan_check(&c, max_pages, jump, &s);
	return check_finish(&c);
}
