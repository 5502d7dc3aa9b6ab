/* The throw-away VM of the start-up probe: one vCPU, a few pages, no devices.
 *
 * Every PML4 slot used maps the same memory, so a page is at
 * probe_va(slot, page) in each. A second root with tables of its own maps the
 * same, except for the pages that the root-switch test swaps. */
#ifndef RAMET_VMM_PROBE_VM_H
#define RAMET_VMM_PROBE_VM_H

#include <linux/kvm.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "lib/err.h"

/* Guest-physical pages, by number. */
enum probe_page {
	PROBE_PAGE_GDT = 1,
	PROBE_PAGE_TSS,
	PROBE_PAGE_IDT,
	PROBE_PAGE_IMAGE, /* PROBE_IMAGE_PAGES of code */
	PROBE_PAGE_STACK = PROBE_PAGE_IMAGE + 3,
	PROBE_PAGE_IST,   /* interrupt stack, reachable at CPL 3 */
	PROBE_PAGE_IST_B, /* what the second root has in its place */
	PROBE_PAGE_MARK_A,
	PROBE_PAGE_MARK_B,
	PROBE_PAGE_ROOT_A, /* four page-table levels */
	PROBE_PAGE_ROOT_B = PROBE_PAGE_ROOT_A + 4,
	PROBE_PAGE_COUNT = PROBE_PAGE_ROOT_B + 4,
	PROBE_PAGE_WINDOW = 64, /* linear page only: what tests map and remap */
};

#define PROBE_PAGE         4096u
#define PROBE_MEMORY_BYTES (PROBE_PAGE_COUNT * PROBE_PAGE)
#define PROBE_HOME_SLOT    257u /* where tests run that are not about slots */

#define PROBE_SEL_CS0    0x10
#define PROBE_SEL_SS0    0x18
#define PROBE_SEL_CS3_32 0x23
#define PROBE_SEL_SS3    0x2b
#define PROBE_SEL_CS3    0x33
#define PROBE_SEL_TSS    0x40
#define PROBE_TSS_LIMIT  0x97

/* Reports from CPL 3 are `out`s. The I/O bitmap opens their ports, and IOPL 3
 * does where a KVM or emulator gets the bitmap wrong; some ignore IOPL. */
#define PROBE_FLAGS   0x3002u
#define PROBE_FLAG_IF 0x200u

#define PROBE_MARK_A 0xaau
#define PROBE_MARK_B 0xbbu

enum probe_root { PROBE_ROOT_A, PROBE_ROOT_B };

struct probe_vm {
	int vm_fd, vcpu_fd;
	struct kvm_run *run;
	size_t run_size;
	uint8_t *memory;
	timer_t timer;
	bool has_timer;
	bool masked;
	sigset_t old_mask;
	uint64_t patience_ns; /* CPU time of this thread: end of all patience */
	uint64_t deadline_ns; /* CLOCK_MONOTONIC: the same for a KVM that sleeps */
	uint64_t step_ns;     /* CPU time: the end of a step */
};

struct probe_stop {
	enum {
		PROBE_STOP_PORT,   /* out to `port` */
		PROBE_STOP_WINDOW, /* the interrupt window opened */
		PROBE_STOP_LATE,   /* nothing happened in time */
		PROBE_STOP_FAILED, /* KVM gave up; `exit_reason`, or `error` of KVM_RUN */
	} kind;
	unsigned int port;
	unsigned int cpl;
	uint32_t exit_reason;
	int error;
};

/* Linear address of a page in a PML4 slot. */
uint64_t probe_va(unsigned int slot, unsigned int page);

/* Linear address of a label of the image in a PML4 slot. */
uint64_t probe_code(unsigned int slot, const uint8_t *label);

/* Guest-physical address of a root, as CR3 wants it. */
uint64_t probe_root(enum probe_root root);

/* The L1 entry of a page in a root, to read and write. */
volatile uint64_t *probe_pte(struct probe_vm *vm, enum probe_root root, unsigned int page);

/* Makes a PML4 slot of both roots map the memory. */
void probe_slot_map(struct probe_vm *vm, unsigned int slot);

/* Points an IDT vector at an address; ist 0 means the CPL-0 stack. */
void probe_gate(struct probe_vm *vm, unsigned int vector, uint64_t address, uint16_t selector,
		unsigned int ist);

/* The same, back to the reporting stub of the vector at CPL 0. */
void probe_gate_default(struct probe_vm *vm, unsigned int vector);

/* Fills the guest memory; probe_vm_create() does it. */
void probe_memory_build(struct probe_vm *vm);

/* Builds the VM. The probe's signal is blocked in this thread until
 * probe_vm_destroy(). -ENOTSUP when KVM lacks what the probe needs. Destroy
 * also what failed half-way; on error nothing is left. */
int probe_vm_create(struct probe_vm *vm, int kvm_fd, struct ramet_err *err);

/* Accepts a zeroed vm with vm_fd and vcpu_fd -1. */
void probe_vm_destroy(struct probe_vm *vm);

/* Sets the vCPU up to start at `rip` with that CPL (0 or 3), root A, PROBE_FLAGS
 * and an empty stack. Change vm->run->s.regs.regs after it for operands. */
void probe_vm_start(struct probe_vm *vm, uint64_t rip, unsigned int cpl);

/* Runs until the guest reports or a step's time is over. */
void probe_vm_run(struct probe_vm *vm, struct probe_stop *stop);

#endif
