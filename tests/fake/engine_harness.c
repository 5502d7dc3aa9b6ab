/* An engine with fake workers behind it: see engine_harness.h. */
#include "tests/fake/engine_harness.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/clock.h"
#include "tests/fake/fake_agent.h"

#define WAIT_NS (20 * (uint64_t)SECONDS_NS)

int harness_unavailable(void)
{
	if (geteuid() != 0) {
		printf("skip: workers are started in namespaces, which needs root\n");
		return 77;
	}
	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		printf("skip: the spawner opens /dev/kvm for every worker; there is none\n");
		return 77;
	}
	return 0;
}

/* Programs lie beside or above the test program. */
char *harness_program(const char *name)
{
	static const char *const places[] = { "bin", "tests", "." };
	char self[PATH_MAX] = "";
	char *slash, *path;

	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return NULL;
	while ((slash = strrchr(self, '/')) && slash != self) {
		*slash = '\0';
		for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
			if (asprintf(&path, "%s/%s/%s", self, places[i], name) < 0)
				return NULL;
			if (access(path, X_OK) == 0)
				return path;
			free(path);
		}
	}
	return NULL;
}

unsigned int harness_count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void write_file(const char *dir, const char *name, const char *content)
{
	char path[PATH_MAX];
	FILE *file;

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "we");
	assert_non_null(file);
	assert_true(fputs(content, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

static void make_dir(const char *dir, const char *name)
{
	char path[PATH_MAX];

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_true(mkdir(path, 0755) == 0 || errno == EEXIST);
}

static void copy_worker(const char *dir)
{
	char *from = harness_program("fake-worker");
	char command[2 * PATH_MAX];

	if (!from)
		fail_msg("the program fake-worker is not built");
	(void)snprintf(command, sizeof(command), "cp %s %s/worker", from, dir);
	assert_int_equal(system(command), 0);
	free(from);
}

int harness_engine(struct harness *h, struct ramet_err *err)
{
	char state[96], images[96], worker[96];
	struct engine_config config = { .state_dir = state,
					.image_dir = images,
					.worker_path = worker,
					.max_sandboxes = 8,
					.pool_size = 2,
					.use_templates = h->use_templates };

	(void)snprintf(state, sizeof(state), "%s/state", h->dir);
	(void)snprintf(images, sizeof(images), "%s/images", h->dir);
	(void)snprintf(worker, sizeof(worker), "%s/worker", h->dir);
	return engine_create(h->loop, &config, &h->engine, err);
}

static int setup(void **state, bool use_templates)
{
	struct harness *h = calloc(1, sizeof(*h));
	struct ramet_err err = { 0 };

	assert_non_null(h);
	h->use_templates = use_templates;
	(void)snprintf(h->dir, sizeof(h->dir), "/tmp/ramet-test-XXXXXX");
	assert_non_null(mkdtemp(h->dir));
	make_dir(h->dir, "images");
	make_dir(h->dir, "images/kernel");
	make_dir(h->dir, "images/templates");
	write_file(h->dir, "images/kernel/vmlinux", "vmlinux");
	write_file(h->dir, "images/kernel/modules.cpio", "modules");
	write_file(h->dir, "images/agent.cpio", "agent");
	copy_worker(h->dir);
	h->fds_before = harness_count_fds();
	assert_true(sd_event_new(&h->loop) >= 0);
	if (harness_engine(h, &err) < 0)
		fail_msg("no engine: %s", err.msg);
	*state = h;
	return 0;
}

int harness_setup(void **state)
{
	return setup(state, false);
}

int harness_setup_templates(void **state)
{
	return setup(state, true);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st;
	(void)type;
	(void)where;
	return remove(path);
}

int harness_teardown(void **state)
{
	struct harness *h = *state;
	char run[96];

	engine_destroy(h->engine);
	sd_event_unref(h->loop);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	assert_int_equal(harness_count_fds(), h->fds_before);
	(void)snprintf(run, sizeof(run), "%s/state/run", h->dir);
	assert_int_equal(access(run, F_OK), -1);
	assert_int_equal(nftw(h->dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
	free(h);
	return 0;
}

void harness_worker_mode(const struct harness *h, const char *mode)
{
	char path[96];

	(void)snprintf(path, sizeof(path), "%s/worker.mode", h->dir);
	if (mode)
		write_file(h->dir, "worker.mode", mode);
	else
		(void)unlink(path);
}

void harness_template(const struct harness *h, const char *name, const char *content)
{
	char path[128];

	(void)snprintf(path, sizeof(path), "images/templates/%s", name);
	make_dir(h->dir, path);
	(void)snprintf(path, sizeof(path), "images/templates/%s/root.cpio.gz", name);
	write_file(h->dir, path, content);
}

void harness_wait(struct harness *h, const bool *flag)
{
	uint64_t end = clock_monotonic_ns() + WAIT_NS;

	while (!*flag) {
		if (clock_monotonic_ns() >= end)
			fail_msg("waited in vain");
		assert_true(sd_event_run(h->loop, 100000) >= 0);
	}
}

void harness_spin(struct harness *h, unsigned int ms)
{
	uint64_t end = clock_monotonic_ns() + ms * (uint64_t)1000000;
	uint64_t now;

	while ((now = clock_monotonic_ns()) < end)
		assert_true(sd_event_run(h->loop, (end - now) / 1000 + 1) >= 0);
}

void on_created(void *arg, struct sandbox *sandbox, const struct ramet_err *err)
{
	struct created *created = arg;

	assert_false(created->done);
	created->done = true;
	created->sandbox = sandbox;
	if (err)
		created->err = *err;
}

static void on_output(void *arg, int stream, uint64_t time_ns, const char *data, size_t length)
{
	struct ran *ran = arg;

	(void)time_ns;
	assert_false(ran->done);
	assert_in_range(stream, OUTPUT_STDOUT, OUTPUT_NOTICE);
	ran->total += length;
	if (!ran->discard) {
		ran->text[stream] = realloc(ran->text[stream], ran->length[stream] + length + 1);
		assert_non_null(ran->text[stream]);
		memcpy(ran->text[stream] + ran->length[stream], data, length);
		ran->length[stream] += length;
		ran->text[stream][ran->length[stream]] = '\0';
	}
	if (!ran->hold)
		exec_consumed(ran->exec, length);
	if (ran->abandon)
		exec_abandon(ran->exec);
}

static void on_ran(void *arg, const struct exec_exit *result, const struct ramet_err *err)
{
	struct ran *ran = arg;

	assert_false(ran->done);
	assert_true(!result == !!err);
	ran->done = true;
	if (result)
		ran->exit = *result;
	if (err)
		ran->err = *err;
}

const struct exec_callbacks ran_callbacks = { .output = on_output, .done = on_ran };

void ran_free(struct ran *ran)
{
	for (size_t i = 0; i < sizeof(ran->text) / sizeof(ran->text[0]); i++)
		free(ran->text[i]);
	*ran = (struct ran){ 0 };
}

static void on_opened(void *arg, uint64_t size, uint32_t mode)
{
	struct moved *moved = arg;

	assert_false(moved->opened);
	moved->opened = true;
	moved->size = size;
	moved->mode = mode;
}

static void on_data(void *arg, const char *data, size_t length)
{
	struct moved *moved = arg;

	assert_true(moved->opened);
	assert_false(moved->done);
	for (size_t i = 0; i < length; i++)
		moved->bad |= (uint8_t)data[i] != fake_pattern(moved->received + i);
	moved->received += length;
	if (!moved->hold)
		file_consumed(moved->transfer, length);
}

void moved_push(struct moved *moved)
{
	while (moved->sent < moved->to_send) {
		char bytes[10000];
		uint64_t left = moved->to_send - moved->sent;
		size_t n = left < sizeof(bytes) ? (size_t)left : sizeof(bytes), taken;

		for (size_t i = 0; i < n; i++)
			bytes[i] = (char)fake_pattern(moved->sent + i);
		taken = file_write(moved->transfer, bytes, n);
		moved->sent += taken;
		if (taken < n)
			return; /* on_writable() comes */
	}
	file_finish(moved->transfer);
}

static void on_writable(void *arg)
{
	struct moved *moved = arg;

	assert_false(moved->done);
	moved_push(moved);
}

static void on_entry(void *arg, const struct file_info *info)
{
	struct moved *moved = arg;

	moved->entries++;
	(void)snprintf(moved->last_name, sizeof(moved->last_name), "%s", info->name);
}

static void on_moved(void *arg, const struct file_result *result, const struct ramet_err *err)
{
	struct moved *moved = arg;

	assert_false(moved->done);
	assert_true(!result == !!err);
	moved->done = true;
	if (result)
		moved->result = *result;
	if (err)
		moved->err = *err;
}

const struct file_callbacks moved_callbacks = {
	.opened = on_opened,
	.data = on_data,
	.writable = on_writable,
	.entry = on_entry,
	.done = on_moved,
};

void create_wait(struct harness *h, const char *content, struct created *created)
{
	struct sandbox_params params = { .template_name = "fake" };
	struct ramet_err err = { 0 };

	*created = (struct created){ 0 };
	harness_template(h, "fake", content);
	if (engine_sandbox_create(h->engine, &params, on_created, created, &err) < 0)
		fail_msg("create was refused: %s", err.msg);
	assert_false(created->done);
	harness_wait(h, &created->done);
}

struct sandbox *create_ok(struct harness *h, const char *content)
{
	struct created created;

	create_wait(h, content, &created);
	if (!created.sandbox)
		fail_msg("create failed: %s", created.err.msg);
	return created.sandbox;
}

void create_fails(struct harness *h, const char *content, int code, const char *words)
{
	struct engine_counts counts;
	struct created created;

	create_wait(h, content, &created);
	assert_null(created.sandbox);
	assert_words(created.err.msg, words);
	assert_int_equal(created.err.code, code);
	engine_counts(h->engine, &counts);
	assert_int_equal(counts.total, 0);
}

void run_start(struct sandbox *sandbox, int language, const char *code, struct ran *ran)
{
	struct exec_params params = { .language = language,
				      .code = code,
				      .code_length = strlen(code) };
	struct ramet_err err = { 0 };

	if (sandbox_exec(sandbox, &params, &ran_callbacks, ran, &ran->exec, &err) < 0)
		fail_msg("exec was refused: %s", err.msg);
	assert_false(ran->done);
}

void run_wait(struct harness *h, struct sandbox *sandbox, const char *code, struct ran *ran)
{
	run_start(sandbox, EXEC_PYTHON, code, ran);
	harness_wait(h, &ran->done);
}

long run_number(struct harness *h, struct sandbox *sandbox, const char *code)
{
	struct ran ran = { 0 };
	long number = -1;

	run_wait(h, sandbox, code, &ran);
	if (ran.err.code)
		fail_msg("'%s' failed: %s", code, ran.err.msg);
	assert_int_equal(ran.exit.exit_code, 0);
	if (ran.text[OUTPUT_STDOUT])
		number = atol(ran.text[OUTPUT_STDOUT]);
	ran_free(&ran);
	return number;
}

void on_forked(void *arg, const struct fork_result *result, const struct ramet_err *err)
{
	struct forked *forked = arg;

	assert_false(forked->done);
	assert_true(!result == !!err);
	forked->done = true;
	if (err)
		forked->err = *err;
	if (!result)
		return;
	assert_true(result->count <= FORKED_MAX);
	forked->count = result->count;
	forked->timings = result->timings;
	for (unsigned int i = 0; i < result->count; i++) {
		assert_true(!result->children[i].sandbox == !!result->children[i].err.code);
		forked->children[i] = result->children[i];
	}
}

void fork_start(struct sandbox *parent, unsigned int count, struct forked *forked)
{
	const struct fork_params params = { .count = count };
	struct ramet_err err = { 0 };

	*forked = (struct forked){ 0 };
	if (sandbox_fork(parent, &params, on_forked, forked, &err) < 0)
		fail_msg("fork was refused: %s", err.msg);
	assert_false(forked->done);
}

void fork_wait(struct harness *h, struct sandbox *parent, unsigned int count, struct forked *forked)
{
	fork_start(parent, count, forked);
	harness_wait(h, &forked->done);
}

void fork_ok(struct harness *h, struct sandbox *parent, unsigned int count, struct forked *forked)
{
	fork_wait(h, parent, count, forked);
	if (forked->err.code)
		fail_msg("fork failed: %s", forked->err.msg);
	assert_int_equal(forked->count, count);
	for (unsigned int i = 0; i < count; i++)
		if (!forked->children[i].sandbox)
			fail_msg("child %u failed: %s", i, forked->children[i].err.msg);
}

void close_wait(struct harness *h, struct sandbox *sandbox)
{
	struct created closed = { 0 };

	assert_int_equal(sandbox_close(sandbox, on_created, &closed, NULL), 0);
	assert_false(closed.done);
	harness_wait(h, &closed.done);
	assert_int_equal(closed.err.code, 0);
	assert_null(closed.sandbox);
}
