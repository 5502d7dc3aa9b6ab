/* Layers: see layer.h. */
#include "uffd/layer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "uffd/ranges.h"

#ifndef MFD_NOEXEC_SEAL /* Linux 6.3 */
#define MFD_NOEXEC_SEAL 0x0008U
#endif

#define SEALS_SIZE (F_SEAL_SHRINK | F_SEAL_GROW)
#define SEALS_ALL  (SEALS_SIZE | F_SEAL_WRITE | F_SEAL_SEAL)

int layer_create(const char *name, uint64_t size, struct ramet_err *err)
{
	const unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	cleanup_close int fd = -1;
	int rc = ranges_size_check(size, err);

	if (rc)
		return rc;
	fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(name, flags);
	if (fd < 0)
		return err_errno(err, errno, "cannot create a memory layer");
	/* The mode keeps workers, who run as others, from opening it again. */
	if (ftruncate(fd, (off_t)size) < 0 || fchmod(fd, 0600) < 0 ||
	    fcntl(fd, F_ADD_SEALS, SEALS_SIZE) < 0)
		return err_errno(err, errno, "cannot set up a memory layer of %llu bytes",
				 (unsigned long long)size);
	return take_fd(&fd);
}

int layer_open_readonly(int layer, struct ramet_err *err)
{
	char path[sizeof("/proc/self/fd/") + 12];
	int fd;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", layer);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, errno, "cannot open a memory layer again at %s", path);
	return fd;
}

int layer_sealed(int layer, bool *sealed, struct ramet_err *err)
{
	int seals = fcntl(layer, F_GET_SEALS);

	if (seals < 0)
		return err_errno(err, errno, "descriptor %d is not a memory layer", layer);
	*sealed = (seals & SEALS_ALL) == SEALS_ALL;
	return 0;
}

int layer_seal(int layer, struct ramet_err *err)
{
	bool sealed = false;
	int rc = layer_sealed(layer, &sealed, err);

	if (rc || sealed)
		return rc;
	if (fcntl(layer, F_ADD_SEALS, SEALS_ALL) == 0)
		return 0;
	if (errno == EBUSY)
		return err_set(err, EBUSY,
			       "cannot seal a memory layer: somebody still has it mapped for "
			       "writing, or uses its pages");
	if (errno == EPERM)
		return err_set(err, EPERM,
			       "cannot seal a memory layer through descriptor %d: it is open for "
			       "reading only",
			       layer);
	return err_errno(err, errno, "cannot seal a memory layer");
}

int layer_stat(int layer, struct layer_stat *stat, struct ramet_err *err)
{
	struct stat st;

	if (fstat(layer, &st) < 0)
		return err_errno(err, errno, "cannot look at a memory layer");
	*stat = (struct layer_stat){
		.size = (uint64_t)st.st_size,
		.resident = (uint64_t)st.st_blocks * 512,
		.dev = st.st_dev,
		.ino = st.st_ino,
	};
	return 0;
}
