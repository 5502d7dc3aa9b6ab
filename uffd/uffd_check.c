/* A trial of userfaultfd: see uffd_check.h. */
#include "uffd/uffd_check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/cleanup.h"

#ifndef USERFAULTFD_IOC_NEW /* linux/userfaultfd.h before 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* The device needs only permission on its file; the system call needs
 * CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1 to see kernel faults. */
static int uffd_open(bool *device, struct ramet_err *err)
{
	cleanup_close int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd = dev < 0 ? -1 : ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);

	*device = fd >= 0;
	if (fd >= 0)
		return fd;
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return err_errno(err, errno, "cannot open a userfaultfd");
	return fd;
}

int uffd_check(struct uffd_support *support, struct ramet_err *err)
{
	struct uffdio_api api = { .api = UFFD_API };
	cleanup_close int fd = -1;
	bool device = false;

	fd = uffd_open(&device, err);
	if (fd < 0)
		return fd;
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return err_errno(err, errno, "the kernel's userfaultfd speaks another version");
	*support = (struct uffd_support){
		.device = device,
		.features = api.features,
		.shmem_missing = api.features & UFFD_FEATURE_MISSING_SHMEM,
		.shmem_minor = api.features & UFFD_FEATURE_MINOR_SHMEM,
		.shmem_write_protect = api.features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
	};
	return 0;
}
