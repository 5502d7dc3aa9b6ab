/* What a worker finds out about its host before it makes a machine, and what the
 * daemon hands to all others: what this KVM does (vmm/probe.h) and what CPUID
 * answers. To find out costs more than the rest of a machine does.
 *
 * Plain data of one build: the programs at both ends of a control socket are
 * copies of the same file. */
#ifndef RAMET_VMM_HOST_FACTS_H
#define RAMET_VMM_HOST_FACTS_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "vmm/probe.h"

#define CPUID_ENTRIES_MAX 128u

/* What never changes about the host's CPUID, asked once: where the host itself is
 * a guest each question takes microseconds. */
struct cpuid_facts {
	uint32_t basic_max, extended_max;         /* leaves */
	uint32_t xsave_standard, xsave_compacted; /* bytes, for the exposed XCR0 */
	uint64_t hash;                            /* cpuid_hash() */
};

struct host_facts {
	bool known; /* false: all else is to be found out */
	struct probe_result probe;
	uint64_t xcr0; /* exposed to guests */
	struct cpuid_facts cpuid;
	uint32_t cpuid_count;
	struct kvm_cpuid_entry2 cpuid_entries[CPUID_ENTRIES_MAX]; /* for KVM_SET_CPUID2 */
};

/* Takes facts that came over a socket. -EPROTO: they are of another build, or
 * do not hold together; *facts is untouched. */
int host_facts_take(struct host_facts *facts, const void *bytes, size_t len, struct ramet_err *err);

/* Whether others may rely on them: a probe on a busy host can come to a result
 * that another try would not. */
bool host_facts_reliable(const struct host_facts *facts);

#endif
