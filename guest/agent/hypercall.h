/* Hypercalls, most of them ramet's own (guest/channel.h), through Linux's privcmd driver. */
#ifndef RAMET_GUEST_HYPERCALL_H
#define RAMET_GUEST_HYPERCALL_H

#include <stdint.h>

/* Opens the driver. A descriptor, the caller's, or -errno. */
int hypercall_open(void);

/* RAMET_HYPERCALL(op, a, b, c) through an open driver. What the host answers, at
 * most INT_MAX, or -errno, the driver's or the host's. */
int hypercall_make(int fd, uint64_t op, uint64_t a, uint64_t b, uint64_t c);

/* How many frames of memory this guest has, or -errno. */
int hypercall_frames(int fd);

#endif
