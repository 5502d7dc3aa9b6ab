/* Uploads and downloads, right and wrong. */
#include "tests/fake/engine_harness.h"

#define TEN_MB 10000000u

static void download_start(struct sandbox *sandbox, const char *path, struct moved *moved)
{
	struct ramet_err err = { 0 };

	if (sandbox_download(sandbox, path, &moved_callbacks, moved, &moved->transfer, &err) < 0)
		fail_msg("download was refused: %s", err.msg);
	assert_false(moved->done);
}

static void download_wait(struct harness *h, struct sandbox *sandbox, const char *path,
			  struct moved *moved)
{
	download_start(sandbox, path, moved);
	harness_wait(h, &moved->done);
}

static void upload_start(struct sandbox *sandbox, const char *path, uint64_t size,
			 struct moved *moved)
{
	struct ramet_err err = { 0 };

	moved->to_send = size;
	if (sandbox_upload(sandbox, path, 0600, &moved_callbacks, moved, &moved->transfer, &err) <
	    0)
		fail_msg("upload was refused: %s", err.msg);
	moved_push(moved);
	assert_false(moved->done);
}

static void upload_wait(struct harness *h, struct sandbox *sandbox, const char *path, uint64_t size,
			struct moved *moved)
{
	upload_start(sandbox, path, size, moved);
	harness_wait(h, &moved->done);
}

/* ---- downloads ---- */

static void ten_megabytes_come_down_whole(void **state)
{
	struct moved moved = { 0 };

	download_wait(*state, create_ok(*state, "agent"), "/size/10000000", &moved);
	assert_int_equal(moved.err.code, 0);
	assert_int_equal(moved.size, TEN_MB);
	assert_int_equal(moved.mode, 0640);
	assert_int_equal(moved.received, TEN_MB);
	assert_false(moved.bad);
	assert_int_equal(moved.result.size, TEN_MB);
	assert_true(moved.result.xxh3 != 0);
	assert_true(moved.result.total_ns > 0);
}

static void sizes_around_a_chunk_come_down_whole(void **state)
{
	static const unsigned int sizes[] = {
		0, 1, FILE_CHUNK_MAX - 1, FILE_CHUNK_MAX, FILE_CHUNK_MAX + 1, 4 * FILE_CHUNK_MAX,
	};
	struct sandbox *sandbox = create_ok(*state, "agent");

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct moved moved = { 0 };
		char path[32];

		(void)snprintf(path, sizeof(path), "/size/%u", sizes[i]);
		download_wait(*state, sandbox, path, &moved);
		assert_int_equal(moved.err.code, 0);
		assert_int_equal(moved.received, sizes[i]);
		assert_false(moved.bad);
	}
}

static void a_file_without_a_size_is_read_to_its_end(void **state)
{
	static const unsigned int sizes[] = { 0, 5, FILE_CHUNK_MAX, 3 * FILE_CHUNK_MAX + 7 };
	struct sandbox *sandbox = create_ok(*state, "agent");

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct moved moved = { 0 };
		char path[32];

		(void)snprintf(path, sizeof(path), "/unknown/%u", sizes[i]);
		download_wait(*state, sandbox, path, &moved);
		assert_int_equal(moved.err.code, 0);
		assert_true(moved.size == UINT64_MAX);
		assert_int_equal(moved.received, sizes[i]);
		assert_false(moved.bad);
	}
}

static void a_missing_file_is_an_error(void **state)
{
	struct moved moved = { 0 };

	download_wait(*state, create_ok(*state, "agent"), "/missing", &moved);
	assert_int_equal(moved.err.code, ENOENT);
	assert_words(moved.err.msg, "/missing: no such file");
	assert_false(moved.opened);
}

static void a_file_that_shrinks_is_an_error(void **state)
{
	struct moved moved = { 0 };

	download_wait(*state, create_ok(*state, "agent"), "/shrink/1000000", &moved);
	assert_int_equal(moved.err.code, EIO);
	assert_words(moved.err.msg, "shrank to 500000 of 1000000");
}

static void a_download_with_the_wrong_hash_is_an_error(void **state)
{
	struct moved moved = { 0 };

	download_wait(*state, create_ok(*state, "agent"), "/badhash", &moved);
	assert_int_equal(moved.err.code, EIO);
	assert_words(moved.err.msg, "damaged");
}

static void a_download_stops_when_it_is_not_consumed(void **state)
{
	struct harness *h = *state;
	struct moved moved = { .hold = true };

	download_start(create_ok(h, "agent"), "/size/10000000", &moved);
	harness_spin(h, 200);
	assert_false(moved.done);
	assert_int_equal(moved.received, h->engine->limits.file_window);
	moved.hold = false;
	file_consumed(moved.transfer, h->engine->limits.file_window);
	harness_wait(h, &moved.done);
	assert_int_equal(moved.received, TEN_MB);
}

static void an_abandoned_download_closes_its_handle(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");

	h->engine->limits.transfers = 1000; /* the guest's limit of handles must do */
	for (int i = 0; i < 3 * (int)FILE_HANDLES_MAX; i++) {
		struct moved moved = { .hold = true }, other = { 0 };

		download_start(sandbox, "/size/10000000", &moved);
		if (i % 2)
			harness_spin(h, 1);
		file_abandon(moved.transfer);
		download_wait(h, sandbox, "/size/1", &other);
		assert_int_equal(other.err.code, 0);
		assert_false(moved.done);
	}
	assert_true(sandbox->files.count <= 1);
}

static void a_guest_that_does_not_answer_a_read_is_not_waited_for(void **state)
{
	struct harness *h = *state;
	struct moved moved = { 0 };

	h->engine->limits.file_stall = 200 * 1000000u;
	download_wait(h, create_ok(h, "agent"), "/stall", &moved);
	assert_int_equal(moved.err.code, ETIMEDOUT);
	assert_words(moved.err.msg, "file_stall");
}

static void a_download_that_breaks_the_protocol_fails_the_sandbox(void **state)
{
	static const char *const paths[][2] = { { "/overread", "instead of" },
						{ "/reorder", "out of order" } };
	struct harness *h = *state;

	for (size_t i = 0; i < 2; i++) {
		struct sandbox *sandbox = create_ok(h, "agent");
		struct moved moved = { 0 };
		struct sandbox_info info;

		download_wait(h, sandbox, paths[i][0], &moved);
		assert_int_equal(moved.err.code, EIO);
		assert_words(moved.err.msg, paths[i][1]);
		sandbox_info(sandbox, &info);
		assert_int_equal(info.state, SANDBOX_FAILED);
	}
}

/* ---- uploads ---- */

static void ten_megabytes_go_up_whole(void **state)
{
	struct moved moved = { 0 };

	upload_wait(*state, create_ok(*state, "agent"), "/pattern", TEN_MB, &moved);
	assert_int_equal(moved.err.code, 0);
	assert_int_equal(moved.result.size, TEN_MB);
	assert_true(moved.result.xxh3 != 0);
}

static void both_ways_give_the_same_hash(void **state)
{
	struct sandbox *sandbox = create_ok(*state, "agent");
	struct moved up = { 0 }, down = { 0 };

	upload_wait(*state, sandbox, "/pattern", 777777, &up);
	download_wait(*state, sandbox, "/size/777777", &down);
	assert_true(up.result.xxh3 == down.result.xxh3);
}

static void sizes_around_a_chunk_go_up_whole(void **state)
{
	static const unsigned int sizes[] = {
		0, 1, FILE_CHUNK_MAX - 1, FILE_CHUNK_MAX, FILE_CHUNK_MAX + 1, 4 * FILE_CHUNK_MAX,
	};
	struct sandbox *sandbox = create_ok(*state, "agent");

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct moved moved = { 0 };

		upload_wait(*state, sandbox, "/pattern", sizes[i], &moved);
		assert_int_equal(moved.err.code, 0);
		assert_int_equal(moved.result.size, sizes[i]);
	}
}

static void a_full_disk_is_an_error(void **state)
{
	struct sandbox *sandbox = create_ok(*state, "agent");
	struct moved moved = { 0 }, next = { 0 };

	upload_wait(*state, sandbox, "/full", TEN_MB, &moved);
	assert_int_equal(moved.err.code, ENOSPC);
	assert_words(moved.err.msg, "no space left");
	assert_true(moved.sent < TEN_MB);
	upload_wait(*state, sandbox, "/pattern", 100, &next);
	assert_int_equal(next.err.code, 0);
}

static void an_upload_with_the_wrong_hash_is_an_error(void **state)
{
	struct moved moved = { 0 };

	upload_wait(*state, create_ok(*state, "agent"), "/badhash", 5000, &moved);
	assert_int_equal(moved.err.code, EIO);
	assert_words(moved.err.msg, "damaged");
}

static void an_abandoned_upload_closes_its_handle(void **state)
{
	struct harness *h = *state;
	struct sandbox *sandbox = create_ok(h, "agent");

	for (int i = 0; i < 2 * (int)FILE_HANDLES_MAX; i++) {
		struct moved moved = { 0 }, other = { 0 };

		upload_start(sandbox, "/pattern", TEN_MB, &moved);
		if (i % 2)
			harness_spin(h, 1);
		file_abandon(moved.transfer);
		download_wait(h, sandbox, "/size/1", &other);
		assert_int_equal(other.err.code, 0);
		assert_false(moved.done);
	}
}

static void many_uploads_at_once_stay_within_the_queue(void **state)
{
	struct sandbox *sandbox = create_ok(*state, "agent");
	struct moved moved[FILE_HANDLES_MAX] = { 0 };

	for (size_t i = 0; i < FILE_HANDLES_MAX; i++)
		upload_start(sandbox, "/pattern", 1000000, &moved[i]);
	for (size_t i = 0; i < FILE_HANDLES_MAX; i++) {
		harness_wait(*state, &moved[i].done);
		assert_int_equal(moved[i].err.code, 0);
		assert_int_equal(moved[i].result.size, 1000000);
	}
}

static void more_transfers_than_the_limit_are_refused(void **state)
{
	struct sandbox *sandbox = create_ok(*state, "agent");
	struct moved moved[FILE_HANDLES_MAX + 1] = { 0 };
	struct ramet_err err = { 0 };

	for (size_t i = 0; i < FILE_HANDLES_MAX; i++)
		upload_start(sandbox, "/pattern", 1, &moved[i]);
	assert_int_equal(sandbox_download(sandbox, "/size/1", &moved_callbacks,
					  &moved[FILE_HANDLES_MAX],
					  &moved[FILE_HANDLES_MAX].transfer, &err),
			 -EBUSY);
	assert_words(err.msg, "transfers");
	for (size_t i = 0; i < FILE_HANDLES_MAX; i++)
		harness_wait(*state, &moved[i].done);
}

static void bad_paths_and_modes_are_refused(void **state)
{
	struct sandbox *sandbox = create_ok(*state, "agent");
	char path[PATH_LENGTH_MAX + 2];
	struct ramet_err err = { 0 };
	struct moved moved = { 0 };

	memset(path, 'p', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(
		sandbox_download(sandbox, path, &moved_callbacks, &moved, &moved.transfer, &err),
		-ENAMETOOLONG);
	assert_words(err.msg, "path_length");
	assert_int_equal(sandbox_list(sandbox, "", &moved_callbacks, &moved, &moved.transfer, &err),
			 -EINVAL);
	assert_int_equal(sandbox_upload(sandbox, "/x", 0100644, &moved_callbacks, &moved,
					&moved.transfer, &err),
			 -EINVAL);
	assert_words(err.msg, "permission bits");
	assert_null(moved.transfer);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, harness_setup, harness_teardown)
	const struct CMUnitTest tests[] = {
		TEST(ten_megabytes_come_down_whole),
		TEST(sizes_around_a_chunk_come_down_whole),
		TEST(a_file_without_a_size_is_read_to_its_end),
		TEST(a_missing_file_is_an_error),
		TEST(a_file_that_shrinks_is_an_error),
		TEST(a_download_with_the_wrong_hash_is_an_error),
		TEST(a_download_stops_when_it_is_not_consumed),
		TEST(an_abandoned_download_closes_its_handle),
		TEST(a_guest_that_does_not_answer_a_read_is_not_waited_for),
		TEST(a_download_that_breaks_the_protocol_fails_the_sandbox),
		TEST(ten_megabytes_go_up_whole),
		TEST(both_ways_give_the_same_hash),
		TEST(sizes_around_a_chunk_go_up_whole),
		TEST(a_full_disk_is_an_error),
		TEST(an_upload_with_the_wrong_hash_is_an_error),
		TEST(an_abandoned_upload_closes_its_handle),
		TEST(many_uploads_at_once_stay_within_the_queue),
		TEST(more_transfers_than_the_limit_are_refused),
		TEST(bad_paths_and_modes_are_refused),
	};
	int skip = harness_unavailable();

	return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
