/* Instructions that only a kernel may execute, one by one, from user space:
 * control registers, descriptor tables, MSRs, ports, virtualisation, and all
 * software interrupts. Ports are swept without permission; where this runs in
 * a guest, also with the permission that root can ask for. */
#include "fault.h"
#include "hostile.h"
#include "suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* One instruction with its register inputs. */
struct insn {
	const char *name;
	enum expect expect;
	uint8_t len;
	uint8_t bytes[10];
	uint64_t rax, rcx, rdx;
};

#define KERNEL 0xffffffff81000000u
#define ONES   0xffffffffffffffffu

static const struct insn insns[] = {
	{ "cli", WANT_SEGV, 1, { 0xfa }, 0, 0, 0 },
	{ "sti", WANT_SEGV, 1, { 0xfb }, 0, 0, 0 },
	{ "hlt", WANT_SEGV, 1, { 0xf4 }, 0, 0, 0 },
	{ "clts", WANT_SEGV, 2, { 0x0f, 0x06 }, 0, 0, 0 },
	{ "invd", WANT_SEGV, 2, { 0x0f, 0x08 }, 0, 0, 0 },
	{ "wbinvd", WANT_SEGV, 2, { 0x0f, 0x09 }, 0, 0, 0 },
	{ "invlpg", WANT_SEGV, 3, { 0x0f, 0x01, 0x38 }, KERNEL, 0, 0 },
	{ "invlpg-own", WANT_SEGV, 3, { 0x0f, 0x01, 0x38 }, LOW_PAGE, 0, 0 },
	{ "lgdt", WANT_SEGV, 3, { 0x0f, 0x01, 0x10 }, LOW_PAGE, 0, 0 },
	{ "lidt", WANT_SEGV, 3, { 0x0f, 0x01, 0x18 }, LOW_PAGE, 0, 0 },
	{ "lldt", WANT_SEGV, 3, { 0x0f, 0x00, 0xd0 }, 0x28, 0, 0 },
	{ "ltr", WANT_SEGV, 3, { 0x0f, 0x00, 0xd8 }, 0x40, 0, 0 },
	{ "lmsw", WANT_SEGV, 3, { 0x0f, 0x01, 0xf0 }, 0, 0, 0 },
	{ "sgdt", WANT_ANY, 3, { 0x0f, 0x01, 0x00 }, LOW_PAGE + 0x800, 0, 0 },
	{ "sidt", WANT_ANY, 3, { 0x0f, 0x01, 0x08 }, LOW_PAGE + 0x800, 0, 0 },
	{ "sldt", WANT_ANY, 3, { 0x0f, 0x00, 0xc0 }, 0, 0, 0 },
	{ "str", WANT_ANY, 3, { 0x0f, 0x00, 0xc8 }, 0, 0, 0 },
	{ "smsw", WANT_ANY, 3, { 0x0f, 0x01, 0xe0 }, 0, 0, 0 },
	{ "mov-from-cr0", WANT_SEGV, 3, { 0x0f, 0x20, 0xc0 }, 0, 0, 0 },
	{ "mov-from-cr2", WANT_SEGV, 3, { 0x0f, 0x20, 0xd0 }, 0, 0, 0 },
	{ "mov-from-cr3", WANT_SEGV, 3, { 0x0f, 0x20, 0xd8 }, 0, 0, 0 },
	{ "mov-from-cr4", WANT_SEGV, 3, { 0x0f, 0x20, 0xe0 }, 0, 0, 0 },
	{ "mov-from-cr8", WANT_FAULT, 4, { 0x44, 0x0f, 0x20, 0xc0 }, 0, 0, 0 },
	{ "mov-to-cr0", WANT_SEGV, 3, { 0x0f, 0x22, 0xc0 }, 0x80000001, 0, 0 },
	{ "mov-to-cr2", WANT_SEGV, 3, { 0x0f, 0x22, 0xd0 }, 0, 0, 0 },
	{ "mov-to-cr3", WANT_SEGV, 3, { 0x0f, 0x22, 0xd8 }, 0x1000, 0, 0 },
	{ "mov-to-cr4", WANT_SEGV, 3, { 0x0f, 0x22, 0xe0 }, 0x20, 0, 0 },
	{ "mov-from-dr0", WANT_SEGV, 3, { 0x0f, 0x21, 0xc0 }, 0, 0, 0 },
	{ "mov-to-dr7", WANT_SEGV, 3, { 0x0f, 0x23, 0xf8 }, 0x403, 0, 0 },
	{ "mov-to-dr0", WANT_SEGV, 3, { 0x0f, 0x23, 0xc0 }, LOW_PAGE, 0, 0 },
	{ "rdmsr-tsc", WANT_SEGV, 2, { 0x0f, 0x32 }, 0, 0x10, 0 },
	{ "rdmsr-lstar", WANT_SEGV, 2, { 0x0f, 0x32 }, 0, 0xc0000082, 0 },
	{ "rdmsr-gs-base", WANT_SEGV, 2, { 0x0f, 0x32 }, 0, 0xc0000101, 0 },
	{ "wrmsr-lstar", WANT_SEGV, 2, { 0x0f, 0x30 }, LOW_PAGE, 0xc0000082, 0 },
	{ "wrmsr-efer", WANT_SEGV, 2, { 0x0f, 0x30 }, 0x500, 0xc0000080, 0 },
	{ "wrmsr-fs-base", WANT_SEGV, 2, { 0x0f, 0x30 }, 0, 0xc0000100, 0 },
	{ "wrmsr-kernel-gs", WANT_SEGV, 2, { 0x0f, 0x30 }, 0, 0xc0000102, 0 },
	{ "wrmsr-apic-base", WANT_SEGV, 2, { 0x0f, 0x30 }, 0xfee00900, 0x1b, 0 },
	{ "rdpmc", WANT_ANY, 2, { 0x0f, 0x33 }, 0, 0, 0 },
	{ "rdtsc", WANT_DONE, 2, { 0x0f, 0x31 }, 0, 0, 0 },
	{ "cpuid", WANT_DONE, 2, { 0x0f, 0xa2 }, 1, 0, 0 },
	{ "swapgs", WANT_FAULT, 3, { 0x0f, 0x01, 0xf8 }, 0, 0, 0 },
	{ "sysretq", WANT_FAULT, 3, { 0x48, 0x0f, 0x07 }, 0, KERNEL, 0 },
	{ "sysretl", WANT_FAULT, 2, { 0x0f, 0x07 }, 0, LOW_PAGE, 0 },
	{ "sysexit", WANT_FAULT, 3, { 0x48, 0x0f, 0x35 }, 0, LOW_PAGE, LOW_PAGE },
	{ "sysenter", WANT_ANY, 2, { 0x0f, 0x34 }, 20, 0, 0 },
	{ "vmcall", WANT_ANY, 3, { 0x0f, 0x01, 0xc1 }, 0, 0, 0 },
	{ "vmmcall", WANT_ANY, 3, { 0x0f, 0x01, 0xd9 }, 0, 0, 0 },
	{ "vmlaunch", WANT_FAULT, 3, { 0x0f, 0x01, 0xc2 }, 0, 0, 0 },
	{ "vmrun", WANT_FAULT, 3, { 0x0f, 0x01, 0xd8 }, LOW_PAGE, 0, 0 },
	{ "vmload", WANT_FAULT, 3, { 0x0f, 0x01, 0xda }, LOW_PAGE, 0, 0 },
	{ "vmsave", WANT_FAULT, 3, { 0x0f, 0x01, 0xdb }, LOW_PAGE, 0, 0 },
	{ "stgi", WANT_FAULT, 3, { 0x0f, 0x01, 0xdc }, 0, 0, 0 },
	{ "clgi", WANT_FAULT, 3, { 0x0f, 0x01, 0xdd }, 0, 0, 0 },
	{ "skinit", WANT_FAULT, 3, { 0x0f, 0x01, 0xde }, 0, 0, 0 },
	{ "invlpga", WANT_FAULT, 3, { 0x0f, 0x01, 0xdf }, KERNEL, 0, 0 },
	{ "monitor", WANT_ANY, 3, { 0x0f, 0x01, 0xc8 }, LOW_PAGE, 0, 0 },
	{ "mwait", WANT_ANY, 3, { 0x0f, 0x01, 0xc9 }, 0, 0, 0 },
	{ "xsetbv", WANT_FAULT, 3, { 0x0f, 0x01, 0xd1 }, 1, 0, 0 },
	{ "xsetbv-junk", WANT_FAULT, 3, { 0x0f, 0x01, 0xd1 }, ONES, 5, ONES },
	{ "clac", WANT_FAULT, 3, { 0x0f, 0x01, 0xca }, 0, 0, 0 },
	{ "stac", WANT_FAULT, 3, { 0x0f, 0x01, 0xcb }, 0, 0, 0 },
	{ "rsm", WANT_FAULT, 2, { 0x0f, 0xaa }, 0, 0, 0 },
	{ "getsec", WANT_FAULT, 2, { 0x0f, 0x37 }, 0, 0, 0 },
	{ "invpcid", WANT_FAULT, 5, { 0x66, 0x0f, 0x38, 0x82, 0x01 }, 2, LOW_PAGE, 0 },
	{ "xsaves", WANT_FAULT, 4, { 0x48, 0x0f, 0xc7, 0x28 }, LOW_PAGE + 0x800, 0, 0 },
	{ "in-al-60", WANT_SEGV, 2, { 0xe4, 0x60 }, 0, 0, 0 },
	{ "out-dx-al", WANT_SEGV, 1, { 0xee }, 0, 0, 0xcf9 },
	{ "outsb", WANT_SEGV, 1, { 0x6e }, 0, 0, 0x80 },
	{ "rep-insb", WANT_SEGV, 2, { 0xf3, 0x6c }, 0, 4, 0x60 },
	{ "retf", WANT_FAULT, 2, { 0x48, 0xcb }, 0, 0, 0 },
	{ "iretq-junk", WANT_FAULT, 2, { 0x48, 0xcf }, 0, 0, 0 },
	{ "lock-prefix", WANT_ANY, 3, { 0xf0, 0x89, 0xc0 }, 0, 0, 0 },
	{ "verr", WANT_ANY, 3, { 0x0f, 0x00, 0xe0 }, 0x10, 0, 0 },
	{ "verw", WANT_ANY, 3, { 0x0f, 0x00, 0xe8 }, 0x18, 0, 0 },
	{ "lar", WANT_ANY, 3, { 0x0f, 0x02, 0xc0 }, 0x10, 0, 0 },
	{ "lsl", WANT_ANY, 3, { 0x0f, 0x03, 0xc0 }, 0x10, 0, 0 },
	{ "icebp", WANT_ANY, 1, { 0xf1 }, 0, 0, 0 },
	{ "int3", WANT_FAULT, 1, { 0xcc }, 0, 0, 0 },
	{ "xen-emulate-prefix-cpuid",
	  WANT_ANY,
	  7,
	  { 0x0f, 0x0b, 'x', 'e', 'n', 0x0f, 0xa2 },
	  1,
	  0,
	  0 },
	{ "rdpkru", WANT_ANY, 3, { 0x0f, 0x01, 0xee }, 0, 0, 0 },
	{ "wrpkru", WANT_ANY, 3, { 0x0f, 0x01, 0xef }, 0, 0, 0 },
	{ "long-instruction",
	  WANT_FAULT,
	  10,
	  { 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0xf0, 0x0f, 0x01, 0xf8 },
	  0,
	  0,
	  0 },
};

/* Runs the instruction from the low page, followed by a return. RSI and RDI
 * point to the page's second half, where the stack is as well. */
static int insn_child(void *arg)
{
	const struct insn *i = arg;
	uint8_t *p = low_page();

	if (!p)
		return EXIT_UNABLE;
	memcpy(p, i->bytes, i->len);
	/* mov %rbp, %rsp; ret: also after instructions that use the stack */
	memcpy(p + i->len, "\x48\x89\xec\xc3", 4);
	memset(p + 0xc00, 0, 0x400);
	__asm__ volatile("pushq %%rbp\n\t"
			 "leaq 1f(%%rip), %%r8\n\t"
			 "movq %%rsp, %%r9\n\t"
			 "subq $8, %%rsp\n\t"
			 "movq %%r8, (%%rsp)\n\t"
			 "movq %%rsp, %%rbp\n\t"
			 "subq $256, %%rsp\n\t"
			 "jmp *%%rbx\n\t"
			 "1: popq %%rbp\n\t"
			 :
			 : "a"(i->rax), "b"(p), "c"(i->rcx), "d"(i->rdx), "S"(p + 0xc00),
			   "D"(p + 0xc00)
			 : "r8", "r9", "r10", "r11", "memory", "cc");
	return 0;
}

static int soft_int_child(void *arg)
{
	struct insn i = {
		.name = "int", .len = 2, .bytes = { 0xcd, (uint8_t)(uintptr_t)arg }, .rax = 20
	};

	return insn_child(&i);
}

/* Every port once, in a scattered order, until the time is up. Without
 * permission each must fault; a port that does not is a way out. */
static int ports_child(void *arg)
{
	int64_t until = now_us() + *(const int64_t *)arg * 1000000;
	unsigned tried = 0;

	fault_catch(0);
	for (uint32_t i = 0; i < 65536; i++) {
		uint16_t port = (uint16_t)(i * 40503u);

		FAULT_TRY(__asm__ volatile("inb %%dx, %%al" : : "d"(port) : "rax"));
		if (fault_last.sig != SIGSEGV) {
			printf("# in from port %#x: signal %d\n", port, fault_last.sig);
			return EXIT_BREACH;
		}
		FAULT_TRY(__asm__ volatile("outb %%al, %%dx" : : "d"(port), "a"(0)));
		if (fault_last.sig != SIGSEGV) {
			printf("# out to port %#x: signal %d\n", port, fault_last.sig);
			return EXIT_BREACH;
		}
		tried++;
		if (i % 64 == 0 && now_us() > until)
			break;
	}
	printf("# %u ports tried without permission\n", tried);
	return 0;
}

/* With the permission of root: whatever a port answers, the machine goes on.
 * Only tried in guests: on a real machine ports are real devices. */
static int granted_ports_child(void *arg)
{
	int64_t until = now_us() + *(const int64_t *)arg * 1000000;
	bool all = iopl(3) == 0;

	if (!inside_xen() || (!all && ioperm(0, 0x400, 1)))
		return EXIT_UNABLE;
	fault_catch(0);
	for (uint32_t i = 0; i < 65536 && now_us() < until; i++) {
		uint16_t port = (uint16_t)(i * 40503u);

		if (!all && port >= 0x400)
			continue;
		FAULT_TRY(__asm__ volatile("inb %%dx, %%al" : : "d"(port) : "rax"));
		FAULT_TRY(__asm__ volatile("inl %%dx, %%eax" : : "d"(port) : "rax"));
		FAULT_TRY(__asm__ volatile("outb %%al, %%dx" : : "d"(port), "a"(0xff)));
		FAULT_TRY(__asm__ volatile("outl %%eax, %%dx" : : "d"(port), "a"(0x80000000)));
	}
	FAULT_TRY(__asm__ volatile("cli"));
	FAULT_TRY(__asm__ volatile("sti"));
	return 0;
}

/* Flags that popf must not change for user space. */
static int popf_child(void *arg)
{
	uint64_t flags;

	(void)arg;
	__asm__ volatile("subq $128, %%rsp\n\t"
			 "pushq $0x7202\n\t"
			 "popfq\n\t"
			 "pushfq\n\t"
			 "popq %0\n\t"
			 "pushq $0x202\n\t"
			 "popfq\n\t"
			 "addq $128, %%rsp"
			 : "=r"(flags)
			 :
			 : "memory", "cc");
	return flags & 0x3000 ? EXIT_BREACH : 0;
}

int hostile_insn_main(int argc, char **argv)
{
	int64_t seconds = param_get(argc, argv, "port_seconds", 5, 1, 3600);
	bool verbose = param_get(argc, argv, "verbose", 0, 0, 1);
	struct check c = { 0 };
	struct sanity s;
	char name[64];
	const struct attack ports[] = {
		{ "ports-without-permission", ports_child, (uintptr_t)&seconds, WANT_DONE },
		{ "ports-with-permission", granted_ports_child, (uintptr_t)&seconds, WANT_ANY },
		{ "popf-privileged-flags", popf_child, 0, WANT_DONE },
	};

	if (sanity_init(&s))
		return 1;
	for (size_t i = 0; i < ARRAY_SIZE(insns); i++) {
		struct attack a = { name, insn_child, (uintptr_t)&insns[i], insns[i].expect };

		snprintf(name, sizeof(name), "insn-%s", insns[i].name);
		attack_run(&c, &a, &s, verbose);
	}
	for (uintptr_t n = 0; n < 256; n++) {
		struct attack a = { name, soft_int_child, n, WANT_ANY };

		snprintf(name, sizeof(name), "int-%02lx", n);
		attack_run(&c, &a, &s, verbose);
	}
	attacks_run(&c, ports, ARRAY_SIZE(ports), &s, verbose);
	return check_finish(&c);
}
