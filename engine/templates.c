/* Frozen templates: see templates.h. */
#include "engine/templates.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/hot.h"
#include "engine/internal.h"
#include "lib/clock.h"
#include "lib/log.h"

#define FILES (1 + TEMPLATE_INITRDS)

/* Which files a template was made of: any change makes another. */
struct file_identity {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec mtime;
};

struct image {
	struct engine *engine;
	TAILQ_ENTRY(image) link;
	char *name;
	struct pool_kind kind;
	struct file_identity files[FILES];
	bool stale;              /* its files changed: for those who wait, and then no more */
	struct sandbox *builder; /* NULL once frozen */
	struct frozen *frozen;
	bool ready; /* frozen, and its memory is complete */
	char kernel[64];
	uint64_t start_ns;
	TAILQ_HEAD(, image_waiter) waiters;
};

struct frozen *image_frozen(const struct image *image)
{
	return image->frozen;
}

const char *image_name(const struct image *image)
{
	return image->name;
}

const struct pool_kind *image_kind(const struct image *image)
{
	return &image->kind;
}

const char *image_kernel(const struct image *image)
{
	return image->kernel;
}

static int files_identify(const struct template_files *files, struct file_identity *identity,
			  struct ramet_err *err)
{
	int fds[FILES] = { files->kernel_fd };

	memcpy(fds + 1, files->initrd_fds, sizeof(files->initrd_fds));
	memset(identity, 0, FILES * sizeof(*identity));
	for (size_t i = 0; i < FILES; i++) {
		struct stat st;

		if (fstat(fds[i], &st) < 0)
			return err_errno(err, errno, "cannot look at a template's files");
		identity[i].dev = st.st_dev;
		identity[i].ino = st.st_ino;
		identity[i].size = st.st_size;
		identity[i].mtime = st.st_mtim;
	}
	return 0;
}

static void image_free(struct image *image)
{
	TAILQ_REMOVE(&image->engine->images, image, link);
	pool_drop_base(image->engine, image->frozen);
	frozen_unref(image->frozen);
	free(image->name);
	free(image);
}

/* Tells all who wait; they may ask again from within. */
static void image_tell(struct image *image, const struct ramet_err *err)
{
	struct image_waiter *waiter;

	while ((waiter = TAILQ_FIRST(&image->waiters))) {
		image_cancel(waiter);
		waiter->done(waiter->arg, err ? NULL : image, err);
	}
}

/* The builder's work is done, well or not. */
static void image_dismiss(struct image *image)
{
	struct sandbox *builder = image->builder;

	image->builder = NULL;
	if (builder)
		(void)sandbox_close(builder, NULL, NULL, NULL);
}

static void image_fail(struct image *image, const struct ramet_err *err)
{
	struct ramet_err cause = *err;

	(void)err_prefix(&cause, "template '%s' cannot be prepared", image->name);
	log_warn("%s", cause.msg);
	image->stale = true;
	image_dismiss(image);
	image_tell(image, &cause);
	image_free(image);
}

static void image_on_filled(void *arg, const struct ramet_err *err)
{
	struct image *image = arg;

	if (err) {
		image_fail(image, err);
		return;
	}
	image->ready = true;
	pool_set_base(image->engine, &image->kind, image->frozen);
	log_info("template '%s' (%llu MiB) is ready after %llu ms and takes %llu MiB", image->name,
		 (unsigned long long)(image->kind.memory_bytes / MIB),
		 (unsigned long long)((clock_monotonic_ns() - image->start_ns) / 1000000),
		 (unsigned long long)(memory_resident(image->frozen->memory) / MIB));
	image_tell(image, NULL);
	if (image->stale)
		image_free(image);
	else
		hot_learn(image->engine, image);
}

static void image_on_frozen(void *arg, struct frozen *frozen, const struct freeze_timings *timings,
			    const struct ramet_err *err)
{
	struct image *image = arg;

	(void)timings;
	if (err) {
		image_fail(image, err);
		return;
	}
	image->frozen = frozen;
	frozen->hot = hot_create();
	image_dismiss(image);
	memory_wait_filled(frozen->memory, image_on_filled, image);
}

/* A template that could not be made smaller is as good. */
static void warm_reclaimed(void *arg, uint64_t bytes, const struct ramet_err *err)
{
	struct image *image = arg;
	struct ramet_err cause;

	(void)bytes;
	if (err)
		log_info("template '%s' is frozen with its free memory: %s", image->name, err->msg);
	if (sandbox_freeze(image->builder, false, image_on_frozen, image, &cause) < 0)
		image_fail(image, err ? err : &cause);
}

static void warm_done(void *arg, const struct exec_exit *result, const struct ramet_err *err)
{
	struct image *image = arg;
	struct ramet_err cause;
	int r = 0;

	if (err)
		cause = *err;
	else if (result->exit_code)
		r = err_set(&cause, EIO, "its interpreter ended with exit code %d",
			    result->exit_code);
	else
		r = sandbox_reclaim(image->builder, warm_reclaimed, image, &cause);
	if (err || r < 0)
		image_fail(image, &cause);
}

static void image_on_booted(void *arg, struct sandbox *sandbox, const struct ramet_err *err)
{
	static const struct exec_callbacks callbacks = { .done = warm_done };
	static const struct exec_params pass = { .language = EXEC_PYTHON,
						 .code = "pass",
						 .code_length = 4 };
	struct image *image = arg;
	struct ramet_err cause;
	struct exec *exec;

	if (err) {
		image->builder = NULL;
		image_fail(image, err);
		return;
	}
	(void)snprintf(image->kernel, sizeof(image->kernel), "%s", sandbox->kernel);
	if (sandbox_exec(sandbox, &pass, &callbacks, image, &exec, &cause) < 0)
		image_fail(image, &cause);
}

static int image_build(struct image *image, struct template_files *files, struct ramet_err *err)
{
	struct sandbox *s;
	int r = sandbox_make_builder(image->engine, image->name, &image->kind, image_on_booted,
				     image, &s, err);

	if (r < 0)
		return r;
	s->image = *files;
	*files = (struct template_files){ -1, { -1, -1, -1 } };
	r = sandbox_boot(s, err);
	if (r < 0) {
		sandbox_delist(s);
		sandbox_free(s);
		return r;
	}
	image->builder = s;
	return 0;
}

static struct image *image_make(struct engine *engine, const char *name,
				const struct pool_kind *kind, const struct file_identity *identity)
{
	struct image *image = calloc(1, sizeof(*image));

	if (image)
		image->name = strdup(name);
	if (!image || !image->name) {
		free(image);
		return NULL;
	}
	image->engine = engine;
	image->kind = *kind;
	image->start_ns = clock_monotonic_ns();
	memcpy(image->files, identity, sizeof(image->files));
	TAILQ_INIT(&image->waiters);
	TAILQ_INSERT_HEAD(&engine->images, image, link);
	return image;
}

/* Finds the one that is made of these files; others of the name are stale. */
static struct image *image_find(struct engine *engine, const char *name,
				const struct pool_kind *kind, const struct file_identity *identity)
{
	struct image *image, *next, *found = NULL;

	for (image = TAILQ_FIRST(&engine->images); image; image = next) {
		next = TAILQ_NEXT(image, link);
		if (image->stale || strcmp(image->name, name) != 0 ||
		    !pool_kind_equal(&image->kind, kind))
			continue;
		if (!memcmp(image->files, identity, sizeof(image->files))) {
			found = image;
			continue;
		}
		image->stale = true;
		if (image->ready)
			image_free(image);
	}
	return found;
}

/* Beyond the limit the one goes that was not used for the longest time. */
static void image_evict(struct engine *engine)
{
	struct image *image, *oldest = NULL;
	unsigned int count = 0;

	TAILQ_FOREACH(image, &engine->images, link)
	{
		count++;
		if (image->ready)
			oldest = image;
	}
	if (count > engine->limits.templates_max && oldest)
		image_free(oldest);
}

int image_get(struct engine *engine, const char *name, const struct pool_kind *kind,
	      struct template_files *files, struct image_waiter *waiter, image_cb done, void *arg,
	      struct image **image, struct ramet_err *err)
{
	struct file_identity identity[FILES];
	struct image *found;
	int r = files_identify(files, identity, err);

	if (r < 0)
		return r;
	found = image_find(engine, name, kind, identity);
	if (!found) {
		found = image_make(engine, name, kind, identity);
		if (!found)
			return err_set(err, ENOMEM, "no memory for a template");
		r = image_build(found, files, err);
		if (r < 0) {
			image_free(found);
			return r;
		}
		image_evict(engine);
	}
	template_close(files);
	TAILQ_REMOVE(&engine->images, found, link);
	TAILQ_INSERT_HEAD(&engine->images, found, link);
	if (found->ready) {
		*image = found;
		return 1;
	}
	*waiter = (struct image_waiter){ .image = found, .done = done, .arg = arg };
	TAILQ_INSERT_TAIL(&found->waiters, waiter, link);
	return 0;
}

void image_cancel(struct image_waiter *waiter)
{
	if (!waiter->image)
		return;
	TAILQ_REMOVE(&waiter->image->waiters, waiter, link);
	waiter->image = NULL;
}

void image_destroy_all(struct engine *engine)
{
	struct image *image;

	while ((image = TAILQ_FIRST(&engine->images))) {
		if (image->frozen && !image->ready)
			memory_wait_filled(image->frozen->memory, NULL, NULL);
		image_free(image);
	}
}
