/* The hot pages of a template: those that each of its copies needs as soon as it
 * runs, for its kernel, its agent and its interpreter. A copy of a copy still does.
 * Learned once, from a copy made for that. */
#ifndef RAMET_ENGINE_HOT_H
#define RAMET_ENGINE_HOT_H

#include <stdint.h>

#include "vmm/control.h"

struct engine;
struct image;

struct hot {
	unsigned int refs;
	uint32_t count; /* 0: not learned (yet) */
	uint32_t seen_count;
	struct control_pages pages[CONTROL_HOT_MAX]; /* that it wrote to */
	struct control_pages seen[CONTROL_HOT_MAX];  /* and all that it looked at */
};

/* NULL without memory, which costs time only. */
struct hot *hot_create(void);
struct hot *hot_ref(struct hot *hot); /* NULL is fine */
void hot_unref(struct hot *hot);      /* NULL is fine */

/* Learns the hot pages of a template that is ready, in the background. */
void hot_learn(struct engine *engine, struct image *image);

#endif
