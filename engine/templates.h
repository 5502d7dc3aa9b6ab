/* Frozen templates: guests that were booted, warmed up (agent and interpreter
 * run) and stopped once, and that new sandboxes are copies of.
 *
 * There is one for each template name and kind of guest. The first sandbox that
 * needs one has it built, others wait for the same; it is built anew when the
 * image files are not the same any more. */
#ifndef RAMET_ENGINE_TEMPLATES_H
#define RAMET_ENGINE_TEMPLATES_H

#include <sys/queue.h>
#include <sys/types.h>

#include "engine/pool.h"
#include "engine/template.h"

struct image;
struct frozen;
TAILQ_HEAD(image_list, image);

/* `err` is NULL when the template is ready. */
typedef void (*image_cb)(void *arg, struct image *image, const struct ramet_err *err);

struct image_waiter {
	struct image *image; /* NULL: does not wait */
	TAILQ_ENTRY(image_waiter) link;
	image_cb done;
	void *arg;
};

/* The template `name` from `files`, which are closed or taken over. Returns 1
 * and *image when it is ready, 0 when `done` will be called, -errno. The image
 * is valid until the next return to the loop. */
int image_get(struct engine *engine, const char *name, const struct pool_kind *kind,
	      struct template_files *files, struct image_waiter *waiter, image_cb done, void *arg,
	      struct image **image, struct ramet_err *err);

/* No callback any more; the building goes on. Harmless when it does not wait. */
void image_cancel(struct image_waiter *waiter);

struct frozen *image_frozen(const struct image *image);
const char *image_kernel(const struct image *image);
const char *image_name(const struct image *image);
const struct pool_kind *image_kind(const struct image *image);

void image_destroy_all(struct engine *engine);

#endif
