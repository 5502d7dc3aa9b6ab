/* Touching memory that may not be there, and learning what happened. */
#ifndef RAMET_TESTS_GUEST_FAULT_H
#define RAMET_TESTS_GUEST_FAULT_H

#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

/* What the handler saw at the last fault. */
struct fault {
	int sig, code;
	uintptr_t addr;     /* si_addr */
	uintptr_t rip, rsp; /* of the interrupted code */
	uint64_t err, trapno;
};

/* The handler needs static storage: signals bring no argument with them. */
extern sigjmp_buf fault_jump;
extern volatile struct fault fault_last;

/* Installs one handler for SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGTRAP that
 * records the fault and jumps to fault_jump, with `extra_flags` such as
 * SA_ONSTACK. The signals are not masked in it. */
void fault_catch(int extra_flags);

/* Runs the statements; afterwards fault_last.sig is 0 or what was raised. */
#define FAULT_TRY(...)                                                                             \
	do {                                                                                       \
		fault_last.sig = 0;                                                                \
		if (!sigsetjmp(fault_jump, 0)) {                                                   \
			__VA_ARGS__;                                                               \
		}                                                                                  \
	} while (0)

/* True when the access went through. A read leaves the byte in *value. */
bool fault_read(uintptr_t addr, uint8_t *value);
bool fault_write(uintptr_t addr, uint8_t value);

/* Calls `addr`. True only when the fault is exactly that of the jump: fetched
 * at `addr` and nothing executed. */
bool fault_exec_refused(uintptr_t addr);

#endif
