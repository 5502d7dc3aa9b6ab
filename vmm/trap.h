/* Entering and leaving the guest kernel: exceptions, system calls, event
 * upcalls and HYPERVISOR_iret, with the stack frames of Xen's x86-64 PV ABI
 * (arch-x86/xen-x86_64.h). */
#ifndef RAMET_VMM_TRAP_H
#define RAMET_VMM_TRAP_H

#include "vmm/machine.h"

#define VECTOR_DB 1
#define VECTOR_BP 3
#define VECTOR_OF 4
#define VECTOR_UD 6
#define VECTOR_DF 8
#define VECTOR_GP 13
#define VECTOR_PF 14

/* Flags that guest user space may carry: CF PF AF ZF SF TF DF OF RF AC ID. */
#define RFLAGS_GUEST 0x254dd5ull
#define RFLAGS_FIXED 0x202ull /* IF and the bit that is always set */
#define RFLAGS_TF    0x100ull
#define RFLAGS_RF    0x10000ull

/* Delivers an exception to the guest kernel. A guest that cannot take it (no
 * handler, no stack) is ended. */
void trap_exception(struct machine *m, uint8_t vector, uint32_t error, uint64_t cr2);

/* Delivers a user-mode system call to the guest kernel. */
void trap_syscall(struct machine *m);

/* True when an event waits and the guest kernel has them unmasked. */
bool trap_upcall_wanted(const struct machine *m);
/* Delivers it. Only at an instruction boundary. */
void trap_upcall(struct machine *m);

/* HYPERVISOR_iret: takes the frame at the kernel's rsp. */
void trap_iret(struct machine *m);

/* Whether an address can be loaded into rip. */
static inline bool trap_canonical(uint64_t va)
{
	uint64_t top = va >> 47;

	return top == 0 || top == 0x1ffff;
}

#endif
