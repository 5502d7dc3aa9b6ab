/* The engine's small parts: state directory, templates, console, text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/console.h"
#include "engine/m2p.h"
#include "engine/state.h"
#include "engine/template.h"
#include "engine/text.h"

/* A fresh directory per test, which is also the working directory. */
static int setup(void **state)
{
	char *dir = strdup("/tmp/ramet-parts-XXXXXX");

	*state = dir;
	return mkdtemp(dir) ? chdir(dir) : -1;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st;
	(void)type;
	(void)where;
	return remove(path);
}

static int teardown(void **state)
{
	int r = chdir("/") | nftw(*state, remove_entry, 8, FTW_DEPTH | FTW_PHYS);

	free(*state);
	return r;
}

static void put(const char *name, const char *content)
{
	FILE *file = fopen(name, "we");

	assert_non_null(file);
	assert_true(fputs(content, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

static void words(const struct ramet_err *err, const char *word)
{
	if (!strstr(err->msg, word))
		fail_msg("'%s' does not mention '%s'", err->msg, word);
}

/* ---- state ---- */

static struct state *state_of(void **state)
{
	struct ramet_err err = { 0 };
	struct state *s = NULL;
	char dir[64];

	(void)snprintf(dir, sizeof(dir), "%s/state", (char *)*state);
	if (state_open(dir, &s, &err) < 0)
		fail_msg("%s", err.msg);
	return s;
}

static void a_relative_state_directory_is_refused(void **state)
{
	struct ramet_err err;
	struct state *s;

	(void)state;
	assert_int_equal(state_open("state", &s, &err), -EINVAL);
	words(&err, "absolute");
}

static void a_missing_parent_is_an_error(void **state)
{
	struct ramet_err err;
	struct state *s;
	char dir[64];

	(void)snprintf(dir, sizeof(dir), "%s/no/state", (char *)*state);
	assert_int_equal(state_open(dir, &s, &err), -ENOENT);
	words(&err, dir);
}

static void the_state_directory_is_private(void **state)
{
	struct state *s = state_of(state);
	struct stat st;

	assert_int_equal(stat("state", &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	state_close(s);
}

static void the_lock_outlives_nobody(void **state)
{
	struct ramet_err err;
	struct state *s = state_of(state), *second;
	char dir[64];

	(void)snprintf(dir, sizeof(dir), "%s/state", (char *)*state);
	assert_int_equal(state_open(dir, &second, &err), -EBUSY);
	state_close(s);
	state_close(state_of(state));
}

/* The file names a pid that lives, but not the process that wrote it. */
static void a_reused_pid_is_not_blamed(void **state)
{
	struct state *s = state_of(state), *second;
	struct ramet_err err;
	char dir[64];

	put("state/lock", "1 99999999999\n");
	(void)snprintf(dir, sizeof(dir), "%s/state", (char *)*state);
	assert_int_equal(state_open(dir, &second, &err), -EBUSY);
	words(&err, "another daemon");
	assert_null(strstr(err.msg, "pid 1"));
	state_close(s);
}

static void leftovers_are_removed_whatever_they_are(void **state)
{
	struct state *s;

	put("outside", "keep me");
	assert_int_equal(mkdir("state", 0700) | mkdir("state/run", 0700) |
				 mkdir("state/run/a", 0700) | mkdir("state/run/a/b", 0700),
			 0);
	put("state/run/sbx_old", "python");
	put("state/run/a/b/file", "x");
	assert_int_equal(symlink("../../outside", "state/run/link"), 0);
	assert_int_equal(symlink("..", "state/run/a/up"), 0);
	s = state_of(state);
	assert_int_equal(rmdir("state/run"), 0); /* so it is empty */
	assert_int_equal(access("outside", F_OK), 0);
	state_close(s);
}

static void records_come_and_go(void **state)
{
	struct state *s = state_of(state);
	struct ramet_err err;

	assert_int_equal(state_record(s, "sbx_a", NULL), 0);
	assert_int_equal(access("state/run/sbx_a", F_OK), 0);
	assert_int_equal(state_record(s, "sbx_a", &err), -EEXIST);
	state_forget(s, "sbx_a");
	assert_int_equal(access("state/run/sbx_a", F_OK), -1);
	assert_int_equal(state_record(s, "sbx_b", NULL), 0);
	state_close(s);
	assert_int_equal(access("state/run", F_OK), -1);
}

static void cgroup_names_belong_to_directories(void **state)
{
	struct state *s = state_of(state), *other;
	char first[64], dir[64];

	(void)snprintf(first, sizeof(first), "%s", state_cgroup_name(s));
	state_close(s);
	s = state_of(state);
	assert_string_equal(state_cgroup_name(s), first);
	(void)snprintf(dir, sizeof(dir), "%s/other", (char *)*state);
	assert_int_equal(state_open(dir, &other, NULL), 0);
	assert_string_not_equal(state_cgroup_name(other), first);
	state_close(other);
	state_close(s);
}

/* ---- templates ---- */

static void make_images(void)
{
	assert_int_equal(mkdir("kernel", 0755) | mkdir("templates", 0755) |
				 mkdir("templates/python", 0755),
			 0);
	put("kernel/vmlinux", "kernel");
	put("kernel/modules.cpio", "modules");
	put("agent.cpio", "agent");
	put("templates/python/root.cpio.zst", "root");
}

static void template_fails(void **state, int code, const char *word)
{
	struct template_files files;
	struct ramet_err err;

	assert_int_equal(template_open(*state, "python", &files, &err), -code);
	words(&err, word);
}

static void check_content(int fd, const char *content)
{
	char text[16] = "";

	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	assert_string_equal(text, content);
}

static void a_template_is_opened_in_boot_order(void **state)
{
	struct template_files files, again;

	make_images();
	assert_int_equal(template_open(*state, "python", &files, NULL), 0);
	check_content(files.kernel_fd, "kernel");
	check_content(files.initrd_fds[0], "root");
	check_content(files.initrd_fds[1], "modules");
	check_content(files.initrd_fds[2], "agent");
	/* Offsets are not shared with the next one to open it. */
	assert_int_equal(template_open(*state, "python", &again, NULL), 0);
	check_content(again.initrd_fds[0], "root");
	template_close(&files);
	template_close(&again);
	assert_int_equal(files.kernel_fd, -1);
}

static void a_missing_piece_is_named(void **state)
{
	template_fails(state, ENOENT, "no template 'python'");
	make_images();
	assert_int_equal(unlink("kernel/vmlinux"), 0);
	template_fails(state, ENOENT, "kernel/vmlinux");
	assert_int_equal(unlink("agent.cpio"), 0);
	template_fails(state, ENOENT, "agent.cpio");
	assert_int_equal(unlink("kernel/modules.cpio"), 0);
	template_fails(state, ENOENT, "kernel/modules.cpio");
	assert_int_equal(unlink("templates/python/root.cpio.zst"), 0);
	template_fails(state, ENOENT, "root.cpio*");
}

static void two_root_images_are_ambiguous(void **state)
{
	make_images();
	put("templates/python/root.cpio", "root");
	template_fails(state, EINVAL, "several root images");
}

static void a_piece_that_is_no_file_is_refused(void **state)
{
	make_images();
	assert_int_equal(unlink("agent.cpio"), 0);
	assert_int_equal(mkfifo("agent.cpio", 0600), 0);
	template_fails(state, EINVAL, "not a regular file");
	assert_int_equal(unlink("agent.cpio"), 0);
	put("agent.cpio", "");
	template_fails(state, EINVAL, "with content");
}

/* ---- console ---- */

static void a_console_keeps_the_tail(void **state)
{
	struct console console;
	char stream[1000], copy[100];
	size_t fed = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(stream); i++)
		stream[i] = (char)('a' + i % 26);
	console_init(&console, 64);
	assert_int_equal(console_copy(&console, copy, sizeof(copy)), 0);
	for (size_t step = 1; fed + step <= sizeof(stream); fed += step, step += 7) {
		size_t kept, n = fed + step < 64 ? fed + step : 64;

		console_add(&console, stream + fed, step);
		kept = console_copy(&console, copy, sizeof(copy));
		assert_int_equal(kept, n);
		assert_memory_equal(copy, stream + fed + step - n, n);
		assert_int_equal(console_copy(&console, copy, 5), n < 5 ? n : 5);
		n = n < 5 ? n : 5;
		assert_memory_equal(copy, stream + fed + step - n, n);
	}
	assert_true(fed > 700);
	console_free(&console);
}

/* ---- text ---- */

static void text_becomes_printable(void **state)
{
	char out[64];
	static const char text[] = "a\r\n\tb\x1b[1m\xc3\xa9 \n";

	(void)state;
	assert_int_equal(text_printable(out, sizeof(out), text, sizeof(text)), 9);
	assert_string_equal(out, "a b?[1m??");
}

static void text_stops_at_its_ends(void **state)
{
	char out[4];

	(void)state;
	assert_int_equal(text_printable(out, sizeof(out), "abcdef", 6), 3);
	assert_string_equal(out, "abc");
	assert_int_equal(text_printable(out, sizeof(out), "a\0b", 3), 1);
	assert_int_equal(text_printable(out, sizeof(out), NULL, 0), 0);
	assert_string_equal(out, "");
}

/* ---- the machine-to-physical table ---- */

static void m2p_entries_are_their_own_numbers(void **state)
{
	struct m2p m2p = { .fd = -1 };
	int fd = m2p_fd(&m2p, 3ull << 30, NULL);
	const uint64_t entries = (3ull << 30) / 4096;
	const uint64_t *table;

	(void)state;
	assert_true(fd >= 0);
	table = mmap(NULL, entries * 8, PROT_READ, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(table, MAP_FAILED);
	for (uint64_t i = 0; i < entries; i++)
		if (table[i] != i)
			fail_msg("entry %llu is %llu", (unsigned long long)i,
				 (unsigned long long)table[i]);
	assert_int_equal(munmap((void *)table, entries * 8), 0);
	m2p_close(&m2p);
	assert_int_equal(m2p.fd, -1);
}

static void m2p_is_the_same_for_all_that_it_is_long_enough_for(void **state)
{
	struct m2p m2p = { .fd = -1 };
	int fd = m2p_fd(&m2p, 1ull << 30, NULL);
	struct stat small, large;

	(void)state;
	assert_int_equal(m2p_fd(&m2p, 512ull << 20, NULL), fd);
	assert_int_equal(m2p_fd(&m2p, 64ull << 20, NULL), fd);
	assert_int_equal(fstat(fd, &small), 0);
	fd = m2p_fd(&m2p, (1ull << 30) + (2 << 20), NULL);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &large), 0);
	assert_true(large.st_size > small.st_size);
	assert_int_equal(m2p_fd(&m2p, 1ull << 30, NULL), fd);
	m2p_close(&m2p);
}

static void m2p_cannot_be_written_to(void **state)
{
	struct m2p m2p = { .fd = -1 };
	int fd = m2p_fd(&m2p, 64ull << 20, NULL);

	(void)state;
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	assert_int_equal(fcntl(fd, F_GET_SEALS) & (F_SEAL_WRITE | F_SEAL_SHRINK),
			 F_SEAL_WRITE | F_SEAL_SHRINK);
	m2p_close(&m2p);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_relative_state_directory_is_refused),
		TEST(a_missing_parent_is_an_error),
		TEST(the_state_directory_is_private),
		TEST(the_lock_outlives_nobody),
		TEST(a_reused_pid_is_not_blamed),
		TEST(leftovers_are_removed_whatever_they_are),
		TEST(records_come_and_go),
		TEST(cgroup_names_belong_to_directories),
		TEST(a_template_is_opened_in_boot_order),
		TEST(a_missing_piece_is_named),
		TEST(two_root_images_are_ambiguous),
		TEST(a_piece_that_is_no_file_is_refused),
		TEST(a_console_keeps_the_tail),
		TEST(text_becomes_printable),
		TEST(text_stops_at_its_ends),
		TEST(m2p_entries_are_their_own_numbers),
		TEST(m2p_is_the_same_for_all_that_it_is_long_enough_for),
		TEST(m2p_cannot_be_written_to),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
