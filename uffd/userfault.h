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
#include "uffd/ranges.h"

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

/* Ends a child's watch of a filled layer, whoever calls (the donor; the daemon
 * when the donor is gone already): unregisters `ranges` of the layer that the
 * child mapped at `base`. Without it a fault that began before its page came,
 * but waits only now, would wait forever. 0 also when the child is gone.
 * -EINVAL: it has changed its mappings; the others are released nevertheless. */
int userfault_release(int uffd, uint64_t base, const struct range *ranges, size_t count,
		      struct ramet_err *err);

/* Whoever waits in [addr, addr + len) looks again. -ENOTTY: not a userfaultfd. */
int userfault_wake(int uffd, uint64_t addr, uint64_t len);

#endif
