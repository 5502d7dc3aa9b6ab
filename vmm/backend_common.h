/* What every kind of KVM has in common below the seam of vmm/vcpu.h: the
 * processor's fixed state, generated CPL-0 code, one KVM_RUN, and the decoding
 * of exits that mean the same everywhere. */
#ifndef RAMET_VMM_BACKEND_COMMON_H
#define RAMET_VMM_BACKEND_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/hv_area.h"
#include "vmm/machine.h"
#include "vmm/shim/shim_data.h"

#define BACKEND_EXCEPTION_PORTS 32u    /* `out` to a port below: exception of that vector */
#define BACKEND_COMPAT_OFFSET   0x800u /* of the compat-mode entry in HV_PAGE_ENTRY_USER */

/* The fast path's data page. */
static inline struct shim_data *shim_data_get(const struct machine *m)
{
	return hv_page_ptr(m, HV_PAGE_DATA);
}

/* Moves what the fast path keeps out of, and back into, its page. The part
 * that only one kind has is that back-end's own. */
void backend_shim_load(struct machine *m);
void backend_shim_store(struct machine *m);
/* The fast path's fixed parameters; the rest of the page is zeroed. */
void backend_shim_init(struct machine *m, bool split_roots);

/* Sets CS and SS to the flat segments of that code selector's CPL. */
void backend_segments_set(struct kvm_sregs *s, uint16_t cs);

/* Where `syscall` goes to and which flags it clears (EFER.SCE). */
struct syscall_entry {
	uint64_t lstar, cstar, sfmask;
};

/* Gives the vCPU control registers, descriptor tables and flat CPL-3 segments;
 * CR3 is the guest kernel's. Leaves a copy in run->s.regs.sregs, where KVM keeps
 * it current. 0 or -errno. */
int backend_registers_init(struct machine *m, struct ramet_err *err);

/* Gives the vCPU its system-call MSRs and XCR0. 0 or -errno. */
int backend_processor_init(struct machine *m, const struct syscall_entry *entry,
			   struct ramet_err *err);

#define BACKEND_MSRS_MAX 4u

/* KVM_SET_MSRS or KVM_GET_MSRS (`request`) of up to BACKEND_MSRS_MAX registers.
 * 0, -EINVAL when KVM does not take one of them, another -errno. */
int backend_msrs(const struct machine *m, unsigned long request, struct kvm_msr_entry *entries,
		 uint32_t count);

/* Fills HV_PAGE_ENTRY_USER: `out` for a system call, at BACKEND_COMPAT_OFFSET
 * for one from compat mode. */
void backend_entry_page_init(struct machine *m);

/* Appends bytes to code; returns where to go on. */
uint8_t *backend_emit(uint8_t *code, const void *bytes, size_t len);

bool backend_ops_pending(const struct machine *m);

/* Appends CPL-0 code that makes the pending page-table changes known to the
 * processor: it touches every changed entry through the direct map (an emulated
 * or trapped write, which KVM sees) and invalidates addresses; with m->mmu.flush
 * it leaves those out, since the caller's reload of CR3 covers them. Operands
 * go to HV_PAGE_LIST, where rsi must point; rax is clobbered. Clears what was
 * pending. */
uint8_t *backend_ops_generate(struct machine *m, uint8_t *code);

/* Appends the return to the guest and writes its frame to the CPL-0 stack,
 * which rsp must point to: *rsp is where. Restores rsi and rax of `regs`. */
uint8_t *backend_emit_return(struct machine *m, uint8_t *code, const struct kvm_regs *regs,
			     uint16_t cs, uint64_t *rsp);

/* KVM_RUN with the KVM_SYNC_X86_* of *dirty, which is cleared. A signal counts
 * as success with exit reason KVM_EXIT_INTR. 0 or -errno. */
int backend_run(struct machine *m, uint32_t *dirty);

/* Sets EXIT_BROKEN; the sentence is "what at <rip>". Returns 0, as decoders do. */
int backend_broken(struct vcpu_exit *exit, struct ramet_err *err, const char *what, uint64_t rip);

/* Takes the interrupted state from the exception frame at `frame_va` of the
 * hypervisor area into m->vcpu and *exit. CPL-0 code (or no such frame) gives
 * EXIT_BROKEN. The address says nothing: user space may jump anywhere. */
void backend_exception_decode(struct machine *m, struct vcpu_exit *exit, uint8_t vector,
			      uint64_t frame_va, struct ramet_err *err);

/* EXIT_BROKEN for an exception, already decoded, in the hypervisor's own code. */
void backend_exception_broken(struct machine *m, struct vcpu_exit *exit, struct ramet_err *err);

/* Access to a guest-physical address where nothing is: reads give all ones. */
void backend_mmio_answer(struct machine *m);

/* Exits that no guest survives. */
int backend_decode_fatal(struct machine *m, struct vcpu_exit *exit, struct ramet_err *err);

#endif
