/* Running attacks and judging what became of them. */
#include "hostile.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define TIMEOUT_MS 10000

const uintptr_t bad_addresses[] = {
	0x00007ffffffff000u,                      /* just past user space */
	0x0000800000000000u,                      /* first non-canonical */
	0x8000000000000000u, 0xffff7fffffffffffu, /* last non-canonical */
	0xffff800000000000u,                      /* slot 256 */
	0xffff808000000000u,                      /* slot 257 */
	0xffff808000080000u, 0xffff808040000000u,
	0xffff808040080000u, 0xffff810000000000u, /* slot 258 */
	0xffff810040080000u, 0xffff880000000000u, /* LDT remap */
	0xffff888000000000u,                      /* direct map */
	0xffff888000001000u, 0xffff888001000000u, /* the kernel image in it */
	0xffff888002000000u, 0xffffc90000000000u, /* vmalloc */
	0xffffea0000000000u,                      /* vmemmap */
	0xfffffe0000000000u,                      /* CPU entry area */
	0xfffffe0000001000u, 0xffffff0000000000u,
	0xffffffff80000000u, 0xffffffff81000000u, /* kernel text */
	0xffffffff81001000u, 0xffffffff82000000u, /* kernel data */
	0xffffffff82a00000u, 0xffffffffc0000000u, /* modules */
	0xffffffffff200000u,                      /* fixmap */
	0xffffffffff5fd000u, 0xfffffffffffff000u,
};
const size_t bad_address_count = ARRAY_SIZE(bad_addresses);

bool outcome_is_fault(struct outcome o)
{
	return o.kind == OUTCOME_SIGNAL &&
	       (o.value == SIGSEGV || o.value == SIGILL || o.value == SIGBUS ||
		o.value == SIGTRAP || o.value == SIGFPE || o.value == SIGSYS);
}

static bool outcome_expected(struct outcome o, enum expect expect)
{
	switch (expect) {
	case WANT_SEGV:
		return o.kind == OUTCOME_SIGNAL && o.value == SIGSEGV;
	case WANT_FAULT:
		return outcome_is_fault(o);
	case WANT_DONE:
		return o.kind == OUTCOME_EXIT && o.value == 0;
	case WANT_ANY:
		break;
	}
	return outcome_is_fault(o) || (o.kind == OUTCOME_EXIT && o.value != EXIT_BREACH);
}

void attack_run(struct check *c, const struct attack *a, struct sanity *s, bool verbose)
{
	struct outcome o = child_run(a->run, (void *)a->arg, TIMEOUT_MS);
	const char *insane = sanity_check(s);
	char text[64];

	outcome_text(o, text, sizeof(text));
	if (o.kind == OUTCOME_EXIT && o.value == EXIT_UNABLE && !insane) {
		check_skip(c, a->name, "not possible here");
		return;
	}
	check_that(c, outcome_expected(o, a->expect) && !insane, a->name, "%s%s%s", text,
		   o.kind == OUTCOME_EXIT && o.value == EXIT_BREACH ? " (the attack succeeded)"
								    : "",
		   insane ? insane : "");
	if (verbose)
		printf("#   %s\n", text);
}

void attacks_run(struct check *c, const struct attack *a, size_t n, struct sanity *s, bool verbose)
{
	for (size_t i = 0; i < n; i++)
		attack_run(c, &a[i], s, verbose);
}

uint8_t *low_page(void)
{
	uint8_t *p = mmap((void *)LOW_PAGE, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	for (size_t i = 0; i < 4096; i += 2) {
		p[i] = 0x0f;
		p[i + 1] = 0x0b;
	}
	return p;
}

bool inside_xen(void)
{
	char type[16] = "";
	FILE *f = fopen("/sys/hypervisor/type", "re");

	if (f) {
		if (!fgets(type, sizeof(type), f))
			type[0] = '\0';
		fclose(f);
	}
	return !strncmp(type, "xen", 3);
}
