/* The fake worker as a donor: copies with pwrite, tells its children with their
 * eventfds. See fake_guest.h. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/fdpass.h"
#include "tests/fake/fake_guest.h"
#include "uffd/layer.h"

#define LOOK_MS 5 /* how often for the file that it waits for */

struct fake_donor {
	struct fake_guest *guest;
	int layer_fd;
	bool filled;
	int children[FAKE_CHILDREN_MAX];
	unsigned int count, told;
};

_Noreturn static void crash(void)
{
	(void)signal(SIGILL, SIG_DFL);
	__builtin_trap();
}

static void tell(int fd)
{
	const uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
		_exit(96);
}

static void fill(struct fake_donor *donor)
{
	struct control_filled filled = { .header = { CONTROL_VERSION, CONTROL_FILLED } };
	struct fake_guest *guest = donor->guest;
	struct ramet_err err;

	for (unsigned int i = 0; i < guest->range_count; i++) {
		const struct range *range = &guest->ranges[i];
		size_t length = range->end - range->start;

		for (uint64_t at = range->start; at < range->end; at += RANGE_PAGE)
			(void)fake_guest_read(guest, at / RANGE_PAGE, true);
		if (pwrite(donor->layer_fd, guest->memory + range->start, length,
			   (off_t)range->start) != (ssize_t)length)
			_exit(97);
		filled.pages += length / RANGE_PAGE;
	}
	if (layer_seal(donor->layer_fd, &err) < 0)
		_exit(98);
	donor->filled = true;
	for (unsigned int i = 0; i < donor->count; i++)
		tell(donor->children[i]);
	fake_say(guest, &filled, sizeof(filled), NULL, 0);
}

static void take_child(struct fake_donor *donor)
{
	struct control_child child;
	int fds[FDPASS_MAX];
	size_t nfds = 0;
	ssize_t n = fdpass_recv(donor->guest->control_fd, &child, sizeof(child), fds, &nfds);
	size_t head = offsetof(struct control_child, ranges);

	if (n <= 0)
		_exit(0);
	if (child.header.type != CONTROL_CHILD || nfds != 1 || !child.range_count ||
	    n != (ssize_t)(head + child.range_count * sizeof(child.ranges[0])) ||
	    donor->count == FAKE_CHILDREN_MAX)
		_exit(99);
	donor->children[donor->count++] = fds[0];
	if (donor->filled)
		tell(fds[0]);
	if (donor->count == 2 && fake_mode("donor-dies-filling", NULL))
		crash();
}

_Noreturn void fake_donor_run(struct fake_guest *guest, int layer_fd)
{
	static struct fake_donor donor;
	char file[128];

	donor.guest = guest;
	donor.layer_fd = layer_fd;
	if (fake_mode("donor-dies", NULL))
		crash();
	if (fake_mode("donor-hangs-up", NULL)) {
		(void)close(guest->control_fd);
		(void)poll(NULL, 0, 20 * LOOK_MS); /* its end is heard of later */
		crash();
	}
	for (;;) {
		struct pollfd wait = { .fd = guest->control_fd, .events = POLLIN };
		bool waits = fake_mode("donor-dies-filling", NULL) ||
			     (fake_mode("donor-waits", file) && access(file, F_OK) < 0);

		if (!donor.filled && !waits)
			fill(&donor);
		if (poll(&wait, 1, donor.filled ? -1 : LOOK_MS) > 0)
			take_child(&donor);
	}
}
