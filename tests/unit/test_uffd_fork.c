/* Forks as the engine makes them, with ordinary processes for workers: the
 * parent is retired and donates, it and its children go on in fresh processes,
 * and every page of every one of them is checked. */
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

static void order_send(uint32_t to, const struct order *order, const int *fds, size_t nfds)
{
	assert_int_equal(fdpass_send(tree.members[to].sock, order, sizeof(*order), fds, nfds), 0);
}

/* Waits for the next reply of a worker; its descriptors go to `fds`. */
static struct reply reply_wait(uint32_t from, int *fds, size_t *nfds)
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

static void reply_is(uint32_t from, enum reply_type type)
{
	int fds[FDPASS_MAX];
	size_t nfds = 0;

	assert_int_equal(reply_wait(from, fds, &nfds).type, type);
	assert_int_equal(nfds, 0);
}

static uint32_t layer_new(void)
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
static void watches_hand_over(uint32_t number, const struct order *stitched)
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
static uint32_t worker_start(struct extent_map *map)
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
static void worker_end(uint32_t number, bool by_force)
{
	struct member *m = &tree.members[number];

	if (by_force)
		assert_int_equal(kill(m->pid, SIGKILL), 0);
	(void)close(m->sock);
	assert_int_equal(child_exit_status(m->pid), by_force ? 128 + SIGKILL : 0);
	free(m->map);
	*m = (struct member){ .pid = 0, .sock = -1 };
}

static void worker_run_start(uint32_t number, uint32_t count, uint64_t seed)
{
	const struct order run = { .type = ORDER_RUN, .count = count, .seed = seed };

	order_send(number, &run, NULL, 0);
}

static void worker_check_all(uint32_t number)
{
	const struct order check = { .type = ORDER_CHECK };

	order_send(number, &check, NULL, 0);
	reply_is(number, REPLY_RIGHT);
}

/* ---- forks ---- */

/* Retires worker `parent` and starts `count` workers in its state; the first
 * is the parent, going on. */
static void worker_fork(uint32_t parent, uint32_t *children, uint32_t count)
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

static void layer_fill_start(uint32_t layer)
{
	const struct order fill = { .type = ORDER_FILL };

	order_send(tree.layers[layer].donor, &fill, NULL, 0);
}

/* The layer is sealed, holds its donor's pages as they were, and no others. */
static void layer_fill_end(uint32_t layer)
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
static int tree_open(void **state)
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

static int tree_close(void **state)
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

/* ---- tests ---- */

static void parent_and_children_go_on_while_the_layer_fills(void **state)
{
	uint32_t children[6];

	(void)state;
	worker_run_start(0, 1500, 1);
	reply_is(0, REPLY_RIGHT);
	worker_fork(0, children, 6);
	for (uint32_t i = 0; i < 6; i++)
		worker_run_start(children[i], 2000, 10 + i);
	layer_fill_start(1);
	for (uint32_t i = 0; i < 6; i++)
		reply_is(children[i], REPLY_RIGHT);
	layer_fill_end(1);
	worker_end(0, false);
	for (uint32_t i = 0; i < 6; i++) {
		worker_check_all(children[i]);
		worker_end(children[i], false);
	}
}

/* Four levels, none of which has a page of its layer when the next is made:
 * everything comes on demand through up to four donors, then the youngest
 * layer is filled first, so that its donor waits for all those below. */
static void a_chain_is_forked_before_any_level_is_filled(void **state)
{
	uint32_t line[5] = { 0 }, side[4];

	(void)state;
	worker_run_start(0, 1000, 1);
	reply_is(0, REPLY_RIGHT);
	for (uint32_t level = 0; level < 4; level++) {
		uint32_t children[2];

		worker_fork(line[level], children, 2);
		line[level + 1] = children[0];
		side[level] = children[1];
		worker_run_start(children[0], 300, 20 + level);
		worker_run_start(children[1], 300, 30 + level);
		reply_is(children[0], REPLY_RIGHT);
		reply_is(children[1], REPLY_RIGHT);
	}
	for (uint32_t layer = 4; layer > 0; layer--) {
		layer_fill_start(layer);
		layer_fill_end(layer);
	}
	worker_check_all(line[4]);
	for (uint32_t level = 0; level < 4; level++) {
		worker_end(line[level], false);
		worker_check_all(side[level]);
	}
}

/* All donors fill at once while everybody runs, and forks go on meanwhile. */
static void a_deep_chain_fills_while_it_grows(void **state)
{
	const uint32_t depth = LAYERS - 2;
	uint32_t line[LAYERS] = { 0 }, side[LAYERS];

	(void)state;
	worker_run_start(0, 1000, 1);
	reply_is(0, REPLY_RIGHT);
	for (uint32_t level = 0; level < depth; level++) {
		uint32_t children[2];

		worker_fork(line[level], children, 2);
		layer_fill_start(level + 1);
		line[level + 1] = children[0];
		side[level] = children[1];
		worker_run_start(side[level], 1500, 40 + level);
		worker_run_start(line[level + 1], 150, 60 + level);
		reply_is(line[level + 1], REPLY_RIGHT);
	}
	for (uint32_t level = 0; level < depth; level++) {
		reply_is(side[level], REPLY_RIGHT);
		layer_fill_end(level + 1);
		worker_end(line[level], false);
	}
	for (uint32_t level = 0; level < depth; level++)
		worker_check_all(side[level]);
	worker_check_all(line[depth]);
}

/* Random forks, runs, fills and ends. */
static void a_random_tree_stays_right(uint64_t seed)
{
	struct {
		uint32_t number;
		bool running;
	} live[WORKERS] = { { 0, false } };
	uint32_t count = 1, unfilled[LAYERS], pending = 0;

	for (int step = 0; step < 150; step++) {
		uint32_t at = (uint32_t)random_below(&seed, count), number = live[at].number;
		uint32_t children[3], n = 1 + (uint32_t)random_below(&seed, 3);

		if (live[at].running) {
			reply_is(number, REPLY_RIGHT);
			live[at].running = false;
		}
		switch (random_below(&seed, 4)) {
		case 0:
			if (tree.layer_count == LAYERS || tree.member_count + n > WORKERS)
				break;
			worker_fork(number, children, n);
			unfilled[pending++] = tree.layer_count - 1;
			live[at].number = children[0];
			for (uint32_t i = 1; i < n; i++)
				live[count++].number = children[i];
			break;
		case 1:
			if (pending && random_below(&seed, 2)) {
				uint32_t which = (uint32_t)random_below(&seed, pending);

				layer_fill_start(unfilled[which]);
				if (random_below(&seed, 2))
					worker_run_start(number, 300, seed);
				else
					worker_run_start(number, 30, seed);
				live[at].running = true;
				layer_fill_end(unfilled[which]);
				unfilled[which] = unfilled[--pending];
			} else if (count > 1) {
				worker_end(number, random_below(&seed, 2));
				live[at] = live[--count];
				live[count].running = false;
			}
			break;
		default:
			worker_run_start(number, 100, seed);
			live[at].running = true;
		}
	}
	for (uint32_t i = 0; i < count; i++) {
		if (live[i].running)
			reply_is(live[i].number, REPLY_RIGHT);
		worker_check_all(live[i].number);
	}
	while (pending) {
		layer_fill_start(unfilled[--pending]);
		layer_fill_end(unfilled[pending]);
	}
	for (uint32_t i = 0; i < count; i++)
		worker_check_all(live[i].number);
}

static void random_trees_stay_right(void **state)
{
	for (uint64_t seed = 1; seed <= 6; seed++) {
		unsigned int fds;

		a_random_tree_stays_right(seed * 1000);
		tree_close(state);
		fds = fds_open();
		tree_open(state);
		tree_close(state);
		assert_int_equal(fds_open(), fds);
		tree_open(state);
	}
}

/* ---- the end of a donor ---- */

static char process_state(pid_t pid)
{
	char path[64], text[512] = "";
	const char *after;
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	assert_non_null(f);
	(void)fread(text, 1, sizeof(text) - 1, f);
	(void)fclose(f);
	after = strrchr(text, ')');
	assert_non_null(after);
	return after[2];
}

/* A child that needs a page of a dead donor waits; it never reads zeros. One
 * that has all its pages goes on. */
static void without_its_donor_a_child_waits_and_never_reads_zeros(void **state)
{
	const struct order check = { .type = ORDER_CHECK };
	uint32_t children[2];

	(void)state;
	worker_run_start(0, 1500, 1);
	reply_is(0, REPLY_RIGHT);
	worker_fork(0, children, 2);
	worker_run_start(children[1], 3, 5);
	reply_is(children[1], REPLY_RIGHT);
	worker_end(0, true);
	order_send(children[1], &check, NULL, 0);
	assert_false(readable_within(tree.members[children[1]].sock, 1500));
	assert_int_not_equal(process_state(tree.members[children[1]].pid), 'R');
	worker_end(children[1], true);
}

static void what_has_its_pages_outlives_the_donor(void **state)
{
	uint32_t children[2], grandchildren[2];

	(void)state;
	worker_run_start(0, 1500, 1);
	reply_is(0, REPLY_RIGHT);
	worker_fork(0, children, 2);
	worker_check_all(children[0]); /* brings every page of the layer */
	worker_end(0, true);
	worker_run_start(children[0], 500, 2);
	worker_run_start(children[1], 500, 3);
	reply_is(children[0], REPLY_RIGHT);
	reply_is(children[1], REPLY_RIGHT);
	/* Their own forks are not concerned either. */
	tree.layers[1].filled = true;
	worker_fork(children[0], grandchildren, 2);
	layer_fill_start(2);
	layer_fill_end(2);
	worker_check_all(grandchildren[0]);
	worker_check_all(grandchildren[1]);
	worker_check_all(children[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(parent_and_children_go_on_while_the_layer_fills,
						tree_open, tree_close),
		cmocka_unit_test_setup_teardown(a_chain_is_forked_before_any_level_is_filled,
						tree_open, tree_close),
		cmocka_unit_test_setup_teardown(a_deep_chain_fills_while_it_grows, tree_open,
						tree_close),
		cmocka_unit_test_setup_teardown(random_trees_stay_right, tree_open, tree_close),
		cmocka_unit_test_setup_teardown(
			without_its_donor_a_child_waits_and_never_reads_zeros, tree_open,
			tree_close),
		cmocka_unit_test_setup_teardown(what_has_its_pages_outlives_the_donor, tree_open,
						tree_close),
	};

	tree.device = device_or_skip();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
