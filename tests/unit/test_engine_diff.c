/* Comparing two sandboxes: files, memory, limits, and guests that misbehave. */
#include <sys/stat.h>

#include "engine/agent_state.h"
#include "engine/walk.h"
#include "tests/fake/engine_harness.h"

#define ENTRIES_KEPT 16

struct diffed {
	bool done;
	struct ramet_err err; /* code 0: there is a result */
	struct diff *diff;
	struct diff_result result; /* without entries */
	struct diff_entry entries[ENTRIES_KEPT];
	char paths[ENTRIES_KEPT][64];
};

static void on_diffed(void *arg, const struct diff_result *result, const struct ramet_err *err)
{
	struct diffed *diffed = arg;

	assert_false(diffed->done);
	diffed->done = true;
	if (err) {
		diffed->err = *err;
		return;
	}
	diffed->result = *result;
	for (size_t i = 0; i < result->count && i < ENTRIES_KEPT; i++) {
		diffed->entries[i] = result->entries[i];
		(void)snprintf(diffed->paths[i], sizeof(diffed->paths[i]), "%s",
			       result->entries[i].path);
	}
}

static int diff_try(struct sandbox *a, struct sandbox *b, const char *path, struct diffed *diffed,
		    struct ramet_err *err)
{
	const struct diff_params params = { path != NULL, &path };

	return sandbox_diff(a, b, &params, on_diffed, diffed, &diffed->diff, err);
}

static void diff_start(struct sandbox *a, struct sandbox *b, const char *path,
		       struct diffed *diffed)
{
	struct ramet_err err = { 0 };

	*diffed = (struct diffed){ 0 };
	if (diff_try(a, b, path, diffed, &err) < 0)
		fail_msg("a comparison was refused: %s", err.msg);
	assert_false(diffed->done);
}

static void diff_wait(struct harness *h, struct sandbox *a, struct sandbox *b, const char *path,
		      struct diffed *diffed)
{
	diff_start(a, b, path, diffed);
	harness_wait(h, &diffed->done);
}

static void diff_ok(struct harness *h, struct sandbox *a, struct sandbox *b, const char *path,
		    struct diffed *diffed)
{
	diff_wait(h, a, b, path, diffed);
	if (diffed->err.code)
		fail_msg("a comparison failed: %s", diffed->err.msg);
}

/* A parent and its child, which is variant 1. */
static void pair_make(struct harness *h, struct sandbox *pair[2])
{
	struct forked forked;

	pair[0] = create_ok(h, "agent");
	fork_ok(h, pair[0], 1, &forked);
	pair[1] = forked.children[0].sandbox;
	(void)run_number(h, pair[1], "poke 7 1");
}

static bool still_runs(struct harness *h, struct sandbox *sandbox)
{
	struct ran ran = { 0 };
	bool ok;

	run_wait(h, sandbox, "echo hi", &ran);
	ok = ran.err.code == 0;
	ran_free(&ran);
	return ok;
}

/* ---- files ---- */

static void the_same_files_do_not_differ(void **state)
{
	struct sandbox *pair[2];
	struct diffed diffed;

	pair_make(*state, pair);
	diff_ok(*state, pair[0], pair[1], "/same/5000", &diffed);
	assert_int_equal(diffed.result.count, 0);
	assert_int_equal(diffed.result.walked[0], 5001);
	assert_int_equal(diffed.result.walked[1], 5001);
	assert_true(diffed.result.total_ns >= diffed.result.files_ns);
}

static void every_file_of_many_differs(void **state)
{
	struct sandbox *pair[2];
	struct diffed diffed;

	pair_make(*state, pair);
	diff_ok(*state, pair[0], pair[1], "/other/20000", &diffed);
	assert_int_equal(diffed.result.count, 20000);
	assert_string_equal(diffed.paths[0], "/other/20000/0000000");
	assert_int_equal(diffed.entries[0].change, DIFF_MODIFIED);
	assert_int_equal(diffed.entries[0].what, DIFF_CONTENT);
}

static void each_kind_of_change_is_told(void **state)
{
	static const struct {
		const char *path;
		enum diff_change change;
		unsigned int what;
	} expected[] = {
		{ "/mixed/b", DIFF_MODIFIED, DIFF_CONTENT },
		{ "/mixed/c-0", DIFF_REMOVED, 0 },
		{ "/mixed/c-1", DIFF_ADDED, 0 },
		{ "/mixed/d", DIFF_MODIFIED, DIFF_MODE },
		{ "/mixed/e", DIFF_MODIFIED, DIFF_OWNER },
		{ "/mixed/f", DIFF_MODIFIED, DIFF_KIND },
		{ "/mixed/f/inside", DIFF_ADDED, 0 },
		{ "/mixed/g", DIFF_MODIFIED, DIFF_UNREADABLE },
		{ "/mixed/h", DIFF_MODIFIED, DIFF_CONTENT },
	};
	struct sandbox *pair[2];
	struct diffed diffed;

	pair_make(*state, pair);
	diff_ok(*state, pair[0], pair[1], "/mixed", &diffed);
	assert_int_equal(diffed.result.count, sizeof(expected) / sizeof(expected[0]));
	for (size_t i = 0; i < diffed.result.count; i++) {
		assert_string_equal(diffed.paths[i], expected[i].path);
		assert_int_equal(diffed.entries[i].change, expected[i].change);
		assert_int_equal(diffed.entries[i].what, expected[i].what);
	}
	assert_int_equal(diffed.entries[1].sides[1].mode, 0);
	assert_int_equal(diffed.entries[2].sides[0].mode, 0);
	assert_int_equal(diffed.entries[3].sides[0].mode, S_IFREG | 0644);
	assert_int_equal(diffed.entries[3].sides[1].mode, S_IFREG | 0600);
	assert_int_equal(diffed.entries[4].sides[1].uid, 1);
	assert_int_equal(diffed.entries[8].sides[1].size, 6);
}

static void added_becomes_removed_the_other_way_round(void **state)
{
	struct sandbox *pair[2];
	struct diffed diffed;

	pair_make(*state, pair);
	diff_ok(*state, pair[0], pair[1], "/only/1", &diffed);
	assert_int_equal(diffed.result.count, 1);
	assert_int_equal(diffed.entries[0].change, DIFF_ADDED);
	diff_ok(*state, pair[1], pair[0], "/only/1", &diffed);
	assert_int_equal(diffed.entries[0].change, DIFF_REMOVED);
}

static void several_paths_are_compared_at_once(void **state)
{
	const char *paths[] = { "/same/10", "/other/7", "/mixed/../x", "/only/1", "/same/10/" };
	struct diff_params params = { 5, paths };
	struct diffed diffed = { 0 };
	struct sandbox *pair[2];
	struct ramet_err err;

	pair_make(*state, pair);
	assert_int_equal(
		sandbox_diff(pair[0], pair[1], &params, on_diffed, &diffed, &diffed.diff, &err),
		-EINVAL);
	assert_words(err.msg, "..");
	paths[2] = "/other//./7";
	assert_int_equal(
		sandbox_diff(pair[0], pair[1], &params, on_diffed, &diffed, &diffed.diff, &err), 0);
	harness_wait(*state, &diffed.done);
	assert_int_equal(diffed.err.code, 0);
	assert_int_equal(diffed.result.count, 8);
	assert_int_equal(diffed.result.walked[0], 11 + 8);
	assert_string_equal(diffed.paths[0], "/only/1");
}

static void a_path_in_neither_is_an_error(void **state)
{
	struct sandbox *pair[2];
	struct diffed diffed;

	pair_make(*state, pair);
	diff_wait(*state, pair[0], pair[1], "/nothing", &diffed);
	assert_int_equal(diffed.err.code, ENOENT);
	assert_words(diffed.err.msg, "/nothing is in neither");
}

static void what_a_guest_refuses_names_the_sandbox(void **state)
{
	struct sandbox *pair[2];
	struct diffed diffed;

	pair_make(*state, pair);
	diff_wait(*state, pair[0], pair[1], "/refuse", &diffed);
	assert_int_equal(diffed.err.code, EINVAL);
	assert_words(diffed.err.msg, "sandbox sbx_");
	assert_words(diffed.err.msg, "virtual file system");
	assert_true(still_runs(*state, pair[0]));
}

/* ---- memory ---- */

static void memory_differs_in_the_pages_written(void **state)
{
	struct harness *h = *state;
	struct sandbox *pair[2];
	struct diffed diffed;

	pair_make(h, pair);
	(void)run_number(h, pair[0], "poke 100 1");
	(void)run_number(h, pair[0], "poke 101 1");
	(void)run_number(h, pair[1], "poke 101 1");
	(void)run_number(h, pair[1], "poke 5000 1");
	diff_ok(h, pair[0], pair[1], "/same/1", &diffed);
	assert_true(diffed.result.memory.known);
	assert_int_equal(diffed.result.memory.own[0], 2);
	assert_int_equal(diffed.result.memory.own[1], 3); /* and page 7 */
	assert_int_equal(diffed.result.memory.pages, 4);
}

static void memory_in_layers_that_are_not_shared_counts(void **state)
{
	struct harness *h = *state;
	struct forked first, second;
	struct sandbox *parent = create_ok(h, "agent");
	struct diffed diffed;

	fork_ok(h, parent, 2, &first);
	(void)run_number(h, first.children[0].sandbox, "poke 100 1");
	(void)run_number(h, first.children[0].sandbox, "poke 200 1");
	fork_ok(h, first.children[0].sandbox, 1, &second);
	diff_ok(h, second.children[0].sandbox, first.children[1].sandbox, "/same/1", &diffed);
	assert_int_equal(diffed.result.memory.own[0], 0);
	assert_int_equal(diffed.result.memory.own[1], 0);
	assert_true(diffed.result.memory.pages >= 2);
	diff_ok(h, second.children[0].sandbox, first.children[0].sandbox, "/same/1", &diffed);
	assert_int_equal(diffed.result.memory.pages, 0);
}

static void memory_of_booted_guests_is_not_known(void **state)
{
	struct harness *h = *state;
	struct sandbox *a = create_ok(h, "agent"), *b = create_ok(h, "agent");
	struct diffed diffed;

	diff_ok(h, a, b, "/same/3", &diffed);
	assert_false(diffed.result.memory.known);
	assert_int_equal(diffed.result.count, 0);
}

/* ---- refusals and limits ---- */

static void a_sandbox_is_not_compared_with_itself(void **state)
{
	struct sandbox *a = create_ok(*state, "agent");
	struct diffed diffed = { 0 };
	struct ramet_err err;

	assert_int_equal(diff_try(a, a, NULL, &diffed, &err), -EINVAL);
	assert_words(err.msg, "itself");
}

static void bad_paths_are_refused(void **state)
{
	static char long_path[5000];
	const char *many[TREE_ROOTS_MAX + 1];
	struct diff_params params = { TREE_ROOTS_MAX + 1, many };
	struct diffed diffed = { 0 };
	struct sandbox *pair[2];
	struct ramet_err err;

	pair_make(*state, pair);
	memset(long_path, '/', sizeof(long_path) - 1);
	for (size_t i = 0; i <= TREE_ROOTS_MAX; i++)
		many[i] = "/x";
	assert_int_equal(diff_try(pair[0], pair[1], "relative", &diffed, &err), -EINVAL);
	assert_int_equal(diff_try(pair[0], pair[1], "", &diffed, &err), -EINVAL);
	assert_int_equal(diff_try(pair[0], pair[1], "/a/..", &diffed, &err), -EINVAL);
	assert_int_equal(diff_try(pair[0], pair[1], long_path, &diffed, &err), -ENAMETOOLONG);
	assert_int_equal(
		sandbox_diff(pair[0], pair[1], &params, on_diffed, &diffed, &diffed.diff, &err),
		-E2BIG);
	assert_int_equal(((struct harness *)*state)->engine->diffs, 0);
}

static void too_many_files_are_an_error(void **state)
{
	struct harness *h = *state;
	struct sandbox *pair[2];
	struct diffed diffed;

	h->engine->limits.diff_entries = 100;
	pair_make(h, pair);
	diff_wait(h, pair[0], pair[1], "/same/100", &diffed);
	assert_int_equal(diffed.err.code, E2BIG);
	assert_words(diffed.err.msg, "limit diff_entries");
	diff_ok(h, pair[0], pair[1], "/same/99", &diffed);
}

static void too_many_changes_are_an_error(void **state)
{
	struct harness *h = *state;
	struct sandbox *pair[2];
	struct diffed diffed;

	h->engine->limits.diff_changes = 100;
	pair_make(h, pair);
	diff_ok(h, pair[0], pair[1], "/other/100", &diffed);
	diff_wait(h, pair[0], pair[1], "/other/5000", &diffed);
	assert_int_equal(diffed.err.code, E2BIG);
	assert_words(diffed.err.msg, "name the paths");
	h->engine->limits.diff_change_bytes = 1000;
	diff_wait(h, pair[0], pair[1], "/other/100", &diffed);
	assert_int_equal(diffed.err.code, E2BIG);
}

static void too_many_comparisons_are_refused(void **state)
{
	struct harness *h = *state;
	struct diffed first, second = { 0 };
	struct sandbox *pair[2];
	struct ramet_err err;

	h->engine->limits.diffs = 1;
	pair_make(h, pair);
	diff_start(pair[0], pair[1], "/same/1", &first);
	assert_int_equal(diff_try(pair[0], pair[1], "/same/1", &second, &err), -EAGAIN);
	assert_words(err.msg, "limit diffs");
	harness_wait(h, &first.done);
	diff_ok(h, pair[0], pair[1], "/same/1", &second);
}

static void a_guest_that_never_answers_is_given_up(void **state)
{
	struct harness *h = *state;
	struct sandbox *pair[2];
	struct diffed diffed;

	h->engine->limits.diff_deadline = SECONDS_NS / 5;
	pair_make(h, pair);
	diff_wait(h, pair[0], pair[1], "/never", &diffed);
	assert_int_equal(diffed.err.code, ETIMEDOUT);
	assert_words(diffed.err.msg, "limit diff_deadline");
	assert_true(still_runs(h, pair[0]));
	assert_true(still_runs(h, pair[1]));
}

static void paused_sandboxes_are_refused(void **state)
{
	struct harness *h = *state;
	struct created paused = { 0 };
	struct diffed diffed = { 0 };
	struct sandbox *pair[2];
	struct ramet_err err;

	pair_make(h, pair);
	assert_int_equal(sandbox_pause(pair[1], on_created, &paused, &err), 0);
	assert_int_equal(diff_try(pair[0], pair[1], NULL, &diffed, &err), -EBUSY);
	harness_wait(h, &paused.done);
	assert_int_equal(diff_try(pair[0], pair[1], NULL, &diffed, &err), -EAGAIN);
	assert_words(err.msg, "resume it first");
	assert_int_equal(sandbox_resume(pair[1], &err), 0);
	diff_ok(h, pair[0], pair[1], "/same/1", &diffed);
}

/* ---- ends in the middle ---- */

static void an_abandoned_comparison_leaves_both_alive(void **state)
{
	struct harness *h = *state;
	struct sandbox *pair[2];
	struct diffed diffed;

	pair_make(h, pair);
	for (int i = 0; i < 10; i++) {
		diff_start(pair[0], pair[1], i % 2 ? "/same/50000" : "/never", &diffed);
		harness_spin(h, (unsigned int)i);
		if (!diffed.done)
			diff_abandon(diffed.diff);
	}
	assert_int_equal(h->engine->diffs, 0);
	assert_true(still_runs(h, pair[0]));
	assert_true(still_runs(h, pair[1]));
	diff_ok(h, pair[0], pair[1], "/same/10", &diffed);
}

static void a_sandbox_that_is_closed_ends_it(void **state)
{
	struct harness *h = *state;
	struct sandbox *pair[2];
	struct diffed diffed;

	pair_make(h, pair);
	diff_start(pair[0], pair[1], "/never", &diffed);
	harness_spin(h, 20);
	close_wait(h, pair[1]);
	assert_true(diffed.done);
	assert_int_equal(diffed.err.code, ECANCELED);
	assert_true(still_runs(h, pair[0]));
}

static void a_worker_that_dies_ends_it(void **state)
{
	struct harness *h = *state;
	struct sandbox *a = create_ok(h, "agent"), *b = create_ok(h, "agent");
	struct diffed diffed;

	diff_wait(h, a, b, "/die", &diffed);
	assert_int_equal(diffed.err.code, EIO);
	assert_words(diffed.err.msg, "sandbox sbx_");
}

static void the_engine_ends_it(void **state)
{
	struct harness *h = *state;
	struct sandbox *pair[2];
	struct diffed diffed;

	pair_make(h, pair);
	diff_start(pair[0], pair[1], "/never", &diffed);
	harness_spin(h, 20);
	engine_destroy(h->engine);
	h->engine = NULL;
	assert_true(diffed.done);
	assert_int_equal(diffed.err.code, ECANCELED);
}

static void the_engine_ends_it_while_workers_are_asked(void **state)
{
	struct harness *h = *state;
	struct sandbox *pair[2];
	struct diffed diffed;

	pair_make(h, pair);
	diff_start(pair[0], pair[1], "/same/1", &diffed);
	engine_destroy(h->engine);
	h->engine = NULL;
	assert_true(diffed.done);
	assert_true(diffed.err.code != 0);
}

/* Its two ids are one guest then, so there is nothing to be told. */
static void a_merge_ends_it(void **state)
{
	struct harness *h = *state;
	struct created merged = { 0 };
	struct sandbox *pair[2];
	struct diffed diffed;
	struct ramet_err err;

	h->engine->limits.diff_deadline = SECONDS_NS;
	pair_make(h, pair);
	diff_start(pair[0], pair[1], "/never", &diffed);
	harness_spin(h, 20);
	assert_int_equal(sandbox_merge(pair[0], pair[1], on_created, &merged, &err), 0);
	harness_wait(h, &merged.done);
	assert_non_null(merged.sandbox);
	harness_wait(h, &diffed.done);
	assert_true(diffed.err.code != 0);
	assert_true(still_runs(h, merged.sandbox));
}

/* The copy was told to stop the walk that nobody there waits for. */
static void a_fork_in_the_middle_changes_nothing(void **state)
{
	struct harness *h = *state;
	struct sandbox *pair[2];
	struct forked forked;
	struct diffed diffed;

	h->engine->limits.diff_deadline = 10 * (uint64_t)SECONDS_NS;
	pair_make(h, pair);
	diff_start(pair[0], pair[1], "/never", &diffed);
	harness_spin(h, 20);
	fork_ok(h, pair[1], 2, &forked);
	assert_false(diffed.done);
	for (unsigned int i = 0; i < 2; i++) {
		struct sandbox *child = forked.children[i].sandbox;

		assert_true(still_runs(h, child));
		harness_spin(h, 50);
		assert_int_equal(child->agent->outstanding, 0);
	}
	diff_abandon(diffed.diff);
	diff_ok(h, forked.children[0].sandbox, pair[1], "/same/10", &diffed);
}

static void a_parent_is_compared_or_refused_while_it_is_forked(void **state)
{
	struct harness *h = *state;
	unsigned int tried = 0;
	struct sandbox *pair[2];
	struct forked forked;
	struct ramet_err err;

	pair_make(h, pair);
	fork_start(pair[0], 5, &forked);
	while (!forked.done) {
		struct diffed diffed = { 0 };
		int r = diff_try(pair[0], pair[1], "/mixed", &diffed, &err);

		tried++;
		if (r == 0) {
			harness_wait(h, &diffed.done);
			assert_int_equal(diffed.err.code, 0);
			assert_int_equal(diffed.result.count, 9);
			assert_true(diffed.result.memory.known);
		} else {
			assert_int_equal(r, -EBUSY);
			harness_spin(h, 1);
		}
	}
	assert_true(tried > 0);
	assert_int_equal(forked.err.code, 0);
}

/* ---- hostile guests and workers ---- */

static void guests_that_break_the_protocol_fail(void **state)
{
	static const struct {
		const char *path, *words;
	} bad[] = {
		{ "/bad/order", "out of order" },    { "/bad/twice", "out of order" },
		{ "/bad/outside", "not sent" },      { "/bad/relative", "impossible path" },
		{ "/bad/empty", "impossible path" }, { "/bad/cut", "cut entry" },
		{ "/bad/short", "cut entry" },       { "/bad/behind", "bytes behind" },
		{ "/bad/huge", "allowed" },          { "/bad/type", "unfitting" },
	};
	struct harness *h = *state;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct sandbox *a = create_ok(h, "agent"), *b = create_ok(h, "agent");
		struct diffed diffed;

		diff_wait(h, a, b, bad[i].path, &diffed);
		assert_int_equal(diffed.err.code, EIO);
		assert_words(diffed.err.msg, bad[i].words);
		assert_true(a->state == SANDBOX_FAILED || b->state == SANDBOX_FAILED);
		close_wait(h, a);
		close_wait(h, b);
	}
}

static void workers_that_lie_about_memory_fail(void **state)
{
	struct harness *h = *state;
	struct sandbox *pair[2];
	struct diffed diffed;

	pair_make(h, pair);
	harness_worker_mode(h, "stats-cut");
	diff_wait(h, pair[0], pair[1], "/same/1", &diffed);
	assert_int_equal(diffed.err.code, EIO);
	assert_words(diffed.err.msg, "which pages");
	harness_worker_mode(h, "stats-twice");
	diff_start(pair[0], pair[1], "/never", &diffed);
	harness_wait(h, &diffed.done);
	assert_true(diffed.err.code != 0);
	harness_worker_mode(h, NULL);
}

static void a_worker_that_dies_when_asked_ends_it(void **state)
{
	struct harness *h = *state;
	struct sandbox *pair[2];
	struct diffed diffed;

	pair_make(h, pair);
	harness_worker_mode(h, "stats-die");
	diff_wait(h, pair[0], pair[1], "/same/1", &diffed);
	assert_true(diffed.err.code != 0);
	assert_words(diffed.err.msg, "sandbox sbx_");
	harness_worker_mode(h, NULL);
}

/* ---- paths ---- */

static void walks_have_one_order(void **state)
{
	static const char *const sorted[] = { "/",   "/a",    "/a/", "/a/b", "/a\x01", "/a b",
					      "/a-", "/a-/x", "/aa", "/b",   "/\xff" };

	(void)state;
	for (size_t i = 0; i < sizeof(sorted) / sizeof(sorted[0]); i++)
		for (size_t k = 0; k < sizeof(sorted) / sizeof(sorted[0]); k++) {
			int order = walk_compare(sorted[i], strlen(sorted[i]), sorted[k],
						 strlen(sorted[k]));

			assert_int_equal(order < 0, i < k);
			assert_int_equal(order > 0, i > k);
		}
}

static void paths_are_made_normal(void **state)
{
	const char *const paths[] = { "/b//c/", "/a/./x", "/a", "/b/c/d", "/bc" };
	struct walk_roots roots;
	struct ramet_err err;

	(void)state;
	assert_int_equal(walk_roots_set(&roots, paths, 5, &limits_default, &err), 0);
	assert_int_equal(roots.count, 3);
	assert_string_equal(roots.paths[0], "/a");
	assert_string_equal(roots.paths[1], "/b/c");
	assert_string_equal(roots.paths[2], "/bc");
	walk_roots_free(&roots);
	assert_int_equal(walk_roots_set(&roots, NULL, 0, &limits_default, &err), 0);
	assert_int_equal(roots.count, 1);
	assert_string_equal(roots.paths[0], "/");
	walk_roots_free(&roots);
	assert_int_equal(walk_roots_set(&roots, (const char *const[]){ "/x", "/.//" }, 2,
					&limits_default, &err),
			 0);
	assert_int_equal(roots.count, 1);
	assert_string_equal(roots.paths[0], "/");
	walk_roots_free(&roots);
}

#define forking(test)                                                                              \
	cmocka_unit_test_setup_teardown(test, harness_setup_templates, harness_teardown)
#define booting(test) cmocka_unit_test_setup_teardown(test, harness_setup, harness_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		forking(the_same_files_do_not_differ),
		forking(every_file_of_many_differs),
		forking(each_kind_of_change_is_told),
		forking(added_becomes_removed_the_other_way_round),
		forking(several_paths_are_compared_at_once),
		forking(a_path_in_neither_is_an_error),
		forking(what_a_guest_refuses_names_the_sandbox),
		forking(memory_differs_in_the_pages_written),
		forking(memory_in_layers_that_are_not_shared_counts),
		booting(memory_of_booted_guests_is_not_known),
		booting(a_sandbox_is_not_compared_with_itself),
		forking(bad_paths_are_refused),
		forking(too_many_files_are_an_error),
		forking(too_many_changes_are_an_error),
		forking(too_many_comparisons_are_refused),
		forking(a_guest_that_never_answers_is_given_up),
		forking(paused_sandboxes_are_refused),
		forking(an_abandoned_comparison_leaves_both_alive),
		forking(a_sandbox_that_is_closed_ends_it),
		booting(a_worker_that_dies_ends_it),
		forking(the_engine_ends_it),
		forking(the_engine_ends_it_while_workers_are_asked),
		forking(a_merge_ends_it),
		forking(a_fork_in_the_middle_changes_nothing),
		forking(a_parent_is_compared_or_refused_while_it_is_forked),
		booting(guests_that_break_the_protocol_fail),
		forking(workers_that_lie_about_memory_fail),
		forking(a_worker_that_dies_when_asked_ends_it),
		cmocka_unit_test(walks_have_one_order),
		cmocka_unit_test(paths_are_made_normal),
	};

	if (harness_unavailable())
		return harness_unavailable();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
