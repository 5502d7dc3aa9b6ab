/* A layer, between engine/memory.c, engine/frozen.c and their tests. */
#ifndef RAMET_ENGINE_MEMORY_LAYER_H
#define RAMET_ENGINE_MEMORY_LAYER_H

#include "engine/memory.h"

struct memory_layer {
	struct engine *engine;
	unsigned int refs; /* memories that have it */
	int fd;            /* read-only, for guests */
	int write_fd;      /* for the donor, until it is filled */
	struct vm *donor;  /* owned, until it is filled and pins are 0 */
	unsigned int pins; /* restores under way that know it as unfilled */
	unsigned int told; /* guests that the donor was told of */
	bool filling;
	bool lost; /* the donor died too early */
	struct ramet_err cause;
	memory_layer_cb done; /* one waiter */
	void *done_arg;
};

/* Lets the donor go when nobody needs it any more: until the last guest that knows
 * the layer as unfilled has been told to it. Such a guest may wait already. */
void layer_settle(struct memory_layer *layer);

/* -EAGAIN when `more` guests are above what its donor can serve. */
int layer_check_served(const struct memory_layer *layer, unsigned int more, struct ramet_err *err);

#endif
