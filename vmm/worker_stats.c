/* CONTROL_STATS: what a worker counts about its guest. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "vmm/worker_internal.h"

/* As with bundles, the file is written through a mapping. */
static bool bitmap_write(int fd, const uint64_t *bitmap, size_t bytes)
{
	struct stat st;
	void *at;

	if (fstat(fd, &st) || st.st_size < (off_t)bytes)
		return false;
	at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return false;
	memcpy(at, bitmap, bytes);
	(void)munmap(at, bytes);
	return true;
}

/* Pages that the guest wrote to; UINT64_MAX when that is not known. */
static uint64_t dirty_pages(const struct worker *w, int bitmap_fd)
{
	const struct machine *m = &w->machine;
	size_t words = m->mem.size / PAGE_SIZE / 64;
	cleanup_free uint64_t *bitmap = NULL;
	struct ramet_err err;
	uint64_t count = 0;

	if (!m->shell || (w->phase != WORKER_RUNNING && w->phase != WORKER_PAUSED))
		return UINT64_MAX;
	bitmap = calloc(words, sizeof(*bitmap));
	if (!bitmap)
		return UINT64_MAX;
	if (machine_dirty_pages(m, bitmap, &err)) {
		log_warn("cannot tell what the guest wrote: %s", err.msg);
		return UINT64_MAX;
	}
	for (size_t i = 0; i < words; i++)
		count += (uint64_t)__builtin_popcountll(bitmap[i]);
	if (bitmap_fd >= 0 && !bitmap_write(bitmap_fd, bitmap, words * sizeof(*bitmap)))
		return UINT64_MAX;
	return count;
}

void stats_reply(struct worker *w, const struct worker_message *message)
{
	const struct machine_stats *s = &w->machine.stats;
	struct control_stats reply = {
		.header = { CONTROL_VERSION, CONTROL_STATS_REPLY },
		.exits = s->exits,
		.hypercalls = s->hypercalls,
		.exceptions = s->exceptions,
		.upcalls = s->upcalls,
		.blocked_ns = s->blocked_ns,
		.channel_to_host = s->channel_to_host,
		.channel_to_guest = s->channel_to_guest,
		.dirty_pages = dirty_pages(w, message->fd_count ? message->fds[0] : -1),
	};

	(void)control_reply(w, &reply, sizeof(reply), NULL, 0);
}
