/* Attacks by guest user space, each in a child process of its own. */
#ifndef RAMET_TESTS_GUEST_HOSTILE_H
#define RAMET_TESTS_GUEST_HOSTILE_H

#include "check.h"

/* Exit code of a child that got what it must not get. */
#define EXIT_BREACH 66
/* Exit code of a child that could not even try; counts as a skip. */
#define EXIT_UNABLE 77

/* What may become of an attacker. */
enum expect {
	WANT_SEGV,  /* SIGSEGV and nothing else */
	WANT_FAULT, /* some fault signal */
	WANT_DONE,  /* exit 0: the machine must do it as real hardware does */
	WANT_ANY,   /* fault signal or exit, except EXIT_BREACH */
};

struct attack {
	const char *name;
	int (*run)(void *arg);
	uintptr_t arg; /* passed as pointer */
	enum expect expect;
};

/* An end that a fault of its own gives a process. */
bool outcome_is_fault(struct outcome o);

/* Runs one attack, then verifies that the machine is sane; one check line.
 * `verbose` adds what became of the attacker. */
void attack_run(struct check *c, const struct attack *a, struct sanity *s, bool verbose);
void attacks_run(struct check *c, const struct attack *a, size_t n, struct sanity *s, bool verbose);

/* A page at a fixed low address, readable, writable and executable, filled with
 * UD2, for code and data that 32-bit modes must reach. NULL on failure. */
uint8_t *low_page(void);
#define LOW_PAGE ((uintptr_t)0x20000000)

/* Interesting kernel-half and edge addresses. */
extern const uintptr_t bad_addresses[];
extern const size_t bad_address_count;

/* True inside a guest of this project (or any Xen guest): there, instructions
 * that could upset a real machine's devices may be tried. */
bool inside_xen(void);

#endif
