/* Extent maps on the wire: there and back, and against damage. */
#include <errno.h>

#include "tests/unit/uffd_fixture.h"
#include "uffd/extent_map.h"

#define PAGES 512u

/* A map of layers 0 to depth - 1 over zeros, in up to 30 random ranges. */
static struct extent_map *map_random(uint64_t *seed, uint32_t depth)
{
	struct extent_map *map = NULL;

	assert_int_equal(extent_map_create(&map, PAGES * PAGE, EXTENT_ZERO, NULL), 0);
	for (int i = 0; i < 30; i++) {
		uint64_t first = random_below(seed, PAGES);
		uint64_t end = first + 1 + random_below(seed, PAGES - first);
		const struct range r = { first * PAGE, (i < 3 ? end : first + 1) * PAGE };
		struct extent_map *above = NULL;

		assert_int_equal(extent_map_overlay(&above, map, &r, 1,
						    (uint32_t)random_below(seed, depth), NULL),
				 0);
		free(map);
		map = above;
	}
	return map;
}

static void encoded_maps_come_back(void **state)
{
	uint64_t seed = 31;

	(void)state;
	for (int round = 0; round < 100; round++) {
		cleanup_extent_map struct extent_map *map = NULL;
		cleanup_extent_map struct extent_map *back = NULL;
		uint8_t buf[EXTENT_MAP_ENCODED(EXTENT_MAP_MAX)];
		int len;

		map = map_random(&seed, 6);
		len = extent_map_encode(map, buf, sizeof(buf));
		assert_int_equal(len, EXTENT_MAP_ENCODED(map->count));
		assert_int_equal(extent_map_encode(map, buf, (size_t)len - 1), -ENOSPC);
		assert_int_equal(extent_map_decode(&back, buf, (size_t)len, 6, NULL), 0);
		map_is_sound(back);
		assert_int_equal(back->size, map->size);
		assert_int_equal(back->count, map->count);
		for (size_t i = 0; i < map->count; i++) {
			assert_int_equal(back->extents[i].end, map->extents[i].end);
			assert_int_equal(back->extents[i].layer, map->extents[i].layer);
		}
	}
}

static void truncated_maps_are_refused(void **state)
{
	cleanup_extent_map struct extent_map *map = NULL;
	uint8_t buf[EXTENT_MAP_ENCODED(EXTENT_MAP_MAX) + 1];
	uint64_t seed = 41;
	struct extent_map *back = NULL;
	struct ramet_err err;
	int len;

	(void)state;
	map = map_random(&seed, 6);
	len = extent_map_encode(map, buf, sizeof(buf));
	buf[len] = 0;
	for (int n = 0; n < len; n++) {
		/* A copy of exactly n bytes, so that a sanitizer sees any read beyond. */
		cleanup_free uint8_t *part = malloc((size_t)n + 1);

		assert_non_null(part);
		memcpy(part, buf, (size_t)n);
		assert_int_equal(extent_map_decode(&back, part, (size_t)n, 6, &err), -EINVAL);
	}
	assert_int_equal(extent_map_decode(&back, buf, (size_t)len + 1, 6, &err), -EINVAL);
	assert_null(back);
}

static void layers_that_were_not_given_are_refused(void **state)
{
	cleanup_extent_map struct extent_map *map = NULL;
	uint8_t buf[EXTENT_MAP_ENCODED(1)];
	struct extent_map *back = NULL;
	struct ramet_err err;

	(void)state;
	assert_int_equal(extent_map_create(&map, PAGE, 3, NULL), 0);
	assert_int_equal(extent_map_encode(map, buf, sizeof(buf)), (int)sizeof(buf));
	assert_int_equal(extent_map_decode(&back, buf, sizeof(buf), 3, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "layer 3 of 3"));
	assert_int_equal(extent_map_decode(&back, buf, sizeof(buf), 4, &err), 0);
	free(back);
}

/* Whatever decodes is a sound map, whatever was done to the bytes. */
static void damaged_maps_are_refused_or_sound(void **state)
{
	uint64_t seed = 51;
	unsigned int refused = 0;

	(void)state;
	for (int round = 0; round < 20000; round++) {
		static struct extent_map *map;
		static uint8_t buf[EXTENT_MAP_ENCODED(EXTENT_MAP_MAX)];
		cleanup_extent_map struct extent_map *back = NULL;
		uint64_t hits = 1 + random_below(&seed, 3);
		struct ramet_err err;
		int len, rc;

		if (round % 200 == 0) {
			free(map);
			map = map_random(&seed, 4);
		}
		len = extent_map_encode(map, buf, sizeof(buf));
		while (hits--)
			buf[random_below(&seed, (uint64_t)len)] ^=
				(uint8_t)(1u << random_below(&seed, 8));
		rc = extent_map_decode(&back, buf, (size_t)len, 4, &err);
		assert_true(rc == 0 || rc == -EINVAL);
		if (rc)
			refused++;
		else
			map_is_sound(back);
		if (round == 19999)
			free(map);
	}
	assert_true(refused > 10000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(encoded_maps_come_back),
		cmocka_unit_test(truncated_maps_are_refused),
		cmocka_unit_test(layers_that_were_not_given_are_refused),
		cmocka_unit_test(damaged_maps_are_refused_or_sound),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
