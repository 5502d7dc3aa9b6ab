/* The agent's side of the channel rings, with this test as the host. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guest/agent/ring.h"

#define SIZE 64u

static struct channel_ring shared;
static uint8_t data[SIZE];
static struct ring ring = { .shared = &shared, .data = data, .size = SIZE };

static int ring_reset(void **state)
{
	(void)state;
	memset(&shared, 0, sizeof(shared));
	return 0;
}

static void empty_and_full(void **state)
{
	uint8_t buf[SIZE + 10] = { 0 };
	bool wake = false;

	(void)state;
	assert_int_equal(ring_read(&ring, buf, sizeof(buf), &wake), 0);
	assert_int_equal(ring_write(&ring, buf, sizeof(buf), &wake), SIZE);
	assert_int_equal(ring_write(&ring, buf, 1, &wake), 0);
	assert_int_equal(ring_read(&ring, buf, sizeof(buf), &wake), SIZE);
	assert_int_equal(ring_read(&ring, buf, sizeof(buf), &wake), 0);
	assert_false(wake);
}

/* All sizes at all positions, across the end of the data and of the indices. */
static void bytes_arrive_in_order(void **state)
{
	uint8_t in = 0, out = 0, buf[SIZE];
	bool wake = false;

	(void)state;
	shared.prod = shared.cons = UINT32_MAX - 1000;
	srandom(2);
	for (int i = 0; i < 20000; i++) {
		size_t want = (size_t)random() % SIZE + 1;
		ssize_t n;

		for (size_t j = 0; j < want; j++)
			buf[j] = (uint8_t)(in + j);
		n = ring_write(&ring, buf, want, &wake);
		assert_true(n >= 0);
		in = (uint8_t)(in + n);
		n = ring_read(&ring, buf, (size_t)random() % SIZE + 1, &wake);
		assert_true(n >= 0);
		for (ssize_t j = 0; j < n; j++)
			assert_int_equal(buf[j], out++);
	}
}

static void impossible_indices_are_an_error(void **state)
{
	uint8_t buf[8] = { 0 };
	bool wake = false;

	(void)state;
	shared.prod = SIZE + 1;
	assert_int_equal(ring_read(&ring, buf, sizeof(buf), &wake), -EPROTO);
	assert_int_equal(ring_write(&ring, buf, sizeof(buf), &wake), -EPROTO);
	shared.prod = 0;
	shared.cons = 1;
	assert_int_equal(ring_read(&ring, buf, sizeof(buf), &wake), -EPROTO);
	assert_int_equal(ring_write(&ring, buf, sizeof(buf), &wake), -EPROTO);
}

static void waiting_reader_is_woken_once(void **state)
{
	bool wake = false;

	(void)state;
	shared.reader_waits = 1;
	assert_int_equal(ring_write(&ring, "a", 1, &wake), 1);
	assert_true(wake);
	assert_int_equal(shared.reader_waits, 0);
	wake = false;
	assert_int_equal(ring_write(&ring, "b", 1, &wake), 1);
	assert_false(wake);
}

static void waiting_writer_is_woken_once(void **state)
{
	uint8_t buf[SIZE] = { 0 };
	bool wake = false;

	(void)state;
	assert_int_equal(ring_write(&ring, buf, SIZE, &wake), SIZE);
	shared.writer_waits = 1;
	assert_int_equal(ring_read(&ring, buf, 1, &wake), 1);
	assert_true(wake);
	assert_int_equal(shared.writer_waits, 0);
}

static void going_to_sleep_looks_again(void **state)
{
	uint8_t buf[SIZE] = { 0 };
	bool wake = false;

	(void)state;
	assert_false(ring_wait_data(&ring));
	assert_int_equal(shared.reader_waits, 1);
	assert_true(ring_wait_room(&ring));
	assert_int_equal(ring_write(&ring, buf, SIZE, &wake), SIZE);
	assert_true(ring_wait_data(&ring));
	assert_false(ring_wait_room(&ring));
	assert_int_equal(shared.writer_waits, 1);
}

static void poison_is_seen_by_the_host(void **state)
{
	(void)state;
	shared.prod = shared.cons = UINT32_MAX - 3;
	ring_poison(&ring);
	assert_true(shared.prod - shared.cons > SIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(empty_and_full, ring_reset),
		cmocka_unit_test_setup(bytes_arrive_in_order, ring_reset),
		cmocka_unit_test_setup(impossible_indices_are_an_error, ring_reset),
		cmocka_unit_test_setup(waiting_reader_is_woken_once, ring_reset),
		cmocka_unit_test_setup(waiting_writer_is_woken_once, ring_reset),
		cmocka_unit_test_setup(going_to_sleep_looks_again, ring_reset),
		cmocka_unit_test_setup(poison_is_seen_by_the_host, ring_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
