/* Donors without children: what is in the layer afterwards, and what is refused. */
#include <errno.h>

#include "tests/unit/uffd_rig.h"

static int device;

static void a_filled_layer_is_exact(void **state)
{
	const uint64_t sizes[] = { 1 * MIB, 6 * MIB, 64 * MIB, 256 * MIB };
	uint64_t seed = 1;

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		unsigned int fds = fds_open(), maps = mappings("ramet-rig");
		struct donor_stats stats;
		struct rig rig;

		rig_open(&rig, device, sizes[i], ranges_scattered(sizes[i], 60, &seed));
		rig_drive(&rig, -1, true);
		rig_layer_is_right(&rig);
		donor_stats(rig.donor, &stats);
		assert_int_equal(stats.filled, stats.bytes);
		assert_int_equal(stats.events, 0);
		assert_int_equal(mappings("ramet-rig"), maps);
		rig_close(&rig);
		assert_int_equal(fds_open(), fds);
	}
}

static void clean_pages_in_gaps_are_copied(void **state)
{
	/* The source is a mapping of a layer below with one page written. */
	const struct range_policy policy = { .gap = 16 * PAGE, .max = 8 };
	uint64_t words[8] = { 1ull << 3 | 1ull << 12 };
	struct range_list *list = NULL;
	struct ramet_err err;
	struct rig below, rig;
	uint8_t *copy;

	(void)state;
	rig_open(&below, device, 2 * MIB, ranges_whole(2 * MIB));
	rig_drive(&below, -1, true);
	rig_layer_is_right(&below);
	assert_int_equal(ranges_from_bitmap(&list, words, 2 * MIB, &policy, NULL, &err), 0);
	assert_int_equal(list->count, 1);
	rig_open(&rig, device, 2 * MIB, list);
	copy = mmap(rig.source, 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
		    below.readonly, 0);
	assert_ptr_equal(copy, rig.source);
	rig_drive(&rig, -1, true);
	rig_layer_is_right(&rig);
	rig_close(&rig);
	rig_close(&below);
}

static void nothing_to_fill_is_done_at_once(void **state)
{
	struct ramet_err err;
	struct rig rig;

	(void)state;
	rig_open(&rig, device, 1 * MIB, ranges_of(NULL, 0));
	assert_true(donor_done(rig.donor));
	assert_int_equal(donor_step(rig.donor, &err), 0);
	rig_layer_is_right(&rig);
	rig_close(&rig);
}

static void an_unfinished_donor_leaves_nothing_behind(void **state)
{
	unsigned int fds = fds_open(), maps = mappings("ramet-rig");
	struct ramet_err err;
	struct rig rig;

	(void)state;
	rig_open(&rig, device, 16 * MIB, ranges_whole(16 * MIB));
	assert_int_equal(donor_step(rig.donor, &err), 0);
	assert_false(donor_done(rig.donor));
	assert_int_equal(donor_finish(rig.donor, &err), -EAGAIN);
	assert_int_equal(layer_seal(rig.layer, &err), -EBUSY);
	rig_close(&rig);
	assert_int_equal(fds_open(), fds);
	assert_int_equal(mappings("ramet-rig"), maps);
	donor_destroy(NULL);
}

static void bad_donors_are_refused(void **state)
{
	unsigned int fds = fds_open(), maps = mappings("ramet-rig");
	const struct range beyond = { 0, 5 * MIB }, good = { 0, MIB };
	cleanup_close int layer = layer_create("ramet-rig", 4 * MIB, NULL);
	cleanup_close int again = layer_open_readonly(layer, NULL);
	cleanup_close int other = layer_create("ramet-rig", 4 * MIB, NULL);
	uint8_t *source = mmap(NULL, 4 * MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct donor_params p = { .device = device,
				  .layer = layer,
				  .size = 4 * MIB,
				  .source = source,
				  .ranges = &beyond,
				  .range_count = 1,
				  .source_layers = (const int[]){ other, again },
				  .source_layer_count = 1 };
	struct donor *donor = NULL;
	struct ramet_err err;

	(void)state;
	assert_int_equal(donor_create(&donor, &p, &err), -EINVAL);
	p.ranges = &good;
	p.size = 8 * MIB;
	assert_int_equal(donor_create(&donor, &p, &err), -EINVAL);
	p.size = 4 * MIB;
	p.source_layer_count = 2;
	assert_int_equal(donor_create(&donor, &p, &err), -ELOOP);
	p.source_layer_count = 1;
	p.layer = again;
	assert_int_equal(donor_create(&donor, &p, &err), -EACCES);
	p.layer = layer;
	p.device = layer;
	assert_int_equal(donor_create(&donor, &p, &err), -ENOTTY);
	p.device = device;
	assert_int_equal(layer_seal(layer, &err), 0);
	assert_int_equal(donor_create(&donor, &p, &err), -EBUSY);
	assert_null(donor);
	assert_int_equal(munmap(source, 4 * MIB), 0);
	assert_int_equal(fds_open(), fds + 3);
	assert_int_equal(mappings("ramet-rig"), maps);
}

static bool page_there(const struct rig *rig, uint64_t page)
{
	return lseek(rig->layer, (off_t)(page * PAGE), SEEK_DATA) == (off_t)(page * PAGE);
}

static void what_is_named_first_is_filled_first(void **state)
{
	/* The second is not to be filled, the third only in part. */
	const struct range first[] = { { 700 * PAGE, 701 * PAGE },
				       { 100 * PAGE, 101 * PAGE },
				       { 1022 * PAGE, 1030 * PAGE } };
	const struct range ranges[] = { { 200, 1024 } };
	struct ramet_err err;
	struct rig rig;

	(void)state;
	rig_open(&rig, device, 4 * MIB, ranges_of(ranges, 1));
	donor_destroy(rig.donor);
	rig.first = first;
	rig.first_count = 3;
	assert_int_equal(rig_donor(&rig, &err), 0);
	assert_true(donor_wanted(rig.donor));
	assert_int_equal(donor_step(rig.donor, &err), 0);
	assert_false(donor_wanted(rig.donor)); /* nobody waits for the rest */
	assert_true(page_there(&rig, 700));
	assert_true(page_there(&rig, 1022));
	assert_true(page_there(&rig, 1023));
	assert_false(page_there(&rig, 1000));
	assert_false(page_there(&rig, 100));
	rig_drive(&rig, -1, true);
	rig_layer_is_right(&rig);
	rig_close(&rig);
}

static void an_unreadable_source_is_an_error(void **state)
{
	struct ramet_err err;
	struct rig rig;
	int rc;

	(void)state;
	rig_open(&rig, device, 4 * MIB, ranges_whole(4 * MIB));
	assert_int_equal(mprotect(rig.source + 512 * PAGE, PAGE, PROT_NONE), 0);
	do
		rc = donor_step(rig.donor, &err);
	while (rc == 0 && !donor_done(rig.donor));
	assert_int_equal(rc, -EFAULT);
	assert_non_null(strstr(err.msg, "0x200000"));
	assert_false(donor_done(rig.donor));
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_filled_layer_is_exact),
		cmocka_unit_test(clean_pages_in_gaps_are_copied),
		cmocka_unit_test(nothing_to_fill_is_done_at_once),
		cmocka_unit_test(an_unfinished_donor_leaves_nothing_behind),
		cmocka_unit_test(bad_donors_are_refused),
		cmocka_unit_test(what_is_named_first_is_filled_first),
		cmocka_unit_test(an_unreadable_source_is_an_error),
	};

	device = device_or_skip();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
