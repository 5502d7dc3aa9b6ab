/* Returning from a signal handler with a saved context that no kernel would
 * have made: addresses, selectors, flags and FPU state of the attacker's own. */
#include "hostile.h"
#include "suite.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

/* What the handler puts into the context; set before the signal is raised. */
enum field {
	FIELD_RIP,
	FIELD_RSP,
	FIELD_RSP_AND_FAULT,
	FIELD_CS,
	FIELD_SS,
	FIELD_FLAGS,
	FIELD_FPU
};

struct edit {
	enum field field;
	uint64_t value;
};

static struct edit edit; /* signals bring no argument with them */

/* Parts of the saved FPU area: the FXSAVE image, then the XSAVE header. */
#define FPU_MXCSR     24
#define FPU_SW_BYTES  464
#define FPU_XSTATE_BV 512
#define FPU_XCOMP_BV  520

static void fpu_edit(ucontext_t *u, uint64_t what)
{
	uint8_t *fpu = (uint8_t *)u->uc_mcontext.fpregs;
	const uint64_t ones = ~0ull;

	if (!fpu)
		_exit(EXIT_UNABLE);
	switch (what) {
	case 0:
		memset(fpu + FPU_MXCSR, 0xff, 4);
		break;
	case 1:
		memcpy(fpu + FPU_XSTATE_BV, &ones, sizeof(ones));
		break;
	case 2:
		memcpy(fpu + FPU_XCOMP_BV, &ones, sizeof(ones));
		break;
	case 3:
		memset(fpu + FPU_SW_BYTES, 0xff, 48);
		break;
	case 4:
		u->uc_mcontext.fpregs = (void *)0xffffffff81000000u;
		break;
	default:
		u->uc_mcontext.fpregs = (void *)((uintptr_t)fpu + 1);
		break;
	}
}

static void edit_handler(int sig, siginfo_t *info, void *context)
{
	ucontext_t *u = context;
	greg_t *g = u->uc_mcontext.gregs;

	(void)sig;
	(void)info;
	switch (edit.field) {
	case FIELD_RIP:
		g[REG_RIP] = (greg_t)edit.value;
		break;
	case FIELD_RSP:
		g[REG_RSP] = (greg_t)edit.value;
		break;
	case FIELD_RSP_AND_FAULT:
		g[REG_RSP] = (greg_t)edit.value;
		g[REG_RIP] = LOW_PAGE;
		break;
	case FIELD_CS:
		g[REG_CSGSFS] = (g[REG_CSGSFS] & ~0xffffL) | (greg_t)edit.value;
		g[REG_RIP] = LOW_PAGE;
		break;
	case FIELD_SS:
		g[REG_CSGSFS] =
			(greg_t)((uint64_t)(g[REG_CSGSFS] & 0xffffffffffffL) | edit.value << 48);
		g[REG_RIP] = LOW_PAGE;
		break;
	case FIELD_FLAGS:
		g[REG_EFL] = (greg_t)edit.value;
		break;
	case FIELD_FPU:
		fpu_edit(u, edit.value);
		break;
	}
}

static int edit_child(void *arg)
{
	struct sigaction sa = { .sa_sigaction = edit_handler, .sa_flags = SA_SIGINFO };

	edit = *(const struct edit *)arg;
	if (!low_page())
		return EXIT_UNABLE;
	sigaction(SIGUSR1, &sa, NULL);
	raise(SIGUSR1);
	/* The flags must not have brought I/O privilege, whatever they said. */
	uint64_t flags;

	__asm__ volatile("subq $128, %%rsp; pushfq; popq %0; addq $128, %%rsp" : "=r"(flags));
	return edit.field == FIELD_FLAGS && (flags & 0x3000) ? EXIT_BREACH : 0;
}

/* A handler that is never left properly: hundreds of frames, then one jump. */
static int frames_child(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < 200; i++) {
		edit = (struct edit){ FIELD_FLAGS, 0x246 };
		raise(SIGUSR1);
	}
	return 0;
}

/* sigreturn with the stack pointer at memory that holds no frame at all. */
static int bare_child(void *arg)
{
	__asm__ volatile("movq %0, %%rsp\n\t"
			 "movl $15, %%eax\n\t"
			 "syscall"
			 :
			 : "r"(arg)
			 : "rax", "memory");
	return 0;
}

static void edit_try(struct check *c, const char *what, struct edit e, enum expect expect,
		     struct sanity *s)
{
	char name[64];
	struct attack a = { name, edit_child, (uintptr_t)&e, expect };

	snprintf(name, sizeof(name), "sigreturn-%s-%lx", what, e.value);
	attack_run(c, &a, s, false);
}

static void selectors_try(struct check *c, struct sanity *s)
{
	static const uint16_t cs[] = { 0x0,    0x3,    0x8,    0x10,   0x13,   0x18,   0x20,
				       0x23,   0x2b,   0x30,   0x33,   0x7,    0x0f,   0x40,
				       0x43,   0x7b,   0x83,   0xfff8, 0xffff, 0xe008, 0xe00b,
				       0xe010, 0xe019, 0xe023, 0xe02b, 0xe030, 0xe033 };

	for (size_t i = 0; i < ARRAY_SIZE(cs); i++) {
		edit_try(c, "cs", (struct edit){ FIELD_CS, cs[i] }, WANT_FAULT, s);
		edit_try(c, "ss", (struct edit){ FIELD_SS, cs[i] }, WANT_FAULT, s);
	}
}

int hostile_sigreturn_main(int argc, char **argv)
{
	unsigned random = (unsigned)param_get(argc, argv, "random_flags", 40, 0, 100000);
	uint64_t state = (uint64_t)param_get(argc, argv, "seed", 1, 0, 1L << 62);
	static const uint64_t flags[] = { 0x3202,  0x4202,   0x20202,    0x10202, 0x40202,
					  0x80202, 0x100202, 0x200202,   0x302,   0x602,
					  0x2,     0x0,      0xffffffff, ~0ull,   0x47f02 };
	static const struct attack frames = { "sigreturn-many", frames_child, 0, WANT_ANY };
	static const struct attack bare[] = {
		{ "sigreturn-without-frame", bare_child, LOW_PAGE, WANT_SEGV },
		{ "sigreturn-stack-kernel", bare_child, 0xffffffff81000000u, WANT_SEGV },
		{ "sigreturn-stack-non-canonical", bare_child, 0x8000000000000000u, WANT_FAULT },
		{ "sigreturn-stack-null", bare_child, 0, WANT_SEGV },
	};
	struct check c = { 0 };
	struct sanity s;

	if (sanity_init(&s))
		return 1;
	for (size_t i = 0; i < bad_address_count; i++) {
		edit_try(&c, "rip", (struct edit){ FIELD_RIP, bad_addresses[i] }, WANT_SEGV, &s);
		edit_try(&c, "rsp", (struct edit){ FIELD_RSP, bad_addresses[i] }, WANT_FAULT, &s);
		/* UD2 at the low page: the fault itself arrives with this stack. */
		edit_try(&c, "rsp-then-fault",
			 (struct edit){ FIELD_RSP_AND_FAULT, bad_addresses[i] }, WANT_FAULT, &s);
	}
	selectors_try(&c, &s);
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		edit_try(&c, "flags", (struct edit){ FIELD_FLAGS, flags[i] }, WANT_ANY, &s);
	for (unsigned i = 0; i < random; i++)
		edit_try(&c, "flags", (struct edit){ FIELD_FLAGS, rng_next(&state) }, WANT_ANY, &s);
	for (uint64_t what = 0; what < 6; what++)
		edit_try(&c, "fpu", (struct edit){ FIELD_FPU, what }, WANT_ANY, &s);
	attacks_run(&c, bare, ARRAY_SIZE(bare), &s, false);
	signal(SIGUSR1, SIG_IGN);
	attack_run(&c, &frames, &s, false);
	return check_finish(&c);
}
