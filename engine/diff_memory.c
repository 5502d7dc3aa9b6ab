/* In how many pages the memory of two guests differs: see struct diff_memory.
 *
 * Memory that both map from the same layers is the same, and what a guest wrote
 * to after that is in its worker's log. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/diff.h"
#include "lib/cleanup.h"
#include "vmm/layout.h"

static size_t bitmap_words(uint64_t size)
{
	return (size / PAGE_SIZE + 63) / 64;
}

void diff_memory_clear(struct diff_guest *guest)
{
	worker_stats_cancel(&guest->stats);
	memory_unref(take_ptr(guest->memory));
	close_fd(&guest->bitmap_fd);
}

/* Adds what a worker wrote into its file. Bits behind its memory are not taken. */
static int bitmap_add(uint64_t *bitmap, const struct diff_guest *guest, uint64_t *count,
		      struct ramet_err *err)
{
	uint64_t pages = guest->memory->map->size / PAGE_SIZE;
	size_t words = bitmap_words(guest->memory->map->size);
	cleanup_free uint64_t *own = calloc(words, sizeof(*own));
	ssize_t n;

	if (!own)
		return err_set(err, ENOMEM, "no memory to compare memory");
	n = pread(guest->bitmap_fd, own, words * sizeof(*own), 0);
	if (n != (ssize_t)(words * sizeof(*own)))
		return err_set(err, EIO, "cannot read which pages were written");
	if (pages % 64)
		own[words - 1] &= ((uint64_t)1 << (pages % 64)) - 1;
	for (size_t i = 0; i < words; i++) {
		*count += (uint64_t)__builtin_popcountll(own[i]);
		bitmap[i] |= own[i];
	}
	return 0;
}

static const struct memory_layer *layer_of(const struct memory *memory, const struct extent *extent)
{
	return extent->layer == EXTENT_ZERO ? NULL : memory->layers[extent->layer];
}

/* Marks the pages that are not in the same layer; memory that only one has is
 * like zeros in the other. */
static void layers_add(uint64_t *bitmap, const struct memory *a, const struct memory *b)
{
	uint64_t size = a->map->size > b->map->size ? a->map->size : b->map->size;
	size_t i = 0, k = 0;

	for (uint64_t at = 0, end; at < size; at = end) {
		const struct memory_layer *x = NULL, *y = NULL;

		end = size;
		while (i < a->map->count && a->map->extents[i].end <= at)
			i++;
		while (k < b->map->count && b->map->extents[k].end <= at)
			k++;
		if (i < a->map->count) {
			x = layer_of(a, &a->map->extents[i]);
			end = a->map->extents[i].end;
		}
		if (k < b->map->count) {
			y = layer_of(b, &b->map->extents[k]);
			end = b->map->extents[k].end < end ? b->map->extents[k].end : end;
		}
		for (uint64_t page = at / PAGE_SIZE; x != y && page < end / PAGE_SIZE; page++)
			bitmap[page / 64] |= (uint64_t)1 << (page % 64);
	}
}

static int memory_compare(struct diff *diff, struct ramet_err *err)
{
	const struct memory *a = diff->guests[0].memory, *b = diff->guests[1].memory;
	size_t words = bitmap_words(a->map->size > b->map->size ? a->map->size : b->map->size);
	cleanup_free uint64_t *bitmap = calloc(words, sizeof(*bitmap));
	int r = 0;

	if (!bitmap)
		return err_set(err, ENOMEM, "no memory to compare memory");
	for (size_t i = 0; r == 0 && i < 2; i++)
		r = bitmap_add(bitmap, &diff->guests[i], &diff->memory.own[i], err);
	if (r < 0)
		return r;
	layers_add(bitmap, a, b);
	for (size_t i = 0; i < words; i++)
		diff->memory.pages += (uint64_t)__builtin_popcountll(bitmap[i]);
	return 0;
}

static void memory_counted(struct worker_stats *request, const struct control_stats *stats,
			   const struct ramet_err *err)
{
	struct diff_guest *guest = (void *)((char *)request - offsetof(struct diff_guest, stats));
	struct diff *diff = guest->diff;
	struct ramet_err cause;
	int r;

	if (err) { /* its own end, if that has begun, tells more */
		const struct sandbox *s = engine_sandbox_find(diff->engine, guest->id);

		if (!s || sandbox_check_ready(s, &cause) == 0)
			cause = *err;
		diff_fail(guest, &cause);
		return;
	}
	guest->counted = true;
	if (stats->dirty_pages == UINT64_MAX)
		diff->memory.known = false;
	if (!diff->guests[0].counted || !diff->guests[1].counted)
		return;
	r = diff->memory.known ? memory_compare(diff, &cause) : 0;
	for (size_t i = 0; i < 2; i++)
		diff_memory_clear(&diff->guests[i]);
	if (r == 0)
		r = diff_files_start(diff, &cause);
	if (r < 0)
		diff_end(diff, NULL, &cause);
}

static int bitmap_make(uint64_t size, struct ramet_err *err)
{
	cleanup_close int fd = memfd_create("ramet-bitmap", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)(bitmap_words(size) * sizeof(uint64_t))) < 0)
		return err_errno(err, errno, "cannot make a file for a bitmap");
	return take_fd(&fd);
}

int diff_memory_start(struct diff *diff, struct sandbox *const sandboxes[2], struct ramet_err *err)
{
	if (!sandboxes[0]->vm->memory || !sandboxes[1]->vm->memory)
		return diff_files_start(diff, err); /* one was booted: its writes are not known */
	diff->memory.known = true;
	for (size_t i = 0; i < 2; i++) {
		struct diff_guest *guest = &diff->guests[i];
		struct vm *vm = sandboxes[i]->vm;
		int r;

		guest->bitmap_fd = bitmap_make(vm->memory->map->size, err);
		if (guest->bitmap_fd < 0)
			return -err->code;
		guest->memory = memory_ref(vm->memory);
		guest->stats.done = memory_counted;
		r = worker_ask_stats(vm->worker, &guest->stats, guest->bitmap_fd, err);
		if (r == -EBUSY)
			return err_set(err, EBUSY, "sandbox %s is being forked; try again later",
				       guest->id);
		if (r < 0)
			return r;
	}
	return 0;
}
