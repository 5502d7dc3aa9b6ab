/* Hypercalls of the guest kernel (Xen's public interface). */
#ifndef RAMET_VMM_HYPERCALL_H
#define RAMET_VMM_HYPERCALL_H

#include "vmm/machine.h"

/* Performs the hypercall that the kernel-mode registers describe: number in
 * rax, arguments in rdi rsi rdx r10 r8; the result goes to rax. Unknown ones
 * give -ENOSYS. */
void hypercall_dispatch(struct machine *m);

#endif
