/* Idle guests: see idle.h. */
#include "vmm/idle.h"

#include <malloc.h>

#define NS_PER_MS 1000000u

int idle_wait_ms(struct machine *m, uint64_t now_ns)
{
	struct machine_idle *idle = &m->idle;
	uint64_t bytes = m->stats.channel_to_host + m->stats.channel_to_guest;
	uint64_t end;

	if (m->probe.kind != KVM_KIND_SOFTWARE)
		return -1; /* nothing is shadowed */
	if (bytes != idle->bytes || !idle->since_ns)
		*idle = (struct machine_idle){ .bytes = bytes, .since_ns = now_ns };
	end = idle->since_ns + IDLE_AFTER_NS;
	if (idle->trimmed)
		return -1;
	return now_ns >= end ? 0 : (int)((end - now_ns + NS_PER_MS - 1) / NS_PER_MS);
}

int idle_trim(struct machine *m, struct ramet_err *err)
{
	m->idle.trimmed = true;
	(void)malloc_trim(0);
	return machine_shadow_drop(m, err);
}
