/* Signals raised by the CPU: the right signal, si_code, si_addr and RIP for
 * every kind of fault, also on an alternative stack. */
#include "check.h"
#include "fault.h"
#include "signals.h"
#include "suite.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE       4096u
#define CODE_ANY   (-1000)
#define STACK_SIZE (64u << 10)

/* `addr` and `rip` are compared when they are not ANY_ADDR. */
#define ANY_ADDR ((uintptr_t)-1)

static void fault_expect(struct check *c, const char *name, int sig, int code, uintptr_t addr,
			 uintptr_t rip)
{
	bool good = fault_last.sig == sig && (code == CODE_ANY || fault_last.code == code) &&
		    (addr == ANY_ADDR || fault_last.addr == addr) &&
		    (rip == ANY_ADDR || fault_last.rip == rip);

	check_that(c, good, name,
		   "signal %d code %d addr %#lx rip %#lx, expected %d code %d addr %#lx rip %#lx",
		   fault_last.sig, fault_last.code, (unsigned long)fault_last.addr,
		   (unsigned long)fault_last.rip, sig, code, (unsigned long)addr,
		   (unsigned long)rip);
}

/* For faults that software CPUs (QEMU's TCG) are known not to raise. */
static void silicon_expect(struct check *c, bool emulated, const char *name, int sig, int code)
{
	if (emulated)
		check_skip(c, name, "the emulated CPU does not raise it");
	else
		fault_expect(c, name, sig, code, ANY_ADDR, ANY_ADDR);
}

/* Runs INSN with its own address put in `at` first. */
#define FAULT_AT(at, INSN, ...)                                                                    \
	FAULT_TRY(__asm__ volatile("leaq 1f(%%rip), %%rax\n\tmovq %%rax, %0\n\t1: " INSN           \
				   : "=m"(at)                                                      \
				   : __VA_ARGS__                                                   \
				   : "rax", "rdx", "memory", "cc"))

static void memory_faults(struct check *c)
{
	uint8_t *ro = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *data =
		mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uintptr_t gone = (uintptr_t)ro + PAGE;
	uint8_t byte;

	munmap(ro + PAGE, PAGE);
	fault_read(gone + 123, &byte);
	fault_expect(c, "segv-unmapped-read", SIGSEGV, SEGV_MAPERR, gone + 123, ANY_ADDR);
	fault_write(gone + 7, 1);
	fault_expect(c, "segv-unmapped-write", SIGSEGV, SEGV_MAPERR, gone + 7, ANY_ADDR);
	fault_write((uintptr_t)ro + 5, 1);
	fault_expect(c, "segv-read-only", SIGSEGV, SEGV_ACCERR, (uintptr_t)ro + 5, ANY_ADDR);
	fault_read(16, &byte);
	fault_expect(c, "segv-null", SIGSEGV, SEGV_MAPERR, 16, ANY_ADDR);
	data[0] = 0xc3;
	FAULT_TRY(((void (*)(void))(uintptr_t)data)());
	fault_expect(c, "segv-no-execute", SIGSEGV, SEGV_ACCERR, (uintptr_t)data, (uintptr_t)data);
	fault_exec_refused(gone);
	fault_expect(c, "segv-jump-unmapped", SIGSEGV, SEGV_MAPERR, gone, gone);
	fault_read(0x8000000000000000u, &byte);
	fault_expect(c, "segv-non-canonical", SIGSEGV, SI_KERNEL, 0, ANY_ADDR);
	munmap(ro, PAGE);
	munmap(data, PAGE);
}

static void bus_faults(struct check *c, bool emulated)
{
	int fd = memfd_create("bus", MFD_CLOEXEC);
	uint8_t *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	uint8_t byte;

	fault_read((uintptr_t)p + 9, &byte);
	fault_expect(c, "bus-past-end-of-file", SIGBUS, BUS_ADRERR, (uintptr_t)p + 9, ANY_ADDR);
	munmap(p, PAGE);
	close(fd);
	/* The handler takes the alignment flag away again. */
	FAULT_TRY(__asm__ volatile("subq $128, %%rsp\n\t"
				   "pushfq\n\t"
				   "orq $0x40000, (%%rsp)\n\t"
				   "popfq\n\t"
				   "movl 1(%%rsp), %%eax\n\t"
				   "pushfq\n\t"
				   "andq $~0x40000, (%%rsp)\n\t"
				   "popfq\n\t"
				   "addq $128, %%rsp"
				   :
				   :
				   : "rax", "memory", "cc"));
	silicon_expect(c, emulated, "bus-alignment", SIGBUS, BUS_ADRALN);
}

static void control_words_reset(void)
{
	uint32_t mxcsr = 0x1f80;

	__asm__ volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
}

static void arithmetic_faults(struct check *c, bool emulated)
{
	volatile uintptr_t at = 0; /* written before a jump out */
	uint32_t unmasked = 0x1f80 & ~0x200u;
	uint16_t cw = 0x037f & ~0x4;

	FAULT_AT(at, "xorl %%edx, %%edx; xorl %%ecx, %%ecx; divl %%ecx", "c"(0));
	fault_expect(c, "fpe-divide", SIGFPE, FPE_INTDIV, at + 4, at + 4);
	FAULT_TRY(__asm__ volatile("ldmxcsr %0; movl $1, %%eax; cvtsi2sd %%eax, %%xmm0\n\t"
				   "xorpd %%xmm1, %%xmm1; divsd %%xmm1, %%xmm0"
				   :
				   : "m"(unmasked)
				   : "rax", "xmm0", "xmm1", "memory"));
	silicon_expect(c, emulated, "fpe-sse-divide", SIGFPE, FPE_FLTDIV);
	control_words_reset();
	FAULT_TRY(__asm__ volatile("fninit; fldcw %0; fldz; fld1; fdivp; fwait" : : "m"(cw)));
	fault_expect(c, "fpe-x87-divide", SIGFPE, FPE_FLTDIV, ANY_ADDR, ANY_ADDR);
	control_words_reset();
}

static void instruction_faults(struct check *c, bool emulated)
{
	volatile uintptr_t at = 0; /* written before a jump out */

	FAULT_AT(at, "ud2", "c"(0));
	fault_expect(c, "ill-ud2", SIGILL, ILL_ILLOPN, at, at);
	FAULT_AT(at, "hlt", "c"(0));
	fault_expect(c, "segv-privileged", SIGSEGV, SI_KERNEL, 0, at);
	FAULT_AT(at, "int3", "c"(0));
	fault_expect(c, "trap-int3", SIGTRAP, SI_KERNEL, ANY_ADDR, at + 1);
	FAULT_AT(at, ".byte 0xcd, 0x03", "c"(0));
	fault_expect(c, "trap-int-3-long-form", SIGTRAP, SI_KERNEL, ANY_ADDR, at + 2);
	FAULT_AT(at, ".byte 0xf1", "c"(0));
	/* Some hypervisors report this one before the instruction. */
	silicon_expect(c, emulated, "trap-icebp", SIGTRAP, CODE_ANY);
	/* The flag takes effect after the instruction that follows popf. */
	FAULT_TRY(__asm__ volatile("leaq 1f(%%rip), %%rax\n\t"
				   "movq %%rax, %0\n\t"
				   "subq $128, %%rsp\n\t"
				   "pushfq\n\t"
				   "orq $0x100, (%%rsp)\n\t"
				   "popfq\n\t"
				   "nop\n\t"
				   "1: nop\n\t"
				   "addq $128, %%rsp"
				   : "=m"(at)
				   :
				   : "rax", "memory", "cc"));
	fault_expect(c, "trap-single-step", SIGTRAP, TRAP_TRACE, at, at);
}

/* The handler must run on the alternative stack after the real one is gone. */
static void stack_faults(struct check *c, bool emulated)
{
	static uint8_t alt[STACK_SIZE];
	stack_t on = { .ss_sp = alt, .ss_size = sizeof(alt) }, off = { .ss_flags = SS_DISABLE };

	sigaltstack(&on, NULL);
	fault_catch(SA_ONSTACK);
	FAULT_TRY(__asm__ volatile("movq %%rsp, %%rbx; movq $0x1000, %%rsp; pushq %%rax;"
				   "movq %%rbx, %%rsp" ::
					   : "rbx", "memory"));
	fault_expect(c, "segv-on-alternative-stack", SIGSEGV, SEGV_MAPERR, 0xff8, ANY_ADDR);
	FAULT_TRY(__asm__ volatile("movq %%rsp, %%rbx; movabsq $0x8000000000000000, %%rsp;"
				   "pushq %%rax; movq %%rbx, %%rsp" ::
					   : "rbx", "memory"));
	silicon_expect(c, emulated, "bus-non-canonical-stack", SIGBUS, SI_KERNEL);
	sigaltstack(&off, NULL);
	fault_catch(0);
}

/* Repairs the page that faulted and returns, so that the access is repeated. */
static struct {
	uint8_t *base;
	size_t len;
	volatile unsigned repaired, strange;
} repair;

static void repair_handler(int sig, siginfo_t *info, void *context)
{
	uint8_t *at = info->si_addr;

	(void)sig;
	(void)context;
	if (at < repair.base || at >= repair.base + repair.len) {
		repair.strange++;
		_exit(9);
	}
	repair.repaired++;
	mprotect((void *)((uintptr_t)at & ~(uintptr_t)(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE);
}

static void repair_check(struct check *c)
{
	struct sigaction sa = { .sa_sigaction = repair_handler, .sa_flags = SA_SIGINFO };
	unsigned bad = 0, pages = 300;

	repair.len = pages * PAGE;
	repair.base = mmap(NULL, repair.len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	sigaction(SIGSEGV, &sa, NULL);
	for (unsigned i = 0; i < pages; i++) {
		volatile uint64_t *word =
			(uint64_t *)(void *)(repair.base + i * PAGE + 8 * (i % 500));

		*word += i + 1;
		bad += *word != i + 1;
	}
	fault_catch(0);
	check_that(c, !bad && repair.repaired == pages, "repair-and-restart",
		   "%u pages wrong, %u repairs", bad, repair.repaired);
	munmap(repair.base, repair.len);
}

int stress_signals_main(int argc, char **argv)
{
	unsigned rounds = (unsigned)param_get(argc, argv, "rounds", 5, 1, 100000);
	bool emulated = param_get(argc, argv, "emulated", 0, 0, 1);
	struct check c = { 0 };

	for (unsigned r = 0; r < rounds && !c.failed; r++) {
		fault_catch(0);
		memory_faults(&c);
		bus_faults(&c, emulated);
		arithmetic_faults(&c, emulated);
		instruction_faults(&c, emulated);
		stack_faults(&c, emulated);
		repair.repaired = 0;
		repair_check(&c);
	}
	signals_async_check(&c, (unsigned)param_get(argc, argv, "ms", 1500, 10, 1000000));
	return check_finish(&c);
}
