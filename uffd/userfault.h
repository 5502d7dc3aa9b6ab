/* userfaultfd(2) as children and donors use it: missing pages of shmem.
 *
 * Descriptors come from /dev/userfaultfd, never from the system call with
 * UFFD_USER_MODE_ONLY: KVM's faults are the kernel's. No EVENT_ feature is
 * asked for, so mapping calls never wait for a reader.
 *
 * System calls: userfault_device_open() openat (daemon, before the jail);
 * userfault_new() ioctl USERFAULTFD_IOC_NEW and UFFDIO_API; the others ioctl
 * UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_WAKE. */
#ifndef RAMET_UFFD_USERFAULT_H
#define RAMET_UFFD_USERFAULT_H

#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

/* Returns a descriptor of /dev/userfaultfd. -ENOENT, -EACCES: no device, or
 * not for this user. */
int userfault_device_open(struct ramet_err *err);

/* Returns a new userfaultfd (non-blocking, close-on-exec) for the calling
 * process. -EINVAL: this kernel has none for shared memory; -errno. */
int userfault_new(int device, struct ramet_err *err);

/* Faults on missing pages of [addr, addr + len) wait for `uffd`. -EBUSY:
 * registered with another one; -EINVAL: not memory it can serve. */
int userfault_register(int uffd, uint64_t addr, uint64_t len, struct ramet_err *err);

/* The reverse; whoever waits there goes on. Works on the process that made
 * `uffd`, whoever calls. -ENOMEM also when that process is gone. */
int userfault_unregister(int uffd, uint64_t addr, uint64_t len, struct ramet_err *err);

/* Whoever waits in [addr, addr + len) looks again. -ENOTTY: not a userfaultfd. */
int userfault_wake(int uffd, uint64_t addr, uint64_t len);

#endif
