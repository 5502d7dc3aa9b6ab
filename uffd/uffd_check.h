/* Whether this process may use userfaultfd(2), and for what. */
#ifndef RAMET_UFFD_CHECK_H
#define RAMET_UFFD_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"

struct uffd_support {
	bool device;       /* by way of /dev/userfaultfd, else by the system call */
	uint64_t features; /* UFFD_FEATURE_* of linux/userfaultfd.h */
	bool shmem_missing, shmem_minor, shmem_write_protect; /* on memfds */
};

/* Opens a userfaultfd, asks for its features and closes it again.
 * -EPERM, -EACCES: not for this user; -ENOSYS: not in this kernel; -errno.
 * See userfaultfd(2), ioctl_userfaultfd(2). */
int uffd_check(struct uffd_support *support, struct ramet_err *err);

#endif
