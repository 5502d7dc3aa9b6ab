/* Merging, pausing, and the fork tree. */
#include "tests/fake/engine_harness.h"

static struct sandbox *id_of(struct sandbox *sandbox, char id[SANDBOX_ID_MAX])
{
	struct sandbox_info info;

	sandbox_info(sandbox, &info);
	(void)snprintf(id, SANDBOX_ID_MAX, "%s", info.id);
	return sandbox;
}

static struct sandbox *merge_ok(struct harness *h, struct sandbox *parent, struct sandbox *winner)
{
	struct created merged = { 0 };
	struct ramet_err err = { 0 };

	if (sandbox_merge(parent, winner, on_created, &merged, &err) < 0)
		fail_msg("merge was refused: %s", err.msg);
	assert_false(merged.done);
	harness_wait(h, &merged.done);
	if (!merged.sandbox)
		fail_msg("merge failed: %s", merged.err.msg);
	return merged.sandbox;
}

/* ---- merge ---- */

static void the_parents_id_drives_the_winners_guest(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent"), *merged;
	char parent_id[SANDBOX_ID_MAX], winner_id[SANDBOX_ID_MAX];
	struct engine_counts counts;
	struct forked forked;

	fork_ok(h, id_of(parent, parent_id), 2, &forked);
	(void)run_number(h, id_of(forked.children[1].sandbox, winner_id), "poke 5 77");
	merged = merge_ok(h, parent, forked.children[1].sandbox);
	assert_ptr_equal(engine_sandbox_find(h->engine, parent_id), merged);
	assert_int_equal(run_number(h, merged, "peek 5"), 77);
	assert_null(engine_sandbox_find(h->engine, winner_id));
	assert_string_equal(engine_merged_into(h->engine, winner_id), parent_id);
	assert_null(engine_merged_into(h->engine, parent_id));
	engine_counts(h->engine, &counts);
	assert_int_equal(counts.total, 2);
}

static void an_alias_ends_with_what_it_stands_for(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent"), *merged;
	char winner_id[SANDBOX_ID_MAX];
	struct forked forked;

	fork_ok(h, parent, 1, &forked);
	(void)id_of(forked.children[0].sandbox, winner_id);
	merged = merge_ok(h, parent, forked.children[0].sandbox);
	assert_non_null(engine_merged_into(h->engine, winner_id));
	close_wait(h, merged);
	assert_null(engine_merged_into(h->engine, winner_id));
}

static void aliases_follow_a_second_merge(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent"), *child;
	char parent_id[SANDBOX_ID_MAX], grand_id[SANDBOX_ID_MAX];
	struct forked first, second;

	fork_ok(h, id_of(parent, parent_id), 1, &first);
	child = first.children[0].sandbox;
	fork_ok(h, child, 1, &second);
	(void)id_of(second.children[0].sandbox, grand_id);
	child = merge_ok(h, child, second.children[0].sandbox);
	(void)merge_ok(h, parent, child);
	assert_string_equal(engine_merged_into(h->engine, grand_id), parent_id);
}

static void the_winners_execs_go_on_and_the_parents_end(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	struct ran of_parent = { 0 }, of_winner = { .discard = true };
	struct forked forked;

	fork_ok(h, parent, 1, &forked);
	run_start(parent, EXEC_BASH, "hang", &of_parent);
	run_start(forked.children[0].sandbox, EXEC_BASH, "flood 4000000", &of_winner);
	(void)merge_ok(h, parent, forked.children[0].sandbox);
	harness_wait(h, &of_parent.done);
	harness_wait(h, &of_winner.done);
	assert_int_equal(of_parent.err.code, ECANCELED);
	assert_words(of_parent.err.msg, "merged");
	assert_int_equal(of_winner.err.code, 0);
	assert_int_equal(of_winner.total, 4000000);
}

static void the_survivor_has_the_parents_place(void **state)
{
	struct harness *h = *state;
	struct sandbox *root = create_ok(h, "agent"), *merged;
	char root_id[SANDBOX_ID_MAX];
	struct sandbox_info info;
	struct forked first, second;

	fork_ok(h, id_of(root, root_id), 2, &first);
	fork_ok(h, first.children[0].sandbox, 1, &second);
	merged = merge_ok(h, root, first.children[0].sandbox);
	sandbox_info(merged, &info);
	assert_string_equal(info.id, root_id);
	assert_null(info.parent_id);
	assert_int_equal(info.children, 2); /* the other child, and its own */
	sandbox_info(second.children[0].sandbox, &info);
	assert_string_equal(info.parent_id, root_id);
	sandbox_info(first.children[1].sandbox, &info);
	assert_string_equal(info.parent_id, root_id);
}

static void merging_into_an_ancestor(void **state)
{
	struct harness *h = *state;
	struct sandbox *root = create_ok(h, "agent"), *merged;
	char child_id[SANDBOX_ID_MAX];
	struct sandbox_info info;
	struct forked forked;

	fork_ok(h, root, 1, &forked);
	merged = merge_ok(h, id_of(forked.children[0].sandbox, child_id), root);
	sandbox_info(merged, &info);
	assert_string_equal(info.id, child_id);
	assert_int_equal(info.children, 0);
}

static void only_relatives_are_merged(void **state)
{
	struct harness *h = *state;
	struct sandbox *a = create_ok(h, "agent"), *b = create_ok(h, "agent");
	struct ramet_err err = { 0 };

	assert_int_equal(sandbox_merge(a, b, NULL, NULL, &err), -EINVAL);
	assert_words(err.msg, "fork tree");
	assert_int_equal(sandbox_merge(a, a, NULL, NULL, &err), -EINVAL);
}

static void a_fork_under_way_is_not_merged(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	struct forked first, second;
	struct ramet_err err = { 0 };

	fork_ok(h, parent, 1, &first);
	fork_start(parent, 1, &second);
	assert_int_equal(sandbox_merge(parent, first.children[0].sandbox, NULL, NULL, &err),
			 -EBUSY);
	harness_wait(h, &second.done);
	(void)merge_ok(h, parent, first.children[0].sandbox);
}

/* ---- pause ---- */

static void pause_wait(struct harness *h, struct sandbox *sandbox)
{
	struct created paused = { 0 };

	assert_int_equal(sandbox_pause(sandbox, on_created, &paused, NULL), 0);
	assert_false(paused.done);
	harness_wait(h, &paused.done);
	assert_ptr_equal(paused.sandbox, sandbox);
}

static void a_paused_sandbox_takes_no_work(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct exec_params params = { .language = EXEC_BASH };
	struct fork_params fork = { .count = 1 };
	struct engine_counts counts;
	struct ramet_err err = { 0 };
	struct ran ran = { 0 };

	pause_wait(h, sandbox);
	engine_counts(h->engine, &counts);
	assert_int_equal(counts.paused, 1);
	assert_int_equal(sandbox_exec(sandbox, &params, &ran_callbacks, &ran, &ran.exec, &err),
			 -EAGAIN);
	assert_words(err.msg, "paused");
	assert_int_equal(sandbox_fork(sandbox, &fork, on_forked, NULL, &err), -EAGAIN);
	assert_int_equal(sandbox_pause(sandbox, NULL, NULL, &err), -EAGAIN);
	assert_int_equal(sandbox_resume(sandbox, &err), 0);
	assert_int_equal(sandbox_resume(sandbox, &err), -EINVAL);
	assert_int_equal(run_number(h, sandbox, "count"), 1);
}

static void an_exec_goes_on_after_a_pause(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct ran ran = { .discard = true };
	uint64_t before;

	run_start(sandbox, EXEC_BASH, "flood 8000000", &ran);
	harness_spin(h, 2);
	pause_wait(h, sandbox);
	before = ran.total;
	harness_spin(h, 50);
	assert_int_equal(ran.total, before);
	assert_false(ran.done);
	assert_int_equal(sandbox_resume(sandbox, NULL), 0);
	harness_wait(h, &ran.done);
	assert_int_equal(ran.total, 8000000);
}

static void a_pause_that_is_refused_changes_nothing(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct created paused = { 0 };

	harness_worker_mode(h, "pause-refused");
	assert_int_equal(sandbox_pause(sandbox, on_created, &paused, NULL), 0);
	harness_wait(h, &paused.done);
	assert_words(paused.err.msg, "not now");
	assert_int_equal(run_number(h, sandbox, "count"), 1);
}

static void closing_a_paused_sandbox(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");

	pause_wait(h, sandbox);
	close_wait(h, sandbox);
}

static void closing_while_it_pauses(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct created paused = { 0 };

	assert_int_equal(sandbox_pause(sandbox, on_created, &paused, NULL), 0);
	close_wait(h, sandbox);
	assert_true(paused.done);
	assert_int_equal(paused.err.code, ECANCELED);
}

/* ---- the tree ---- */

struct drawn {
	char text[256];
};

static bool draw(void *arg, struct sandbox *sandbox, unsigned int depth)
{
	struct drawn *drawn = arg;
	struct sandbox_info info;
	size_t used = strlen(drawn->text);

	sandbox_info(sandbox, &info);
	(void)snprintf(drawn->text + used, sizeof(drawn->text) - used, "%u:%u ", depth,
		       info.fork_index);
	return true;
}

static void the_tree_is_visited_in_order(void **state)
{
	struct harness *h = *state;
	struct sandbox *root = create_ok(h, "agent");
	struct forked first, second;
	struct drawn drawn = { "" };

	fork_ok(h, root, 2, &first);
	fork_ok(h, first.children[0].sandbox, 2, &second);
	(void)create_ok(h, "agent");
	engine_tree(h->engine, draw, &drawn);
	assert_string_equal(drawn.text, "0:0 1:0 2:0 2:1 1:1 0:0 ");
}

static void children_outlive_their_parent(void **state)
{
	struct harness *h = *state;
	struct sandbox *root = create_ok(h, "agent");
	char root_id[SANDBOX_ID_MAX];
	struct sandbox_info info;
	struct forked forked;
	struct drawn drawn = { "" };

	fork_ok(h, id_of(root, root_id), 2, &forked);
	close_wait(h, root);
	assert_int_equal(run_number(h, forked.children[0].sandbox, "count"), 2);
	sandbox_info(forked.children[1].sandbox, &info);
	assert_string_equal(info.parent_id, root_id);
	engine_tree(h->engine, draw, &drawn);
	assert_string_equal(drawn.text, "0:0 0:1 ");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, harness_setup_templates, harness_teardown)
	const struct CMUnitTest tests[] = {
		TEST(the_parents_id_drives_the_winners_guest),
		TEST(an_alias_ends_with_what_it_stands_for),
		TEST(aliases_follow_a_second_merge),
		TEST(the_winners_execs_go_on_and_the_parents_end),
		TEST(the_survivor_has_the_parents_place),
		TEST(merging_into_an_ancestor),
		TEST(only_relatives_are_merged),
		TEST(a_fork_under_way_is_not_merged),
		TEST(a_paused_sandbox_takes_no_work),
		TEST(an_exec_goes_on_after_a_pause),
		TEST(a_pause_that_is_refused_changes_nothing),
		TEST(closing_a_paused_sandbox),
		TEST(closing_while_it_pauses),
		TEST(the_tree_is_visited_in_order),
		TEST(children_outlive_their_parent),
	};
	int skip = harness_unavailable();

	return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
