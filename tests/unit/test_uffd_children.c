/* Donors and the children they serve: what children see while the layer fills,
 * interrupted faults, and the end of the fill. */
#include <errno.h>
#include <pthread.h>
#include <sys/time.h>

#include "tests/unit/uffd_rig.h"

static int device;

/* Reads every page once in random order, writes half of them right away and
 * a few again, then checks everything twice. */
static int work_read_and_write(struct rig_child *c)
{
	uint64_t pages = c->rig->size / PAGE, seed = c->number * 1000003u;
	uint32_t mine = 100 + c->number;
	uint32_t *order = malloc(pages * sizeof(*order));
	uint8_t *written = calloc(pages, 1);

	if (!order || !written)
		return 2;
	for (uint32_t i = 0; i < pages; i++) {
		uint64_t j = random_below(&seed, i + 1u);

		order[i] = order[j];
		order[j] = i;
	}
	for (uint64_t i = 0; i < pages; i++) {
		uint32_t page = order[i];
		uint8_t *at = c->base + (uint64_t)page * PAGE;
		bool blind = random_below(&seed, 4) == 0;

		/* A store into a page that is not there: the rest of it must come. */
		if (blind) {
			*(volatile uint8_t *)at ^= 1;
			*(volatile uint8_t *)at ^= 1;
		}
		if (!page_is(at, page, rig_version(c->rig, page)))
			return 3;
		if (random_below(&seed, 2) == 0) {
			page_write(at, page, mine);
			written[page] = 1;
		}
	}
	for (int round = 0; round < 2; round++)
		for (uint32_t page = 0; page < pages; page++)
			if (!page_is(c->base + (uint64_t)page * PAGE, page,
				     written[page] ? mine : rig_version(c->rig, page)))
				return 4;
	free(order);
	free(written);
	return 0;
}

static void children_read_and_write(uint64_t size, unsigned int count, size_t ranges, bool ahead)
{
	uint64_t seed = size + count;
	int socks[RIG_CHILDREN];
	pid_t pids[RIG_CHILDREN];
	struct donor_stats stats;
	struct rig rig;

	rig_open(&rig, device, size, ranges_scattered(size, ranges, &seed));
	for (unsigned int i = 0; i < count; i++)
		pids[i] = rig_child(&rig, i, work_read_and_write, &socks[i]);
	for (unsigned int i = 0; i < count; i++) {
		rig_drive(&rig, socks[i], ahead);
		assert_int_equal(child_exit_status(pids[i]), 0);
		assert_int_equal(close(socks[i]), 0);
	}
	donor_stats(rig.donor, &stats);
	assert_int_equal(rig.failed, 0);
	assert_true(stats.events > 0);
	assert_int_equal(stats.children, count);
	rig_drive(&rig, -1, true);
	rig_layer_is_right(&rig);
	rig_close(&rig);
}

static void children_run_while_the_layer_fills(void **state)
{
	(void)state;
	children_read_and_write(16 * MIB, 8, 60, true);
	children_read_and_write(128 * MIB, 3, 100, true);
}

static void children_run_on_demand_alone(void **state)
{
	(void)state;
	children_read_and_write(16 * MIB, 4, 60, false);
}

static int work_read_one(struct rig_child *c)
{
	return page_is(c->base + 100 * PAGE, 100, 1) ? 0 : 3;
}

static void a_demanded_page_brings_its_neighbours_in_the_range(void **state)
{
	const struct range ranges[] = { { 90, 110 }, { 111, 112 } };
	const uint64_t *demanded;
	struct donor_stats stats;
	struct layer_stat st;
	struct ramet_err err;
	size_t count;
	struct rig rig;
	pid_t pid;
	int sock;

	(void)state;
	rig_open(&rig, device, 1 * MIB, ranges_of(ranges, 2));
	pid = rig_child(&rig, 7, work_read_one, &sock);
	rig_drive(&rig, sock, false);
	assert_int_equal(child_exit_status(pid), 0);
	donor_stats(rig.donor, &stats);
	assert_int_equal(stats.events, 1);
	assert_int_equal(stats.late, 0);
	assert_int_equal(stats.demanded, 14 * PAGE); /* 96..109 */
	demanded = donor_demanded(rig.donor, &count);
	assert_int_equal(count, 1);
	assert_int_equal(demanded[0], 100 * PAGE);
	assert_int_equal(layer_stat(rig.layer, &st, &err), 0);
	assert_int_equal(st.resident, 14 * PAGE);
	(void)close(sock);
	rig_close(&rig);
}

/* A child that reads on and on after its first page. */
static int work_read_forever(struct rig_child *c)
{
	for (uint64_t page = 0;; page = (page + 1) % (c->rig->size / PAGE)) {
		if (!page_is(c->base + page * PAGE, page, rig_version(c->rig, page)))
			return 3;
		if (page == 10 && write(c->sock, "x", 1) != 1)
			return 4;
	}
}

static void a_child_that_dies_stops_nobody(void **state)
{
	struct rig rig;
	int dying, reader;
	pid_t pid, other;
	char x;

	(void)state;
	rig_open(&rig, device, 32 * MIB, ranges_whole(32 * MIB));
	pid = rig_child(&rig, 1, work_read_forever, &dying);
	other = rig_child(&rig, 2, work_read_and_write, &reader);
	rig_drive(&rig, dying, false);
	assert_int_equal(recv(dying, &x, 1, 0), 1);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(child_exit_status(pid), 128 + SIGKILL);
	rig_drive(&rig, reader, true);
	assert_int_equal(child_exit_status(other), 0);
	donor_remove_child(rig.donor, 99);
	rig_drive(&rig, -1, true);
	rig_layer_is_right(&rig);
	assert_int_equal(rig.failed, 0);
	(void)close(dying);
	(void)close(reader);
	rig_close(&rig);
}

static void a_child_of_a_finished_layer_is_only_released(void **state)
{
	struct donor_stats stats;
	struct rig rig;
	pid_t pid;
	int sock;

	(void)state;
	rig_open(&rig, device, 2 * MIB, ranges_whole(2 * MIB));
	rig_drive(&rig, -1, true);
	rig_layer_is_right(&rig);
	pid = rig_child(&rig, 1, work_read_and_write, &sock);
	assert_int_equal(child_exit_status(pid), 0);
	donor_stats(rig.donor, &stats);
	assert_int_equal(stats.children, 0);
	assert_int_equal(rig.failed, 0);
	(void)close(sock);
	rig_close(&rig);
}

/* ---- interrupted faults ---- */

static int interrupted_sock;

static void on_alarm(int sig)
{
	(void)sig;
	if (write(interrupted_sock, "x", 1) != 1)
		_exit(6);
}

static int work_read_interrupted(struct rig_child *c)
{
	const struct itimerval often = { { 0, 2000 }, { 0, 2000 } }, never = { { 0, 0 }, { 0, 0 } };
	bool right;

	interrupted_sock = c->sock;
	if (signal(SIGALRM, on_alarm) == SIG_ERR || setitimer(ITIMER_REAL, &often, NULL))
		return 2;
	right = page_is(c->base + 5 * PAGE, 5, 1);
	if (setitimer(ITIMER_REAL, &never, NULL))
		return 2;
	return right ? 0 : 3;
}

/* The page is brought only after the waiting fault was interrupted ten times. */
static void an_interrupted_fault_is_served_when_raised_again(void **state)
{
	struct donor_stats stats;
	struct rig rig;
	pid_t pid;
	int sock;
	char x;

	(void)state;
	rig_open(&rig, device, 1 * MIB, ranges_whole(1 * MIB));
	pid = rig_child(&rig, 1, work_read_interrupted, &sock);
	for (int i = 0; i < 10; i++) {
		assert_true(readable_within(sock, DEADLINE_MS));
		assert_int_equal(recv(sock, &x, 1, 0), 1);
	}
	/* Its end closes the socket: messages first, then nothing. */
	do
		rig_drive(&rig, sock, false);
	while (recv(sock, &x, 1, 0) == 1);
	assert_int_equal(child_exit_status(pid), 0);
	donor_stats(rig.donor, &stats);
	assert_true(stats.events >= 1);
	(void)close(sock);
	rig_close(&rig);
}

/* ---- the end of the fill ---- */

#define RACE_THREADS 3
#define RACE_ROUNDS  400
#define RACE_PAGES   48u

struct race {
	uint8_t *base;
	pthread_barrier_t start;
	unsigned int wrong;
};

static void *race_thread(void *arg)
{
	struct race *race = arg;
	unsigned int wrong = 0;

	(void)pthread_barrier_wait(&race->start);
	for (uint64_t page = RACE_PAGES; page-- > 0;)
		wrong += !page_is(race->base + page * PAGE, page, 1);
	__atomic_add_fetch(&race->wrong, wrong, __ATOMIC_RELAXED);
	return NULL;
}

/* Threads fault while the last pages come and the donor leaves: one that found
 * its page missing but waits only after the donor's last look must not hang. */
static void no_fault_hangs_when_the_donor_leaves(void **state)
{
	const uint64_t size = 1 * MIB;

	(void)state;
	for (int round = 0; round < RACE_ROUNDS; round++) {
		pthread_t threads[RACE_THREADS];
		struct race race = { .wrong = 0 };
		struct ramet_err err;
		struct timespec until;
		struct rig rig;
		int uffd;

		rig_open(&rig, device, size,
			 ranges_of((const struct range[]){ { 0, RACE_PAGES } }, 1));
		assert_int_equal(stitch_reserve(&race.base, size, &err), 0);
		assert_int_equal(stitch(race.base, rig.map, false, &rig.readonly, 1, &err), 0);
		uffd = stitch_watch(race.base, rig.map, 0, device, &err);
		assert_true(uffd >= 0);
		assert_int_equal(donor_add_child(rig.donor, 1, uffd, (uint64_t)race.base,
						 rig.ranges->ranges, rig.ranges->count, &err),
				 0);
		assert_int_equal(pthread_barrier_init(&race.start, NULL, RACE_THREADS + 1), 0);
		/* The child's own copy: without it, closing would wake everybody. */
		uffd = dup(uffd);
		for (int i = 0; i < RACE_THREADS; i++)
			assert_int_equal(pthread_create(&threads[i], NULL, race_thread, &race), 0);
		(void)pthread_barrier_wait(&race.start);
		rig_drive(&rig, -1, true);
		assert_int_equal(donor_finish(rig.donor, &err), 0);
		(void)clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += 20;
		for (int i = 0; i < RACE_THREADS; i++)
			assert_int_equal(pthread_timedjoin_np(threads[i], NULL, &until), 0);
		assert_int_equal(race.wrong, 0);
		assert_int_equal(rig.failed, 0);
		(void)pthread_barrier_destroy(&race.start);
		(void)close(uffd);
		(void)munmap(race.base, size);
		rig_close(&rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(children_run_while_the_layer_fills),
		cmocka_unit_test(children_run_on_demand_alone),
		cmocka_unit_test(a_demanded_page_brings_its_neighbours_in_the_range),
		cmocka_unit_test(a_child_that_dies_stops_nobody),
		cmocka_unit_test(a_child_of_a_finished_layer_is_only_released),
		cmocka_unit_test(an_interrupted_fault_is_served_when_raised_again),
		cmocka_unit_test(no_fault_hangs_when_the_donor_leaves),
	};

	device = device_or_skip();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
