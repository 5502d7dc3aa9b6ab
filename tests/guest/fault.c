/* Touching memory that may not be there: see fault.h. */
#include "fault.h"

#include <stddef.h>

sigjmp_buf fault_jump;
volatile struct fault fault_last;

static void fault_handler(int sig, siginfo_t *info, void *context)
{
	const ucontext_t *u = context;

	/* Alignment checking or tracing that a test switched on ends here. */
	__asm__ volatile("pushfq; andq $~0x40500, (%%rsp); popfq" ::: "memory", "cc");
	fault_last.sig = sig;
	fault_last.code = info->si_code;
	fault_last.addr = (uintptr_t)info->si_addr;
	fault_last.rip = (uintptr_t)u->uc_mcontext.gregs[REG_RIP];
	fault_last.rsp = (uintptr_t)u->uc_mcontext.gregs[REG_RSP];
	fault_last.err = (uint64_t)u->uc_mcontext.gregs[REG_ERR];
	fault_last.trapno = (uint64_t)u->uc_mcontext.gregs[REG_TRAPNO];
	siglongjmp(fault_jump, 1);
}

void fault_catch(int extra_flags)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP };
	struct sigaction sa = { .sa_sigaction = fault_handler,
				.sa_flags = SA_SIGINFO | SA_NODEFER | extra_flags };

	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &sa, NULL);
}

bool fault_read(uintptr_t addr, uint8_t *value)
{
	FAULT_TRY(*value = *(volatile uint8_t *)addr);
	return fault_last.sig == 0;
}

bool fault_write(uintptr_t addr, uint8_t value)
{
	FAULT_TRY(*(volatile uint8_t *)addr = value);
	return fault_last.sig == 0;
}

bool fault_exec_refused(uintptr_t addr)
{
	FAULT_TRY(((void (*)(void))addr)());
	return fault_last.sig == SIGSEGV && fault_last.rip == addr;
}
