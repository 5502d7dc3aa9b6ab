/* Stopped guests that can be restored: see memory.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/agent.h"
#include "engine/exec.h"
#include "engine/hot.h"
#include "engine/memory.h"
#include "lib/cleanup.h"

static int write_all(int fd, const void *bytes, size_t length, off_t at)
{
	const char *p = bytes;

	while (length) {
		ssize_t n = pwrite(fd, p, length, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		at += n;
		length -= (size_t)n;
	}
	return 0;
}

/* Sealed, so that no worker can change what the next one gets. */
static int bundle_make(struct frozen *frozen, const void *state, size_t state_bytes,
		       struct ramet_err *err)
{
	const struct extent_map *map = frozen->memory->map;
	size_t map_bytes = EXTENT_MAP_ENCODED(map->count);
	cleanup_free void *encoded = malloc(map_bytes);
	int r;

	if (!encoded)
		return err_set(err, ENOMEM, "no memory for a map of guest memory");
	r = extent_map_encode(map, encoded, map_bytes);
	if (r < 0)
		return err_errno(err, -r, "cannot encode a map of guest memory");
	frozen->bundle_fd = memfd_create("ramet-bundle", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (frozen->bundle_fd < 0)
		return err_errno(err, errno, "cannot make a bundle");
	r = write_all(frozen->bundle_fd, state, state_bytes, 0);
	if (r == 0)
		r = write_all(frozen->bundle_fd, encoded, map_bytes, (off_t)state_bytes);
	if (r == 0 && ftruncate(frozen->bundle_fd, CONTROL_BUNDLE_MAX) < 0)
		r = -errno;
	if (r == 0 && fcntl(frozen->bundle_fd, F_ADD_SEALS,
			    F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		r = -errno;
	if (r < 0)
		return err_errno(err, -r, "cannot write a bundle");
	frozen->state_bytes = state_bytes;
	frozen->map_bytes = map_bytes;
	return 0;
}

int frozen_create(struct memory *memory, const void *state, size_t state_bytes,
		  struct frozen **frozen, struct ramet_err *err)
{
	struct frozen *f = calloc(1, sizeof(*f));
	int r;

	if (!f) {
		memory_unref(memory);
		return err_set(err, ENOMEM, "no memory for a stopped guest");
	}
	f->refs = 1;
	f->memory = memory;
	f->bundle_fd = -1;
	r = bundle_make(f, state, state_bytes, err);
	if (r < 0) {
		frozen_unref(f);
		return r;
	}
	*frozen = f;
	return 0;
}

struct frozen *frozen_ref(struct frozen *frozen)
{
	frozen->refs++;
	return frozen;
}

void frozen_unref(struct frozen *frozen)
{
	if (!frozen || --frozen->refs)
		return;
	memory_unref(frozen->memory);
	hot_unref(frozen->hot);
	close_fd(&frozen->bundle_fd);
	agent_snapshot_free(frozen->agent);
	free(frozen->execs);
	free(frozen);
}
