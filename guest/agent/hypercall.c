/* privcmd's hypercall ioctl, as in Linux include/uapi/xen/privcmd.h, whose own
 * includes user space lacks. */
#include "guest/agent/hypercall.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include "guest/channel.h"

struct hypercall {
	uint64_t op;
	uint64_t arg[5];
};

/* xen/include/public/xen.h, memory.h */
#define HYPERCALL_MEMORY_OP     12
#define MEMORY_MAXIMUM_RAM_PAGE 2

#define IOCTL_HYPERCALL _IOC(_IOC_NONE, 'P', 0, sizeof(struct hypercall))

int hypercall_open(void)
{
	int fd = open("/dev/xen/privcmd", O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int submit(int fd, struct hypercall call)
{
	int answer = ioctl(fd, IOCTL_HYPERCALL, &call);

	return answer < 0 ? -errno : answer;
}

int hypercall_make(int fd, uint64_t op, uint64_t a, uint64_t b, uint64_t c)
{
	return submit(fd, (struct hypercall){ .op = RAMET_HYPERCALL, .arg = { op, a, b, c } });
}

int hypercall_frames(int fd)
{
	return submit(fd, (struct hypercall){ .op = HYPERCALL_MEMORY_OP,
					      .arg = { MEMORY_MAXIMUM_RAM_PAGE } });
}
