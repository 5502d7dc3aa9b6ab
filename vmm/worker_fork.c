/* Shells, restore and pause: the worker's part in forks and templates. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/clock.h"
#include "uffd/extent_map.h"
#include "uffd/layer.h"
#include "uffd/stitch.h"
#include "vmm/channel.h"
#include "vmm/state.h"
#include "vmm/worker_internal.h"

int handle_shell(struct worker *w, struct worker_message *message, struct ramet_err *err)
{
	const struct control_shell *shell = &message->u.shell;
	struct control_header reply = { CONTROL_VERSION, CONTROL_SHELL_READY };
	const struct machine_config machine = { .kvm_fd = w->fds.kvm,
						.m2p_fd = message->fds[1],
						.ram_bytes = shell->ram_bytes,
						.isolation = (enum isolation_mode)shell->isolation,
						.plain = shell->plain != 0,
						.shell = true };
	int rc = machine_start(w, &machine, err);

	if (rc)
		return rc;
	w->userfault_device = take_fd(&message->fds[0]);
	w->phase = WORKER_SHELL;
	return control_reply(w, &reply, sizeof(reply), NULL, 0);
}

/* ---- restore ---- */

static int bundle_read(int fd, void *buf, size_t len, uint64_t offset, struct ramet_err *err)
{
	uint8_t *p = buf;

	while (len) {
		ssize_t n = pread(fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_errno(err, n ? errno : ENODATA, "cannot read the bundle");
		p += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* Only a matter of time: what cannot be done now is done when the guest needs it. */
static void memory_heat(struct worker *w, const struct control_pages *hot, uint32_t hot_count,
			int advice)
{
	uint64_t pages = w->machine.mem.size / PAGE_SIZE;

	for (uint32_t i = 0; i < hot_count; i++) {
		uint64_t first = hot[i].first, count = hot[i].count;

		if (first >= pages || count > pages - first)
			continue;
		(void)madvise(w->machine.mem.base + first * PAGE_SIZE, count * PAGE_SIZE, advice);
	}
}

int handle_base(struct worker *w, struct worker_message *message, struct ramet_err *err)
{
	const struct control_base *base = &message->u.base;
	struct control_header reply = { CONTROL_VERSION, CONTROL_SHELL_READY };
	cleanup_free uint8_t *bytes = NULL;
	struct extent_map *below = NULL;
	int rc;

	if (w->below || !base->map_bytes || base->map_bytes > CONTROL_BUNDLE_MAX ||
	    base->map_at > CONTROL_BUNDLE_MAX || base->hot_count > CONTROL_HOT_MAX)
		return err_set(err, EPROTO, "base message with a map of %llu bytes",
			       (unsigned long long)base->map_bytes);
	bytes = malloc(base->map_bytes);
	if (!bytes)
		return err_set(err, ENOMEM, "no memory for a map");
	rc = bundle_read(message->fds[0], bytes, base->map_bytes, base->map_at, err);
	if (!rc)
		rc = extent_map_decode(&below, bytes, base->map_bytes, 1, err);
	if (rc)
		return rc;
	w->below = below;
	if (below->size != w->machine.mem.size)
		return err_set(err, EINVAL, "the map is for %llu bytes of memory, not %llu",
			       (unsigned long long)below->size,
			       (unsigned long long)w->machine.mem.size);
	rc = layer_stat(message->fds[1], &w->image, err);
	if (!rc)
		rc = stitch(w->machine.mem.base, below, false, message->fds + 1, 1, err);
	if (rc)
		return rc;
	memory_heat(w, base->hot, base->hot_count, MADV_POPULATE_READ);
	return control_reply(w, &reply, sizeof(reply), NULL, 0);
}

/* Whether what CONTROL_BASE brought is what this memory has at the bottom. */
static bool base_fits(const struct worker *w, const struct extent_map *map, const int *layer_fds,
		      uint32_t count)
{
	struct layer_stat lowest;

	return w->below && count && layer_stat(layer_fds[0], &lowest, NULL) == 0 &&
	       lowest.dev == w->image.dev && lowest.ino == w->image.ino &&
	       stitch_fits_above(map, w->below);
}

static int restore_check(const struct worker *w, const struct worker_message *message,
			 struct ramet_err *err)
{
	const struct control_restore *r = &message->u.restore;

	if (r->layer_count > CONTROL_LAYERS_MAX || message->fd_count != r->layer_count + 1 ||
	    (r->layer_count < 64 && r->filling >> r->layer_count))
		return err_set(err, EPROTO,
			       "restore message with %u layers came with %zu descriptors",
			       r->layer_count, message->fd_count);
	if (!r->state_bytes || r->state_bytes > STATE_BYTES_MAX || !r->map_bytes ||
	    r->map_bytes > CONTROL_BUNDLE_MAX)
		return err_set(err, EPROTO, "restore message with a state of %llu bytes, map %llu",
			       (unsigned long long)r->state_bytes,
			       (unsigned long long)r->map_bytes);
	if (r->hot_count > CONTROL_HOT_MAX)
		return err_set(err, EPROTO, "restore message with %u hot ranges", r->hot_count);
	if (w->userfault_device < 0 && r->filling)
		return err_set(err, EPROTO,
			       "layers are filling but there is no userfaultfd device");
	return 0;
}

/* Watches every filling layer; the descriptors are the caller's, kept open for
 * as long as the process lives: without them a dead donor would mean zeros. */
static int layers_watch(struct worker *w, const struct extent_map *map, uint64_t filling,
			int *uffds, size_t *count, struct ramet_err *err)
{
	for (uint32_t layer = 0; layer < CONTROL_LAYERS_MAX; layer++) {
		int fd;

		if (!(filling & (1ull << layer)))
			continue;
		fd = stitch_watch(w->machine.mem.base, map, layer, w->userfault_device, err);
		if (fd < 0)
			return fd;
		uffds[(*count)++] = fd;
	}
	return 0;
}

static int memory_restore(struct worker *w, const struct worker_message *message,
			  const void *map_bytes, struct ramet_err *err)
{
	const struct control_restore *r = &message->u.restore;
	struct control_restored reply = { .header = { CONTROL_VERSION, CONTROL_RESTORED } };
	uint64_t start = clock_monotonic_ns();
	struct extent_map *map = NULL;
	int uffds[CONTROL_LAYERS_MAX];
	size_t count = 0;
	int rc = extent_map_decode(&map, map_bytes, r->map_bytes, r->layer_count, err);

	if (rc)
		return rc;
	free(w->map);
	w->map = map;
	if (map->size != w->machine.mem.size)
		return err_set(err, EINVAL, "the extent map is for %llu bytes of memory, not %llu",
			       (unsigned long long)map->size,
			       (unsigned long long)w->machine.mem.size);
	rc = stitch(w->machine.mem.base, map, base_fits(w, map, message->fds + 1, r->layer_count),
		    message->fds + 1, r->layer_count, err);
	if (!rc)
		rc = layers_watch(w, map, r->filling, uffds, &count, err);
	if (rc)
		return rc;
	reply.base = (uint64_t)w->machine.mem.base;
	reply.extents = (uint32_t)map->count;
	reply.stitch_ns = clock_monotonic_ns() - start;
	return control_reply(w, &reply, sizeof(reply), uffds, count);
}

int handle_restore(struct worker *w, struct worker_message *message, struct ramet_err *err)
{
	const struct control_restore *r = &message->u.restore;
	cleanup_free uint8_t *bundle = NULL;
	int rc = restore_check(w, message, err);

	if (rc)
		return rc;
	bundle = malloc(r->state_bytes + r->map_bytes);
	if (!bundle)
		return err_set(err, ENOMEM, "no memory for the bundle");
	rc = bundle_read(message->fds[0], bundle, r->state_bytes + r->map_bytes, 0, err);
	if (!rc)
		rc = memory_restore(w, message, bundle + r->state_bytes, err);
	/* From here on guest memory may have to come from donors. */
	if (!rc)
		memory_heat(w, r->hot, r->hot_count, MADV_POPULATE_WRITE);
	if (!rc)
		rc = state_apply(&w->machine, bundle, r->state_bytes, err);
	if (!rc)
		rc = machine_connect(w, err);
	if (!rc)
		w->phase = WORKER_LOADED;
	return rc;
}

int handle_start(struct worker *w, struct worker_message *message, struct ramet_err *err)
{
	struct control_booted reply = { .header = { CONTROL_VERSION, CONTROL_BOOTED } };
	int rc = control_reply(w, &reply, sizeof(reply), NULL, 0);

	(void)message;
	if (rc)
		return err_errno(err, -rc, "control socket");
	w->phase = WORKER_RUNNING;
	return 0;
}

int handle_resume(struct worker *w, struct worker_message *message, struct ramet_err *err)
{
	(void)message;
	(void)err;
	w->phase = WORKER_RUNNING;
	return 0;
}

/* ---- pause ---- */

static bool page_is_zero(const uint8_t *page)
{
	const uint64_t *words = (const uint64_t *)(const void *)page;

	for (size_t i = 0; i < PAGE_SIZE / sizeof(*words); i += 8)
		if (words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] |
		    words[i + 5] | words[i + 6] | words[i + 7])
			return false;
	return true;
}

/* A template's image: all that is not zero. */
static void full_pages(const struct machine *m, uint64_t *bitmap)
{
	for (uint64_t page = 0; page < m->mem.size / PAGE_SIZE; page++)
		if (!page_is_zero(m->mem.base + page * PAGE_SIZE))
			bitmap[page / 64] |= 1ull << (page % 64);
}

/* The pages that layers from pause.keep_layers on hold. */
static void layer_pages(const struct worker *w, uint64_t *bitmap)
{
	for (size_t i = 0; i < w->map->count; i++) {
		const struct extent *e = &w->map->extents[i];

		if (e->layer == EXTENT_ZERO || e->layer < w->pause.keep_layers)
			continue;
		for (uint64_t page = e->start / PAGE_SIZE; page < e->end / PAGE_SIZE; page++)
			bitmap[page / 64] |= 1ull << (page % 64);
	}
}

static int changed_ranges(struct worker *w, struct control_paused *reply, struct ramet_err *err)
{
	const struct machine *m = &w->machine;
	struct range_policy policy = { .gap = (uint64_t)w->pause.gap_pages * PAGE_SIZE,
				       .max = w->pause.ranges_max };
	cleanup_free uint64_t *bitmap = calloc(m->mem.size / PAGE_SIZE / 64, sizeof(*bitmap));
	int rc = 0;

	if (!bitmap)
		return err_set(err, ENOMEM, "no memory for the bitmap of changed pages");
	if (w->pause.full)
		full_pages(m, bitmap);
	else if (!m->shell)
		rc = err_set(err, EINVAL, "changes are not logged in a guest that was booted here");
	else
		rc = machine_dirty_pages(m, bitmap, err);
	if (rc)
		return rc;
	if (w->map && w->pause.keep_layers && !w->pause.full)
		layer_pages(w, bitmap);
	free(w->ranges);
	w->ranges = NULL;
	rc = ranges_from_bitmap(&w->ranges, bitmap, m->mem.size, &policy, &reply->dirty_pages, err);
	if (rc)
		return rc;
	reply->range_count = (uint32_t)w->ranges->count;
	reply->range_pages = ranges_bytes(w->ranges->ranges, w->ranges->count) / PAGE_SIZE;
	return 0;
}

/* The jail forbids to make files longer, so the daemon has given the bundle its
 * size and it is written through a mapping. */
static int bundle_map(int fd, uint8_t **bundle, struct ramet_err *err)
{
	struct stat st;
	void *at;

	if (fstat(fd, &st) || st.st_size < (off_t)CONTROL_BUNDLE_MAX)
		return err_set(err, EPROTO, "the bundle is shorter than %u bytes",
			       CONTROL_BUNDLE_MAX);
	at = mmap(NULL, CONTROL_BUNDLE_MAX, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return err_errno(err, errno, "cannot map the bundle");
	*bundle = at;
	return 0;
}

static int bundle_write(int fd, const struct state_buffer *state, const struct range_list *ranges,
			struct ramet_err *err)
{
	size_t bytes = ranges->count * sizeof(ranges->ranges[0]);
	uint8_t *bundle = NULL;
	int rc;

	if (state->len + bytes > CONTROL_BUNDLE_MAX)
		return err_set(err, E2BIG, "%zu ranges do not fit into the bundle", ranges->count);
	rc = bundle_map(fd, &bundle, err);
	if (rc)
		return rc;
	memcpy(bundle, state->data, state->len);
	memcpy(bundle + state->len, ranges->ranges, bytes);
	(void)munmap(bundle, CONTROL_BUNDLE_MAX);
	return 0;
}

static int pause_report(struct worker *w, struct control_paused *reply, struct ramet_err *err)
{
	struct state_buffer state = { 0 };
	int rc;

	channel_pump(&w->machine); /* what the daemon sent before is in the guest now */
	rc = state_capture(&w->machine, &state, err);
	if (!rc)
		rc = changed_ranges(w, reply, err);
	if (!rc)
		rc = bundle_write(w->pause_bundle, &state, w->ranges, err);
	reply->state_bytes = state.len;
	state_buffer_free(&state);
	return rc;
}

int machine_paused_report(struct worker *w, struct ramet_err *err)
{
	struct control_paused reply = { .header = { CONTROL_VERSION, CONTROL_PAUSED } };
	uint64_t stopped = clock_monotonic_ns();
	int rc;

	reply.pause_ns = stopped - w->pause_asked_ns;
	rc = pause_report(w, &reply, err);
	close_fd(&w->pause_bundle);
	if (rc) {
		struct control_failed failed = { .header = { CONTROL_VERSION, CONTROL_FAILED },
						 .request = CONTROL_PAUSE,
						 .code = (uint32_t)-rc };

		(void)snprintf(failed.text, sizeof(failed.text), "%s", err->msg);
		return control_reply(w, &failed, sizeof(failed), NULL, 0); /* the guest goes on */
	}
	w->phase = WORKER_PAUSED;
	reply.channel_to_host = w->machine.stats.channel_to_host;
	reply.channel_to_guest = w->machine.stats.channel_to_guest;
	reply.state_ns = clock_monotonic_ns() - stopped;
	return control_reply(w, &reply, sizeof(reply), NULL, 0);
}
