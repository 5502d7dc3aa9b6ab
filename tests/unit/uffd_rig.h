/* A donor in the test's process and children in processes of their own, mapped
 * from one layer over zeros. */
#ifndef RAMET_TESTS_UFFD_RIG_H
#define RAMET_TESTS_UFFD_RIG_H

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "lib/fdpass.h"
#include "tests/unit/uffd_fixture.h"
#include "uffd/donor.h"
#include "uffd/extent_map.h"
#include "uffd/layer.h"
#include "uffd/stitch.h"

#define RIG_CHILDREN 16
#define RIG_FAILED   4

struct rig {
	int device, layer, readonly;
	uint64_t size;
	uint8_t *source; /* page p in version 1 */
	struct range_list *ranges;
	struct extent_map *map; /* ranges = layer 0, the rest zeros */
	struct donor *donor;
	const struct range *first; /* for the donor */
	size_t first_count;
	/* What child_failed was told. */
	unsigned int failed;
	uint32_t failed_child[RIG_FAILED];
	char failed_why[500];
};

/* In a child process: what it works on. */
struct rig_child {
	const struct rig *rig;
	uint8_t *base;
	int uffd, sock;
	unsigned int number;
};

typedef int rig_work(struct rig_child *child);

static inline void rig_child_failed(void *arg, uint32_t child, const struct ramet_err *err)
{
	struct rig *rig = arg;

	assert_true(rig->failed < RIG_FAILED);
	rig->failed_child[rig->failed++] = child;
	memcpy(rig->failed_why, err->msg, sizeof(rig->failed_why));
}

static inline bool rig_page_in(const struct rig *rig, uint64_t page)
{
	return ranges_find(rig->ranges->ranges, rig->ranges->count, page * PAGE);
}

/* The version of a page that children of the rig must see. */
static inline uint32_t rig_version(const struct rig *rig, uint64_t page)
{
	return rig_page_in(rig, page) ? 1 : 0;
}

static inline int rig_donor(struct rig *rig, struct ramet_err *err)
{
	const struct donor_params params = {
		.device = rig->device,
		.layer = rig->layer,
		.size = rig->size,
		.source = rig->source,
		.ranges = rig->ranges->ranges,
		.range_count = rig->ranges->count,
		.first = rig->first,
		.first_count = rig->first_count,
		.child_failed = rig_child_failed,
		.arg = rig,
	};

	return donor_create(&rig->donor, &params, err);
}

/* A rig of `size` bytes; `ranges` becomes its own. */
static inline void rig_open(struct rig *rig, int device, uint64_t size, struct range_list *ranges)
{
	struct ramet_err err;
	cleanup_extent_map struct extent_map *zeros = NULL;

	*rig = (struct rig){ .device = device, .size = size, .ranges = ranges };
	rig->layer = layer_create("ramet-rig", size, &err);
	assert_true(rig->layer >= 0);
	rig->readonly = layer_open_readonly(rig->layer, &err);
	assert_true(rig->readonly >= 0);
	rig->source = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(rig->source, MAP_FAILED);
	for (uint64_t page = 0; page < size / PAGE; page++)
		if (rig_page_in(rig, page))
			page_write(rig->source + page * PAGE, page, 1);
	assert_int_equal(extent_map_create(&zeros, size, EXTENT_ZERO, &err), 0);
	assert_int_equal(
		extent_map_overlay(&rig->map, zeros, ranges->ranges, ranges->count, 0, &err), 0);
	if (rig_donor(rig, &err))
		fail_msg("%s", err.msg);
}

static inline void rig_close(struct rig *rig)
{
	donor_destroy(rig->donor);
	free(rig->map);
	free(rig->ranges);
	(void)munmap(rig->source, rig->size);
	(void)close(rig->readonly);
	(void)close(rig->layer);
}

static inline struct range_list *ranges_of(const struct range *ranges, size_t count)
{
	struct range_list *list = malloc(sizeof(*list) + count * sizeof(*ranges));

	assert_non_null(list);
	list->count = count;
	for (size_t i = 0; i < count; i++)
		list->ranges[i] = (struct range){ ranges[i].start * PAGE, ranges[i].end * PAGE };
	return list;
}

static inline struct range_list *ranges_whole(uint64_t size)
{
	return ranges_of((const struct range[]){ { 0, size / PAGE } }, 1);
}

/* About half of `size`, in up to `most` random ranges. */
static inline struct range_list *ranges_scattered(uint64_t size, size_t most, uint64_t *seed)
{
	const struct range_policy policy = { .gap = 0, .max = most };
	cleanup_free uint64_t *words = calloc(size / PAGE / 64 + 1, sizeof(*words));
	struct range_list *list = NULL;
	uint64_t pages = size / PAGE;

	assert_non_null(words);
	for (size_t i = 0; i < most; i++) {
		uint64_t page = random_below(seed, pages);

		for (uint64_t n = random_below(seed, pages / most) + 1; n && page < pages; n--) {
			words[page / 64] |= 1ull << page % 64;
			page++;
		}
	}
	assert_int_equal(ranges_from_bitmap(&list, words, size, &policy, NULL, NULL), 0);
	return list;
}

/* In the child's process: map, watch, hand over, work. */
static inline _Noreturn void rig_child_main(const struct rig *rig, unsigned int number, int sock,
					    rig_work *work)
{
	struct rig_child child = { .rig = rig, .sock = sock, .number = number };
	struct ramet_err err;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (stitch_reserve(&child.base, rig->size, &err) ||
	    stitch(child.base, rig->map, false, &rig->readonly, 1, &err))
		_exit(101);
	child.uffd = stitch_watch(child.base, rig->map, 0, rig->device, &err);
	if (child.uffd < 0)
		_exit(102);
	if (fdpass_send(sock, &child.base, sizeof(child.base), &child.uffd, 1))
		_exit(103);
	_exit(work(&child));
}

/* Starts child `number`. *sock and *uffd are the caller's. */
static inline pid_t rig_child_start(const struct rig *rig, unsigned int number, rig_work *work,
				    int *sock, int *uffd, uint64_t *base)
{
	int pair[2], fds[FDPASS_MAX];
	size_t nfds = 0;
	pid_t pid;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)close(pair[0]);
		rig_child_main(rig, number, pair[1], work);
	}
	(void)close(pair[1]);
	assert_true(readable_within(pair[0], DEADLINE_MS));
	assert_int_equal(fdpass_recv(pair[0], base, sizeof(*base), fds, &nfds), sizeof(*base));
	assert_int_equal(nfds, 1);
	*uffd = fds[0];
	*sock = pair[0];
	return pid;
}

/* The same, and the rig's donor serves it. */
static inline pid_t rig_child(struct rig *rig, unsigned int number, rig_work *work, int *sock)
{
	struct ramet_err err;
	uint64_t base;
	int uffd;
	pid_t pid = rig_child_start(rig, number, work, sock, &uffd, &base);

	if (donor_add_child(rig->donor, number, uffd, base, rig->ranges->ranges, rig->ranges->count,
			    &err))
		fail_msg("%s", err.msg);
	return pid;
}

/* Serves and, when `ahead`, fills until `sock` is readable (a child ended or
 * said something) or, with sock < 0, the layer is done. */
static inline void rig_drive(struct rig *rig, int sock, bool ahead)
{
	uint64_t deadline = clock_monotonic_ns() + DEADLINE_MS * 1000000ull;

	for (;;) {
		bool working = ahead && !donor_done(rig->donor);
		struct pollfd fds[] = { { .fd = donor_fd(rig->donor), .events = POLLIN },
					{ .fd = sock, .events = POLLIN } };
		struct ramet_err err;

		if (sock < 0 && !working)
			return;
		assert_true(poll(fds, 2, working ? 0 : 1000) >= 0);
		if (fds[1].revents)
			return;
		if (ahead ? donor_step(rig->donor, &err) : donor_serve(rig->donor, &err))
			fail_msg("%s", err.msg);
		assert_true(clock_monotonic_ns() < deadline);
	}
}

/* The layer is complete, holds nothing else, and can be sealed. */
static inline void rig_layer_is_right(struct rig *rig)
{
	struct ramet_err err;
	struct layer_stat st;
	uint8_t page[PAGE];

	if (donor_finish(rig->donor, &err) || layer_seal(rig->layer, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(layer_stat(rig->layer, &st, &err), 0);
	assert_int_equal(st.resident, ranges_bytes(rig->ranges->ranges, rig->ranges->count));
	for (uint64_t i = 0; i < rig->size / PAGE; i++) {
		assert_int_equal(pread(rig->layer, page, PAGE, (off_t)(i * PAGE)), PAGE);
		assert_true(page_is(page, i, rig_version(rig, i)));
	}
}

#endif
