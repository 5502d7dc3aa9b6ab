/* The engine with the real guest agent, run on the host behind a fake worker:
 * both ends of the protocol as they ship, without a guest. */
#include "tests/fake/engine_harness.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEN_MB 10000000u

static char *agent_path;

static struct sandbox *create_real(struct harness *h)
{
	char content[512];

	(void)snprintf(content, sizeof(content), "real %s", agent_path);
	return create_ok(h, content);
}

static void python_keeps_its_variables(void **state)
{
	struct sandbox *sandbox = create_real(*state);
	struct ran first = { 0 }, second = { 0 };

	run_wait(*state, sandbox, "x = 20\nprint('set')", &first);
	assert_int_equal(first.err.code, 0);
	assert_string_equal(first.text[OUTPUT_STDOUT], "set\n");
	run_wait(*state, sandbox, "x + 22", &second);
	assert_string_equal(second.text[OUTPUT_RESULT], "42");
	assert_int_equal(second.exit.exit_code, 0);
	assert_true(second.exit.run_ns > 0);
	ran_free(&first);
	ran_free(&second);
}

static void bash_gives_output_and_exit_code(void **state)
{
	struct sandbox *sandbox = create_real(*state);
	struct ran ran = { 0 };

	run_start(sandbox, EXEC_BASH, "echo out; echo err >&2; exit 3", &ran);
	harness_wait(*state, &ran.done);
	assert_string_equal(ran.text[OUTPUT_STDOUT], "out\n");
	assert_string_equal(ran.text[OUTPUT_STDERR], "err\n");
	assert_int_equal(ran.exit.exit_code, 3);
	ran_free(&ran);
}

static void output_beyond_the_limit_is_cut_and_counted(void **state)
{
	struct sandbox *sandbox = create_real(*state);
	struct exec_params params = {
		.language = EXEC_BASH,
		.code = "head -c 3000000 /dev/zero",
		.code_length = 25,
		.output_limit = 1000000,
	};
	struct ran ran = { 0 };

	assert_int_equal(sandbox_exec(sandbox, &params, &ran_callbacks, &ran, &ran.exec, NULL), 0);
	harness_wait(*state, &ran.done);
	assert_int_equal(ran.err.code, 0);
	assert_int_equal(ran.length[OUTPUT_STDOUT], 1000000);
	assert_true(ran.exit.flags & EXIT_OUTPUT_CUT);
	assert_int_equal(ran.exit.dropped, 2000000);
	ran_free(&ran);
}

static void a_timeout_ends_the_code(void **state)
{
	struct sandbox *sandbox = create_real(*state);
	struct exec_params params = {
		.language = EXEC_BASH, .code = "sleep 60", .code_length = 8, .timeout_ms = 200
	};
	struct ran ran = { 0 };

	assert_int_equal(sandbox_exec(sandbox, &params, &ran_callbacks, &ran, &ran.exec, NULL), 0);
	harness_wait(*state, &ran.done);
	assert_int_equal(ran.exit.exit_code, 124);
	assert_true(ran.exit.flags & EXIT_TIMED_OUT);
	ran_free(&ran);
}

static void an_abandoned_exec_makes_room_for_the_next(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_real(h);
	struct ran endless = { .discard = true }, next = { 0 };

	run_start(sandbox, EXEC_BASH, "yes", &endless);
	harness_spin(h, 100);
	assert_true(endless.total > 0);
	exec_abandon(endless.exec);
	run_wait(h, sandbox, "print(1)", &next);
	assert_false(endless.done);
	assert_string_equal(next.text[OUTPUT_STDOUT], "1\n");
	ran_free(&next);
}

static void output_waits_for_a_slow_reader(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_real(h);
	struct ran ran = { .discard = true, .hold = true };

	run_start(sandbox, EXEC_BASH, "head -c 2000000 /dev/zero", &ran);
	harness_spin(h, 300);
	assert_false(ran.done);
	assert_int_equal(ran.total, EXEC_CREDIT_INITIAL);
	ran.hold = false;
	exec_consumed(ran.exec, ran.total);
	harness_wait(h, &ran.done);
	assert_int_equal(ran.total, 2000000);
}

static void ten_megabytes_go_up_and_come_down(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_real(h);
	struct moved up = { .to_send = TEN_MB }, down = { 0 };
	struct stat st;
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/new/dir/data", h->dir);
	assert_int_equal(
		sandbox_upload(sandbox, path, 0640, &moved_callbacks, &up, &up.transfer, NULL), 0);
	moved_push(&up);
	harness_wait(h, &up.done);
	assert_string_equal(up.err.msg, "");
	assert_int_equal(up.result.size, TEN_MB);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, TEN_MB);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_int_equal(
		sandbox_download(sandbox, path, &moved_callbacks, &down, &down.transfer, NULL), 0);
	harness_wait(h, &down.done);
	assert_int_equal(down.err.code, 0);
	assert_int_equal(down.received, TEN_MB);
	assert_int_equal(down.mode, 0640);
	assert_false(down.bad);
	assert_true(down.result.xxh3 == up.result.xxh3);
}

static void an_abandoned_upload_leaves_the_target_alone(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_real(h);
	struct moved up = { .to_send = 3000000 }, list = { 0 };
	char path[128], dir[96];

	(void)snprintf(dir, sizeof(dir), "%s/up", h->dir);
	(void)snprintf(path, sizeof(path), "%s/data", dir);
	assert_int_equal(
		sandbox_upload(sandbox, path, 0, &moved_callbacks, &up, &up.transfer, NULL), 0);
	(void)file_write(up.transfer, "something", 9);
	harness_spin(h, 100);
	file_abandon(up.transfer);
	/* Answered after the abandoned upload was closed. */
	assert_int_equal(sandbox_list(sandbox, dir, &moved_callbacks, &list, &list.transfer, NULL),
			 0);
	harness_wait(h, &list.done);
	assert_int_equal(list.err.code, 0);
	assert_int_equal(list.entries, 0);
}

static void a_file_of_proc_is_read_to_its_end(void **state)
{
	struct sandbox *sandbox = create_real(*state);
	struct moved down = { 0 };

	assert_int_equal(sandbox_download(sandbox, "/proc/self/status", &moved_callbacks, &down,
					  &down.transfer, NULL),
			 0);
	harness_wait(*state, &down.done);
	assert_int_equal(down.err.code, 0);
	assert_true(down.received > 100);
}

static void a_missing_file_is_an_error(void **state)
{
	struct sandbox *sandbox = create_real(*state);
	struct moved down = { 0 };

	assert_int_equal(sandbox_download(sandbox, "/no/such/file", &moved_callbacks, &down,
					  &down.transfer, NULL),
			 0);
	harness_wait(*state, &down.done);
	assert_int_equal(down.err.code, ENOENT);
	assert_words(down.err.msg, "/no/such/file");
}

static void a_directory_is_listed(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_real(h);
	struct moved list = { 0 };
	char dir[96];

	(void)snprintf(dir, sizeof(dir), "%s/images", h->dir);
	assert_int_equal(sandbox_list(sandbox, dir, &moved_callbacks, &list, &list.transfer, NULL),
			 0);
	harness_wait(h, &list.done);
	assert_int_equal(list.err.code, 0);
	assert_int_equal(list.entries, 3); /* kernel, templates, agent.cpio */
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, harness_setup, harness_teardown)
	const struct CMUnitTest tests[] = {
		TEST(python_keeps_its_variables),
		TEST(bash_gives_output_and_exit_code),
		TEST(output_beyond_the_limit_is_cut_and_counted),
		TEST(a_timeout_ends_the_code),
		TEST(an_abandoned_exec_makes_room_for_the_next),
		TEST(output_waits_for_a_slow_reader),
		TEST(ten_megabytes_go_up_and_come_down),
		TEST(an_abandoned_upload_leaves_the_target_alone),
		TEST(a_file_of_proc_is_read_to_its_end),
		TEST(a_missing_file_is_an_error),
		TEST(a_directory_is_listed),
	};
	int skip = harness_unavailable(), r;

	if (skip)
		return skip;
	agent_path = harness_program("ramet-agent");
	if (!agent_path) {
		printf("skip: the guest agent is not built (make bin/ramet-agent)\n");
		return 77;
	}
	r = cmocka_run_group_tests(tests, NULL, NULL);
	free(agent_path);
	return r;
}
