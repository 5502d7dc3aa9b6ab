/* A virtual machine with nothing but memory and one processor: what a fork costs
 * without ramet is measured with it, and what KVM itself costs.
 *
 * Its program runs at CPL 3, so that KVM without hardware virtualisation runs it
 * on the processor as well: it writes to memory page by page, then executes
 * `out` for ever. */
#ifndef RAMET_PERF_BASELINE_VM_H
#define RAMET_PERF_BASELINE_VM_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

#define BASELINE_PAGE      4096u
#define BASELINE_HEAD      (2u << 20) /* page tables and program: not the program's to write */
#define BASELINE_BYTES_MAX (4ull << 30)

enum baseline_step { STEP_VM, STEP_VCPU, STEP_CPUID, STEP_MEMSLOT, STEP_STATE, STEP_RUN, STEPS };

/* KVM itself, opened once. */
struct baseline_kvm {
	int fd;
	struct kvm_cpuid2 *cpuid;
};

struct baseline_vm {
	int vm_fd, vcpu_fd;
	struct kvm_run *run;
	size_t run_bytes;
	uint64_t step_ns[STEPS]; /* what making it took */
};

/* Opens /dev/kvm and asks for what processors it offers. -errno. */
int baseline_kvm_open(struct baseline_kvm *kvm, struct ramet_err *err);
void baseline_kvm_close(struct baseline_kvm *kvm);

/* Writes page tables and program to the first BASELINE_HEAD bytes of `memory`. */
void baseline_memory_init(void *memory);

/* Makes a machine over `bytes` of `memory` (from baseline_memory_init(), whole
 * pages, at most BASELINE_BYTES_MAX) and runs its first instruction. -errno of
 * the ioctl that failed. */
int baseline_vm_create(struct baseline_vm *vm, const struct baseline_kvm *kvm, void *memory,
		       uint64_t bytes, struct ramet_err *err);

/* Has the guest write one byte, `value`, to every page of [start, end). */
int baseline_vm_write(struct baseline_vm *vm, uint64_t start, uint64_t end, uint8_t value,
		      struct ramet_err *err);

/* One `out` after the one before. */
int baseline_vm_out(struct baseline_vm *vm, struct ramet_err *err);

/* Closes it; fine for one that was only partly made. */
void baseline_vm_destroy(struct baseline_vm *vm);

#endif
