/* Stopped guests that can be restored: see memory.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/agent.h"
#include "engine/exec.h"
#include "engine/hot.h"
#include "engine/internal.h"
#include "engine/memory_layer.h"
#include "lib/cleanup.h"
#include "uffd/userfault.h"

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

/* ---- guests made of it, and their donors ---- */

void memory_unpin(struct vm *vm)
{
	uint64_t pinned = vm->pinned;

	vm->pinned = 0;
	for (size_t i = 0; pinned >> i; i++) {
		if (!(pinned >> i & 1))
			continue;
		vm->memory->layers[i]->pins--;
		layer_settle(vm->memory->layers[i]);
	}
}

/* Which layers of it still have holes. */
static uint64_t memory_filling(const struct memory *memory)
{
	uint64_t filling = 0;

	for (size_t i = 0; i < memory->layer_count; i++)
		if (memory->layers[i]->filling)
			filling |= (uint64_t)1 << i;
	return filling;
}

int frozen_give_base(const struct frozen *frozen, struct vm *vm, struct ramet_err *err)
{
	const struct memory *memory = frozen->memory;
	struct worker_base base = {
		.bundle_fd = frozen->bundle_fd,
		.layer_fd = memory->layers[0]->fd,
		.map_at = frozen->state_bytes,
		.map_bytes = frozen->map_bytes,
	};

	if (memory->layer_count != 1 || memory->layers[0]->filling)
		return err_set(err, EINVAL, "this memory is no image");
	if (frozen->hot) {
		base.hot = frozen->hot->seen;
		base.hot_count = frozen->hot->seen_count;
	}
	return worker_base(vm->worker, &base, err);
}

int frozen_restore(struct frozen *frozen, struct vm *vm, bool heat, struct ramet_err *err)
{
	struct memory *memory = frozen->memory;
	int fds[CONTROL_LAYERS_MAX];
	struct worker_restore restore = {
		.bundle_fd = frozen->bundle_fd,
		.layer_fds = fds,
		.layer_count = (uint32_t)memory->layer_count,
		.state_bytes = frozen->state_bytes,
		.map_bytes = frozen->map_bytes,
		.filling = memory_filling(memory),
	};
	int r = memory_check(memory, err);

	if (r < 0)
		return r;
	if (heat && frozen->hot) {
		restore.hot = frozen->hot->pages;
		restore.hot_count = frozen->hot->count;
	}
	for (size_t i = 0; i < memory->layer_count; i++)
		fds[i] = memory->layers[i]->fd;
	r = worker_restore(vm->worker, &restore, err);
	if (r < 0)
		return r;
	vm->memory = memory_ref(memory);
	vm->pinned = restore.filling;
	for (size_t i = 0; i < memory->layer_count; i++)
		if (restore.filling >> i & 1)
			memory->layers[i]->pins++;
	return 0;
}

/* Tells the donor of layer `number` of a guest's memory of that guest. */
static int donor_add(struct memory_layer *layer, const struct vm *vm, uint32_t number,
		     uint64_t base, int uffd, struct ramet_err *err)
{
	cleanup_ranges struct range_list *ranges = NULL;
	int r = layer_check_served(layer, 0, err);

	if (r == 0)
		r = extent_map_layer_ranges(&ranges, vm->memory->map, number, err);
	if (r == 0)
		r = worker_child(layer->donor->worker, vm->number, base, uffd, ranges, err);
	if (r == 0)
		layer->told++;
	return r;
}

/* Sees to it that a guest that watches a layer waits for nothing in vain. */
static int layer_introduce(struct memory_layer *layer, const struct vm *vm, uint32_t number,
			   uint64_t base, int uffd, struct ramet_err *err)
{
	int r = layer->donor ? donor_add(layer, vm, number, base, uffd, err) : -EPIPE;

	if (r != -EPIPE && r != -ECONNRESET)
		return r;
	/* The donor is gone. Either nothing is missing any more, or the layer's
	 * loss, which is just being found out, takes this guest along. */
	if (!layer->filling)
		(void)userfault_wake(uffd, base, vm->memory->map->size);
	return 0;
}

int frozen_restored(struct vm *vm, const struct control_restored *restored, const int *uffds,
		    size_t count, struct ramet_err *err)
{
	unsigned int wanted = (unsigned int)__builtin_popcountll(vm->pinned);
	size_t next = 0;
	int r = 0;

	vm->memory_at = restored->base;

	/* One descriptor for each layer that is being filled, in their order. */
	if (count != wanted)
		r = err_set(err, EPROTO, "the worker sent %zu userfaultfds for %u layers", count,
			    wanted);
	for (size_t i = 0; r == 0 && vm->pinned >> i; i++) {
		struct memory_layer *layer = vm->memory->layers[i];

		if (!(vm->pinned >> i & 1))
			continue;
		if (layer->lost)
			r = err_set(err, EIO, "%s", layer->cause.msg);
		else
			r = layer_introduce(layer, vm, (uint32_t)i, restored->base, uffds[next],
					    err);
		next++;
	}
	memory_unpin(vm);
	return r;
}
