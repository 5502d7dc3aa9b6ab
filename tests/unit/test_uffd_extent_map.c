/* Extent maps: overlays against a map of single pages, and fitting to a budget. */
#include <errno.h>

#include "tests/unit/uffd_fixture.h"
#include "uffd/extent_map.h"

#define PAGES 512u

static struct range pages(uint64_t first, uint64_t end)
{
	return (struct range){ first * PAGE, end * PAGE };
}

static void map_is(const struct extent_map *map, const uint32_t *layers)
{
	map_is_sound(map);
	for (uint64_t page = 0; page < map->size / PAGE; page++) {
		const struct extent *e = extent_map_find(map, page * PAGE);

		assert_true(e->start <= page * PAGE && page * PAGE < e->end);
		assert_int_equal(e->layer, layers[page]);
	}
}

/* Up to `most` random ranges. */
static struct range_list *ranges_random(uint64_t *seed, uint64_t most)
{
	struct range_list *list = NULL;
	uint64_t words[PAGES / 64] = { 0 };
	const struct range_policy policy = { .gap = 0, .max = most };

	for (uint64_t n = random_below(seed, 2 * most); n; n--) {
		uint64_t page = random_below(seed, PAGES), length = random_below(seed, 20);

		for (; length && page < PAGES; page++, length--)
			words[page / 64] |= 1ull << page % 64;
	}
	assert_int_equal(ranges_from_bitmap(&list, words, PAGES * PAGE, &policy, NULL, NULL), 0);
	return list;
}

static void layers_paint(uint32_t *layers, const struct range_list *list, uint32_t layer)
{
	for (size_t i = 0; i < list->count; i++)
		for (uint64_t at = list->ranges[i].start; at < list->ranges[i].end; at += PAGE)
			layers[at / PAGE] = layer;
}

/* A random map of `depth` layers and the same by page. */
static struct extent_map *map_random(uint64_t *seed, uint32_t depth, uint32_t *layers)
{
	struct extent_map *map = NULL;

	assert_int_equal(extent_map_create(&map, PAGES * PAGE, EXTENT_ZERO, NULL), 0);
	memset(layers, 0xff, PAGES * sizeof(*layers));
	for (uint32_t layer = 0; layer < depth; layer++) {
		cleanup_ranges struct range_list *list = ranges_random(seed, 12);
		struct extent_map *above = NULL;

		assert_int_equal(
			extent_map_overlay(&above, map, list->ranges, list->count, layer, NULL), 0);
		layers_paint(layers, list, layer);
		map_is(above, layers);
		free(map);
		map = above;
	}
	return map;
}

static void overlays_agree_with_a_map_of_pages(void **state)
{
	uint64_t seed = 3;

	(void)state;
	for (int round = 0; round < 100; round++) {
		uint32_t layers[PAGES];

		free(map_random(&seed, 8, layers));
	}
}

static void an_overlay_of_everything_is_one_extent(void **state)
{
	cleanup_extent_map struct extent_map *map = NULL;
	cleanup_extent_map struct extent_map *above = NULL;
	uint64_t seed = 5;
	uint32_t layers[PAGES];
	struct range all = pages(0, PAGES);

	(void)state;
	map = map_random(&seed, 5, layers);
	assert_int_equal(extent_map_overlay(&above, map, &all, 1, 9, NULL), 0);
	assert_int_equal(above->count, 1);
	assert_int_equal(above->extents[0].layer, 9);
}

static void an_overlay_of_nothing_is_a_copy(void **state)
{
	cleanup_extent_map struct extent_map *map = NULL;
	cleanup_extent_map struct extent_map *above = NULL;
	uint64_t seed = 6;
	uint32_t layers[PAGES];

	(void)state;
	map = map_random(&seed, 5, layers);
	assert_int_equal(extent_map_overlay(&above, map, NULL, 0, 9, NULL), 0);
	map_is(above, layers);
}

static void a_copy_is_equal_and_apart(void **state)
{
	cleanup_extent_map struct extent_map *map = NULL;
	cleanup_extent_map struct extent_map *copy = NULL;
	uint64_t seed = 8;
	uint32_t layers[PAGES];

	(void)state;
	map = map_random(&seed, 5, layers);
	assert_int_equal(extent_map_copy(&copy, map, NULL), 0);
	map->extents[0].layer = 77;
	map_is(copy, layers);
}

static void too_many_extents_are_refused(void **state)
{
	cleanup_extent_map struct extent_map *map = NULL;
	cleanup_free struct range *ranges = calloc(RANGES_MAX, sizeof(*ranges));
	struct extent_map *above = NULL;
	struct ramet_err err;

	(void)state;
	assert_non_null(ranges);
	for (uint64_t i = 0; i < RANGES_MAX; i++)
		ranges[i] = pages(2 * i + 1, 2 * i + 2);
	assert_int_equal(extent_map_create(&map, 4ull * RANGES_MAX * PAGE, 0, NULL), 0);
	assert_int_equal(extent_map_overlay(&above, map, ranges, RANGES_MAX, 1, &err), -E2BIG);
	assert_int_equal(extent_map_overlay(&above, map, ranges, EXTENT_MAP_MAX / 2, 1, &err),
			 -E2BIG);
	assert_null(above);
	assert_int_equal(extent_map_overlay(&above, map, ranges, EXTENT_MAP_MAX / 2 - 1, 1, &err),
			 0);
	assert_int_equal(above->count, EXTENT_MAP_MAX - 1);
	free(above);
}

static void bad_overlays_are_refused(void **state)
{
	cleanup_extent_map struct extent_map *map = NULL;
	struct extent_map *above = NULL;
	struct range beyond = pages(1, 9), good = pages(1, 2);
	struct ramet_err err;

	(void)state;
	assert_int_equal(extent_map_create(&map, 8 * PAGE, 0, NULL), 0);
	assert_int_equal(extent_map_overlay(&above, map, &beyond, 1, 1, &err), -EINVAL);
	assert_int_equal(extent_map_overlay(&above, map, &good, 1, EXTENT_LAYERS_MAX, &err),
			 -EINVAL);
	assert_int_equal(extent_map_create(&above, 100, 0, &err), -EINVAL);
	assert_int_equal(extent_map_create(&above, 0, 0, &err), -EINVAL);
	assert_int_equal(extent_map_create(&above, PAGE, EXTENT_LAYERS_MAX, &err), -EINVAL);
	assert_null(above);
}

static void pages_and_ranges_of_layers_add_up(void **state)
{
	uint64_t seed = 11;

	(void)state;
	for (int round = 0; round < 50; round++) {
		cleanup_extent_map struct extent_map *map = NULL;
		cleanup_ranges struct range_list *backed = NULL;
		uint32_t layers[PAGES], used[EXTENT_LAYERS_MAX];
		uint64_t sum = 0, zero;
		size_t count;

		map = map_random(&seed, 6, layers);
		count = extent_map_layers(map, used);
		for (size_t i = 0; i < count; i++) {
			cleanup_ranges struct range_list *list = NULL;

			assert_int_equal(extent_map_layer_ranges(&list, map, used[i], NULL), 0);
			assert_int_equal(ranges_check(list->ranges, list->count, map->size, NULL),
					 0);
			assert_int_equal(ranges_bytes(list->ranges, list->count) / PAGE,
					 extent_map_pages(map, used[i]));
			for (uint64_t page = 0; page < PAGES; page++)
				assert_int_equal(
					!!ranges_find(list->ranges, list->count, page * PAGE),
					layers[page] == used[i]);
			sum += extent_map_pages(map, used[i]);
		}
		zero = extent_map_pages(map, EXTENT_ZERO);
		assert_int_equal(sum + zero, PAGES);
		assert_int_equal(extent_map_backed_ranges(&backed, map, NULL), 0);
		assert_int_equal(ranges_check(backed->ranges, backed->count, map->size, NULL), 0);
		assert_int_equal(ranges_bytes(backed->ranges, backed->count) / PAGE, sum);
	}
}

static void unused_layers_are_dropped_in_order(void **state)
{
	cleanup_extent_map struct extent_map *map = NULL;
	cleanup_extent_map struct extent_map *above = NULL;
	uint32_t kept[EXTENT_LAYERS_MAX];
	const struct range top = pages(1, 3), other = pages(5, 6);

	(void)state;
	assert_int_equal(extent_map_create(&map, 8 * PAGE, 4, NULL), 0);
	assert_int_equal(extent_map_overlay(&above, map, &top, 1, 200, NULL), 0);
	free(map);
	map = NULL;
	assert_int_equal(extent_map_overlay(&map, above, &other, 1, EXTENT_ZERO, NULL), 0);
	assert_int_equal(extent_map_compact(map, kept), 2);
	assert_int_equal(kept[0], 4);
	assert_int_equal(kept[1], 200);
	map_is(map, (const uint32_t[]){ 0, 1, 1, 0, 0, EXTENT_ZERO, 0, 0 });
}

/* ---- fitting into a budget ---- */

static void fitted_ranges_keep_the_budget_and_cover(void **state)
{
	uint64_t seed = 21;

	(void)state;
	for (int round = 0; round < 200; round++) {
		cleanup_extent_map struct extent_map *map = NULL;
		cleanup_extent_map struct extent_map *above = NULL;
		cleanup_ranges struct range_list *list = NULL;
		uint32_t layers[PAGES], want[PAGES];
		size_t budget = 1 + random_below(&seed, 60), said;

		map = map_random(&seed, 6, layers);
		list = ranges_random(&seed, 40);
		memset(want, 0, sizeof(want));
		layers_paint(want, list, 1);
		said = extent_map_fit(map, list, budget);
		assert_int_equal(ranges_check(list->ranges, list->count, map->size, NULL), 0);
		assert_true(said <= budget || list->count <= 1);
		assert_int_equal(
			extent_map_overlay(&above, map, list->ranges, list->count, 50, NULL), 0);
		assert_int_equal(above->count, said);
		for (uint64_t page = 0; page < PAGES; page++)
			if (want[page])
				assert_int_equal(extent_map_find(above, page * PAGE)->layer, 50);
	}
}

static void fitting_joins_the_cheapest_first(void **state)
{
	cleanup_extent_map struct extent_map *map = NULL;
	cleanup_ranges struct range_list *list = NULL;

	(void)state;
	assert_int_equal(extent_map_create(&map, 64 * PAGE, 0, NULL), 0);
	list = malloc(sizeof(*list) + 3 * sizeof(list->ranges[0]));
	assert_non_null(list);
	list->count = 3;
	list->ranges[0] = pages(1, 2);
	list->ranges[1] = pages(20, 21);
	list->ranges[2] = pages(25, 26);
	assert_int_equal(extent_map_fit(map, list, 7), 7);
	assert_int_equal(list->count, 3);
	assert_int_equal(extent_map_fit(map, list, 6), 5);
	assert_int_equal(list->count, 2);
	assert_int_equal(list->ranges[1].start, 20 * PAGE);
	assert_int_equal(list->ranges[1].end, 26 * PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(overlays_agree_with_a_map_of_pages),
		cmocka_unit_test(an_overlay_of_everything_is_one_extent),
		cmocka_unit_test(an_overlay_of_nothing_is_a_copy),
		cmocka_unit_test(a_copy_is_equal_and_apart),
		cmocka_unit_test(too_many_extents_are_refused),
		cmocka_unit_test(bad_overlays_are_refused),
		cmocka_unit_test(pages_and_ranges_of_layers_add_up),
		cmocka_unit_test(unused_layers_are_dropped_in_order),
		cmocka_unit_test(fitted_ranges_keep_the_budget_and_cover),
		cmocka_unit_test(fitting_joins_the_cheapest_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
