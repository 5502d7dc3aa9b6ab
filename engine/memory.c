/* Layers, donors and maps: see memory.h. */
#include "engine/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/hot.h"
#include "engine/internal.h"
#include "engine/memory_layer.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "uffd/layer.h"

/* ---- layers ---- */

static struct memory_layer *layer_make(struct engine *engine, uint64_t size, struct ramet_err *err)
{
	struct memory_layer *layer = calloc(1, sizeof(*layer));
	int r;

	if (!layer) {
		(void)err_set(err, ENOMEM, "no memory for a memory layer");
		return NULL;
	}
	layer->engine = engine;
	layer->refs = 1;
	layer->fd = -1;
	r = layer->write_fd = layer_create("ramet-layer", size, err);
	if (r >= 0)
		r = layer->fd = layer_open_readonly(layer->write_fd, err);
	if (r < 0) {
		close_fd(&layer->write_fd);
		free(layer);
		return NULL;
	}
	return layer;
}

static void layer_unref(struct memory_layer *layer)
{
	if (--layer->refs)
		return;
	vm_release(layer->donor);
	close_fd(&layer->write_fd);
	close_fd(&layer->fd);
	free(layer);
}

static void layer_tell(struct memory_layer *layer, const struct ramet_err *err)
{
	memory_layer_cb done = layer->done;

	layer->done = NULL;
	if (done)
		done(layer->done_arg, err);
}

static bool memory_has(const struct memory *memory, const struct memory_layer *layer)
{
	for (size_t i = 0; memory && i < memory->layer_count; i++)
		if (memory->layers[i] == layer)
			return true;
	return false;
}

/* The donor died before its layer was filled. Its own guests may be donors. */
static void layer_lost(struct memory_layer *layer, const struct ramet_err *cause)
{
	struct engine *engine = layer->engine;
	struct vm *vm;

	if (!layer->filling)
		return;
	layer->filling = false;
	layer->lost = true;
	(void)err_set(&layer->cause, EIO, "memory that it shares since a fork is lost: %.400s",
		      cause->msg);
	log_error("a memory layer was lost: %s", cause->msg);
	layer->refs++;
	vm_release(take_ptr(layer->donor));
	TAILQ_FOREACH(vm, &engine->vms, link)
	if (memory_has(vm->memory, layer))
		vm_fail(vm, &layer->cause);
	layer_tell(layer, &layer->cause);
	layer_unref(layer);
}

void layer_settle(struct memory_layer *layer)
{
	if (layer->filling || layer->pins)
		return;
	vm_release(take_ptr(layer->donor));
}

static void donor_filled(void *arg, const struct control_filled *filled)
{
	struct memory_layer *layer = arg;
	bool sealed = false;

	/* Sealing waits for pages that are in use, so it is the donor's to try.
	 * What cannot be sealed now is safe when the donor is gone: no one else
	 * has a descriptor or mapping to write with. */
	if (layer_sealed(layer->fd, &sealed, NULL) < 0 || !sealed)
		log_debug("a memory layer was filled and is too busy to be sealed");
	log_debug("a memory layer was filled: %llu pages, %llu of them on demand, %llu us",
		  (unsigned long long)filled->pages, (unsigned long long)filled->demanded_pages,
		  (unsigned long long)(filled->fill_ns / 1000));
	layer->filling = false;
	close_fd(&layer->write_fd);
	layer->refs++;
	layer_settle(layer);
	layer_tell(layer, NULL);
	layer_unref(layer);
}

static void donor_refused(void *arg, uint32_t request, const struct ramet_err *err)
{
	(void)request;
	layer_lost(arg, err);
}

static void donor_lost(void *arg, const struct ramet_err *err)
{
	struct memory_layer *layer = arg;
	struct ramet_err cause;

	if (!vm_loss(layer->donor, err, &cause))
		return;
	if (layer->filling)
		layer_lost(layer, &cause);
	else
		vm_release(take_ptr(layer->donor));
}

static void donor_gone(void *arg)
{
	struct ramet_err err;

	(void)err_set(&err, ECONNRESET, "the worker is gone");
	donor_lost(arg, &err);
}

int memory_donate(struct memory *memory, struct vm *vm, const struct hot *hot, bool hurry,
		  struct ramet_err *err)
{
	static const struct vm_events events = {
		.worker = { .filled = donor_filled, .refused = donor_refused, .lost = donor_lost },
		.gone = donor_gone,
	};
	struct memory_layer *layer = memory_top(memory);
	const struct memory *own = vm->memory;
	int sources[CONTROL_LAYERS_MAX];
	struct worker_donate donate = {
		.layer_fd = layer->write_fd,
		.uffd_fd = layer->engine->uffd_fd,
		.source_fds = sources,
		.source_count = own ? (uint32_t)own->layer_count : 0,
		.hot = hot ? hot->pages : NULL,
		.hot_count = hot ? hot->count : 0,
		.hurry = hurry,
	};
	int r;

	for (uint32_t i = 0; i < donate.source_count; i++)
		sources[i] = own->layers[i]->fd;
	r = worker_donate(vm->worker, &donate, err);
	if (r < 0)
		return r;
	layer->donor = vm;
	layer->filling = true;
	vm_set_owner(vm, &events, layer);
	return 0;
}

void memory_set_weight(const struct memory *memory, unsigned int percent)
{
	const struct memory_layer *layer = memory_top(memory);

	if (layer->filling)
		vm_set_weight(layer->donor, percent);
}

void memory_wait_filled(struct memory *memory, memory_layer_cb done, void *arg)
{
	struct memory_layer *layer = memory_top(memory);

	layer->done = done;
	layer->done_arg = arg;
}

bool memory_filled(const struct memory *memory)
{
	return !memory_top(memory)->filling && !memory_top(memory)->lost;
}

/* ---- memory ---- */

struct memory *memory_ref(struct memory *memory)
{
	memory->refs++;
	return memory;
}

void memory_unref(struct memory *memory)
{
	if (!memory || --memory->refs)
		return;
	for (size_t i = 0; i < memory->layer_count; i++)
		layer_unref(memory->layers[i]);
	free(memory->map);
	free(memory);
}

struct memory_layer *memory_top(const struct memory *memory)
{
	return memory->layers[memory->layer_count - 1];
}

/* Overlays `below` and keeps the layers that are still seen. */
static int memory_build(struct memory *memory, struct memory *below, uint64_t size,
			const struct range *ranges, size_t count, struct ramet_err *err)
{
	uint32_t kept[EXTENT_LAYERS_MAX];
	uint32_t next = below ? (uint32_t)below->layer_count : 0;
	cleanup_extent_map struct extent_map *zero = NULL;
	const struct extent_map *base = below ? below->map : NULL;
	size_t n;
	int r = 0;

	if (!base)
		r = extent_map_create(&zero, size, EXTENT_ZERO, err);
	if (r == 0)
		r = extent_map_overlay(&memory->map, base ? base : zero, ranges, count, next, err);
	if (r < 0)
		return r;
	n = extent_map_compact(memory->map, kept);
	if (n > CONTROL_LAYERS_MAX)
		return err_set(err, E2BIG, "its memory is spread over %zu layers", n);
	for (size_t i = 0; i < n; i++) {
		if (kept[i] == next)
			continue; /* the new one, last by its number */
		memory->layers[i] = below->layers[kept[i]];
		memory->layers[i]->refs++;
		memory->layer_count = i + 1;
	}
	return 0;
}

static int memory_within(const struct limits *limits, const struct memory *memory,
			 struct ramet_err *err)
{
	if (memory->layer_count > limits->fork_layers)
		return err_set(err, E2BIG,
			       "its memory would be spread over %zu layers, more than %u (limit "
			       "fork_layers): fork an earlier generation",
			       memory->layer_count, limits->fork_layers);
	if (memory->map->count > limits->fork_extents)
		return err_set(err, E2BIG,
			       "its memory would have %zu extents, more than %u (limit "
			       "fork_extents): fork an earlier generation",
			       memory->map->count, limits->fork_extents);
	return 0;
}

int memory_derive(struct engine *engine, struct memory *below, uint64_t size,
		  const struct range *ranges, size_t count, struct memory **memory,
		  struct ramet_err *err)
{
	struct memory *m = calloc(1, sizeof(*m));
	struct memory_layer *layer;
	int r;

	if (!m)
		return err_set(err, ENOMEM, "no memory for a map of guest memory");
	m->refs = 1;
	m->depth = below ? below->depth + 1 : 0;
	r = memory_build(m, below, size, ranges, count, err);
	if (r == 0) {
		layer = layer_make(engine, size, err);
		if (layer)
			m->layers[m->layer_count++] = layer;
		else
			r = -ENOMEM;
	}
	if (r == 0)
		r = memory_within(&engine->limits, m, err);
	if (r < 0) {
		memory_unref(m);
		return r;
	}
	*memory = m;
	return 0;
}

int memory_check(const struct memory *memory, struct ramet_err *err)
{
	for (size_t i = 0; i < memory->layer_count; i++)
		if (memory->layers[i]->lost)
			return err_set(err, EIO, "%s", memory->layers[i]->cause.msg);
	return 0;
}

int layer_check_served(const struct memory_layer *layer, unsigned int more, struct ramet_err *err)
{
	unsigned int most = layer->engine->limits.fork_served;
	unsigned int there = layer->told + layer->pins;

	if (!layer->filling || (there <= most && more <= most - there))
		return 0;
	return err_set(err, EAGAIN,
		       "memory that is still being copied for an earlier fork is waited for by %u "
		       "sandboxes, and %u more are above %u (limit fork_served); try again later",
		       there, more, most);
}

int memory_check_served(const struct memory *memory, unsigned int more, struct ramet_err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < memory->layer_count; i++)
		r = layer_check_served(memory->layers[i], more, err);
	return r;
}

uint64_t memory_resident(const struct memory *memory)
{
	uint64_t bytes = 0;
	struct layer_stat stat;

	for (size_t i = 0; i < memory->layer_count; i++)
		if (layer_stat(memory->layers[i]->fd, &stat, NULL) == 0)
			bytes += stat.resident;
	return bytes;
}
