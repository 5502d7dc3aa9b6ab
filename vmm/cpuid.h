/* The processor as the guest sees it.
 *
 * Built from the host's own CPUID and filtered: a PV guest must not see what
 * it cannot use. Where KVM does not answer CPUID at CPL 3 from this table,
 * Linux asks with Xen's emulation prefix and gets it from cpuid_query(). */
#ifndef RAMET_VMM_CPUID_H
#define RAMET_VMM_CPUID_H

#include <stdint.h>

#include "vmm/machine.h"

struct cpuid_result {
	uint32_t eax, ebx, ecx, edx;
};

/* Asks KVM which features it can give to guests, where CPUID at CPL 3 is
 * answered by KVM (m->cpuid_supported, else NULL). 0 or -errno. */
int cpuid_supported_load(struct machine *m, struct ramet_err *err);

/* XCR0 bits that are exposed: x87, SSE, AVX and AVX-512, as far as the host and
 * `supported` (NULL: no limits) have them. */
uint64_t cpuid_xcr0(const struct kvm_cpuid2 *supported);

/* Decides what the guest sees; the host is asked once. */
void cpuid_expose(struct machine *m, uint64_t xcr0);

/* Answers one leaf; unknown leaves are zero. */
void cpuid_query(const struct machine *m, uint32_t leaf, uint32_t subleaf,
		 struct cpuid_result *result);

/* Asks the host what guests see and adds it to *host, which is then known. Uses
 * m->probe, m->cpuid_supported and the clock. */
void cpuid_learn(struct machine *m, struct host_facts *host);

/* Exposes what is known to the guest and gives it to the vCPU (KVM_SET_CPUID2).
 * 0 or -errno. */
int cpuid_install(struct machine *m, const struct host_facts *host, struct ramet_err *err);

/* A hash of every answer but those about time: equal on machines between which
 * a guest may move. */
uint64_t cpuid_hash(const struct machine *m);

#endif
