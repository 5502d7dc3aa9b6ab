/* Layers and stitching: who can change what, and what a child sees. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "tests/unit/uffd_fixture.h"
#include "uffd/layer.h"
#include "uffd/stitch.h"

#define SIZE  (2 * MIB)
#define PAGES (SIZE / PAGE)

static int device;

/* A filled, writable layer whose pages are in `version`. */
static int layer_filled(uint32_t version)
{
	struct ramet_err err;
	int fd = layer_create("ramet-test", SIZE, &err);
	uint8_t page[PAGE];

	assert_true(fd >= 0);
	for (uint64_t i = 0; i < PAGES; i++) {
		page_write(page, i, version);
		assert_int_equal(pwrite(fd, page, PAGE, (off_t)(i * PAGE)), PAGE);
	}
	return fd;
}

static int layer_readonly(int layer)
{
	struct ramet_err err;
	int fd = layer_open_readonly(layer, &err);

	assert_true(fd >= 0);
	return fd;
}

/* ---- layers ---- */

static void a_new_layer_is_empty_and_has_a_fixed_size(void **state)
{
	struct ramet_err err;
	struct layer_stat st;
	cleanup_close int fd = layer_create("ramet-test", SIZE, &err);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(layer_stat(fd, &st, &err), 0);
	assert_int_equal(st.size, SIZE);
	assert_int_equal(st.resident, 0);
	assert_int_equal(ftruncate(fd, SIZE / 2), -1);
	assert_int_equal(ftruncate(fd, SIZE * 2), -1);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
}

static void bad_sizes_are_refused(void **state)
{
	struct ramet_err err;

	(void)state;
	assert_int_equal(layer_create("ramet-test", 0, &err), -EINVAL);
	assert_int_equal(layer_create("ramet-test", PAGE + 1, &err), -EINVAL);
	assert_int_equal(layer_create("ramet-test", RANGES_SIZE_MAX + PAGE, &err), -EINVAL);
}

static void resident_bytes_are_pages_that_exist(void **state)
{
	struct ramet_err err;
	struct layer_stat st;
	cleanup_close int fd = layer_create("ramet-test", SIZE, &err);

	(void)state;
	assert_int_equal(pwrite(fd, "x", 1, 5 * PAGE), 1);
	assert_int_equal(pwrite(fd, "x", 1, 9 * PAGE), 1);
	assert_int_equal(layer_stat(fd, &st, &err), 0);
	assert_int_equal(st.resident, 2 * PAGE);
}

static void a_sealed_layer_cannot_be_written(void **state)
{
	struct ramet_err err;
	bool sealed = true;
	cleanup_close int fd = layer_filled(1);

	(void)state;
	assert_int_equal(layer_sealed(fd, &sealed, &err), 0);
	assert_false(sealed);
	assert_int_equal(layer_seal(fd, &err), 0);
	assert_int_equal(layer_sealed(fd, &sealed, &err), 0);
	assert_true(sealed);
	assert_int_equal(layer_seal(fd, &err), 0);
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE), -1);
	assert_ptr_equal(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
}

static void sealing_fails_while_somebody_can_write(void **state)
{
	struct ramet_err err;
	cleanup_close int fd = layer_filled(1);
	void *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	(void)state;
	assert_ptr_not_equal(map, MAP_FAILED);
	assert_int_equal(layer_seal(fd, &err), -EBUSY);
	assert_non_null(strstr(err.msg, "mapped for writing"));
	assert_int_equal(munmap(map, SIZE), 0);
	assert_int_equal(layer_seal(fd, &err), 0);
}

static void sealing_works_while_children_have_it_mapped(void **state)
{
	struct ramet_err err;
	cleanup_close int fd = layer_filled(1);
	cleanup_close int child = layer_readonly(fd);
	uint8_t *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, child, 0);

	(void)state;
	assert_ptr_not_equal(map, MAP_FAILED);
	map[0] ^= 1;
	assert_true(page_is(map + PAGE, 1, 1));
	assert_int_equal(layer_seal(fd, &err), 0);
	map[PAGE] ^= 1;
	assert_int_equal(munmap(map, SIZE), 0);
}

static void what_is_no_layer_cannot_be_sealed(void **state)
{
	struct ramet_err err;
	cleanup_close int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)state;
	assert_int_equal(layer_seal(fd, &err), -EINVAL);
}

static void a_readonly_descriptor_writes_in_no_way(void **state)
{
	struct ramet_err err;
	cleanup_close int fd = layer_filled(1);
	cleanup_close int child = layer_readonly(fd);
	uint8_t *map, page[PAGE];

	(void)state;
	assert_int_equal(pwrite(child, "x", 1, 0), -1);
	assert_ptr_equal(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, child, 0),
			 MAP_FAILED);
	map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, child, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	assert_int_equal(mprotect(map, SIZE, PROT_READ | PROT_WRITE), -1);
	assert_int_equal(munmap(map, SIZE), 0);
	assert_int_equal(fallocate(child, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE), -1);
	assert_int_equal(layer_seal(child, &err), -EPERM);
	map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, child, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	memset(map, 0xee, SIZE);
	assert_int_equal(munmap(map, SIZE), 0);
	assert_int_equal(pread(fd, page, PAGE, 7 * PAGE), PAGE);
	assert_true(page_is(page, 7, 1));
}

static void others_cannot_open_a_layer_for_writing(void **state)
{
	cleanup_close int fd = layer_filled(1);
	struct stat st;

	(void)state;
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

/* ---- stitching ---- */

static struct extent_map *map_of(const struct extent *extents, size_t count)
{
	struct extent_map *map = NULL;

	assert_int_equal(extent_map_create(&map, SIZE, EXTENT_ZERO, NULL), 0);
	for (size_t i = 0; i < count; i++) {
		struct extent_map *above = NULL;
		struct range r = { extents[i].start * PAGE, extents[i].end * PAGE };

		assert_int_equal(extent_map_overlay(&above, map, &r, 1, extents[i].layer, NULL), 0);
		free(map);
		map = above;
	}
	return map;
}

/* Each page shows the layer that the map says, filled with its number plus one. */
static void assert_stitched(const uint8_t *base, const struct extent_map *map)
{
	for (uint64_t page = 0; page < PAGES; page++) {
		uint32_t layer = extent_map_find(map, page * PAGE)->layer;

		assert_true(
			page_is(base + page * PAGE, page, layer == EXTENT_ZERO ? 0 : layer + 1));
	}
}

static void a_stitched_child_sees_each_layer_at_its_place(void **state)
{
	const struct extent extents[] = { { 0, 400, 0 }, { 100, 200, 1 }, { 150, 160, 2 } };
	cleanup_extent_map struct extent_map *map = map_of(extents, 3);
	cleanup_close int a = layer_filled(1);
	cleanup_close int b = layer_filled(2);
	cleanup_close int c = layer_filled(3);
	const int layers[] = { a, b, c };
	struct ramet_err err;
	uint8_t *base;

	(void)state;
	assert_int_equal(stitch_reserve(&base, SIZE, &err), 0);
	assert_int_equal((uintptr_t)base % SIZE, 0);
	assert_int_equal(stitch(base, map, false, layers, 3, &err), 0);
	assert_stitched(base, map);
	assert_int_equal(munmap(base, SIZE), 0);
}

/* Whatever lies over whatever. */
static void any_order_of_layers_is_stitched_right(void **state)
{
	cleanup_close int a = layer_filled(1);
	cleanup_close int b = layer_filled(2);
	cleanup_close int c = layer_filled(3);
	const int layers[] = { a, b, c };
	unsigned int seed = 4711;

	(void)state;
	for (int round = 0; round < 50; round++) {
		struct extent extents[40];
		struct extent_map *map;
		struct ramet_err err;
		uint8_t *base;

		for (int i = 0; i < 40; i++) {
			uint64_t at = (unsigned int)rand_r(&seed) % (PAGES - 20);
			uint32_t layer = (uint32_t)rand_r(&seed) % 4;

			extents[i] = (struct extent){ at, at + 1 + (uint64_t)rand_r(&seed) % 20,
						      layer == 3 ? EXTENT_ZERO : layer };
		}
		map = map_of(extents, 40);
		assert_int_equal(stitch_reserve(&base, SIZE, &err), 0);
		assert_int_equal(stitch(base, map, false, layers, 3, &err), 0);
		assert_stitched(base, map);
		assert_int_equal(munmap(base, SIZE), 0);
		free(map);
	}
}

/* A map over another one's memory: only what is new is mapped. */
static void what_lies_above_is_stitched_over_what_is_there(void **state)
{
	const struct extent image[] = { { 0, 400, 0 } };
	const struct extent child[] = { { 0, 400, 0 }, { 100, 200, 1 }, { 450, 460, 1 } };
	const struct extent other[] = { { 0, 300, 0 }, { 100, 200, 1 } };
	cleanup_extent_map struct extent_map *below = map_of(image, 1);
	cleanup_extent_map struct extent_map *map = map_of(child, 3);
	cleanup_extent_map struct extent_map *misfit = map_of(other, 2);
	cleanup_close int a = layer_filled(1);
	cleanup_close int b = layer_filled(2);
	const int layers[] = { a, b };
	struct ramet_err err;
	uint8_t *base;

	(void)state;
	assert_true(stitch_fits_above(map, below));
	assert_true(stitch_fits_above(below, below));
	assert_false(stitch_fits_above(misfit, below)); /* zeros where the image has pages */
	assert_false(stitch_fits_above(below, map));
	assert_int_equal(stitch_reserve(&base, SIZE, &err), 0);
	assert_int_equal(stitch(base, below, false, layers, 1, &err), 0);
	assert_true(page_is(base + 50 * PAGE, 50, 1));
	assert_int_equal(stitch(base, map, true, layers, 2, &err), 0);
	assert_stitched(base, map);
	assert_int_equal(munmap(base, SIZE), 0);
}

static void each_extent_is_one_mapping(void **state)
{
	const struct extent extents[] = { { 0, 400, 0 }, { 100, 200, 1 } };
	cleanup_extent_map struct extent_map *map = map_of(extents, 2);
	cleanup_close int a = layer_filled(1);
	cleanup_close int b = layer_filled(2);
	struct ramet_err err;
	uint8_t *base;

	(void)state;
	assert_int_equal(stitch_reserve(&base, SIZE, &err), 0);
	assert_int_equal(stitch(base, map, false, (const int[]){ a, b }, 2, &err), 0);
	assert_int_equal(map->count, 4);
	assert_int_equal(mappings("memfd:ramet-test"), 3);
	assert_int_equal(munmap(base, SIZE), 0);
}

static void what_a_child_writes_is_its_own(void **state)
{
	cleanup_extent_map struct extent_map *map = map_of((struct extent[]){ { 0, 300, 0 } }, 1);
	cleanup_close int a = layer_filled(1);
	cleanup_close int ro = layer_readonly(a);
	struct ramet_err err;
	uint8_t *one, *two;

	(void)state;
	assert_int_equal(stitch_reserve(&one, SIZE, &err), 0);
	assert_int_equal(stitch_reserve(&two, SIZE, &err), 0);
	assert_int_equal(stitch(one, map, false, &ro, 1, &err), 0);
	assert_int_equal(stitch(two, map, false, &ro, 1, &err), 0);
	for (uint64_t page = 0; page < PAGES; page++)
		page_write(one + page * PAGE, page, 9);
	for (uint64_t page = 0; page < PAGES; page++) {
		assert_true(page_is(one + page * PAGE, page, 9));
		assert_true(page_is(two + page * PAGE, page, page < 300 ? 1 : 0));
	}
	assert_int_equal(munmap(one, SIZE), 0);
	assert_int_equal(munmap(two, SIZE), 0);
}

static void a_failed_stitch_leaves_a_reservation(void **state)
{
	const struct extent extents[] = { { 0, 100, 0 }, { 100, 200, 1 } };
	cleanup_extent_map struct extent_map *map = map_of(extents, 2);
	cleanup_close int a = layer_filled(1);
	cleanup_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	cleanup_close int small = layer_create("ramet-test", PAGE, NULL);
	cleanup_close int writeonly = -1;
	unsigned int before;
	struct ramet_err err;
	char path[64];
	uint8_t *base;

	(void)state;
	assert_int_equal(stitch_reserve(&base, SIZE, &err), 0);
	before = mappings(NULL);
	assert_int_equal(stitch(base, map, false, &a, 1, &err), -EINVAL);
	assert_int_equal(stitch(base, map, false, (const int[]){ a, null }, 2, &err), -EINVAL);
	assert_int_equal(stitch(base, map, false, (const int[]){ a, small }, 2, &err), -EINVAL);
	assert_int_equal(stitch(base, map, false, (const int[]){ a, -1 }, 2, &err), -EBADF);
	/* The second extent fails when the first is mapped. */
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", a);
	writeonly = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(writeonly >= 0);
	assert_int_equal(stitch(base, map, false, (const int[]){ a, writeonly }, 2, &err), -EACCES);
	assert_int_equal(mappings(NULL), before);
	assert_int_equal(mappings("memfd:ramet-test"), 0);
	assert_int_equal(munmap(base, SIZE), 0);
}

static void only_a_layer_in_use_can_be_watched(void **state)
{
	cleanup_extent_map struct extent_map *map = map_of((struct extent[]){ { 0, 300, 0 } }, 1);
	cleanup_close int a = layer_filled(1);
	struct ramet_err err;
	unsigned int fds;
	uint8_t *base;
	int uffd;

	(void)state;
	assert_int_equal(stitch_reserve(&base, SIZE, &err), 0);
	assert_int_equal(stitch(base, map, false, &a, 1, &err), 0);
	fds = fds_open();
	assert_int_equal(stitch_watch(base, map, 1, device, &err), -ENOENT);
	assert_int_equal(stitch_watch(base, map, EXTENT_ZERO, device, &err), -ENOENT);
	assert_int_equal(fds_open(), fds);
	uffd = stitch_watch(base, map, 0, device, &err);
	assert_true(uffd >= 0);
	/* Pages that are there need no donor. */
	assert_true(page_is(base, 0, 1));
	assert_int_equal(stitch_watch(base, map, 0, device, &err), -EBUSY);
	assert_int_equal(stitch_unwatch(base, map, 0, uffd, &err), 0);
	assert_int_equal(close(uffd), 0);
	assert_int_equal(munmap(base, SIZE), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_layer_is_empty_and_has_a_fixed_size),
		cmocka_unit_test(bad_sizes_are_refused),
		cmocka_unit_test(resident_bytes_are_pages_that_exist),
		cmocka_unit_test(a_sealed_layer_cannot_be_written),
		cmocka_unit_test(sealing_fails_while_somebody_can_write),
		cmocka_unit_test(sealing_works_while_children_have_it_mapped),
		cmocka_unit_test(what_is_no_layer_cannot_be_sealed),
		cmocka_unit_test(a_readonly_descriptor_writes_in_no_way),
		cmocka_unit_test(others_cannot_open_a_layer_for_writing),
		cmocka_unit_test(a_stitched_child_sees_each_layer_at_its_place),
		cmocka_unit_test(any_order_of_layers_is_stitched_right),
		cmocka_unit_test(what_lies_above_is_stitched_over_what_is_there),
		cmocka_unit_test(each_extent_is_one_mapping),
		cmocka_unit_test(what_a_child_writes_is_its_own),
		cmocka_unit_test(a_failed_stitch_leaves_a_reservation),
		cmocka_unit_test(only_a_layer_in_use_can_be_watched),
	};

	device = device_or_skip();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
