/* The guest's console: see console.h. */
#include "vmm/console.h"

#include <string.h>

#include "vmm/evtchn.h"

#define LAST_WORDS_MAX 400u

void console_output(struct machine *m, const char *data, size_t len)
{
	size_t room = sizeof(m->console_tail);

	if (m->sink.console)
		m->sink.console(m->sink.arg, data, len);
	if (len > room) {
		data += len - room;
		len = room;
	}
	if (m->console_tail_len + len > room) {
		size_t drop = m->console_tail_len + len - room;

		memmove(m->console_tail, m->console_tail + drop, m->console_tail_len - drop);
		m->console_tail_len -= drop;
	}
	memcpy(m->console_tail + m->console_tail_len, data, len);
	m->console_tail_len += len;
}

const char *console_last_words(const struct machine *m, size_t *len)
{
	static const char panic[] = "Kernel panic";
	const char *end = m->console_tail + m->console_tail_len;
	const char *at = memmem(m->console_tail, m->console_tail_len, panic, sizeof(panic) - 1);
	const char *newline = at ? memchr(at, '\n', (size_t)(end - at)) : NULL;

	if (!at)
		at = end -
		     (m->console_tail_len < LAST_WORDS_MAX ? m->console_tail_len : LAST_WORDS_MAX);
	*len = (size_t)((newline ? newline : end) - at);
	if (*len && at[*len - 1] == '\r')
		--*len;
	return at;
}

void console_drain(struct machine *m)
{
	struct xencons_interface *ring =
		guest_ram_ptr(&m->mem, m->pv.console_gpa, sizeof(struct xencons_interface));
	char buf[sizeof(ring->out)];
	uint32_t cons, prod;
	size_t n = 0;

	if (!ring)
		return;
	cons = __atomic_load_n(&ring->out_cons, __ATOMIC_ACQUIRE);
	prod = __atomic_load_n(&ring->out_prod, __ATOMIC_ACQUIRE);
	if (prod - cons > sizeof(ring->out))
		cons = prod; /* indices that cannot be: the content is lost, no more */
	while (cons != prod && n < sizeof(buf))
		buf[n++] = ring->out[cons++ % sizeof(ring->out)];
	__atomic_store_n(&ring->out_cons, cons, __ATOMIC_RELEASE);
	if (!n)
		return;
	console_output(m, buf, n);
	evtchn_raise(m, m->pv.console_port);
}
