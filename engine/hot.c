/* Hot pages: see hot.h. A copy of the template that nobody can find runs one call,
 * and its worker tells what it wrote to until then. What it looked at is in the
 * worker's page tables (proc_pid_pagemap(5)). */
#include "engine/hot.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/internal.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "vmm/layout.h"

/* Neighbours cost little. */
#define SEEN_GAP (8 * (uint64_t)PAGE_SIZE)

struct lesson {
	struct worker_stats stats;
	struct hot *hot;
	struct engine *engine;
	char copy[SANDBOX_ID_MAX]; /* "": not there */
	uint64_t memory_bytes;     /* of the guest, with what belongs to the machine */
	int bitmap_fd;
};

struct hot *hot_create(void)
{
	struct hot *hot = calloc(1, sizeof(*hot));

	if (hot)
		hot->refs = 1;
	return hot;
}

struct hot *hot_ref(struct hot *hot)
{
	if (hot)
		hot->refs++;
	return hot;
}

void hot_unref(struct hot *hot)
{
	if (hot && --hot->refs == 0)
		free(hot);
}

/* NULL when it has ended. */
static struct sandbox *lesson_copy(const struct lesson *lesson)
{
	struct sandbox *s;

	TAILQ_FOREACH(s, &lesson->engine->builders, link)
	if (!strcmp(s->id, lesson->copy))
		return s;
	return NULL;
}

static void lesson_end(struct lesson *lesson, const struct ramet_err *err)
{
	struct sandbox *copy = lesson_copy(lesson);

	if (err)
		log_debug("the hot pages of a template are not known: %s", err->msg);
	worker_stats_cancel(&lesson->stats);
	hot_unref(lesson->hot);
	close_fd(&lesson->bitmap_fd);
	free(lesson);
	if (copy)
		(void)sandbox_close(copy, NULL, NULL, NULL);
}

/* Stores the pages of a bitmap, with gaps where there are too many ranges. */
static int pages_collect(const uint64_t *bitmap, uint64_t bytes, uint64_t gap,
			 struct control_pages *pages, uint32_t *count, struct ramet_err *err)
{
	const struct range_policy policy = { .gap = gap, .max = CONTROL_HOT_MAX };
	cleanup_ranges struct range_list *ranges = NULL;
	int r = ranges_from_bitmap(&ranges, bitmap, bytes, &policy, NULL, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ranges->count; i++) {
		const struct range *range = &ranges->ranges[i];

		pages[i].first = (uint32_t)(range->start / PAGE_SIZE);
		pages[i].count = (uint32_t)((range->end - range->start) / PAGE_SIZE);
	}
	*count = (uint32_t)ranges->count;
	return 0;
}

static int written_read(const struct lesson *lesson, uint64_t *bitmap, struct ramet_err *err)
{
	size_t bytes = lesson->memory_bytes / PAGE_SIZE / 8;

	if (pread(lesson->bitmap_fd, bitmap, bytes, 0) != (ssize_t)bytes)
		return err_set(err, EIO, "cannot read the bitmap of a worker");
	return 0;
}

/* Pages that the worker has mapped. The kernel maps some of a file's neighbours
 * along with one that is needed: these are cheap for it, and likely next. */
static int seen_read(const struct lesson *lesson, const struct vm *vm, uint64_t *bitmap,
		     struct ramet_err *err)
{
	uint64_t pages = lesson->memory_bytes / PAGE_SIZE, entries[512];
	cleanup_close int fd = -1;
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/%d/pagemap", vm->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, errno, "cannot open %s", path);
	memset(bitmap, 0, pages / 8);
	for (uint64_t page = 0; page < pages; page++) {
		size_t i = page % 512;

		if (i == 0 && pread(fd, entries, sizeof(entries),
				    (off_t)((vm->memory_at / PAGE_SIZE + page) * 8)) !=
				      (ssize_t)sizeof(entries))
			return err_set(err, EIO, "cannot read %s", path);
		if (entries[i] >> 63)
			bitmap[page / 64] |= (uint64_t)1 << (page % 64);
	}
	return 0;
}

static int lesson_read(struct lesson *lesson, struct ramet_err *err)
{
	uint64_t bytes = lesson->memory_bytes;
	cleanup_free uint64_t *bitmap = calloc(bytes / PAGE_SIZE / 64 + 1, sizeof(*bitmap));
	const struct sandbox *copy = lesson_copy(lesson);
	struct hot *hot = lesson->hot;
	int r;

	if (!bitmap)
		return err_set(err, ENOMEM, "no memory for a bitmap");
	if (!copy || !copy->vm || !copy->vm->alive)
		return err_set(err, ECANCELED, "the copy has ended");
	r = written_read(lesson, bitmap, err);
	if (r == 0)
		r = pages_collect(bitmap, bytes, 0, hot->pages, &hot->count, err);
	if (r == 0)
		r = seen_read(lesson, copy->vm, bitmap, err);
	if (r == 0)
		r = pages_collect(bitmap, bytes, SEEN_GAP, hot->seen, &hot->seen_count, err);
	if (r == 0)
		log_debug("a template has hot pages in %u ranges, and looks at %u", hot->count,
			  hot->seen_count);
	return r;
}

static void lesson_counted(struct worker_stats *request, const struct control_stats *stats,
			   const struct ramet_err *err)
{
	struct lesson *lesson = (void *)((char *)request - offsetof(struct lesson, stats));
	struct ramet_err cause;

	if (err) {
		lesson_end(lesson, err);
		return;
	}
	if (stats->dirty_pages == UINT64_MAX)
		(void)err_set(&cause, EIO, "its worker does not know");
	else if (lesson_read(lesson, &cause) == 0)
		cause.code = 0;
	lesson_end(lesson, cause.code ? &cause : NULL);
}

static void lesson_ran(void *arg, const struct exec_exit *result, const struct ramet_err *err)
{
	struct lesson *lesson = arg;
	struct sandbox *copy = lesson_copy(lesson);
	struct ramet_err cause;
	int r;

	(void)result;
	if (err) {
		lesson_end(lesson, err);
		return;
	}
	lesson->stats.done = lesson_counted;
	if (copy && copy->vm)
		r = worker_ask_stats(copy->vm->worker, &lesson->stats, lesson->bitmap_fd, &cause);
	else
		r = err_set(&cause, ECANCELED, "the copy has ended");
	if (r < 0)
		lesson_end(lesson, &cause);
}

static void lesson_ready(void *arg, struct sandbox *sandbox, const struct ramet_err *err)
{
	static const struct exec_callbacks callbacks = { .done = lesson_ran };
	static const struct exec_params params = { .language = EXEC_PYTHON,
						   .code = "1",
						   .code_length = 1 };
	struct lesson *lesson = arg;
	struct ramet_err cause;
	struct exec *exec;

	if (err) {
		lesson->copy[0] = '\0'; /* it ends by itself */
		lesson_end(lesson, err);
	} else if (sandbox_exec(sandbox, &params, &callbacks, lesson, &exec, &cause) < 0) {
		lesson_end(lesson, &cause);
	}
}

static int lesson_begin(struct lesson *lesson, struct image *image, struct ramet_err *err)
{
	struct sandbox *s;
	int r = sandbox_make_builder(lesson->engine, image_name(image), image_kind(image),
				     lesson_ready, lesson, &s, err);

	if (r < 0)
		return r;
	r = sandbox_restore_image(s, image, err);
	if (r < 0) {
		sandbox_delist(s);
		sandbox_free(s);
		return r;
	}
	memcpy(lesson->copy, s->id, sizeof(lesson->copy));
	return 0;
}

void hot_learn(struct engine *engine, struct image *image)
{
	struct hot *hot = image_frozen(image)->hot;
	struct lesson *lesson = hot ? calloc(1, sizeof(*lesson)) : NULL;
	struct ramet_err err;
	int r;

	if (!lesson)
		return;
	lesson->engine = engine;
	lesson->hot = hot_ref(hot);
	lesson->memory_bytes = guest_memory_bytes(image_kind(image)->memory_bytes);
	lesson->bitmap_fd = memfd_create("ramet-hot", MFD_CLOEXEC);
	if (lesson->bitmap_fd < 0 ||
	    ftruncate(lesson->bitmap_fd, (off_t)(lesson->memory_bytes / PAGE_SIZE / 8)) < 0)
		r = err_errno(&err, errno, "cannot make a file for a bitmap");
	else
		r = lesson_begin(lesson, image, &err);
	if (r < 0)
		lesson_end(lesson, &err);
}
