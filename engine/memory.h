/* Guest memory as the engine keeps it: layers with their donors, and the maps
 * of guests that share them (uffd/extent_map.h, uffd/layer.h).
 *
 * A layer lives as long as a map uses it. While its donor fills it, guests that
 * touch what is missing wait for the donor; if that dies, every guest whose
 * memory has the layer fails, because nobody can know what it would have read. */
#ifndef RAMET_ENGINE_MEMORY_H
#define RAMET_ENGINE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "engine/vm.h"
#include "guest/protocol.h"
#include "uffd/extent_map.h"

struct memory_layer;
struct hot;

/* Someone who waits for a layer: `err` is NULL when it is filled and sealed. */
typedef void (*memory_layer_cb)(void *arg, const struct ramet_err *err);

/* The memory of a stopped guest; shared, never changed. */
struct memory {
	unsigned int refs;
	struct extent_map *map;
	unsigned int depth; /* how often it was forked, templates included */
	size_t layer_count;
	struct memory_layer *layers[CONTROL_LAYERS_MAX]; /* by number in the map */
};

/* What was in memory `below` (NULL: nothing but zeros, `size` bytes) with
 * `ranges` replaced by a new layer, which is nobody's yet. The caller owns one
 * reference. -E2BIG: beyond the limits fork_extents or fork_layers; -EINVAL:
 * ranges that cannot be; -ENOMEM, -EMFILE. */
int memory_derive(struct engine *engine, struct memory *below, uint64_t size,
		  const struct range *ranges, size_t count, struct memory **memory,
		  struct ramet_err *err);

struct memory *memory_ref(struct memory *memory);
void memory_unref(struct memory *memory); /* NULL is fine */

/* The layer that memory_derive() made. */
struct memory_layer *memory_top(const struct memory *memory);

/* -EIO with the reason when a layer's donor died. */
int memory_check(const struct memory *memory, struct ramet_err *err);

/* -EAGAIN when `more` guests would be too many for the donor of a layer that is
 * still being filled (limit fork_served). */
int memory_check_served(const struct memory *memory, unsigned int more, struct ramet_err *err);

/* Bytes of memory that the layers take, each counted in full. */
uint64_t memory_resident(const struct memory *memory);

/* `vm`, paused, becomes the donor: on success it belongs to the layer. It copies
 * the hot pages first (hot.h; NULL: not known). `hurry`: then all else at once;
 * or it leaves the processors to others for a while. */
int memory_donate(struct memory *memory, struct vm *vm, const struct hot *hot, bool hurry,
		  struct ramet_err *err);

/* How much processor time the top layer's donor gets; see vm_set_weight(). */
void memory_set_weight(const struct memory *memory, unsigned int percent);

/* Calls back, from the loop, when the top layer is filled; one waiter. */
void memory_wait_filled(struct memory *memory, memory_layer_cb done, void *arg);
bool memory_filled(const struct memory *memory);

/* ---- guests that can be restored ---- */

/* A stopped guest: memory and the bundle of vmm/control.h. */
struct frozen {
	unsigned int refs;
	struct memory *memory;
	struct hot *hot; /* see hot.h; NULL: not known */
	int bundle_fd;
	uint64_t state_bytes, map_bytes;
	struct agent_snapshot *agent;
	struct exec_snapshot *execs;
	uint32_t handles[FILE_HANDLES_MAX]; /* open in the guest for nobody */
	size_t handle_count;
};

/* Takes over `memory`. `state` is copied. */
int frozen_create(struct memory *memory, const void *state, size_t state_bytes,
		  struct frozen **frozen, struct ramet_err *err);
struct frozen *frozen_ref(struct frozen *frozen);
void frozen_unref(struct frozen *frozen); /* NULL is fine */

/* Sends a shell all of it; CONTROL_RESTORED answers. With `heat` the pages that it
 * will write to first are copied before it runs. */
int frozen_restore(struct frozen *frozen, struct vm *vm, bool heat, struct ramet_err *err);

/* Sends a shell the image that `frozen` is of, a template's; it is a shell again
 * afterwards. -EINVAL: not an image of its own. */
int frozen_give_base(const struct frozen *frozen, struct vm *vm, struct ramet_err *err);

/* To be called with that answer, before anything else is done with it: the
 * donors are told of the new guest. */
int frozen_restored(struct vm *vm, const struct control_restored *restored, const int *uffds,
		    size_t count, struct ramet_err *err);

/* The guest of `vm` will not be told to donors any more (see vm_release()). */
void memory_unpin(struct vm *vm);

#endif
