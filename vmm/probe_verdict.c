/* What the probe's answers mean together. */
#include <stdio.h>

#include "vmm/probe.h"

bool probe_slot_usable(const struct probe_result *result, unsigned int pml4_slot)
{
	for (uint32_t i = 0; i < result->slot_count && i < PROBE_SLOTS_MAX; i++) {
		if (result->slots[i].pml4_slot == pml4_slot)
			return result->slots[i].usable;
	}
	return false;
}

const char *probe_kind_name(enum kvm_kind kind)
{
	switch (kind) {
	case KVM_KIND_SOFTWARE:
		return "software";
	case KVM_KIND_HARDWARE:
		return "hardware";
	}
	return "unknown";
}

void probe_judge(struct probe_result *r)
{
	const bool software = r->kind == KVM_KIND_SOFTWARE;
	const struct {
		bool fits;
		const char *otherwise;
	} rules[] = {
		{ r->syscall_cpl == (software ? 3 : 0), "`syscall` led to an unexpected CPL" },
		{ software ? r->cpl0_mips > 0 && r->cpl0_mips < PROBE_NATIVE_MIPS
			   : r->cpl0_mips >= PROBE_NATIVE_MIPS,
		  "the speed of CPL-0 code contradicts what `syscall` does" },
		{ r->host_pte_add, "new page-table entries written by the host are not seen" },
		{ r->guest_pte_change, "page-table entries written by CPL-0 code are not seen" },
		{ r->root_switch, "a CPL-0 stub cannot switch page tables" },
		{ r->irq_window, "the interrupt window does not open at CPL 3" },
		{ !software || r->io_bitmap, "the TSS I/O bitmap is not honoured at CPL 3" },
		{ !software || r->native_gates, "gates to CPL 3 do not arrive there" },
		{ !software || r->fsgsbase, "segment bases cannot be written at CPL 3" },
	};

	r->fast_paths_ok = true;
	r->reason[0] = '\0';
	for (unsigned int i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
		if (rules[i].fits)
			continue;
		r->fast_paths_ok = false;
		(void)snprintf(r->reason, sizeof(r->reason),
			       "This KVM behaves like a %s one, but %s.", probe_kind_name(r->kind),
			       rules[i].otherwise);
		return;
	}
}
