/* The engine of the fork tests: layers, workers and who descends from whom. The
 * parent of a fork is retired and donates; it and its children go on in fresh
 * processes. */
#ifndef RAMET_TESTS_UFFD_TREE_H
#define RAMET_TESTS_UFFD_TREE_H

#include "tests/unit/uffd_worker.h"

#define WORKERS 64u

struct layer {
	int writable, readonly;
	uint32_t donor; /* the worker that fills it */
	bool filled;
};

struct member {
	pid_t pid; /* 0: there is none */
	int sock;
	struct extent_map *map;
	bool donor;
	uint32_t donates; /* the layer */
};

/* What the engine is in the real thing. */
static struct tree {
	int device;
	struct worker_shared *shared;
	struct layer layers[LAYERS];
	uint32_t layer_count;
	struct member members[WORKERS];
	uint32_t member_count;
} tree;

static inline void order_send(uint32_t to, const struct order *order, const int *fds, size_t nfds)
{
	assert_int_equal(fdpass_send(tree.members[to].sock, order, sizeof(*order), fds, nfds), 0);
}

/* Waits for the next reply of a worker; its descriptors go to `fds`. */
static inline struct reply reply_wait(uint32_t from, int *fds, size_t *nfds)
{
	struct reply reply;
	ssize_t n;

	assert_true(readable_within(tree.members[from].sock, DEADLINE_MS));
	n = fdpass_recv(tree.members[from].sock, &reply, sizeof(reply), fds, nfds);
	assert_int_equal(n, sizeof(reply));
	if (reply.type == REPLY_ERROR)
		fail_msg("%s", reply.text);
	if (reply.type == REPLY_WRONG)
		fail_msg("worker %u: page %llu is wrong", from,
			 (unsigned long long)tree.shared[from].wrong_page);
	return reply;
}

static inline void reply_is(uint32_t from, enum reply_type type)
{
	int fds[FDPASS_MAX];
	size_t nfds = 0;

	assert_int_equal(reply_wait(from, fds, &nfds).type, type);
	assert_int_equal(nfds, 0);
}

static inline uint32_t layer_new(void)
{
	struct layer *layer = &tree.layers[tree.layer_count];
	struct ramet_err err;

	assert_true(tree.layer_count < LAYERS);
	layer->filled = false;
	layer->writable = layer_create("ramet-fork", MEMORY, &err);
	assert_true(layer->writable >= 0);
	layer->readonly = layer_open_readonly(layer->writable, &err);
	assert_true(layer->readonly >= 0);
	return tree.layer_count++;
}

/* ---- workers ---- */

/* The donors of all layers with holes get the worker's descriptors for them. */
static inline void watches_hand_over(uint32_t number, const struct order *stitched)
{
	uint32_t used[EXTENT_LAYERS_MAX];
	size_t count = extent_map_layers(tree.members[number].map, used), nfds = 0, given = 0;
	int fds[FDPASS_MAX];
	struct reply reply = reply_wait(number, fds, &nfds);

	assert_int_equal(reply.type, REPLY_STITCHED);
	for (size_t i = 0; i < count; i++) {
		const struct order add = { .type = ORDER_ADD,
					   .base = reply.base,
					   .child = number,
					   .layer = used[i],
					   .map_bytes = stitched->map_bytes };

		if (!(stitched->filling >> used[i] & 1))
			continue;
		assert_true(given < nfds);
		order_send(tree.layers[used[i]].donor, &add, &fds[given], 1);
		(void)close(fds[given++]);
	}
	assert_int_equal(given, nfds);
}

/* A new worker that runs from `map`, which becomes its own. Its versions are
 * the caller's to set. */
static inline uint32_t worker_start(struct extent_map *map)
{
	struct order order = { .type = ORDER_STITCH, .count = tree.layer_count };
	uint32_t number = tree.member_count++;
	struct worker_shared *shared;
	int pair[2], fds[LAYERS];
	pid_t pid;

	assert_true(number < WORKERS);
	shared = &tree.shared[number];
	memset(shared->dirty, 0, sizeof(shared->dirty));
	order.map_bytes = (uint32_t)extent_map_encode(map, shared->map, sizeof(shared->map));
	for (uint32_t i = 0; i < tree.layer_count; i++) {
		fds[i] = tree.layers[i].readonly;
		order.filling |= (uint64_t)!tree.layers[i].filled << i;
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		worker_main(tree.shared, number, pair[1], tree.device);
	(void)close(pair[1]);
	tree.members[number] = (struct member){ .pid = pid, .sock = pair[0], .map = map };
	order_send(number, &order, fds, tree.layer_count);
	watches_hand_over(number, &order);
	return number;
}

/* Ends a worker; status is what it must exit with. */
static inline void worker_end(uint32_t number, bool by_force)
{
	struct member *m = &tree.members[number];

	if (by_force)
		assert_int_equal(kill(m->pid, SIGKILL), 0);
	(void)close(m->sock);
	assert_int_equal(child_exit_status(m->pid), by_force ? 128 + SIGKILL : 0);
	free(m->map);
	*m = (struct member){ .pid = 0, .sock = -1 };
}

static inline void worker_run_start(uint32_t number, uint32_t count, uint64_t seed)
{
	const struct order run = { .type = ORDER_RUN, .count = count, .seed = seed };

	order_send(number, &run, NULL, 0);
}

static inline void worker_check_all(uint32_t number)
{
	const struct order check = { .type = ORDER_CHECK };

	order_send(number, &check, NULL, 0);
	reply_is(number, REPLY_RIGHT);
}

/* ---- forks ---- */

/* Retires worker `parent` and starts `count` workers in its state; the first
 * is the parent, going on. */
static inline void worker_fork(uint32_t parent, uint32_t *children, uint32_t count)
{
	const struct range_policy policy = { .gap = 8 * PAGE, .max = 40 };
	cleanup_ranges struct range_list *list = NULL;
	struct worker_shared *shared = &tree.shared[parent];
	struct order retire = { .type = ORDER_RETIRE };
	uint32_t layer = layer_new();
	int fds[1 + LAYERS] = { tree.layers[layer].writable };
	struct extent_map *map = NULL;
	struct ramet_err err;

	assert_int_equal(ranges_from_bitmap(&list, shared->dirty, MEMORY, &policy, NULL, &err), 0);
	(void)extent_map_fit(tree.members[parent].map, list, 64);
	assert_int_equal(extent_map_overlay(&map, tree.members[parent].map, list->ranges,
					    list->count, layer, &err),
			 0);
	retire.count = (uint32_t)list->count;
	memcpy(shared->ranges, list->ranges, list->count * sizeof(list->ranges[0]));
	for (uint32_t i = 0; i < layer; i++)
		fds[1 + i] = tree.layers[i].readonly;
	order_send(parent, &retire, fds, 1 + layer);
	tree.members[parent].donor = true;
	tree.members[parent].donates = layer;
	tree.layers[layer].donor = parent;
	for (uint32_t i = 0; i < count; i++) {
		struct extent_map *copy = NULL;

		assert_int_equal(extent_map_copy(&copy, map, &err), 0);
		memcpy(tree.shared[tree.member_count].versions, shared->versions,
		       sizeof(shared->versions));
		children[i] = worker_start(copy);
	}
	free(map);
}

static inline void layer_fill_start(uint32_t layer)
{
	const struct order fill = { .type = ORDER_FILL };

	order_send(tree.layers[layer].donor, &fill, NULL, 0);
}

/* The layer is sealed, holds its donor's pages as they were, and no others. */
static inline void layer_fill_end(uint32_t layer)
{
	uint32_t donor = tree.layers[layer].donor;
	const struct worker_shared *shared = &tree.shared[donor];
	uint8_t page[PAGE];
	struct layer_stat st;
	struct ramet_err err;
	uint64_t bytes = 0;
	bool sealed = false;

	reply_is(donor, REPLY_FILLED);
	tree.layers[layer].filled = true;
	assert_int_equal(layer_sealed(tree.layers[layer].writable, &sealed, &err), 0);
	assert_true(sealed);
	for (const struct range *r = shared->ranges; r->end; r++) {
		for (uint64_t at = r->start; at < r->end; at += PAGE) {
			assert_int_equal(pread(tree.layers[layer].readonly, page, PAGE, (off_t)at),
					 PAGE);
			assert_true(page_is(page, at / PAGE, shared->versions[at / PAGE]));
		}
		bytes += r->end - r->start;
	}
	assert_int_equal(layer_stat(tree.layers[layer].readonly, &st, &err), 0);
	assert_int_equal(st.resident, bytes);
}

/* ---- a tree for each test ---- */

/* Worker 0: a quarter of its memory is an image, the rest zeros. */
static inline int tree_open(void **state)
{
	struct extent_map *zeros = NULL, *map = NULL;
	const struct range image = { 4 * MIB, 10 * MIB };
	uint32_t *versions, layer;
	uint8_t page[PAGE];
	struct ramet_err err;

	(void)state;
	tree.shared = mmap(NULL, WORKERS * sizeof(*tree.shared), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(tree.shared, MAP_FAILED);
	versions = tree.shared[0].versions;
	layer = layer_new();
	for (uint64_t at = image.start; at < image.end; at += PAGE) {
		versions[at / PAGE] = 1;
		page_write(page, at / PAGE, 1);
		assert_int_equal(pwrite(tree.layers[layer].writable, page, PAGE, (off_t)at), PAGE);
	}
	assert_int_equal(layer_seal(tree.layers[layer].writable, &err), 0);
	tree.layers[layer].filled = true;
	assert_int_equal(extent_map_create(&zeros, MEMORY, EXTENT_ZERO, &err), 0);
	assert_int_equal(extent_map_overlay(&map, zeros, &image, 1, layer, &err), 0);
	free(zeros);
	assert_int_equal(worker_start(map), 0);
	return 0;
}

static inline int tree_close(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < tree.member_count; i++) {
		struct member *m = &tree.members[i];

		if (!m->pid)
			continue;
		(void)kill(m->pid, SIGKILL);
		(void)waitpid(m->pid, NULL, 0);
		(void)close(m->sock);
		free(m->map);
	}
	for (uint32_t i = 0; i < tree.layer_count; i++) {
		(void)close(tree.layers[i].writable);
		(void)close(tree.layers[i].readonly);
	}
	(void)munmap(tree.shared, WORKERS * sizeof(*tree.shared));
	tree = (struct tree){ .device = tree.device };
	return 0;
}

#endif
