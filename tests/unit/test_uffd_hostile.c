/* Donors against children that break the rules: nobody else suffers, and
 * nothing goes wrong in silence. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include "tests/unit/uffd_rig.h"

#define SIZE (4 * MIB)

static int device;

/* Reads all of its memory when it is told to. */
static int work_read_all(struct rig_child *c)
{
	char go;

	if (recv(c->sock, &go, 1, 0) != 1)
		return 2;
	for (uint64_t page = 0; page < c->rig->size / PAGE; page++)
		if (!page_is(c->base + page * PAGE, page, rig_version(c->rig, page)))
			return 3;
	return 0;
}

/* An honest child gets all its pages from the rig's donor. */
static void siblings_are_well(struct rig *rig, pid_t sibling, int sock)
{
	assert_int_equal(send(sock, "g", 1, 0), 1);
	rig_drive(rig, sock, true);
	assert_int_equal(child_exit_status(sibling), 0);
	(void)close(sock);
	rig_drive(rig, -1, true);
	rig_layer_is_right(rig);
}

static void descriptors_of_other_kinds_are_refused(void **state)
{
	cleanup_close int event = eventfd(0, EFD_CLOEXEC);
	cleanup_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	cleanup_close int unready = -1;
	const struct range all = { 0, SIZE };
	struct donor_stats stats;
	struct ramet_err err;
	struct rig rig;

	(void)state;
	rig_open(&rig, device, SIZE, ranges_whole(SIZE));
	assert_int_equal(donor_add_child(rig.donor, 1, event, 0, &all, 1, &err), -EINVAL);
	assert_int_equal(donor_add_child(rig.donor, 1, null, 0, &all, 1, &err), -EINVAL);
	assert_int_equal(donor_add_child(rig.donor, 1, -1, 0, &all, 1, &err), -EINVAL);
	unready = userfault_new(device, &err);
	assert_int_equal(donor_add_child(rig.donor, 1, unready, 1, &all, 1, &err), -EINVAL);
	assert_int_equal(donor_add_child(rig.donor, 1, unready, -(uint64_t)PAGE, &all, 1, &err),
			 -EINVAL);
	assert_int_equal(donor_add_child(rig.donor, 1, unready, 0, &all, 0, &err), -EINVAL);
	donor_stats(rig.donor, &stats);
	assert_int_equal(stats.children, 0);
	rig_close(&rig);
}

static void ranges_that_the_donor_does_not_fill_are_refused(void **state)
{
	const struct range fill = { 10, 20 };
	const struct range bad[] = { { 9 * PAGE, 11 * PAGE },
				     { 19 * PAGE, 21 * PAGE },
				     { 30 * PAGE, 31 * PAGE },
				     { 10 * PAGE, SIZE + PAGE } };
	struct ramet_err err;
	cleanup_close int uffd = userfault_new(device, &err);
	struct rig rig;

	(void)state;
	rig_open(&rig, device, SIZE, ranges_of(&fill, 1));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(donor_add_child(rig.donor, 1, uffd, 0, &bad[i], 1, &err), -EINVAL);
	rig_close(&rig);
}

/* ---- faults where there must be none ---- */

static int work_fault_elsewhere(struct rig_child *c)
{
	struct ramet_err err;
	uint8_t *more =
		mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (userfault_register(c->uffd, (uint64_t)more, PAGE, &err))
		return 2;
	return *(volatile uint8_t *)more;
}

static void a_fault_outside_the_ranges_ends_the_service(void **state)
{
	struct rig rig;
	pid_t pid, sibling;
	int sock, other;

	(void)state;
	rig_open(&rig, device, SIZE, ranges_whole(SIZE));
	pid = rig_child(&rig, 5, work_fault_elsewhere, &sock);
	sibling = rig_child(&rig, 6, work_read_all, &other);
	assert_true(readable_within(donor_fd(rig.donor), DEADLINE_MS));
	assert_int_equal(donor_serve(rig.donor, NULL), 0);
	assert_int_equal(rig.failed, 1);
	assert_int_equal(rig.failed_child[0], 5);
	assert_non_null(strstr(rig.failed_why, "not in its part of the layer"));
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(child_exit_status(pid), 128 + SIGKILL);
	(void)close(sock);
	siblings_are_well(&rig, sibling, other);
	rig_close(&rig);
}

/* ---- a descriptor made blocking ---- */

/* When told to; then it waits at its first page. */
static int work_block_the_reader(struct rig_child *c)
{
	char go;

	if (recv(c->sock, &go, 1, 0) != 1 || fcntl(c->uffd, F_SETFL, 0) ||
	    write(c->sock, "x", 1) != 1)
		return 2;
	return *(volatile uint8_t *)c->base;
}

static void make_blocking(int sock)
{
	char x;

	assert_int_equal(send(sock, "g", 1, 0), 1);
	assert_true(readable_within(sock, DEADLINE_MS));
	assert_int_equal(recv(sock, &x, 1, 0), 1);
}

/* Child 5 is dropped by a call that returns; child 6 is served. */
static void child_5_is_dropped(struct rig *rig, pid_t pid, int sock)
{
	struct donor_stats stats;
	struct ramet_err err;
	pid_t sibling;
	int other;

	sibling = rig_child(rig, 6, work_read_all, &other);
	assert_true(readable_within(donor_fd(rig->donor), DEADLINE_MS));
	assert_int_equal(donor_serve(rig->donor, &err), 0);
	assert_int_equal(rig->failed, 1);
	assert_int_equal(rig->failed_child[0], 5);
	donor_stats(rig->donor, &stats);
	assert_int_equal(stats.children, 1);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(child_exit_status(pid), 128 + SIGKILL);
	(void)close(sock);
	siblings_are_well(rig, sibling, other);
}

static void a_descriptor_made_blocking_does_not_block_the_donor(void **state)
{
	struct rig rig;
	pid_t pid;
	int sock;

	(void)state;
	rig_open(&rig, device, SIZE, ranges_whole(SIZE));
	pid = rig_child(&rig, 5, work_block_the_reader, &sock);
	make_blocking(sock);
	child_5_is_dropped(&rig, pid, sock);
	rig_close(&rig);
}

static void a_descriptor_that_comes_blocking_does_not_block_the_donor(void **state)
{
	struct ramet_err err;
	struct rig rig;
	uint64_t base;
	int sock, uffd;
	pid_t pid;

	(void)state;
	rig_open(&rig, device, SIZE, ranges_whole(SIZE));
	pid = rig_child_start(&rig, 5, work_block_the_reader, &sock, &uffd, &base);
	make_blocking(sock);
	assert_int_equal(donor_add_child(rig.donor, 5, uffd, base, rig.ranges->ranges,
					 rig.ranges->count, &err),
			 0);
	child_5_is_dropped(&rig, pid, sock);
	rig_close(&rig);
}

/* ---- holes touched without a watch ---- */

/* Touches page 700 of the layer through a mapping that nobody watches. */
static void hole_poke(const struct rig *rig)
{
	uint8_t *raw = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE, rig->readonly, 0);

	assert_ptr_not_equal(raw, MAP_FAILED);
	assert_int_equal(*(volatile uint8_t *)(raw + 700 * PAGE), 0);
	assert_int_equal(munmap(raw, SIZE), 0);
}

static void a_poked_hole_is_noticed(void **state)
{
	struct ramet_err err = { 0 };
	struct rig rig;
	int rc = 0;

	(void)state;
	rig_open(&rig, device, SIZE, ranges_whole(SIZE));
	hole_poke(&rig);
	while (rc == 0 && !donor_done(rig.donor))
		rc = donor_step(rig.donor, &err);
	assert_int_equal(rc, -EUCLEAN);
	assert_non_null(strstr(err.msg, "0x2bc000"));
	assert_false(donor_done(rig.donor));
	assert_int_equal(donor_finish(rig.donor, &err), -EAGAIN);
	rig_close(&rig);
}

static void a_poked_hole_that_should_be_zero_is_no_harm(void **state)
{
	struct rig rig;
	uint8_t page[PAGE];
	struct ramet_err err;

	(void)state;
	rig_open(&rig, device, SIZE, ranges_whole(SIZE));
	page_write(rig.source + 700 * PAGE, 700, 0);
	hole_poke(&rig);
	rig_drive(&rig, -1, true);
	assert_int_equal(donor_finish(rig.donor, &err), 0);
	for (uint64_t i = 0; i < SIZE / PAGE; i++) {
		assert_int_equal(pread(rig.readonly, page, PAGE, (off_t)(i * PAGE)), PAGE);
		assert_true(page_is(page, i, i == 700 ? 0 : 1));
	}
	rig_close(&rig);
}

/* A child can put pages into its own mapping with its userfaultfd, but not
 * into the layer that its siblings read. */
static int work_copy_garbage(struct rig_child *c)
{
	uint8_t garbage[PAGE];
	struct uffdio_copy copy = { .dst = (uint64_t)c->base + 700 * PAGE,
				    .src = (uint64_t)garbage,
				    .len = PAGE };

	memset(garbage, 0xee, sizeof(garbage));
	if (ioctl(c->uffd, UFFDIO_COPY, &copy))
		return 2;
	return c->base[700 * PAGE] == 0xee ? 0 : 3;
}

static void a_child_cannot_fill_the_layer_itself(void **state)
{
	struct rig rig;
	pid_t pid, sibling;
	int sock, other;

	(void)state;
	rig_open(&rig, device, SIZE, ranges_whole(SIZE));
	pid = rig_child(&rig, 5, work_copy_garbage, &sock);
	assert_int_equal(child_exit_status(pid), 0);
	(void)close(sock);
	sibling = rig_child(&rig, 6, work_read_all, &other);
	siblings_are_well(&rig, sibling, other);
	rig_close(&rig);
}

/* ---- a child that took its memory away ---- */

static int work_unmap(struct rig_child *c)
{
	char x;

	if (munmap(c->base, c->rig->size) || write(c->sock, "x", 1) != 1)
		return 2;
	return recv(c->sock, &x, 1, 0) == 1 ? 0 : 3;
}

static void a_child_that_unmapped_is_reported_at_the_end(void **state)
{
	struct ramet_err err;
	struct rig rig;
	pid_t pid;
	int sock;
	char x;

	(void)state;
	rig_open(&rig, device, SIZE, ranges_whole(SIZE));
	pid = rig_child(&rig, 5, work_unmap, &sock);
	assert_int_equal(recv(sock, &x, 1, 0), 1);
	rig_drive(&rig, -1, true);
	assert_int_equal(donor_finish(rig.donor, &err), 0);
	assert_int_equal(rig.failed, 1);
	assert_int_equal(rig.failed_child[0], 5);
	assert_int_equal(send(sock, "x", 1, 0), 1);
	assert_int_equal(child_exit_status(pid), 0);
	rig_layer_is_right(&rig);
	(void)close(sock);
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(descriptors_of_other_kinds_are_refused),
		cmocka_unit_test(ranges_that_the_donor_does_not_fill_are_refused),
		cmocka_unit_test(a_fault_outside_the_ranges_ends_the_service),
		cmocka_unit_test(a_descriptor_made_blocking_does_not_block_the_donor),
		cmocka_unit_test(a_descriptor_that_comes_blocking_does_not_block_the_donor),
		cmocka_unit_test(a_poked_hole_is_noticed),
		cmocka_unit_test(a_poked_hole_that_should_be_zero_is_no_harm),
		cmocka_unit_test(a_child_cannot_fill_the_layer_itself),
		cmocka_unit_test(a_child_that_unmapped_is_reported_at_the_end),
	};

	device = device_or_skip();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
