/* Ranges from dirty bitmaps. */
#include <errno.h>
#include <time.h>

#include "tests/unit/uffd_fixture.h"

#define PAGES_MAX 4096u

static const struct range_policy exact = { .gap = 0, .max = RANGES_MAX };

static void bit_set(uint64_t *words, uint64_t page)
{
	words[page / 64] |= 1ull << page % 64;
}

static bool bit_get(const uint64_t *words, uint64_t page)
{
	return words[page / 64] >> page % 64 & 1;
}

static void runs_at_word_edges_are_found(void **state)
{
	cleanup_ranges struct range_list *list = NULL;
	uint64_t words[4] = { 0 }, dirty = 0;
	const unsigned int pages[] = { 0, 1, 62, 63, 64, 65, 127, 255 };
	const struct range want[] = { { 0, 2 }, { 62, 66 }, { 127, 128 }, { 255, 256 } };

	(void)state;
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
		bit_set(words, pages[i]);
	assert_int_equal(ranges_from_bitmap(&list, words, 256 * PAGE, &exact, &dirty, NULL), 0);
	assert_int_equal(dirty, 8);
	assert_int_equal(list->count, 4);
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(list->ranges[i].start, want[i].start * PAGE);
		assert_int_equal(list->ranges[i].end, want[i].end * PAGE);
	}
	assert_int_equal(ranges_bytes(list->ranges, list->count), 8 * PAGE);
}

static void a_full_bitmap_is_one_range(void **state)
{
	cleanup_ranges struct range_list *list = NULL;
	uint64_t words[3] = { ~0ull, ~0ull, ~0ull }, dirty = 0;

	(void)state;
	/* 150 pages: bits beyond memory do not count. */
	assert_int_equal(ranges_from_bitmap(&list, words, 150 * PAGE, &exact, &dirty, NULL), 0);
	assert_int_equal(dirty, 150);
	assert_int_equal(list->count, 1);
	assert_int_equal(list->ranges[0].end, 150 * PAGE);
}

static void an_empty_bitmap_has_no_ranges(void **state)
{
	cleanup_ranges struct range_list *list = NULL;
	uint64_t words[2] = { 0 }, dirty = 1;

	(void)state;
	assert_int_equal(ranges_from_bitmap(&list, words, 128 * PAGE, &exact, &dirty, NULL), 0);
	assert_int_equal(dirty, 0);
	assert_int_equal(list->count, 0);
}

static void gaps_up_to_the_policy_are_joined(void **state)
{
	const struct range_policy policy = { .gap = 16 * PAGE, .max = 8 };
	cleanup_ranges struct range_list *list = NULL;
	uint64_t words[4] = { 0 };

	(void)state;
	bit_set(words, 10);
	bit_set(words, 27); /* 16 clean pages between */
	bit_set(words, 45); /* 17 */
	assert_int_equal(ranges_from_bitmap(&list, words, 256 * PAGE, &policy, NULL, NULL), 0);
	assert_int_equal(list->count, 2);
	assert_int_equal(list->ranges[0].start, 10 * PAGE);
	assert_int_equal(list->ranges[0].end, 28 * PAGE);
	assert_int_equal(list->ranges[1].start, 45 * PAGE);
}

static int length_descending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? 1 : x > y ? -1 : 0;
}

/* All clean pages between the first and last dirty one, less the largest
 * gaps that the policy can keep: the best any choice can do. */
static uint64_t least_bytes(const uint64_t *words, uint64_t pages, const struct range_policy *p)
{
	uint64_t gaps[PAGES_MAX], count = 0, first = pages, last = 0, total;

	for (uint64_t page = 0; page < pages; page++) {
		if (!bit_get(words, page))
			continue;
		if (first == pages)
			first = page;
		else if ((page - last - 1) * PAGE > p->gap)
			gaps[count++] = page - last - 1;
		last = page;
	}
	if (first == pages)
		return 0;
	total = last + 1 - first;
	qsort(gaps, count, sizeof(gaps[0]), length_descending);
	for (uint64_t i = 0; i < count && i < p->max - 1; i++)
		total -= gaps[i];
	return total * PAGE;
}

static void random_bitmaps_are_covered_with_the_fewest_pages(void **state)
{
	uint64_t seed = 1;

	(void)state;
	for (int round = 0; round < 600; round++) {
		cleanup_ranges struct range_list *list = NULL;
		uint64_t words[PAGES_MAX / 64] = { 0 };
		uint64_t pages = 1 + random_below(&seed, PAGES_MAX);
		uint64_t runs = random_below(&seed, 200), bytes;
		struct range_policy policy = { .gap = random_below(&seed, 20) * PAGE,
					       .max = 1 + random_below(&seed, 40) };

		for (uint64_t i = 0; i < runs; i++) {
			uint64_t page = random_below(&seed, pages);

			for (uint64_t n = random_below(&seed, 70); n && page < pages; n--)
				bit_set(words, page++);
		}
		assert_int_equal(
			ranges_from_bitmap(&list, words, pages * PAGE, &policy, NULL, NULL), 0);
		assert_true(list->count <= policy.max);
		assert_int_equal(ranges_check(list->ranges, list->count, pages * PAGE, NULL), 0);
		for (uint64_t page = 0; page < pages; page++)
			if (bit_get(words, page))
				assert_non_null(
					ranges_find(list->ranges, list->count, page * PAGE));
		bytes = ranges_bytes(list->ranges, list->count);
		assert_int_equal(bytes, least_bytes(words, pages, &policy));
	}
}

static void bad_requests_are_refused(void **state)
{
	struct range_list *list = NULL;
	const struct range_policy none = { .max = 0 }, many = { .max = RANGES_MAX + 1 };
	uint64_t word = 0;
	struct ramet_err err;

	(void)state;
	assert_int_equal(ranges_from_bitmap(&list, &word, 0, &exact, NULL, &err), -EINVAL);
	assert_int_equal(ranges_from_bitmap(&list, &word, 100, &exact, NULL, &err), -EINVAL);
	assert_int_equal(ranges_from_bitmap(&list, &word, PAGE, &none, NULL, &err), -EINVAL);
	assert_int_equal(ranges_from_bitmap(&list, &word, PAGE, &many, NULL, &err), -EINVAL);
	assert_null(list);
}

static void lists_out_of_order_are_refused(void **state)
{
	const struct range bad[][2] = {
		{ { 0, PAGE }, { PAGE, 2 * PAGE } },         /* touching */
		{ { PAGE, 3 * PAGE }, { 0, PAGE } },         /* falling */
		{ { 0, 3 * PAGE }, { 2 * PAGE, 4 * PAGE } }, /* overlapping */
		{ { 0, PAGE }, { 3 * PAGE, 3 * PAGE } },     /* empty */
		{ { 0, PAGE }, { 3 * PAGE, 2 * PAGE } },     /* reversed */
		{ { 0, PAGE }, { 2 * PAGE + 1, 3 * PAGE } }, /* unaligned */
		{ { 0, PAGE }, { 2 * PAGE, 9 * PAGE } },     /* too far */
	};
	const struct range good[2] = { { 0, PAGE }, { 2 * PAGE, 8 * PAGE } };
	struct ramet_err err;

	(void)state;
	assert_int_equal(ranges_check(good, 2, 8 * PAGE, &err), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(ranges_check(bad[i], 2, 8 * PAGE, &err), -EINVAL);
}

static void pages_outside_ranges_are_not_found(void **state)
{
	const struct range r[] = { { PAGE, 2 * PAGE }, { 4 * PAGE, 6 * PAGE } };

	(void)state;
	assert_null(ranges_find(r, 2, 0));
	assert_ptr_equal(ranges_find(r, 2, PAGE), &r[0]);
	assert_null(ranges_find(r, 2, 2 * PAGE));
	assert_ptr_equal(ranges_find(r, 2, 6 * PAGE - 1), &r[1]);
	assert_null(ranges_find(r, 2, 6 * PAGE));
	assert_null(ranges_find(r, 0, 0));
}

/* 12 GiB: the promise is 1 ms; sanitizers and a busy machine get more. */
static void a_sparse_bitmap_is_scanned_fast(void **state)
{
	const uint64_t size = 12ull << 30, count = size / PAGE / 64;
	const struct range_policy policy = { .gap = 16 * PAGE, .max = 128 };
	cleanup_free uint64_t *words = calloc(count, sizeof(*words));
	uint64_t best = UINT64_MAX, seed = 7;

	(void)state;
	assert_non_null(words);
	for (int i = 0; i < 1000; i++)
		bit_set(words, random_below(&seed, size / PAGE));
	for (int i = 0; i < 10; i++) {
		cleanup_ranges struct range_list *list = NULL;
		uint64_t began = clock_ns(CLOCK_THREAD_CPUTIME_ID), took;

		assert_int_equal(ranges_from_bitmap(&list, words, size, &policy, NULL, NULL), 0);
		took = clock_ns(CLOCK_THREAD_CPUTIME_ID) - began;
		best = took < best ? took : best;
		assert_int_equal(list->count, 128);
	}
	print_message("12 GiB with 1000 dirty pages: %llu us\n", (unsigned long long)best / 1000);
	assert_true(best < 5000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(runs_at_word_edges_are_found),
		cmocka_unit_test(a_full_bitmap_is_one_range),
		cmocka_unit_test(an_empty_bitmap_has_no_ranges),
		cmocka_unit_test(gaps_up_to_the_policy_are_joined),
		cmocka_unit_test(random_bitmaps_are_covered_with_the_fewest_pages),
		cmocka_unit_test(bad_requests_are_refused),
		cmocka_unit_test(lists_out_of_order_are_refused),
		cmocka_unit_test(pages_outside_ranges_are_not_found),
		cmocka_unit_test(a_sparse_bitmap_is_scanned_fast),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
