/* The in-guest fast path: what its parts share.
 *
 * This code runs inside the guest, without the VMM, for the hypercalls and
 * faults that make up nearly all events. It does only the common case; for
 * anything else it answers "slow" and the VMM handles the same event from the
 * same registers. It must not fault on anything but the guest kernel's own
 * arguments: a fault in here ends the guest. */
#ifndef RAMET_VMM_SHIM_H
#define RAMET_VMM_SHIM_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/shim/shim_data.h"

#define SHIM_DONE 0
#define SHIM_SLOW 1

/* As the entry code pushed them. */
struct shim_regs {
	uint64_t rax, rdi, rsi, rdx, r10, r8, r9, r11, rcx;
};

/* What the processor pushed on the CPL-0 stack, behind an error code if any. */
struct trap_frame {
	uint64_t rip, cs, rflags, rsp, ss;
};

static inline struct shim_data *shim_data_ptr(void)
{
	return (struct shim_data *)SHIM_DATA_VA;
}

/* struct vcpu_info of the public ABI, as far as it is used here. */
struct shim_vcpu_info {
	volatile uint8_t pending, mask;
	uint8_t pad[14];
	volatile uint64_t cr2;
};

static inline struct shim_vcpu_info *shim_vcpu_info(void)
{
	return (struct shim_vcpu_info *)shim_data_ptr()->vcpu_info;
}

/* Hypercall by the registers; may advance their arguments past what is done. */
int shim_hypercall(struct shim_regs *regs);

/* Page fault and breakpoint: build the guest kernel's frame. Return its stack
 * pointer, with data->target set, or 0 for slow. */
uint64_t shim_fault(struct shim_regs *regs);
uint64_t shim_break(struct shim_regs *regs);

#endif
