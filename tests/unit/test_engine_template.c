/* Creating from frozen templates, and the pool of shells. */
#include "tests/fake/engine_harness.h"

#include "engine/hot.h"
#include "lib/clock.h"

static void create_start(struct harness *h, struct created *created)
{
	struct sandbox_params params = { .template_name = "fake" };

	*created = (struct created){ 0 };
	assert_int_equal(engine_sandbox_create(h->engine, &params, on_created, created, NULL), 0);
}

static unsigned int images_of(const struct harness *h)
{
	const void *image = TAILQ_FIRST(&h->engine->images);

	return image ? 1 : 0;
}

static const struct pool_kind kind = { 512u << 20, ISOLATION_FULL, false };

static void wait_for_pool(struct harness *h, unsigned int count)
{
	uint64_t end = clock_monotonic_ns() + 10 * (uint64_t)SECONDS_NS;

	while (pool_ready(h->engine, &kind) != count) {
		if (clock_monotonic_ns() > end)
			fail_msg("the pool has %u shells", pool_ready(h->engine, &kind));
		harness_spin(h, 5);
	}
}

static void a_sandbox_is_a_copy_of_its_template(void **state)
{
	struct harness *h = *state;
	struct sandbox *a = create_ok(h, "agent"), *b = create_ok(h, "agent");
	struct sandbox_info info;

	assert_int_equal(run_number(h, a, "count"), 1);
	(void)run_number(h, a, "poke 50 5");
	assert_int_equal(run_number(h, b, "peek 50"), 0);
	sandbox_info(b, &info);
	assert_string_equal(info.kernel, "6.1.0-fake");
	assert_null(info.parent_id);
	assert_int_equal(info.depth, 0);
	assert_int_equal(info.layers, 1);
	assert_true(info.shared_bytes > 0);
	assert_int_equal(info.timings.boot_ns, 0);
	assert_true(info.timings.answer_ns > 0);
}

static void a_template_is_built_once_for_many(void **state)
{
	struct harness *h = *state;
	struct created created[5];

	harness_template(h, "fake", "agent");
	for (int i = 0; i < 5; i++)
		create_start(h, &created[i]);
	for (int i = 0; i < 5; i++) {
		harness_wait(h, &created[i].done);
		assert_non_null(created[i].sandbox);
		assert_int_equal(run_number(h, created[i].sandbox, "count"), 1);
	}
	assert_int_equal(images_of(h), 1);
}

static void changed_files_make_another_template(void **state)
{
	struct harness *h = *state;
	struct sandbox *old = create_ok(h, "agent");
	struct created created;

	harness_template(h, "fake", "refuse-reseed");
	create_start(h, &created);
	harness_wait(h, &created.done);
	assert_null(created.sandbox);
	assert_words(created.err.msg, "no entropy device");
	assert_int_equal(run_number(h, old, "count"), 1); /* lives on in old memory */
	(void)create_ok(h, "agent\n");
}

static void a_template_that_fails_tells_all_and_can_be_tried_again(void **state)
{
	struct harness *h = *state;
	struct created created[3];
	struct engine_counts counts;

	harness_template(h, "fake", "panic");
	for (int i = 0; i < 3; i++)
		create_start(h, &created[i]);
	for (int i = 0; i < 3; i++) {
		harness_wait(h, &created[i].done);
		assert_int_equal(created[i].err.code, EIO);
		assert_words(created[i].err.msg, "template 'fake' cannot be prepared");
		assert_words(created[i].err.msg, "Kernel panic");
	}
	engine_counts(h->engine, &counts);
	assert_int_equal(counts.total, 0);
	assert_int_equal(images_of(h), 0);
	(void)create_ok(h, "agent");
}

static void a_template_that_cannot_be_frozen_fails(void **state)
{
	harness_worker_mode(*state, "pause-refused");
	create_fails(*state, "agent", EIO, "not now");
}

static void a_template_whose_builder_dies_while_it_donates_fails(void **state)
{
	harness_worker_mode(*state, "donor-dies");
	create_fails(*state, "agent", EIO, "SIGILL");
}

static void closing_while_the_template_is_built(void **state)
{
	struct harness *h = *state;
	struct created created, other, closed = { 0 };
	struct sandbox *first;

	harness_template(h, "fake", "agent");
	create_start(h, &created);
	create_start(h, &other);
	first = TAILQ_FIRST(&h->engine->sandboxes);
	assert_int_equal(sandbox_close(first, on_created, &closed, NULL), 0);
	harness_wait(h, &closed.done);
	assert_int_equal(created.err.code, ECANCELED);
	harness_wait(h, &other.done);
	assert_non_null(other.sandbox);
}

static void a_worker_that_cannot_restore_fails_its_sandbox_alone(void **state)
{
	struct harness *h = *state;
	struct sandbox *good = create_ok(h, "agent");
	struct created created;

	harness_worker_mode(h, "restore-refused");
	create_start(h, &created);
	harness_wait(h, &created.done);
	assert_words(created.err.msg, "these registers cannot be");
	harness_worker_mode(h, "die-in-restore");
	create_start(h, &created);
	harness_wait(h, &created.done);
	assert_words(created.err.msg, "SIGILL");
	harness_worker_mode(h, NULL);
	assert_int_equal(run_number(h, good, "count"), 1);
	create_start(h, &created);
	harness_wait(h, &created.done);
	assert_non_null(created.sandbox);
}

static void unused_templates_go_beyond_the_limit(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox;

	h->engine->limits.templates_max = 1;
	sandbox = create_ok(h, "agent");
	for (int i = 0; i < 3; i++) {
		struct sandbox_params params = { .template_name = "fake",
						 .memory_bytes = (64 + 2 * (uint64_t)i) * MIB };
		struct created created = { 0 };

		assert_int_equal(
			engine_sandbox_create(h->engine, &params, on_created, &created, NULL), 0);
		harness_wait(h, &created.done);
		assert_non_null(created.sandbox);
	}
	assert_int_equal(images_of(h), 1);
	assert_int_equal(run_number(h, sandbox, "count"), 1);
}

/* ---- hot pages ---- */

static void copies_are_told_what_the_first_one_wrote_to(void **state)
{
	struct harness *h = *state;
	char path[128], mode[160];

	(void)snprintf(path, sizeof(path), "%s/hot", h->dir);
	(void)snprintf(mode, sizeof(mode), "hot-page %s", path);
	harness_worker_mode(h, mode);
	harness_template(h, "fake", "agent");
	for (int i = 0; i < 50 && access(path, F_OK) < 0; i++) {
		struct created created;

		create_start(h, &created);
		harness_wait(h, &created.done);
		assert_non_null(created.sandbox);
		harness_spin(h, 10);
	}
	assert_int_equal(access(path, F_OK), 0);
}

static void copy_of_the_template(struct harness *h)
{
	struct created created;

	create_start(h, &created);
	harness_wait(h, &created.done);
	assert_non_null(created.sandbox);
}

static void many_sandboxes_do_without_hot_pages(void **state)
{
	struct harness *h = *state;
	char path[128], mode[160];
	const struct image *image;

	(void)snprintf(path, sizeof(path), "%s/hot", h->dir);
	(void)snprintf(mode, sizeof(mode), "hot-page %s", path);
	harness_worker_mode(h, mode);
	harness_template(h, "fake", "agent");
	h->engine->limits.heat_sandboxes = 1;
	copy_of_the_template(h);
	image = TAILQ_FIRST(&h->engine->images);
	for (int i = 0; i < 500 && !image_frozen(image)->hot->count; i++)
		harness_spin(h, 10);
	assert_true(image_frozen(image)->hot->count > 0);
	copy_of_the_template(h);
	assert_int_equal(access(path, F_OK), -1);
	h->engine->limits.heat_sandboxes = 3;
	copy_of_the_template(h);
	assert_int_equal(access(path, F_OK), 0);
}

static void a_copy_that_dies_while_it_is_watched_harms_nobody(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox;

	harness_worker_mode(h, "stats-die");
	sandbox = create_ok(h, "agent");
	harness_spin(h, 200);
	assert_int_equal(run_number(h, sandbox, "count"), 1);
	(void)create_ok(h, "agent");
}

/* ---- the pool ---- */

static void the_pool_refills_when_nobody_waits(void **state)
{
	struct harness *h = *state;

	(void)create_ok(h, "agent");
	wait_for_pool(h, 2);
	(void)create_ok(h, "agent");
	wait_for_pool(h, 2);
}

/* Meanwhile the loop's clock stands still. */
static void on_created_slowly(void *arg, struct sandbox *sandbox, const struct ramet_err *err)
{
	uint64_t end = clock_monotonic_ns() + 30 * 1000000u;

	on_created(arg, sandbox, err);
	while (clock_monotonic_ns() < end)
		;
}

/* More than half of it is left, so only quiet brings it back to its level. */
static void a_pool_that_is_little_used_is_filled_up_again(void **state)
{
	struct harness *h = *state;
	const struct sandbox_params params = { .template_name = "fake" };

	h->engine->limits.pool_size = 8;
	h->engine->limits.pool_delay = 20 * 1000000u;
	(void)create_ok(h, "agent");
	for (int i = 0; i < 3; i++) {
		struct created created = { 0 };

		wait_for_pool(h, 8);
		assert_int_equal(engine_sandbox_create(h->engine, &params, on_created_slowly,
						       &created, NULL),
				 0);
		harness_wait(h, &created.done);
	}
	wait_for_pool(h, 8);
}

static void an_idle_pool_gives_up_its_shells(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox;

	h->engine->limits.pool_idle = 200 * 1000000u;
	sandbox = create_ok(h, "agent");
	wait_for_pool(h, 2);
	wait_for_pool(h, 0);
	assert_int_equal(run_number(h, sandbox, "count"), 1);
	(void)create_ok(h, "agent");
	wait_for_pool(h, 2);
}

static void shells_that_cannot_start_fail_the_create(void **state)
{
	struct harness *h = *state;
	struct created created;

	h->engine->limits.pool_size = 0;
	(void)create_ok(h, "agent");
	harness_spin(h, 50);
	harness_worker_mode(h, "shell-refused");
	create_start(h, &created);
	harness_wait(h, &created.done);
	assert_words(created.err.msg, "no virtual machine");
	harness_worker_mode(h, "exit 7");
	create_start(h, &created);
	harness_wait(h, &created.done);
	assert_words(created.err.msg, "status 7");
}

/* The fake worker exits with 84 when it is told something else than it would find. */
static void workers_are_told_what_the_first_found_out(void **state)
{
	struct harness *h = *state;
	struct created created;

	h->engine->limits.pool_size = 0;
	assert_null(h->engine->host);
	(void)create_ok(h, "agent");
	assert_non_null(h->engine->host);
	(void)create_ok(h, "agent");
	((char *)h->engine->host)[0] ^= 1;
	create_start(h, &created);
	harness_wait(h, &created.done);
	assert_words(created.err.msg, "status 84");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, harness_setup_templates, harness_teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_sandbox_is_a_copy_of_its_template),
		TEST(a_template_is_built_once_for_many),
		TEST(changed_files_make_another_template),
		TEST(a_template_that_fails_tells_all_and_can_be_tried_again),
		TEST(a_template_that_cannot_be_frozen_fails),
		TEST(copies_are_told_what_the_first_one_wrote_to),
		TEST(many_sandboxes_do_without_hot_pages),
		TEST(a_copy_that_dies_while_it_is_watched_harms_nobody),
		TEST(a_template_whose_builder_dies_while_it_donates_fails),
		TEST(closing_while_the_template_is_built),
		TEST(a_worker_that_cannot_restore_fails_its_sandbox_alone),
		TEST(unused_templates_go_beyond_the_limit),
		TEST(the_pool_refills_when_nobody_waits),
		TEST(a_pool_that_is_little_used_is_filled_up_again),
		TEST(an_idle_pool_gives_up_its_shells),
		TEST(shells_that_cannot_start_fail_the_create),
		TEST(workers_are_told_what_the_first_found_out),
	};
	int skip = harness_unavailable();

	return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
