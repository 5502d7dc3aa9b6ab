/* Facts about the host: see host_facts.h. */
#include "vmm/host_facts.h"

#include <errno.h>
#include <string.h>

int host_facts_take(struct host_facts *facts, const void *bytes, size_t len, struct ramet_err *err)
{
	struct host_facts f;

	if (len != sizeof(f))
		return err_set(err, EPROTO, "facts about the host of %zu bytes, not %zu", len,
			       sizeof(f));
	memcpy(&f, bytes, sizeof(f));
	if (!f.known || !f.cpuid_count || f.cpuid_count > CPUID_ENTRIES_MAX ||
	    f.probe.slot_count > PROBE_SLOTS_MAX ||
	    (f.probe.kind != KVM_KIND_SOFTWARE && f.probe.kind != KVM_KIND_HARDWARE) ||
	    !memchr(f.probe.reason, '\0', sizeof(f.probe.reason)))
		return err_set(err, EPROTO, "facts about the host that do not hold together");
	*facts = f;
	return 0;
}

bool host_facts_reliable(const struct host_facts *facts)
{
	return facts->known && facts->probe.fast_paths_ok;
}
