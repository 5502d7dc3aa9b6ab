/* CPUID as the guest sees it: see cpuid.h.
 *
 * Bit positions are from the AMD64 Architecture Programmer's Manual volume 3,
 * appendix E, and Intel's Software Developer's Manual, CPUID. */
#include "vmm/cpuid.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "lib/cleanup.h"
#include "vmm/xen_abi.h"

#define BIT32(n)           (1u << (n))
#define XCR0_WANTED        0xe7ull /* x87 SSE AVX opmask ZMM_Hi256 Hi16_ZMM */
#define XEN_LEAF           0x40000000u
#define XEN_LEAF_TIME      (XEN_LEAF + 3)
#define XEN_VERSION_ANSWER ((4u << 16) | 17u)
#define SUPPORTED_MAX      256u

static struct cpuid_result native(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid_result r;

	__cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
	return r;
}

static const struct kvm_cpuid_entry2 *supported_entry(const struct kvm_cpuid2 *t, uint32_t leaf,
						      uint32_t subleaf)
{
	for (uint32_t i = 0; i < t->nent; i++)
		if (t->entries[i].function == leaf && t->entries[i].index == subleaf)
			return &t->entries[i];
	return NULL;
}

int cpuid_supported_load(struct machine *m, struct ramet_err *err)
{
	cleanup_free struct kvm_cpuid2 *t =
		calloc(1, sizeof(*t) + SUPPORTED_MAX * sizeof(t->entries[0]));

	if (m->probe.cpuid_native)
		return 0;
	if (!t)
		return err_set(err, ENOMEM, "no memory for the CPUID table");
	t->nent = SUPPORTED_MAX;
	if (ioctl(m->kvm_fd, KVM_GET_SUPPORTED_CPUID, t))
		return err_errno(err, errno, "KVM_GET_SUPPORTED_CPUID");
	m->cpuid_supported = t;
	t = NULL;
	return 0;
}

/* Takes away features that the processor has but KVM does not give to guests. */
static void limit(const struct machine *m, uint32_t leaf, uint32_t subleaf, struct cpuid_result *r)
{
	static const struct kvm_cpuid_entry2 none;
	const struct kvm_cpuid_entry2 *e;

	if (!m->cpuid_supported)
		return;
	e = supported_entry(m->cpuid_supported, leaf, subleaf);
	if (!e)
		e = &none;
	if (leaf == 1 || leaf == 0x80000001 || (leaf == 7 && subleaf == 0)) {
		r->ecx &= e->ecx;
		r->edx &= e->edx;
	}
	if (leaf == 7 && subleaf == 0)
		r->ebx &= e->ebx;
	if ((leaf == 7 && subleaf) || (leaf == 0xd && subleaf == 1))
		r->eax &= e->eax;
}

uint64_t cpuid_xcr0(const struct kvm_cpuid2 *supported)
{
	const struct kvm_cpuid_entry2 *e = supported ? supported_entry(supported, 0xd, 0) : NULL;
	uint64_t limits = !supported ? ~0ull : e ? e->eax : 0;

	if (native(0, 0).eax < 0xd || !(native(1, 0).ecx & BIT32(26)))
		return 3;
	return (native(0xd, 0).eax & XCR0_WANTED & limits) | 3;
}

/* Size of the XSAVE area for the exposed XCR0: standard and compacted forms
 * differ in where components lie (SDM volume 1, 13.4). Linux compares these
 * with its own sums and falls back to FXSAVE on a mismatch, which loses AVX
 * state of user space. */
static void xsave_sizes(uint64_t xcr0, uint32_t *standard, uint32_t *compacted)
{
	*standard = 576;
	*compacted = 576;
	for (uint32_t i = 2; i < 63; i++) {
		struct cpuid_result r;

		if (!(xcr0 & (1ull << i)))
			continue;
		r = native(0xd, i);
		if (r.ebx + r.eax > *standard)
			*standard = r.ebx + r.eax;
		if (r.ecx & BIT32(1))
			*compacted = (*compacted + 63) & ~63u;
		*compacted += r.eax;
	}
}

static void filter_features(struct cpuid_result *r)
{
	/* One logical processor with APIC id 0. */
	r->ebx = (r->ebx & 0xff00) | (1u << 16);
	r->ecx &= ~(BIT32(2) /* DTES64 */ | BIT32(3) /* MONITOR */ | BIT32(5) /* VMX */ |
		    BIT32(6) /* SMX */ | BIT32(7) /* EST */ | BIT32(8) /* TM2 */ |
		    BIT32(10) /* CNXT-ID */ | BIT32(15) /* PDCM */ | BIT32(17) /* PCID */ |
		    BIT32(21) /* x2APIC */ | BIT32(24) /* TSC deadline */);
	r->ecx |= BIT32(31) /* hypervisor */ | BIT32(27) /* OSXSAVE */;
	r->edx &= ~(BIT32(1) /* VME */ | BIT32(2) /* DE */ | BIT32(3) /* PSE */ |
		    BIT32(7) /* MCE */ | BIT32(11) /* SEP */ | BIT32(12) /* MTRR */ |
		    BIT32(13) /* PGE */ | BIT32(14) /* MCA */ | BIT32(17) /* PSE36 */ |
		    BIT32(21) /* DS */ | BIT32(22) /* ACPI */ | BIT32(28) /* HT */ |
		    BIT32(29) /* TM */ | BIT32(31) /* PBE */);
}

static void filter_structured(struct cpuid_result *r)
{
	r->ebx &= ~(BIT32(0) /* FSGSBASE */ | BIT32(1) /* TSC_ADJUST */ | BIT32(2) /* SGX */ |
		    BIT32(4) /* HLE */ | BIT32(7) /* SMEP */ | BIT32(10) /* INVPCID */ |
		    BIT32(11) /* RTM */ | BIT32(12) /* PQM */ | BIT32(14) /* MPX */ |
		    BIT32(15) /* RDT-A */ | BIT32(20) /* SMAP */ | BIT32(25) /* PT */);
	r->ecx &= ~(BIT32(2) /* UMIP */ | BIT32(3) /* PKU */ | BIT32(4) /* OSPKE */ |
		    BIT32(5) /* WAITPKG */ | BIT32(7) /* SHSTK */ | BIT32(16) /* LA57 */ |
		    BIT32(22) /* RDPID */ | BIT32(24) /* BUS_LOCK */ | BIT32(31) /* PKS */);
	r->edx &= BIT32(2) | BIT32(3) | BIT32(4) | BIT32(8) | BIT32(10) | BIT32(14);
}

static void filter_extended(struct cpuid_result *r)
{
	r->ecx &=
		~(BIT32(2) /* SVM */ | BIT32(3) /* EXTAPIC */ | BIT32(9) /* OSVW */ |
		  BIT32(10) /* IBS */ | BIT32(12) /* SKINIT */ | BIT32(13) /* WDT */ |
		  BIT32(15) /* LWP */ | BIT32(19) /* NODEID_MSR */ | BIT32(22) /* TOPOEXT */ |
		  BIT32(23) /* perfctr core */ | BIT32(24) /* perfctr NB */ | BIT32(26) /* DBX */ |
		  BIT32(27) /* PERFTSC */ | BIT32(28) /* perfctr L2 */ | BIT32(29) /* MONITORX */);
	r->edx &= ~(BIT32(1) | BIT32(2) | BIT32(3) | BIT32(7) | BIT32(12) | BIT32(13) | BIT32(14) |
		    BIT32(17) /* as in leaf 1 */ | BIT32(25) /* FFXSR */ |
		    BIT32(26) /* 1 GiB pages */ | BIT32(27) /* RDTSCP */);
}

static void filter_xsave(const struct machine *m, uint32_t subleaf, struct cpuid_result *r)
{
	if (subleaf == 0) {
		r->eax = (uint32_t)m->xcr0;
		r->ebx = r->ecx = m->cpuid.xsave_standard;
		r->edx = 0;
	} else if (subleaf == 1) {
		r->eax &= 7; /* XSAVEOPT, XSAVEC, XGETBV(1); no XSAVES */
		r->ebx = m->cpuid.xsave_compacted;
		r->ecx = r->edx = 0;
	} else if (subleaf >= 63 || !(m->xcr0 & (1ull << subleaf))) {
		memset(r, 0, sizeof(*r));
	}
}

static void filter(const struct machine *m, uint32_t leaf, uint32_t subleaf, struct cpuid_result *r)
{
	switch (leaf) {
	case 1:
		filter_features(r);
		break;
	case 7:
		if (subleaf == 0)
			filter_structured(r);
		break;
	case 0xd:
		filter_xsave(m, subleaf, r);
		break;
	case 0xb: /* topology: one processor */
	case 0x1f:
		r->eax = r->ebx = r->edx = 0;
		r->ecx = subleaf & 0xff;
		break;
	case 0x80000001:
		filter_extended(r);
		break;
	case 0x80000008:
		r->ebx = r->ecx = 0;
		break;
	case 0x80000021:
		r->eax &= BIT32(2); /* LFENCE is serialising */
		r->ebx = r->ecx = r->edx = 0;
		break;
	case 0x5: /* MONITOR */
	case 0xa: /* performance counters */
	case 0xf:
	case 0x10:
	case 0x12:
	case 0x14:
	case 0x17:
	case 0x8000000a: /* SVM */
	case 0x8000001b: /* IBS */
	case 0x8000001e: /* APIC ids: of whichever core asks */
	case 0x8000001f: /* memory encryption */
	case 0x80000022:
		memset(r, 0, sizeof(*r));
		break;
	default:
		break;
	}
}

static void xen_leaf(const struct machine *m, uint32_t leaf, uint32_t subleaf,
		     struct cpuid_result *r)
{
	memset(r, 0, sizeof(*r));
	switch (leaf - XEN_LEAF) {
	case 0: /* "XenVMMXenVMM" */
		*r = (struct cpuid_result){ XEN_LEAF + 4, 0x566e6558, 0x65584d4d, 0x4d4d566e };
		break;
	case 1:
		r->eax = XEN_VERSION_ANSWER;
		break;
	case 2:
		r->eax = 1;
		r->ebx = XEN_LEAF;
		break;
	case 3: /* time: the default mode, so that Linux stays with the PV clock, which
		 * goes on when the machine moves to a host with another TSC */
		if (subleaf == 0) {
			r->ecx = (uint32_t)m->tsc_khz;
		} else if (subleaf == 1) {
			r->ecx = m->tsc_mul;
			r->edx = (uint32_t)m->tsc_shift;
		}
		break;
	default:
		break;
	}
}

void cpuid_query(const struct machine *m, uint32_t leaf, uint32_t subleaf,
		 struct cpuid_result *result)
{
	memset(result, 0, sizeof(*result));
	if (leaf >= XEN_LEAF && leaf < XEN_LEAF + 0x100) {
		xen_leaf(m, leaf, subleaf, result);
		return;
	}
	if (leaf > (leaf & 0x80000000u ? m->cpuid.extended_max : m->cpuid.basic_max))
		return;
	*result = native(leaf, subleaf);
	limit(m, leaf, subleaf, result);
	filter(m, leaf, subleaf, result);
}

union cpuid_table {
	struct kvm_cpuid2 head;
	uint8_t room[sizeof(struct kvm_cpuid2) +
		     CPUID_ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2)];
};

static void table_add(const struct machine *m, union cpuid_table *t, uint32_t leaf,
		      uint32_t subleaf, bool indexed)
{
	struct cpuid_result r;

	if (t->head.nent == CPUID_ENTRIES_MAX)
		return;
	cpuid_query(m, leaf, subleaf, &r);
	t->head.entries[t->head.nent++] =
		(struct kvm_cpuid_entry2){ .function = leaf,
					   .index = subleaf,
					   .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
					   .eax = r.eax,
					   .ebx = r.ebx,
					   .ecx = r.ecx,
					   .edx = r.edx };
}

static bool leaf_has_subleaves(uint32_t leaf)
{
	return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x1f ||
	       leaf == 0x8000001d || leaf == XEN_LEAF_TIME;
}

static void table_add_range(const struct machine *m, union cpuid_table *t, uint32_t first,
			    uint32_t last)
{
	for (uint32_t leaf = first; leaf <= last; leaf++) {
		uint32_t subleaves = leaf == 0xd ? 9 : leaf_has_subleaves(leaf) ? 4 : 1;

		for (uint32_t i = 0; i < subleaves; i++)
			table_add(m, t, leaf, i, leaf_has_subleaves(leaf));
	}
}

static void table_build(const struct machine *m, union cpuid_table *t)
{
	table_add_range(m, t, 0, m->cpuid.basic_max & 0x1f);
	table_add_range(m, t, XEN_LEAF, XEN_LEAF + 4);
	table_add_range(m, t, 0x80000000, 0x80000000 | (m->cpuid.extended_max & 0x3f));
}

static uint64_t table_hash(const union cpuid_table *t)
{
	uint64_t hash = 0;

	for (uint32_t i = 0; i < t->head.nent; i++) {
		const struct kvm_cpuid_entry2 *e = &t->head.entries[i];
		const uint32_t words[] = { e->function, e->index, e->eax, e->ebx, e->ecx, e->edx };

		if (e->function != XEN_LEAF_TIME)
			hash = XXH3_64bits_withSeed(words, sizeof(words), hash);
	}
	return hash;
}

uint64_t cpuid_hash(const struct machine *m)
{
	union cpuid_table t = { .room = { 0 } };

	table_build(m, &t);
	return table_hash(&t);
}

void cpuid_expose(struct machine *m, uint64_t xcr0)
{
	m->xcr0 = xcr0;
	m->cpuid.basic_max = native(0, 0).eax;
	m->cpuid.extended_max = native(0x80000000, 0).eax;
	xsave_sizes(xcr0, &m->cpuid.xsave_standard, &m->cpuid.xsave_compacted);
}

/* Where KVM emulates, a compat-mode `syscall` of an AMD processor raises the
 * privilege level and jumps to the lower 32 bits of CSTAR: into user memory, at
 * CPL 0. Intel's have no such instruction, so KVM gets to believe in one of
 * those; the guest reads its vendor natively and is not affected. */
static void vendor_hide(struct kvm_cpuid_entry2 *leaf0)
{
	leaf0->ebx = 0x756e6547; /* "Genu" */
	leaf0->edx = 0x49656e69; /* "ineI" */
	leaf0->ecx = 0x6c65746e; /* "ntel" */
}

void cpuid_learn(struct machine *m, struct host_facts *host)
{
	union cpuid_table t = { .room = { 0 } };

	cpuid_expose(m, cpuid_xcr0(m->cpuid_supported));
	table_build(m, &t);
	m->cpuid.hash = table_hash(&t);
	host->xcr0 = m->xcr0;
	host->cpuid = m->cpuid;
	host->cpuid_count = t.head.nent;
	memcpy(host->cpuid_entries, t.head.entries, t.head.nent * sizeof(t.head.entries[0]));
	host->known = true;
}

/* The clock is each machine's own. */
static void time_entry_set(const struct machine *m, struct kvm_cpuid_entry2 *e)
{
	struct cpuid_result r;

	cpuid_query(m, e->function, e->index, &r);
	e->eax = r.eax;
	e->ebx = r.ebx;
	e->ecx = r.ecx;
	e->edx = r.edx;
}

int cpuid_install(struct machine *m, const struct host_facts *host, struct ramet_err *err)
{
	union cpuid_table t = { .head = { .nent = host->cpuid_count } };
	size_t bytes = host->cpuid_count * sizeof(t.head.entries[0]);

	if (host->cpuid_count > CPUID_ENTRIES_MAX)
		return err_set(err, EINVAL, "a CPUID table of %u entries", host->cpuid_count);
	m->xcr0 = host->xcr0;
	m->cpuid = host->cpuid;
	memcpy(t.head.entries, host->cpuid_entries, bytes);
	for (uint32_t i = 0; i < t.head.nent; i++)
		if (t.head.entries[i].function == XEN_LEAF_TIME)
			time_entry_set(m, &t.head.entries[i]);
	if (m->probe.cpuid_native)
		vendor_hide(&t.head.entries[0]);
	if (ioctl(m->vcpu_fd, KVM_SET_CPUID2, &t))
		return err_errno(err, errno, "KVM_SET_CPUID2 with %u entries", t.head.nent);
	return 0;
}
