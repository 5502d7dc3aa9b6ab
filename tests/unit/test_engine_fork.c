/* Forks: what children and parent have, and each way in which a fork fails. */
#include "tests/fake/engine_harness.h"

#include <unistd.h>

#define MODE(h, text) harness_worker_mode(h, text)

static void touch(const struct harness *h, const char *name, char *path)
{
	FILE *file;

	(void)snprintf(path, 128, "%s/%s", h->dir, name);
	file = fopen(path, "we");
	assert_non_null(file);
	assert_int_equal(fclose(file), 0);
}

static struct sandbox *parent_with(struct harness *h, const char *poke)
{
	struct sandbox *parent = create_ok(h, "agent");

	(void)run_number(h, parent, poke);
	return parent;
}

/* ---- what there is after a fork ---- */

static void children_have_the_parents_memory(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = parent_with(h, "poke 100 42");
	struct forked forked;

	fork_ok(h, parent, 3, &forked);
	for (int i = 0; i < 3; i++)
		assert_int_equal(run_number(h, forked.children[i].sandbox, "peek 100"), 42);
	assert_int_equal(run_number(h, parent, "peek 100"), 42);
}

static void memory_diverges(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = parent_with(h, "poke 100 42");
	struct forked forked;

	fork_ok(h, parent, 2, &forked);
	(void)run_number(h, forked.children[0].sandbox, "poke 100 1");
	(void)run_number(h, parent, "poke 100 2");
	assert_int_equal(run_number(h, forked.children[0].sandbox, "peek 100"), 1);
	assert_int_equal(run_number(h, forked.children[1].sandbox, "peek 100"), 42);
	assert_int_equal(run_number(h, parent, "peek 100"), 2);
}

static void the_parent_stays_the_same_sandbox(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	struct sandbox_info before, after;
	struct forked forked;

	sandbox_info(parent, &before);
	fork_ok(h, parent, 1, &forked);
	sandbox_info(parent, &after);
	assert_ptr_equal(engine_sandbox_find(h->engine, before.id), parent);
	assert_int_equal(after.state, SANDBOX_READY);
	assert_memory_equal(before.generation, after.generation, 16);
	assert_int_equal(after.children, 1);
	assert_int_equal(run_number(h, parent, "identity"), 0); /* not a child */
}

static void children_know_who_they_are(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	struct sandbox_info info, above;
	struct forked forked;

	sandbox_info(parent, &above);
	fork_ok(h, parent, 2, &forked);
	for (unsigned int i = 0; i < 2; i++) {
		sandbox_info(forked.children[i].sandbox, &info);
		assert_string_equal(info.parent_id, above.id);
		assert_int_equal(info.fork_index, i);
		assert_int_equal(info.depth, 1);
		assert_memory_not_equal(info.generation, above.generation, 16);
		assert_string_equal(info.kernel, above.kernel);
		assert_int_equal(run_number(h, forked.children[i].sandbox, "identity"), i + 1);
	}
}

static void python_is_reseeded_unless_asked_not_to(void **state)
{
	struct harness *h = *state;
	const struct fork_params params = { .count = 1, .keep_random = true };
	struct sandbox *parent = create_ok(h, "agent");
	struct forked forked;
	struct ran ran = { 0 };

	fork_ok(h, parent, 1, &forked);
	run_wait(h, forked.children[0].sandbox, "identity", &ran);
	assert_string_equal(ran.text[OUTPUT_STDOUT], "1 1");
	ran_free(&ran);
	forked = (struct forked){ 0 };
	assert_int_equal(sandbox_fork(parent, &params, on_forked, &forked, NULL), 0);
	harness_wait(h, &forked.done);
	run_wait(h, forked.children[0].sandbox, "identity", &ran);
	assert_string_equal(ran.text[OUTPUT_STDOUT], "1 0");
	ran_free(&ran);
}

static void children_inherit_metadata_or_get_their_own(void **state)
{
	struct harness *h = *state;
	struct sandbox_params create = { .template_name = "fake",
					 .metadata_count = 1,
					 .metadata = { { "who", "parent" } } };
	struct fork_params params = { .count = 1 };
	struct created created = { 0 };
	struct forked forked = { 0 };
	struct sandbox_info info;

	harness_template(h, "fake", "agent");
	assert_int_equal(engine_sandbox_create(h->engine, &create, on_created, &created, NULL), 0);
	harness_wait(h, &created.done);
	fork_ok(h, created.sandbox, 1, &forked);
	sandbox_info(forked.children[0].sandbox, &info);
	assert_string_equal(info.metadata[0][1], "parent");
	params.metadata_count = 1;
	params.metadata[0][0] = "who";
	params.metadata[0][1] = "child";
	forked = (struct forked){ 0 };
	assert_int_equal(sandbox_fork(created.sandbox, &params, on_forked, &forked, NULL), 0);
	harness_wait(h, &forked.done);
	sandbox_info(forked.children[0].sandbox, &info);
	assert_string_equal(info.metadata[0][1], "child");
}

static void timings_of_a_fork_add_up(void **state)
{
	struct harness *h = *state;
	struct forked forked;

	fork_ok(h, create_ok(h, "agent"), 2, &forked);
	assert_true(forked.timings.pause_ns > 0);
	assert_true(forked.timings.parent_ns >= forked.timings.pause_ns);
	assert_true(forked.timings.first_ns > 0);
	assert_true(forked.timings.total_ns >= forked.timings.first_ns);
	assert_int_equal(forked.timings.dirty_pages, 0); /* a page is dirty only in a builder */
}

/* Sixteen generations, each with a page of its own, all forked while the
 * layers below are still being filled. */
static void forks_of_forks_while_filling(void **state)
{
	struct harness *h = *state;
	struct sandbox *at = create_ok(h, "agent");
	struct sandbox_info info;
	char code[64], path[128], mode[160];
	struct forked forked;

	(void)snprintf(mode, sizeof(mode), "donor-waits %s/go", h->dir);
	MODE(h, mode);
	h->engine->limits.max_sandboxes = 64;
	for (int i = 0; i < 16; i++) {
		(void)snprintf(code, sizeof(code), "poke %d %d", 1000 + 2 * i, 10 + i);
		(void)run_number(h, at, code);
		fork_ok(h, at, 1, &forked);
		at = forked.children[0].sandbox;
	}
	sandbox_info(at, &info);
	assert_int_equal(info.depth, 16);
	touch(h, "go", path);
	for (int i = 0; i < 16; i++) {
		(void)snprintf(code, sizeof(code), "peek %d", 1000 + 2 * i);
		assert_int_equal(run_number(h, at, code), 10 + i);
	}
}

/* ---- what is under way ---- */

static void the_parents_exec_goes_on(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	struct ran ran = { .discard = true }, next = { 0 };
	struct forked forked;

	run_start(parent, EXEC_BASH, "flood 8000000", &ran);
	harness_spin(h, 5);
	fork_ok(h, parent, 2, &forked);
	run_start(parent, EXEC_BASH, "echo after", &next);
	harness_wait(h, &next.done);
	assert_true(ran.done);
	assert_int_equal(ran.err.code, 0);
	assert_int_equal(ran.total, 8000000);
	assert_string_equal(next.text[OUTPUT_STDOUT], "after");
	ran_free(&next);
}

static void execs_of_the_parent_go_on_in_children_unheard(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	struct ran ran = { .discard = true }, mine = { 0 };
	struct sandbox_info info;
	struct forked forked;

	run_start(parent, EXEC_BASH, "flood 8000000", &ran);
	harness_spin(h, 5);
	fork_ok(h, parent, 1, &forked);
	run_start(forked.children[0].sandbox, EXEC_BASH, "echo mine", &mine);
	harness_wait(h, &mine.done); /* behind the flood, whose output needs credit */
	assert_string_equal(mine.text[OUTPUT_STDOUT], "mine");
	assert_int_equal(mine.length[OUTPUT_STDOUT], 4);
	sandbox_info(forked.children[0].sandbox, &info);
	assert_int_equal(info.exec_running, 0);
	ran_free(&mine);
	harness_wait(h, &ran.done);
}

static void waiting_execs_are_cancelled_in_children(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	struct ran running = { 0 }, waiting = { 0 }, mine = { 0 };
	struct forked forked;

	run_start(parent, EXEC_BASH, "hang", &running);
	run_start(parent, EXEC_BASH, "poke 7 7", &waiting);
	fork_ok(h, parent, 1, &forked);
	run_start(forked.children[0].sandbox, EXEC_BASH, "peek 7", &mine);
	harness_spin(h, 50);
	assert_false(mine.done); /* what ran goes on */
	exec_abandon(running.exec);
	harness_wait(h, &waiting.done);
	assert_int_equal(run_number(h, parent, "peek 7"), 7);
	close_wait(h, forked.children[0].sandbox);
	assert_int_equal(mine.err.code, ECANCELED);
}

static void a_guest_that_reads_nothing_is_not_stopped(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	struct ran ran = { 0 }, unread = { 0 };
	struct forked forked;

	h->engine->limits.pause_deadline = 200 * 1000000u;
	run_start(parent, EXEC_BASH, "deaf", &ran);
	harness_spin(h, 20);
	run_start(parent, EXEC_BASH, "exit 0", &unread);
	fork_wait(h, parent, 1, &forked);
	assert_int_equal(forked.err.code, ETIMEDOUT);
	assert_words(forked.err.msg, "take its input");
	assert_false(ran.done);
}

/* ---- limits ---- */

static void refused(struct sandbox *parent, unsigned int count, int code, const char *words)
{
	const struct fork_params params = { .count = count };
	struct forked forked = { 0 };
	struct ramet_err err = { 0 };

	assert_int_equal(sandbox_fork(parent, &params, on_forked, &forked, &err), -code);
	assert_words(err.msg, words);
	assert_false(forked.done);
}

static void limits_are_checked_before_anything_is_done(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	struct engine_counts counts;

	refused(parent, 0, EINVAL, "fork_children");
	refused(parent, 1025, EINVAL, "fork_children");
	refused(parent, 8, EAGAIN, "max_sandboxes");
	h->engine->limits.max_sandboxes = 2000;
	h->engine->limits.fork_child_memory = (uint64_t)1 << 50;
	refused(parent, 1, EAGAIN, "fork_child_memory");
	engine_counts(h->engine, &counts);
	assert_int_equal(counts.total, 1);
	assert_int_equal(run_number(h, parent, "count"), 1);
}

static void a_donor_serves_so_many_and_no_more(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	char path[128], mode[160];
	struct forked forked;

	(void)run_number(h, parent, "poke 3 3");
	(void)snprintf(mode, sizeof(mode), "donor-waits %s/go", h->dir);
	MODE(h, mode);
	h->engine->limits.fork_served = 4;
	fork_ok(h, parent, 2, &forked);
	refused(parent, 1, EAGAIN, "fork_served");
	refused(forked.children[1].sandbox, 1, EAGAIN, "fork_served");
	touch(h, "go", path);
	assert_int_equal(run_number(h, parent, "peek 3"), 3); /* which waits for the donor */
	harness_spin(h, 50);
	fork_ok(h, parent, 1, &forked);
}

static void one_fork_at_a_time(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	struct forked forked;

	fork_start(parent, 1, &forked);
	refused(parent, 1, EBUSY, "already");
	harness_wait(h, &forked.done);
	assert_int_equal(forked.err.code, 0);
}

static void two_parents_fork_at_once(void **state)
{
	struct harness *h = *state;
	struct sandbox *a = parent_with(h, "poke 5 1"), *b = parent_with(h, "poke 5 2");
	struct forked of_a, of_b;

	fork_start(a, 2, &of_a);
	fork_start(b, 2, &of_b);
	harness_wait(h, &of_a.done);
	harness_wait(h, &of_b.done);
	assert_int_equal(run_number(h, of_a.children[1].sandbox, "peek 5"), 1);
	assert_int_equal(run_number(h, of_b.children[1].sandbox, "peek 5"), 2);
}

/* ---- failures; the parent survives ---- */

/* A fork that fails as a whole, and one after it that does not. */
static void fork_fails_whole(struct harness *h, const char *mode, int code, const char *words)
{
	struct sandbox *parent = parent_with(h, "poke 100 42");
	struct engine_counts counts;
	struct forked forked;

	MODE(h, mode);
	fork_wait(h, parent, 2, &forked);
	assert_words(forked.err.msg, words);
	assert_int_equal(forked.err.code, code);
	MODE(h, NULL);
	harness_spin(h, 50);
	engine_counts(h->engine, &counts);
	assert_int_equal(counts.total, 1);
	assert_int_equal(run_number(h, parent, "peek 100"), 42);
	assert_int_equal(run_number(h, parent, "count"), 1); /* the same guest */
	fork_ok(h, parent, 2, &forked);
	assert_int_equal(run_number(h, forked.children[1].sandbox, "peek 100"), 42);
}

static void a_worker_that_will_not_stop(void **state)
{
	fork_fails_whole(*state, "pause-refused", EIO, "not now");
}

static void a_worker_that_counts_wrong(void **state)
{
	fork_fails_whole(*state, "pause-lies", EPROTO, "bytes");
}

static void a_worker_with_impossible_ranges(void **state)
{
	fork_fails_whole(*state, "bad-ranges", EINVAL, "range");
}

static void a_worker_with_an_impossible_bundle(void **state)
{
	fork_fails_whole(*state, "bad-bundle", EPROTO, "bundle");
}

static void memory_that_is_spread_too_far(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = parent_with(h, "poke 100 42");
	struct forked forked;

	h->engine->limits.fork_extents = 2;
	fork_wait(h, parent, 2, &forked);
	assert_int_equal(forked.err.code, E2BIG);
	assert_words(forked.err.msg, "fork_extents");
	assert_int_equal(run_number(h, parent, "count"), 1);
}

static void donors_that_fill_at_the_end_of_the_daemon(void **state)
{
	struct harness *h = *state;
	struct sandbox *at = create_ok(h, "agent");
	struct forked forked;

	MODE(h, "donor-waits /nowhere/at/all");
	for (int i = 0; i < 3; i++) {
		(void)run_number(h, at, "poke 9 9");
		fork_ok(h, at, 1, &forked);
		at = forked.children[0].sandbox;
	}
}

static void no_shells(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	struct forked forked;

	harness_spin(h, 100); /* the pool has filled */
	MODE(h, "shell-refused");
	fork_wait(h, parent, 5, &forked);
	assert_words(forked.err.msg, "no virtual machine");
	MODE(h, NULL);
	assert_int_equal(run_number(h, parent, "count"), 1);
}

static void a_shell_that_dies_is_replaced(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	char path[128], mode[160];
	struct forked forked;

	harness_spin(h, 100); /* the pool has filled */
	touch(h, "once", path);
	(void)snprintf(mode, sizeof(mode), "shell-dies-once %s", path);
	MODE(h, mode);
	fork_ok(h, parent, 6, &forked); /* more than it has */
	assert_int_equal(access(path, F_OK), -1);
}

static void all_that_wait_hear_that_there_are_no_shells(void **state)
{
	struct harness *h = *state;
	struct sandbox *parents[3];
	struct forked forked[3];

	h->engine->limits.max_sandboxes = 100;
	for (int i = 0; i < 3; i++)
		parents[i] = create_ok(h, "agent");
	harness_spin(h, 100);
	MODE(h, "shell-refused");
	for (int i = 0; i < 3; i++)
		fork_start(parents[i], 4, &forked[i]);
	for (int i = 0; i < 3; i++) {
		harness_wait(h, &forked[i].done);
		assert_words(forked[i].err.msg, "no virtual machine");
	}
	MODE(h, NULL);
	fork_ok(h, parents[0], 4, &forked[0]);
}

static void shells_that_nobody_waits_for_any_more_go(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	unsigned int ready, starting;
	struct forked forked;

	fork_start(parent, 7, &forked);
	close_wait(h, parent);
	harness_wait(h, &forked.done);
	do {
		harness_spin(h, 5);
		pool_count_all(h->engine, &ready, &starting);
	} while (starting);
	assert_in_range(ready, 0, h->engine->limits.pool_size);
}

static void a_worker_that_never_stops_fails_its_sandbox(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	struct sandbox_info info;
	struct forked forked;

	h->engine->limits.pause_deadline = 200 * 1000000u;
	MODE(h, "pause-hangs");
	fork_wait(h, parent, 1, &forked);
	assert_int_equal(forked.err.code, ETIMEDOUT);
	sandbox_info(parent, &info);
	assert_int_equal(info.state, SANDBOX_FAILED);
}

static void a_parent_whose_new_worker_dies_gets_another(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = parent_with(h, "poke 100 42");
	char path[128], mode[160];
	struct forked forked;
	int tries = 0;

	/* The first to run dies: the parent's, or a child that starts beside it. */
	do {
		touch(h, "once", path);
		(void)snprintf(mode, sizeof(mode), "die-once-in-run %s", path);
		MODE(h, mode);
		fork_wait(h, parent, 1, &forked);
		assert_int_equal(forked.err.code, 0);
		assert_int_equal(access(path, F_OK), -1); /* one did die */
		assert_int_equal(run_number(h, parent, "peek 100"), 42);
	} while (forked.children[0].err.code && ++tries < 100);
	assert_int_equal(forked.children[0].err.code, 0);
	assert_int_equal(run_number(h, forked.children[0].sandbox, "peek 100"), 42);
}

static void nothing_can_be_restored(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	struct sandbox_info info;
	struct forked forked;

	MODE(h, "restore-refused");
	fork_wait(h, parent, 2, &forked);
	assert_int_equal(forked.err.code, 0); /* it was copied; every child has its error */
	for (int i = 0; i < 2; i++)
		assert_words(forked.children[i].err.msg, "these registers cannot be");
	sandbox_info(parent, &info);
	assert_int_equal(info.state, SANDBOX_FAILED);
	assert_words(info.reason, "after its fork");
}

static void a_donor_that_dies_takes_its_family_along(void **state)
{
	struct harness *h = *state;
	struct sandbox *stranger = create_ok(h, "agent"), *parent = create_ok(h, "agent");
	struct sandbox_info info;
	struct forked forked;

	(void)run_number(h, parent, "poke 3 3");
	MODE(h, "donor-dies-filling");
	fork_wait(h, parent, 3, &forked);
	MODE(h, NULL);
	harness_spin(h, 100);
	sandbox_info(parent, &info);
	assert_int_equal(info.state, SANDBOX_FAILED);
	assert_words(info.reason, "memory that it shares since a fork is lost");
	assert_words(info.reason, "SIGILL");
	assert_int_equal(run_number(h, stranger, "count"), 1);
	close_wait(h, parent);
	fork_ok(h, stranger, 1, &forked);
}

/* Between the end of a donor's connection and the report of its death. */
static void guests_that_come_while_their_donor_dies(void **state)
{
	struct harness *h = *state;
	struct sandbox *family[3] = { create_ok(h, "agent") };
	struct forked forked;

	(void)run_number(h, family[0], "poke 3 3");
	MODE(h, "donor-hangs-up");
	fork_wait(h, family[0], 2, &forked);
	MODE(h, NULL);
	assert_int_equal(forked.err.code, 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(forked.children[i].err.code, 0);
		family[1 + i] = forked.children[i].sandbox;
	}
	harness_spin(h, 400);
	for (int i = 0; i < 3; i++) {
		struct sandbox_info info;

		sandbox_info(family[i], &info);
		assert_int_equal(info.state, SANDBOX_FAILED);
		assert_words(info.reason, "memory that it shares since a fork is lost");
		close_wait(h, family[i]);
	}
}

/* ---- closing meanwhile ---- */

static void closing_the_parent_before_it_stops(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent");
	struct engine_counts counts;
	struct forked forked;

	fork_start(parent, 3, &forked); /* more than the pool has */
	close_wait(h, parent);
	harness_wait(h, &forked.done);
	assert_int_equal(forked.err.code, ECANCELED);
	engine_counts(h->engine, &counts);
	assert_int_equal(counts.total, 0);
}

static void closing_the_parent_at_any_time(void **state)
{
	struct harness *h = *state;

	for (unsigned int ms = 0; ms < 12; ms++) {
		struct sandbox *parent = create_ok(h, "agent");
		struct created closed = { 0 };
		struct forked forked;

		harness_spin(h, 30);
		fork_start(parent, 1, &forked);
		harness_spin(h, ms);
		assert_int_equal(sandbox_close(parent, on_created, &closed, NULL), 0);
		harness_wait(h, &closed.done);
		harness_wait(h, &forked.done);
		for (unsigned int i = 0; i < forked.count; i++)
			if (forked.children[i].sandbox)
				close_wait(h, forked.children[i].sandbox);
	}
}

static bool second_of(void *arg, struct sandbox *sandbox)
{
	struct sandbox **found = arg;
	bool first = !*found;

	*found = sandbox;
	return first;
}

static void closing_a_child_before_it_is_ready(void **state)
{
	struct harness *h = *state;
	struct sandbox *parent = create_ok(h, "agent"), *child = NULL;
	struct created closed = { 0 };
	struct forked forked;

	fork_start(parent, 2, &forked);
	engine_sandbox_each(h->engine, second_of, &child);
	assert_ptr_not_equal(child, parent);
	assert_int_equal(sandbox_close(child, on_created, &closed, NULL), 0);
	harness_wait(h, &closed.done);
	harness_wait(h, &forked.done);
	assert_int_equal(forked.children[0].err.code, ECANCELED);
	assert_int_equal(run_number(h, forked.children[1].sandbox, "count"), 2);
	assert_int_equal(run_number(h, parent, "count"), 2);
}

static void destroying_during_a_fork(void **state)
{
	struct harness *h = *state;

	for (unsigned int ms = 0; ms < 8; ms++) {
		struct sandbox *parent = create_ok(h, "agent");
		struct forked forked;

		harness_spin(h, 30);
		fork_start(parent, 2, &forked);
		harness_spin(h, ms);
		engine_destroy(h->engine);
		h->engine = NULL;
		assert_true(forked.done);
		assert_int_equal(harness_engine(h, NULL), 0);
	}
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, harness_setup_templates, harness_teardown)
	const struct CMUnitTest tests[] = {
		TEST(children_have_the_parents_memory),
		TEST(memory_diverges),
		TEST(the_parent_stays_the_same_sandbox),
		TEST(children_know_who_they_are),
		TEST(python_is_reseeded_unless_asked_not_to),
		TEST(children_inherit_metadata_or_get_their_own),
		TEST(timings_of_a_fork_add_up),
		TEST(forks_of_forks_while_filling),
		TEST(the_parents_exec_goes_on),
		TEST(execs_of_the_parent_go_on_in_children_unheard),
		TEST(waiting_execs_are_cancelled_in_children),
		TEST(a_guest_that_reads_nothing_is_not_stopped),
		TEST(limits_are_checked_before_anything_is_done),
		TEST(a_donor_serves_so_many_and_no_more),
		TEST(one_fork_at_a_time),
		TEST(two_parents_fork_at_once),
		TEST(a_worker_that_will_not_stop),
		TEST(a_worker_that_counts_wrong),
		TEST(a_worker_with_impossible_ranges),
		TEST(a_worker_with_an_impossible_bundle),
		TEST(memory_that_is_spread_too_far),
		TEST(donors_that_fill_at_the_end_of_the_daemon),
		TEST(no_shells),
		TEST(a_shell_that_dies_is_replaced),
		TEST(all_that_wait_hear_that_there_are_no_shells),
		TEST(shells_that_nobody_waits_for_any_more_go),
		TEST(a_worker_that_never_stops_fails_its_sandbox),
		TEST(a_parent_whose_new_worker_dies_gets_another),
		TEST(nothing_can_be_restored),
		TEST(a_donor_that_dies_takes_its_family_along),
		TEST(guests_that_come_while_their_donor_dies),
		TEST(closing_the_parent_before_it_stops),
		TEST(closing_the_parent_at_any_time),
		TEST(closing_a_child_before_it_is_ready),
		TEST(destroying_during_a_fork),
	};
	int skip = harness_unavailable();

	return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
