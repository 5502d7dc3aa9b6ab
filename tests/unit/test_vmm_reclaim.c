/* Which pages are dropped, and what a fork sees of it: machines of KVM whose
 * guest does not run; what the VMM writes stands for what a guest writes. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/cleanup.h"
#include "vmm/reclaim.h"

#define RAM    (64ull << 20)
#define FRAMES (RAM / PAGE_SIZE)
#define OLD    0x11 /* what the layer holds */
#define NEW    0x22

static uint64_t all[FREE_PAGES_MAX / 64];

struct bed {
	int kvm_fd;
	struct machine m;
};

/* A layer full of OLD below a shell. */
static void layer_map(struct machine *m)
{
	cleanup_close int fd = memfd_create("layer", MFD_CLOEXEC);
	uint8_t page[PAGE_SIZE];

	assert_true(fd >= 0);
	memset(page, OLD, sizeof(page));
	for (uint64_t at = 0; at < m->mem.size; at += sizeof(page))
		assert_int_equal(pwrite(fd, page, sizeof(page), (off_t)at), sizeof(page));
	assert_ptr_equal(mmap(m->mem.base, m->mem.size, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_FIXED, fd, 0),
			 m->mem.base);
}

static int bed_setup(void **state, bool shell)
{
	struct bed *bed = calloc(1, sizeof(*bed));
	struct host_facts host = { 0 };
	struct machine_config config = { .m2p_fd = -1,
					 .ram_bytes = RAM,
					 .isolation = ISOLATION_FULL,
					 .plain = true,
					 .shell = shell };
	struct ramet_err err = { 0 };
	int rc;

	assert_non_null(bed);
	memset(all, 0xff, sizeof(all));
	bed->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (bed->kvm_fd < 0 || probe_run(bed->kvm_fd, &host.probe, &err)) {
		close_fd(&bed->kvm_fd);
		free(bed);
		*state = NULL;
		return 0;
	}
	config.kvm_fd = bed->kvm_fd;
	rc = machine_create(&bed->m, &config, &host, &err);
	if (rc)
		fail_msg("%s", err.msg);
	if (shell)
		layer_map(&bed->m);
	*state = bed;
	return 0;
}

static int setup_shell(void **state)
{
	return bed_setup(state, true);
}

static int setup_booted(void **state)
{
	return bed_setup(state, false);
}

static int teardown(void **state)
{
	struct bed *bed = *state;

	if (!bed)
		return 0;
	machine_destroy(&bed->m);
	close_fd(&bed->kvm_fd);
	free(bed);
	return 0;
}

static struct machine *machine_of(void **state)
{
	struct bed *bed = *state;

	if (!bed) {
		print_message("/dev/kvm cannot be used here\n");
		skip();
	}
	return &bed->m;
}

static void page_write(struct machine *m, uint64_t frame, int value)
{
	uint8_t page[PAGE_SIZE];

	memset(page, value, sizeof(page));
	assert_int_equal(guest_write(&m->mem, frame * PAGE_SIZE, page, sizeof(page)), 0);
}

/* Not through guest_read(), which counts as a touch. */
static int page_value(const struct machine *m, uint64_t frame)
{
	return m->mem.base[frame * PAGE_SIZE + 77];
}

static unsigned int dirty_count(const struct machine *m)
{
	size_t words = m->mem.size / PAGE_SIZE / 64;
	cleanup_free uint64_t *bitmap = calloc(words, sizeof(*bitmap));
	struct ramet_err err;
	unsigned int count = 0;

	assert_non_null(bitmap);
	assert_int_equal(machine_dirty_pages(m, bitmap, &err), 0);
	for (size_t i = 0; i < words; i++)
		count += (unsigned int)__builtin_popcountll(bitmap[i]);
	return count;
}

static void a_page_named_twice_is_dropped(void **state)
{
	struct machine *m = machine_of(state);

	page_write(m, 100, NEW);
	assert_int_equal(reclaim_pages(m, 64, 64, all), 0);
	assert_int_equal(page_value(m, 100), NEW);
	assert_int_equal(reclaim_pages(m, 64, 64, all), 1);
	assert_int_equal(page_value(m, 100), OLD);
	assert_int_equal(reclaim_pages(m, 64, 64, all), 0);
}

static void a_page_written_in_between_is_kept(void **state)
{
	struct machine *m = machine_of(state);

	page_write(m, 100, NEW);
	page_write(m, 101, NEW);
	assert_int_equal(reclaim_pages(m, 64, 64, all), 0);
	page_write(m, 101, NEW + 1);
	assert_int_equal(reclaim_pages(m, 64, 64, all), 1);
	assert_int_equal(page_value(m, 100), OLD);
	assert_int_equal(page_value(m, 101), NEW + 1);
	assert_int_equal(reclaim_pages(m, 64, 64, all), 1); /* armed by the second call */
	assert_int_equal(page_value(m, 101), OLD);
}

static void a_page_that_is_not_named_again_is_kept(void **state)
{
	struct machine *m = machine_of(state);
	uint64_t first[2] = { 1ull << 5, 1ull << 63 }, second[2] = { 1ull << 6, 1ull << 63 };

	page_write(m, 5, NEW);
	page_write(m, 6, NEW);
	page_write(m, 127, NEW);
	assert_int_equal(reclaim_pages(m, 0, 128, first), 0);
	assert_int_equal(reclaim_pages(m, 0, 128, second), 1);
	assert_int_equal(page_value(m, 5), NEW);
	assert_int_equal(page_value(m, 6), NEW);
	assert_int_equal(page_value(m, 127), OLD);
}

static void pages_that_are_shared_anyway_are_not_counted(void **state)
{
	struct machine *m = machine_of(state);

	assert_int_equal(reclaim_pages(m, 0, FREE_PAGES_MAX, all), 0);
	assert_int_equal(reclaim_pages(m, 0, FREE_PAGES_MAX, all), 0);
	assert_int_equal(dirty_count(m), 0);
}

static void runs_across_words_are_dropped_whole(void **state)
{
	struct machine *m = machine_of(state);

	for (uint64_t frame = 0; frame < FRAMES; frame++)
		page_write(m, frame, NEW);
	for (uint64_t i = 0; i < 256; i++)
		all[i] = i % 3 ? 0xfffffffffffffffeull : 0x8000000000000001ull;
	assert_int_equal(reclaim_pages(m, 0, FREE_PAGES_MAX, all), 0);
	assert_int_equal(reclaim_pages(m, 0, FREE_PAGES_MAX, all), 86 * 2 + 170 * 63);
	for (uint64_t frame = 0; frame < FRAMES; frame++)
		assert_int_equal(page_value(m, frame),
				 all[frame / 64] >> (frame % 64) & 1 ? OLD : NEW);
}

static void a_fork_copies_what_is_changed_and_nothing_else(void **state)
{
	struct machine *m = machine_of(state);

	for (uint64_t frame = 0; frame < 256; frame++)
		page_write(m, frame, NEW);
	assert_int_equal(dirty_count(m), 256);
	assert_int_equal(reclaim_changed_count(m), 256);
	all[0] = all[1] = 0;
	assert_int_equal(reclaim_pages(m, 0, 256, all), 0);
	assert_int_equal(dirty_count(m), 256); /* armed is not yet dropped */
	assert_int_equal(reclaim_pages(m, 0, 256, all), 128);
	assert_int_equal(dirty_count(m), 128);
	assert_int_equal(reclaim_changed_count(m), 128);
	page_write(m, 200, NEW);
	assert_int_equal(dirty_count(m), 129);
	assert_int_equal(page_value(m, 201), OLD);
}

static void frames_outside_of_ram_are_refused(void **state)
{
	struct machine *m = machine_of(state);
	const uint64_t bad[][2] = {
		{ FRAMES, 64 },
		{ FRAMES - 64, 128 },
		{ FRAMES + 64, 64 },
		{ UINT64_MAX - 63, 64 },
		{ UINT64_MAX - 63, 128 },
		{ 1ull << 52, 64 },
		{ 0, FREE_PAGES_MAX + 64 },
		{ 0, UINT64_MAX - 63 },
		{ 1, 64 },
		{ 0, 1 },
		{ 32, 64 },
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(reclaim_pages(m, bad[i][0], bad[i][1], all), -EINVAL);
	assert_int_equal(reclaim_pages(m, FRAMES, 0, all), 0);
	assert_int_equal(reclaim_pages(m, FRAMES - 64, 64, all), 0);
}

static void a_booted_guest_gets_zeros(void **state)
{
	struct machine *m = machine_of(state);

	page_write(m, 100, NEW);
	page_write(m, 101, NEW);
	assert_int_equal(reclaim_changed_count(m), FRAMES);
	assert_int_equal(reclaim_pages(m, 64, 64, all), 0);
	page_write(m, 101, NEW);
	assert_int_equal(reclaim_pages(m, 64, 64, all), 63);
	assert_int_equal(page_value(m, 100), 0);
	assert_int_equal(page_value(m, 101), NEW);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_page_named_twice_is_dropped, setup_shell,
						teardown),
		cmocka_unit_test_setup_teardown(a_page_written_in_between_is_kept, setup_shell,
						teardown),
		cmocka_unit_test_setup_teardown(a_page_that_is_not_named_again_is_kept, setup_shell,
						teardown),
		cmocka_unit_test_setup_teardown(pages_that_are_shared_anyway_are_not_counted,
						setup_shell, teardown),
		cmocka_unit_test_setup_teardown(runs_across_words_are_dropped_whole, setup_shell,
						teardown),
		cmocka_unit_test_setup_teardown(a_fork_copies_what_is_changed_and_nothing_else,
						setup_shell, teardown),
		cmocka_unit_test_setup_teardown(frames_outside_of_ram_are_refused, setup_shell,
						teardown),
		cmocka_unit_test_setup_teardown(a_booted_guest_gets_zeros, setup_booted, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
