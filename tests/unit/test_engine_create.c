/* Sandboxes getting ready, and everything that can keep them from it. */
#include "tests/fake/engine_harness.h"

static void a_sandbox_gets_ready(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct sandbox_info info;

	sandbox_info(sandbox, &info);
	assert_int_equal(info.state, SANDBOX_READY);
	assert_null(info.reason);
	assert_int_equal(strlen(info.id), 24);
	assert_memory_equal(info.id, "sbx_", 4);
	assert_int_equal(strspn(info.id + 4, "abcdefghijklmnopqrstuvwxyz234567"), 20);
	assert_string_equal(info.kernel, "6.1.0-fake");
	assert_string_equal(info.template_name, "fake");
	assert_int_equal(info.memory_bytes, 512u << 20);
	assert_int_equal(info.isolation, ISOLATION_FULL);
	assert_ptr_equal(engine_sandbox_find(h->engine, info.id), sandbox);
}

static void timings_add_up(void **state)
{
	struct sandbox_info info;

	sandbox_info(create_ok(*state, "agent"), &info);
	assert_true(info.timings.spawn_ns > 0);
	assert_true(info.timings.setup_ns > 0);
	assert_true(info.timings.boot_ns > 0);
	assert_true(info.timings.spawn_ns + info.timings.setup_ns + info.timings.boot_ns <=
		    info.timings.total_ns);
	assert_true(info.timings.total_ns < 20 * (uint64_t)SECONDS_NS);
}

static void metadata_is_copied_and_kept_in_order(void **state)
{
	struct harness *h = *state;
	char key[] = "owner", value[] = "ann";
	struct sandbox_params params = {
		.template_name = "fake",
		.metadata_count = 2,
		.metadata = { { key, value }, { "run", "7" } },
	};
	struct created created = { 0 };
	struct sandbox_info info;

	harness_template(h, "fake", "agent");
	assert_int_equal(engine_sandbox_create(h->engine, &params, on_created, &created, NULL), 0);
	memset(key, 'x', 5);
	memset(value, 'x', 3);
	harness_wait(h, &created.done);
	assert_non_null(created.sandbox);
	sandbox_info(created.sandbox, &info);
	assert_int_equal(info.metadata_count, 2);
	assert_string_equal(info.metadata[0][0], "owner");
	assert_string_equal(info.metadata[0][1], "ann");
	assert_string_equal(info.metadata[1][0], "run");
}

/* engine_sandbox_create() itself must refuse. */
static void refused(struct harness *h, const struct sandbox_params *params, int code,
		    const char *words)
{
	struct created created = { 0 };
	struct ramet_err err = { 0 };
	struct engine_counts counts;

	assert_int_equal(engine_sandbox_create(h->engine, params, on_created, &created, &err),
			 -code);
	assert_words(err.msg, words);
	assert_false(created.done);
	engine_counts(h->engine, &counts);
	assert_int_equal(counts.total, 0);
}

static void memory_outside_of_the_limits_is_refused(void **state)
{
	struct sandbox_params params = { .template_name = "fake" };

	params.memory_bytes = 62u << 20;
	refused(*state, &params, EINVAL, "memory_min");
	params.memory_bytes = 12 * (uint64_t)GIB + (2u << 20);
	refused(*state, &params, EINVAL, "memory_max");
	params.memory_bytes = (64u << 20) + 4096;
	refused(*state, &params, EINVAL, "memory_step");
}

static void an_unknown_isolation_mode_is_refused(void **state)
{
	struct sandbox_params params = { .template_name = "fake", .isolation = 3 };

	refused(*state, &params, EINVAL, "isolation");
}

static void bad_metadata_is_refused(void **state)
{
	struct sandbox_params params = { .template_name = "fake", .metadata_count = 1 };
	char longer[600];

	memset(longer, 'k', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	params.metadata[0][0] = longer;
	params.metadata[0][1] = "";
	refused(*state, &params, EINVAL, "metadata_key_length");
	params.metadata[0][0] = "key";
	params.metadata[0][1] = longer;
	refused(*state, &params, EINVAL, "metadata_value_length");
	params.metadata[0][1] = "two\nlines";
	refused(*state, &params, EINVAL, "control characters");
	params.metadata[0][1] = "v";
	params.metadata[1][0] = "key";
	params.metadata[1][1] = "w";
	params.metadata_count = 2;
	refused(*state, &params, EINVAL, "twice");
	params.metadata_count = METADATA_MAX + 1;
	refused(*state, &params, EINVAL, "16");
}

static void template_names_that_leave_their_directory_are_refused(void **state)
{
	static const char *const names[] = { "", "../x", "a/b", "A", "-a", "a.b", "a b" };
	struct sandbox_params params = { 0 };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		params.template_name = names[i];
		refused(*state, &params, EINVAL, "template name");
	}
}

static void an_unknown_template_is_refused(void **state)
{
	struct sandbox_params params = { .template_name = "nothing" };

	refused(*state, &params, ENOENT, "nothing");
}

static void the_default_template_is_python(void **state)
{
	struct sandbox_params params = { 0 };

	refused(*state, &params, ENOENT, "'python'");
}

static void more_sandboxes_than_the_limit_are_refused(void **state)
{
	struct harness *h = *state;
	struct sandbox_params params = { .template_name = "fake" };
	struct created created = { 0 };
	struct ramet_err err = { 0 };

	h->engine->limits.max_sandboxes = 1;
	(void)create_ok(h, "agent");
	assert_int_equal(engine_sandbox_create(h->engine, &params, on_created, &created, &err),
			 -EAGAIN);
	assert_words(err.msg, "max_sandboxes");
}

/* ---- each phase fails in each way ---- */

static void worker_that_exits_at_the_start(void **state)
{
	harness_worker_mode(*state, "exit 7");
	create_fails(*state, "agent", EIO, "exited with status 7");
}

static void worker_killed_by_its_filter(void **state)
{
	harness_worker_mode(*state, "die 31");
	create_fails(*state, "agent", EIO, "seccomp");
}

static void worker_killed_by_someone(void **state)
{
	harness_worker_mode(*state, "die 9");
	create_fails(*state, "agent", EIO, "SIGKILL");
}

static void worker_that_crashes(void **state)
{
	harness_worker_mode(*state, "die 4");
	create_fails(*state, "agent", EIO, "crashed with SIGILL");
}

static void worker_that_sends_garbage(void **state)
{
	harness_worker_mode(*state, "garbage");
	create_fails(*state, "agent", EIO, "control version");
}

static void worker_that_sends_a_short_message(void **state)
{
	harness_worker_mode(*state, "short");
	create_fails(*state, "agent", EIO, "without header");
}

static void worker_that_sends_a_huge_message(void **state)
{
	harness_worker_mode(*state, "oversized");
	create_fails(*state, "agent", EIO, "oversized");
}

static void worker_of_another_version(void **state)
{
	harness_worker_mode(*state, "bad-version");
	create_fails(*state, "agent", EIO, "version 77");
}

static void worker_that_passes_a_descriptor(void **state)
{
	harness_worker_mode(*state, "with-fd");
	create_fails(*state, "agent", EIO, "descriptor");
}

static void worker_that_skips_a_phase(void **state)
{
	harness_worker_mode(*state, "booted-first");
	create_fails(*state, "agent", EIO, "out of turn");
}

static void worker_that_knows_the_host_before_it_looks(void **state)
{
	harness_worker_mode(*state, "host-early");
	create_fails(*state, "agent", EIO, "HOST_FOUND out of turn");
}

static void worker_that_reports_an_error(void **state)
{
	create_fails(*state, "boot-error", EIO, "no memory for the guest");
}

static void worker_that_dies_in_setup(void **state)
{
	create_fails(*state, "die-in-setup 4", EIO, "crashed with SIGILL");
}

static void worker_that_dies_in_boot(void **state)
{
	create_fails(*state, "die-in-boot 31", EIO, "seccomp");
}

static void worker_that_exits_in_boot(void **state)
{
	create_fails(*state, "exit-in-boot 5", EIO, "exited with status 5");
}

static void guest_kernel_that_panics(void **state)
{
	create_fails(*state, "panic", EIO,
		     "the guest kernel crashed: Kernel panic - not syncing: VFS");
}

static void guest_that_powers_off(void **state)
{
	create_fails(*state, "poweroff", EIO, "the guest shut down");
}

static void worker_that_sends_garbage_in_boot(void **state)
{
	create_fails(*state, "garbage-in-boot", EIO, "control version");
}

static void worker_that_connects_the_channel_twice(void **state)
{
	create_fails(*state, "channel-twice", EIO, "out of turn");
}

static void worker_that_lets_go_and_does_not_exit(void **state)
{
	struct harness *h = *state;

	h->engine->limits.end_grace = 100 * 1000000u;
	create_fails(h, "linger", EIO, "did not exit and was killed");
}

static void agent_of_another_protocol(void **state)
{
	create_fails(*state, "old-protocol", EIO, "protocol 99");
}

static void agent_that_answers_before_hello(void **state)
{
	create_fails(*state, "late-hello", EIO, "instead of HELLO");
}

static void agent_that_sends_garbage(void **state)
{
	create_fails(*state, "hello-garbage", EIO, "frame began with");
}

static void agent_that_refuses_its_identity(void **state)
{
	create_fails(*state, "refuse-reseed", EIO, "refused its identity: no entropy device");
}

static void agent_that_closes_the_channel(void **state)
{
	struct harness *h = *state;

	h->engine->limits.end_grace = 100 * 1000000u;
	create_fails(h, "close-channel", EIO, "did not exit and was killed");
}

/* ---- deadlines ---- */

static void short_deadline(struct harness *h)
{
	h->engine->limits.boot_deadline = 300 * 1000000u;
}

static void a_worker_that_is_never_ready_meets_the_deadline(void **state)
{
	short_deadline(*state);
	harness_worker_mode(*state, "never-ready");
	create_fails(*state, "agent", ETIMEDOUT, "not jailed");
}

static void an_image_that_is_never_loaded_meets_the_deadline(void **state)
{
	short_deadline(*state);
	create_fails(*state, "never-boots", ETIMEDOUT, "image was being loaded");
}

static void an_agent_that_says_nothing_meets_the_deadline(void **state)
{
	short_deadline(*state);
	create_fails(*state, "no-hello", ETIMEDOUT, "boot_deadline");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, harness_setup, harness_teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_sandbox_gets_ready),
		TEST(timings_add_up),
		TEST(metadata_is_copied_and_kept_in_order),
		TEST(memory_outside_of_the_limits_is_refused),
		TEST(an_unknown_isolation_mode_is_refused),
		TEST(bad_metadata_is_refused),
		TEST(template_names_that_leave_their_directory_are_refused),
		TEST(an_unknown_template_is_refused),
		TEST(the_default_template_is_python),
		TEST(more_sandboxes_than_the_limit_are_refused),
		TEST(worker_that_exits_at_the_start),
		TEST(worker_killed_by_its_filter),
		TEST(worker_killed_by_someone),
		TEST(worker_that_crashes),
		TEST(worker_that_sends_garbage),
		TEST(worker_that_sends_a_short_message),
		TEST(worker_that_sends_a_huge_message),
		TEST(worker_of_another_version),
		TEST(worker_that_passes_a_descriptor),
		TEST(worker_that_skips_a_phase),
		TEST(worker_that_knows_the_host_before_it_looks),
		TEST(worker_that_reports_an_error),
		TEST(worker_that_dies_in_setup),
		TEST(worker_that_dies_in_boot),
		TEST(worker_that_exits_in_boot),
		TEST(guest_kernel_that_panics),
		TEST(guest_that_powers_off),
		TEST(worker_that_sends_garbage_in_boot),
		TEST(worker_that_connects_the_channel_twice),
		TEST(worker_that_lets_go_and_does_not_exit),
		TEST(agent_of_another_protocol),
		TEST(agent_that_answers_before_hello),
		TEST(agent_that_sends_garbage),
		TEST(agent_that_refuses_its_identity),
		TEST(agent_that_closes_the_channel),
		TEST(a_worker_that_is_never_ready_meets_the_deadline),
		TEST(an_image_that_is_never_loaded_meets_the_deadline),
		TEST(an_agent_that_says_nothing_meets_the_deadline),
	};
	int skip = harness_unavailable();

	return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
