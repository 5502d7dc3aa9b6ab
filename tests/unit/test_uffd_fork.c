/* Forks as the engine makes them, with ordinary processes for workers: the
 * parent is retired and donates, it and its children go on in fresh processes,
 * and every page of every one of them is checked. */
#include "tests/unit/uffd_tree.h"

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
