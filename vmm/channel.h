/* The host's end of the agent channel (guest/channel.h): moves bytes between
 * the rings in guest memory and the worker's channel socket. */
#ifndef RAMET_VMM_CHANNEL_H
#define RAMET_VMM_CHANNEL_H

#include <stdint.h>

#include "vmm/machine.h"

/* RAMET_OP_CHANNEL: takes over the rings described by the control page.
 * 0, -EBUSY when connected already, -EINVAL, -EACCES for bad grants. */
int channel_connect(struct machine *m, uint32_t control_gref, uint32_t port);

/* Moves what can be moved in both directions. Never blocks. */
void channel_pump(struct machine *m);

/* The guest closed an event channel: ends the channel if it was its port. */
void channel_port_closed(struct machine *m, uint32_t port);

#endif
