/* Layers: memfds that hold guest memory, offset == guest-physical address.
 *
 * A layer is created empty by the daemon, filled by exactly one donor and then
 * sealed; from then on nobody can change it. Children get read-only
 * descriptors, so that none can write what its siblings read. Its size is
 * fixed from the start, so a mapping never loses its end.
 *
 * System calls: layer_create() memfd_create, ftruncate, fchmod, fcntl
 * F_ADD_SEALS; layer_open_readonly() openat (daemon only); layer_seal() fcntl
 * F_ADD_SEALS and F_GET_SEALS; layer_sealed() fcntl F_GET_SEALS; layer_stat()
 * fstat (newfstatat with AT_EMPTY_PATH). See memfd_create(2), fcntl(2). */
#ifndef RAMET_UFFD_LAYER_H
#define RAMET_UFFD_LAYER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"

/* An empty layer of `size` bytes (whole pages). `name` is shown in
 * /proc/<pid>/maps. Returns a writable, close-on-exec descriptor: the donor's.
 * -EINVAL: bad size; -EMFILE, -ENOMEM, -errno. */
int layer_create(const char *name, uint64_t size, struct ramet_err *err);

/* A descriptor of the same layer that can only be read and mapped privately:
 * the children's. Returns it, or -errno. Needs /proc. */
int layer_open_readonly(int layer, struct ramet_err *err);

/* Seals a filled layer against every change. Any descriptor that is open for
 * writing will do. All of a layer's pages are looked at (0.1 us each), and
 * pages in use by the kernel are waited for, so donors seal, not the daemon.
 * Sealing twice is no error. -EBUSY: a writable mapping still exists or a page
 * stayed in use; -EPERM: not open for writing; -EINVAL: not a memfd. */
int layer_seal(int layer, struct ramet_err *err);

/* Whether nobody can change the layer any more. -EINVAL: not a memfd. */
int layer_sealed(int layer, bool *sealed, struct ramet_err *err);

struct layer_stat {
	uint64_t size;     /* bytes */
	uint64_t resident; /* bytes of memory (or swap) that its pages take */
	dev_t dev;
	ino_t ino; /* with dev: which layer it is */
};

/* -EBADF, -errno. */
int layer_stat(int layer, struct layer_stat *stat, struct ramet_err *err);

#endif
