/* The worker of the fork tests: a process with stitched memory that reads and
 * writes it, can be retired to become a donor, and does what it is told over
 * a socket. The versions of its pages are in memory shared with the test. */
#ifndef RAMET_TESTS_UFFD_WORKER_H
#define RAMET_TESTS_UFFD_WORKER_H

#include <errno.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "lib/fdpass.h"
#include "tests/unit/uffd_fixture.h"
#include "uffd/donor.h"
#include "uffd/extent_map.h"
#include "uffd/layer.h"
#include "uffd/stitch.h"

#define MEMORY (24 * MIB)
#define PAGES  (MEMORY / PAGE)
#define LAYERS 14u /* of a test; all go into one message */

/* What a worker and the test both see. */
struct worker_shared {
	uint32_t versions[PAGES]; /* what each page must hold */
	uint64_t dirty[PAGES / 64];
	uint8_t map[EXTENT_MAP_ENCODED(EXTENT_MAP_MAX)];
	struct range ranges[RANGES_MAX]; /* to be donated */
	uint64_t wrong_page;
};

enum order_type {
	ORDER_STITCH, /* layers 0..count-1 + `filling`: a bit for each that has holes */
	ORDER_RUN,    /* `count` random reads and writes */
	ORDER_CHECK,  /* read everything */
	ORDER_RETIRE, /* layer to fill + layers of the source; `count` shared ranges */
	ORDER_ADD,    /* a child's userfaultfd; child, base, layer */
	ORDER_FILL,   /* stop waiting for demand only */
};

struct order {
	enum order_type type;
	uint32_t count;
	uint64_t seed, filling, base;
	uint32_t map_bytes, child, layer;
};

enum reply_type { REPLY_STITCHED, REPLY_RIGHT, REPLY_WRONG, REPLY_FILLED, REPLY_ERROR };

struct reply {
	enum reply_type type;
	uint64_t base;
	char text[200];
};

struct worker {
	struct worker_shared *all; /* of every worker, by number */
	uint32_t number;
	int sock, device;
	uint8_t *base;
	struct extent_map *map;
	struct donor *donor;
	int donated; /* the layer it fills */
	bool ahead;
};

static inline _Noreturn void worker_fail(const struct worker *w, const struct ramet_err *err)
{
	struct reply reply = { .type = REPLY_ERROR };

	(void)snprintf(reply.text, sizeof(reply.text), "worker %u: %.150s", w->number, err->msg);
	(void)fdpass_send(w->sock, &reply, sizeof(reply), NULL, 0);
	_exit(1);
}

static inline void worker_reply(const struct worker *w, enum reply_type type, const int *fds,
				size_t nfds)
{
	struct reply reply = { .type = type, .base = (uint64_t)w->base };

	if (fdpass_send(w->sock, &reply, sizeof(reply), fds, nfds))
		_exit(2);
}

static inline void worker_stitch(struct worker *w, const struct order *o, const int *fds)
{
	int uffds[FDPASS_MAX];
	struct ramet_err err;
	uint32_t used[EXTENT_LAYERS_MAX];
	size_t n, count = 0;

	if (extent_map_decode(&w->map, w->all[w->number].map, o->map_bytes, o->count, &err) ||
	    stitch_reserve(&w->base, MEMORY, &err) ||
	    stitch(w->base, w->map, false, fds, o->count, &err))
		worker_fail(w, &err);
	n = extent_map_layers(w->map, used);
	for (size_t i = 0; i < n; i++) {
		if (!(o->filling >> used[i] & 1))
			continue;
		uffds[count] = stitch_watch(w->base, w->map, used[i], w->device, &err);
		if (uffds[count++] < 0)
			worker_fail(w, &err);
	}
	/* The worker's own copies stay open as long as it lives. */
	worker_reply(w, REPLY_STITCHED, uffds, count);
}

static inline bool worker_page_right(const struct worker *w, uint64_t page)
{
	struct worker_shared *shared = &w->all[w->number];

	if (page_is(w->base + page * PAGE, page, shared->versions[page]))
		return true;
	shared->wrong_page = page;
	return false;
}

static inline bool worker_run(struct worker *w, const struct order *o)
{
	struct worker_shared *shared = &w->all[w->number];
	uint64_t seed = o->seed;

	for (uint32_t i = 0; i < o->count; i++) {
		/* Mostly near the last place, as programs do. */
		uint64_t page = random_below(&seed, PAGES);

		for (uint64_t n = random_below(&seed, 12); n && page < PAGES; n--, page++) {
			if (random_below(&seed, 3) && !worker_page_right(w, page))
				return false;
			if (random_below(&seed, 2))
				continue;
			shared->versions[page] = w->number << 20 | (i + 1);
			page_write(w->base + page * PAGE, page, shared->versions[page]);
			shared->dirty[page / 64] |= 1ull << page % 64;
		}
	}
	return true;
}

static inline bool worker_check(struct worker *w)
{
	for (uint64_t page = 0; page < PAGES; page++)
		if (!worker_page_right(w, page))
			return false;
	return true;
}

static inline void worker_child_failed(void *arg, uint32_t child, const struct ramet_err *err)
{
	(void)child;
	worker_fail(arg, err);
}

static inline void worker_retire(struct worker *w, const struct order *o, int *fds, size_t nfds)
{
	struct ramet_err err;
	const struct donor_params params = {
		.device = w->device,
		.layer = fds[0],
		.size = MEMORY,
		.source = w->base,
		.ranges = w->all[w->number].ranges,
		.range_count = o->count,
		.source_layers = fds + 1,
		.source_layer_count = nfds - 1,
		.child_failed = worker_child_failed,
		.arg = w,
	};

	if (donor_create(&w->donor, &params, &err))
		worker_fail(w, &err);
	w->donated = take_fd(&fds[0]);
}

static inline void worker_add(struct worker *w, const struct order *o, int *fds)
{
	cleanup_extent_map struct extent_map *map = NULL;
	cleanup_ranges struct range_list *list = NULL;
	struct ramet_err err;

	if (extent_map_decode(&map, w->all[o->child].map, o->map_bytes, EXTENT_LAYERS_MAX, &err) ||
	    extent_map_layer_ranges(&list, map, o->layer, &err) ||
	    donor_add_child(w->donor, o->child, fds[0], o->base, list->ranges, list->count, &err))
		worker_fail(w, &err);
	fds[0] = -1;
}

/* One order; false when there will be no more. */
static inline bool worker_obey(struct worker *w)
{
	int fds[FDPASS_MAX];
	size_t nfds = 0;
	struct order o;

	if (fdpass_recv(w->sock, &o, sizeof(o), fds, &nfds) != sizeof(o))
		return false;
	switch (o.type) {
	case ORDER_STITCH:
		worker_stitch(w, &o, fds);
		break;
	case ORDER_RUN:
		worker_reply(w, worker_run(w, &o) ? REPLY_RIGHT : REPLY_WRONG, NULL, 0);
		break;
	case ORDER_CHECK:
		worker_reply(w, worker_check(w) ? REPLY_RIGHT : REPLY_WRONG, NULL, 0);
		break;
	case ORDER_RETIRE:
		worker_retire(w, &o, fds, nfds);
		break;
	case ORDER_ADD:
		worker_add(w, &o, fds);
		break;
	case ORDER_FILL:
		w->ahead = true;
		break;
	}
	for (size_t i = 0; i < nfds; i++)
		close_fd(&fds[i]);
	return true;
}

static inline void worker_donate(struct worker *w)
{
	struct ramet_err err;

	if (w->ahead ? donor_step(w->donor, &err) : donor_serve(w->donor, &err))
		worker_fail(w, &err);
	if (!donor_done(w->donor) || !w->ahead)
		return;
	if (donor_finish(w->donor, &err) || layer_seal(w->donated, &err))
		worker_fail(w, &err);
	w->ahead = false;
	worker_reply(w, REPLY_FILLED, NULL, 0);
}

/* The process: `sock` and `device` are all it keeps of the test's descriptors. */
static inline _Noreturn void worker_main(struct worker_shared *all, uint32_t number, int sock,
					 int device)
{
	struct worker w = { .all = all, .number = number, .sock = 100, .device = 101 };

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (dup2(sock, w.sock) < 0 || dup2(device, w.device) < 0 || close_range(3, 99, 0) ||
	    close_range(102, ~0u, 0))
		_exit(3);
	for (;;) {
		struct pollfd fds[] = { { .fd = w.sock, .events = POLLIN },
					{ .fd = w.donor ? donor_fd(w.donor) : -1,
					  .events = POLLIN } };

		if (poll(fds, 2, w.donor && w.ahead ? 0 : -1) < 0)
			_exit(4);
		if (fds[0].revents && !worker_obey(&w))
			_exit(0);
		if (w.donor && (w.ahead || fds[1].revents))
			worker_donate(&w);
	}
}

#endif
