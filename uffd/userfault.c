/* userfaultfd(2): see userfault.h. */
#include "uffd/userfault.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "lib/cleanup.h"

#ifndef USERFAULTFD_IOC_NEW /* linux/userfaultfd.h before 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

int userfault_device_open(struct ramet_err *err)
{
	int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return err_errno(err, errno, "cannot open /dev/userfaultfd");
	return fd;
}

int userfault_new(int device, struct ramet_err *err)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM };
	cleanup_close int fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return err_errno(err, errno, "cannot make a userfaultfd");
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return err_errno(err, errno,
				 "this kernel's userfaultfd cannot serve shared memory");
	return take_fd(&fd);
}

int userfault_register(int uffd, uint64_t addr, uint64_t len, struct ramet_err *err)
{
	struct uffdio_register reg = {
		.range = { .start = addr, .len = len },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	if (ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
		return err_errno(err, errno, "cannot watch %llu bytes of memory for missing pages",
				 (unsigned long long)len);
	return 0;
}

int userfault_unregister(int uffd, uint64_t addr, uint64_t len, struct ramet_err *err)
{
	struct uffdio_range range = { .start = addr, .len = len };

	if (ioctl(uffd, UFFDIO_UNREGISTER, &range) < 0)
		return err_errno(err, errno, "cannot stop watching %llu bytes of memory",
				 (unsigned long long)len);
	return 0;
}

int userfault_release(int uffd, uint64_t base, const struct range *ranges, size_t count,
		      struct ramet_err *err)
{
	int result = 0;

	for (size_t i = 0; i < count; i++) {
		int rc = userfault_unregister(uffd, base + ranges[i].start,
					      ranges[i].end - ranges[i].start, err);

		/* The kernel's answer for a process that is gone. */
		if (rc == -ENOMEM || rc == -ESRCH)
			return 0;
		if (rc)
			result = rc;
	}
	return result;
}

int userfault_wake(int uffd, uint64_t addr, uint64_t len)
{
	struct uffdio_range range = { .start = addr, .len = len };

	return ioctl(uffd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}
