/* Claims of a spawner: a block of uids, and its cgroup's name. */
#include "engine/spawner_claim.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "engine/worker_ids.h"
#include "lib/cleanup.h"
#include "lib/clock.h"

#define MS_NS 1000000u

struct claim_name {
	struct sockaddr_un address;
	socklen_t length;
};

static struct claim_name name_of(const char *text)
{
	struct claim_name name = { .address.sun_family = AF_UNIX };
	int len =
		snprintf(name.address.sun_path + 1, sizeof(name.address.sun_path) - 1, "%s", text);

	name.length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
	return name;
}

static int name_bind(int fd, const struct claim_name *name)
{
	return bind(fd, (const struct sockaddr *)&name->address, name->length) < 0 ? -errno : 0;
}

int claim_uid_block(unsigned int *block, struct ramet_err *err)
{
	cleanup_close int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	char text[40];

	if (fd < 0)
		return err_errno(err, errno, "cannot make a socket to claim uids with");
	for (unsigned int i = 0; i < WORKER_UID_BLOCKS; i++) {
		struct claim_name name;
		int ret;

		(void)snprintf(text, sizeof(text), "ramet-worker-uids-%u", worker_uid(i, 0));
		name = name_of(text);
		ret = name_bind(fd, &name);
		if (ret == 0) {
			*block = i;
			return take_fd(&fd);
		}
		if (ret != -EADDRINUSE)
			return err_errno(err, -ret, "cannot claim uids for workers");
	}
	return err_set(err, EBUSY,
		       "all %u blocks of uids for workers are claimed by sockets called "
		       "@ramet-worker-uids-*; `ss -xa` shows by whom",
		       WORKER_UID_BLOCKS);
}

/* Returns when the name's owner is gone (its sockets hang up) or at `end`. */
static int owner_wait(const struct claim_name *name, uint64_t end)
{
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct pollfd hangup = { .fd = fd };
	uint64_t now = clock_monotonic_ns();

	if (fd < 0)
		return -errno;
	if (now >= end)
		return -EBUSY;
	if (connect(fd, (const struct sockaddr *)&name->address, name->length) < 0)
		return errno == ECONNREFUSED ? 0 : -errno; /* just gone, or not listening yet */
	return poll(&hangup, 1, (int)((end - now) / MS_NS) + 1) < 0 && errno != EINTR ? -errno : 0;
}

int claim_cgroup(const char *cgroup_name, int timeout_ms, struct ramet_err *err)
{
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const uint64_t end = clock_monotonic_ns() + (uint64_t)timeout_ms * MS_NS;
	struct claim_name name;
	char text[100];
	int ret;

	if (fd < 0)
		return err_errno(err, errno, "cannot make a socket to claim a cgroup with");
	(void)snprintf(text, sizeof(text), "ramet-spawner-%s", cgroup_name);
	name = name_of(text);
	while ((ret = name_bind(fd, &name)) == -EADDRINUSE) {
		ret = owner_wait(&name, end);
		if (ret < 0)
			break;
	}
	if (ret == -EBUSY)
		return err_set(err, EBUSY,
			       "the spawner of the previous daemon does not end; kill the process "
			       "that has the socket @%s (`ss -xlp` shows which)",
			       text);
	if (ret == 0 && listen(fd, 1) < 0)
		ret = -errno;
	if (ret < 0)
		return err_errno(err, -ret, "cannot claim the cgroup %s", cgroup_name);
	return take_fd(&fd);
}
