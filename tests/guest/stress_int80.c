/* Software interrupts: whatever the machine makes of them (a 32-bit system
 * call, a signal), the process or its signal handler sees it and the machine
 * goes on. Each is tried in a child. */
#include "check.h"
#include "suite.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TIMEOUT_MS 10000
#define RESULT_PID 1  /* a system call that answered with the right pid */
#define RESULT_ERR 2  /* a system call that answered -ENOSYS */
#define RESULT_ODD 3  /* execution went on with another value */
#define RESULT_BAD 10 /* registers were damaged */

/* int $0x80 with EAX=20 is getpid for 32-bit programs. */
static int int80_once(void *arg)
{
	long result = 20, keep = 0x1234567890abcdef;

	(void)arg;
	__asm__ volatile("int $0x80"
			 : "+a"(result), "+b"(keep)
			 :
			 : "memory", "r8", "r9", "r10", "r11");
	if (keep != 0x1234567890abcdef)
		return RESULT_BAD;
	if ((int)result == getpid())
		return RESULT_PID;
	return (int)result == -ENOSYS ? RESULT_ERR : RESULT_ODD;
}

static int int80_many(void *arg)
{
	int code = RESULT_ODD;

	for (unsigned i = 0; i < *(unsigned *)arg; i++) {
		code = int80_once(NULL);
		if (code == RESULT_BAD)
			break;
	}
	return code;
}

/* Runs "int $n; ret" from a page of its own. */
static int soft_int(void *arg)
{
	uint8_t *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned n = *(unsigned *)arg;

	if (code == MAP_FAILED)
		return RESULT_BAD;
	code[0] = 0xcd;
	code[1] = (uint8_t)n;
	code[2] = 0xc3;
	/* EAX=20 makes a working int $0x80 the harmless getpid. */
	__asm__ volatile("subq $128, %%rsp\n\t"
			 "call *%0\n\t"
			 "addq $128, %%rsp"
			 :
			 : "r"(code), "a"(20)
			 : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
	return 0;
}

/* An ordinary end: any exit that is no damage, or a fault signal. */
static bool outcome_ordinary(struct outcome o)
{
	if (o.kind == OUTCOME_EXIT)
		return o.value < RESULT_BAD;
	return o.kind == OUTCOME_SIGNAL &&
	       (o.value == SIGSEGV || o.value == SIGILL || o.value == SIGTRAP ||
		o.value == SIGFPE || o.value == SIGBUS || o.value == SIGSYS);
}

int stress_int80_main(int argc, char **argv)
{
	unsigned rounds = (unsigned)param_get(argc, argv, "rounds", 200, 1, 1000000);
	struct sanity sanity;
	struct check c = { 0 };
	char text[64];
	unsigned bad = 0, first_bad = 0;

	if (sanity_init(&sanity))
		return 1;
	struct outcome o = child_run(int80_once, NULL, TIMEOUT_MS);

	check_that(&c, outcome_ordinary(o), "int80", "%s", outcome_text(o, text, sizeof(text)));
	printf("# int 0x80: %s\n", outcome_text(o, text, sizeof(text)));
	o = child_run(int80_many, &rounds, TIMEOUT_MS);
	check_that(&c, outcome_ordinary(o), "int80-repeated", "%s",
		   outcome_text(o, text, sizeof(text)));
	for (unsigned n = 0; n < 256; n++) {
		o = child_run(soft_int, &n, TIMEOUT_MS);
		if (!outcome_ordinary(o) && !bad++)
			first_bad = n;
	}
	check_that(&c, bad == 0, "soft-interrupts", "%u went wrong, the first is %#x", bad,
		   first_bad);
	const char *insane = sanity_check(&sanity);

	check_that(&c, !insane, "machine-sane", "%s", insane ? insane : "");
	return check_finish(&c);
}
