/* Closing, failing and stopping: nothing is left, everybody is told. */
#include "tests/fake/engine_harness.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void create_start(struct harness *h, const char *content, struct created *created)
{
	struct sandbox_params params = { .template_name = "fake" };

	harness_template(h, "fake", content);
	assert_int_equal(engine_sandbox_create(h->engine, &params, on_created, created, NULL), 0);
}

static bool keep_first(void *arg, struct sandbox *sandbox)
{
	*(struct sandbox **)arg = sandbox;
	return false;
}

static struct sandbox *first_of(struct harness *h)
{
	struct sandbox *sandbox = NULL;

	engine_sandbox_each(h->engine, keep_first, &sandbox);
	return sandbox;
}

static void a_closed_sandbox_is_gone(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	unsigned int fds = harness_count_fds();
	struct sandbox_info info;
	struct engine_counts counts;
	char id[SANDBOX_ID_MAX], record[256];

	sandbox_info(sandbox, &info);
	(void)snprintf(id, sizeof(id), "%s", info.id);
	(void)snprintf(record, sizeof(record), "%s/%s", engine_run_dir(h->engine), id);
	assert_int_equal(access(record, F_OK), 0);
	close_wait(h, sandbox);
	assert_null(engine_sandbox_find(h->engine, id));
	engine_counts(h->engine, &counts);
	assert_int_equal(counts.total, 0);
	assert_int_equal(access(record, F_OK), -1);
	assert_int_equal(harness_count_fds(), fds - 2); /* control and channel */
}

static void fifty_sandboxes_in_a_row_leave_no_descriptor(void **state)
{
	struct harness *h = *state;
	unsigned int fds;

	close_wait(h, create_ok(h, "agent"));
	fds = harness_count_fds();
	for (int i = 0; i < 50; i++) {
		struct sandbox *sandbox = create_ok(h, "agent");
		struct ran ran = { 0 };

		run_wait(h, sandbox, "exit 1", &ran);
		close_wait(h, sandbox);
	}
	assert_int_equal(harness_count_fds(), fds);
}

static void closing_ends_what_runs(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct ran running = { 0 }, waiting = { 0 };
	struct moved moved = { .hold = true };

	run_start(sandbox, EXEC_BASH, "hang", &running);
	run_start(sandbox, EXEC_BASH, "exit 0", &waiting);
	assert_int_equal(sandbox_download(sandbox, "/size/9000000", &moved_callbacks, &moved,
					  &moved.transfer, NULL),
			 0);
	harness_spin(h, 50);
	close_wait(h, sandbox);
	assert_true(running.done && waiting.done && moved.done);
	assert_int_equal(running.err.code, ECANCELED);
	assert_int_equal(waiting.err.code, ECANCELED);
	assert_int_equal(moved.err.code, ECANCELED);
}

static void closing_twice_tells_both(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct created first = { 0 }, second = { 0 };
	struct ramet_err err = { 0 };
	struct exec_params params = { .language = EXEC_BASH };
	struct ran ran = { 0 };
	struct sandbox_info info;

	assert_int_equal(sandbox_close(sandbox, on_created, &first, NULL), 0);
	assert_int_equal(sandbox_close(sandbox, on_created, &second, NULL), 0);
	assert_int_equal(sandbox_close(sandbox, NULL, NULL, NULL), 0);
	sandbox_info(sandbox, &info);
	assert_int_equal(info.state, SANDBOX_CLOSING);
	assert_int_equal(sandbox_exec(sandbox, &params, &ran_callbacks, &ran, &ran.exec, &err),
			 -ECANCELED);
	assert_false(first.done || second.done);
	harness_wait(h, &second.done);
	assert_true(first.done);
}

/* ---- during a create ---- */

static void work_for_a_sandbox_that_is_not_ready_is_refused(void **state)
{
	struct harness *h = *state;
	struct exec_params params = { .language = EXEC_BASH };
	struct created created = { 0 };
	struct ramet_err err = { 0 };
	struct ran ran = { 0 };

	create_start(h, "agent", &created);
	assert_int_equal(sandbox_exec(first_of(h), &params, &ran_callbacks, &ran, &ran.exec, &err),
			 -EAGAIN);
	harness_wait(h, &created.done);
}

/* Closes `ms` after the create began: in another phase each time. */
static void close_during_create(struct harness *h, const char *content, unsigned int ms)
{
	struct created created = { 0 }, closed = { 0 };
	struct engine_counts counts;

	create_start(h, content, &created);
	harness_spin(h, ms);
	assert_false(created.done);
	assert_int_equal(sandbox_close(first_of(h), on_created, &closed, NULL), 0);
	assert_false(created.done);
	harness_wait(h, &closed.done);
	assert_true(created.done);
	assert_null(created.sandbox);
	assert_int_equal(created.err.code, ECANCELED);
	assert_int_equal(closed.err.code, 0);
	engine_counts(h->engine, &counts);
	assert_int_equal(counts.total, 0);
}

static void closing_before_the_worker_started(void **state)
{
	close_during_create(*state, "agent", 0);
}

static void closing_while_the_worker_jails_itself(void **state)
{
	harness_worker_mode(*state, "never-ready");
	close_during_create(*state, "agent", 100);
}

static void closing_while_the_image_is_loaded(void **state)
{
	close_during_create(*state, "never-boots", 100);
}

static void closing_before_the_agent_says_hello(void **state)
{
	close_during_create(*state, "no-hello", 100);
}

/* ---- failing ---- */

static void a_failed_sandbox_stays_until_it_is_closed(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct engine_counts counts;
	struct ran ran = { 0 };
	char console[512];

	run_wait(h, sandbox, "die", &ran);
	assert_int_equal(ran.err.code, EIO);
	engine_counts(h->engine, &counts);
	assert_int_equal(counts.failed, 1);
	assert_int_equal(counts.total, 1);
	assert_ptr_equal(first_of(h), sandbox);
	console[sandbox_console(sandbox, console, sizeof(console) - 1)] = '\0';
	assert_words(console, "Linux version 6.1.0-fake");
	close_wait(h, sandbox);
	engine_counts(h->engine, &counts);
	assert_int_equal(counts.total, 0);
}

/* Closes the sandbox from the callback that tells of its failure. */
struct closer {
	struct sandbox *sandbox;
	struct created closed;
	bool done;
};

static void on_done_close(void *arg, const struct exec_exit *result, const struct ramet_err *err)
{
	struct closer *closer = arg;

	assert_null(result);
	assert_non_null(err);
	closer->done = true;
	assert_int_equal(sandbox_close(closer->sandbox, on_created, &closer->closed, NULL), 0);
}

static void a_failed_sandbox_can_be_closed_from_its_last_callback(void **state)
{
	struct harness *h = *state;
	struct closer closer = { .sandbox = create_ok(h, "agent") };
	const struct exec_callbacks callbacks = { .output = ran_callbacks.output,
						  .done = on_done_close };
	struct exec_params params = { .language = EXEC_BASH, .code = "die", .code_length = 3 };
	struct exec *exec;

	assert_int_equal(sandbox_exec(closer.sandbox, &params, &callbacks, &closer, &exec, NULL),
			 0);
	harness_wait(h, &closer.closed.done);
	assert_true(closer.done);
}

static void one_sandbox_that_fails_leaves_the_others_alone(void **state)
{
	struct harness *h = *state;
	struct sandbox *bad = create_ok(h, "agent"), *good = create_ok(h, "agent");
	struct ran running = { .discard = true }, dead = { 0 };

	run_start(good, EXEC_BASH, "flood 8000000", &running);
	run_wait(h, bad, "die", &dead);
	harness_wait(h, &running.done);
	assert_int_equal(running.err.code, 0);
	assert_int_equal(running.total, 8000000);
}

/* The process that starts workers dies: all sandboxes fail, none hangs. */
static void a_dead_spawner_fails_every_sandbox(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct sandbox_params params = { .template_name = "fake" };
	struct created created = { 0 };
	struct ran ran = { 0 };
	char path[64], line[32] = "";
	FILE *children;

	run_start(sandbox, EXEC_BASH, "hang", &ran);
	(void)snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
	children = fopen(path, "re");
	assert_non_null(children);
	assert_non_null(fgets(line, sizeof(line), children));
	(void)fclose(children);
	assert_int_equal(kill(atoi(line), SIGKILL), 0);
	harness_wait(h, &ran.done);
	assert_int_equal(ran.err.code, EIO);
	assert_int_equal(engine_sandbox_create(h->engine, &params, on_created, &created, NULL),
			 -EPIPE);
}

/* ---- stopping; the teardown checks processes, descriptors and files ---- */

static void destroying_ends_live_sandboxes(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");
	struct created creating = { 0 }, closing = { 0 };
	struct ran ran = { 0 };
	struct moved moved = { 0 }; /* an upload that is never finished */

	(void)create_ok(h, "agent");
	run_start(sandbox, EXEC_BASH, "hang", &ran);
	assert_int_equal(sandbox_upload(sandbox, "/pattern", 0, &moved_callbacks, &moved,
					&moved.transfer, NULL),
			 0);
	create_start(h, "no-hello", &creating);
	harness_spin(h, 50);
	assert_int_equal(sandbox_close(create_ok(h, "agent"), on_created, &closing, NULL), 0);
	engine_destroy(h->engine);
	h->engine = NULL;
	assert_true(ran.done && moved.done && creating.done && closing.done);
	assert_int_equal(ran.err.code, ECANCELED);
	assert_int_equal(moved.err.code, ECANCELED);
	assert_int_equal(creating.err.code, ECANCELED);
}

static void destroying_with_a_failed_sandbox_is_fine(void **state)
{
	struct ran ran = { 0 };

	run_wait(*state, create_ok(*state, "agent"), "die", &ran);
}

static void destroying_right_after_a_create_is_fine(void **state)
{
	struct harness *h = *state;
	struct created created = { 0 };

	create_start(h, "agent", &created);
	engine_destroy(h->engine);
	h->engine = NULL;
	assert_true(created.done);
	assert_int_equal(created.err.code, ECANCELED);
}

/* ---- one daemon per state directory, and what a killed one leaves ---- */

static void a_second_engine_on_the_same_directory_is_refused(void **state)
{
	struct harness *h = *state;
	struct harness second = *h;
	struct ramet_err err = { 0 };
	char pid[32];

	second.engine = NULL;
	assert_int_equal(harness_engine(&second, &err), -EBUSY);
	(void)snprintf(pid, sizeof(pid), "pid %d", getpid());
	assert_words(err.msg, pid);
	assert_null(second.engine);
}

/* A daemon in a child process, with a sandbox, killed without warning. */
_Noreturn static void doomed_daemon(struct harness *h, int report)
{
	struct ramet_err err = { 0 };

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (sd_event_new(&h->loop) < 0 || harness_engine(h, &err) < 0)
		_exit(1);
	(void)create_ok(h, "agent");
	if (write(report, "1", 1) != 1)
		_exit(1);
	for (;;)
		(void)pause();
}

static void what_a_killed_daemon_left_is_cleaned(void **state)
{
	struct harness *h = *state;
	char path[128], byte;
	int report[2];
	pid_t child;

	engine_destroy(h->engine);
	h->engine = NULL;
	assert_int_equal(pipe(report), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0)
		doomed_daemon(h, report[1]);
	assert_int_equal(read(report[0], &byte, 1), 1);
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, NULL, 0), child);
	(void)snprintf(path, sizeof(path), "%s/state/run", h->dir);
	assert_int_equal(access(path, F_OK), 0); /* it did leave something */
	assert_int_equal(harness_engine(h, NULL), 0);
	(void)snprintf(path, sizeof(path), "ls %s/state/run | grep -q .", h->dir);
	assert_true(system(path) != 0); /* empty */
	close_wait(h, create_ok(h, "agent"));
	(void)close(report[0]);
	(void)close(report[1]);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, harness_setup, harness_teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_closed_sandbox_is_gone),
		TEST(fifty_sandboxes_in_a_row_leave_no_descriptor),
		TEST(closing_ends_what_runs),
		TEST(closing_twice_tells_both),
		TEST(work_for_a_sandbox_that_is_not_ready_is_refused),
		TEST(closing_before_the_worker_started),
		TEST(closing_while_the_worker_jails_itself),
		TEST(closing_while_the_image_is_loaded),
		TEST(closing_before_the_agent_says_hello),
		TEST(a_failed_sandbox_stays_until_it_is_closed),
		TEST(a_failed_sandbox_can_be_closed_from_its_last_callback),
		TEST(one_sandbox_that_fails_leaves_the_others_alone),
		TEST(a_dead_spawner_fails_every_sandbox),
		TEST(destroying_ends_live_sandboxes),
		TEST(destroying_with_a_failed_sandbox_is_fine),
		TEST(destroying_right_after_a_create_is_fine),
		TEST(a_second_engine_on_the_same_directory_is_refused),
		TEST(what_a_killed_daemon_left_is_cleaned),
	};
	int skip = harness_unavailable();

	return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
