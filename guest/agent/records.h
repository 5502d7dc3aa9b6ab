/* Records between the agent and the Python driver (repl.py defines them). */
#ifndef RAMET_GUEST_RECORDS_H
#define RAMET_GUEST_RECORDS_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/agent/loop.h"

struct agent;

/* Flags of an exit record beside those of enum exit_flags. */
enum driver_flags {
	DRIVER_CONFIRMS = 1u << 8,    /* more than the next code can run Python */
	DRIVER_HAS_FOREIGN = 1u << 9, /* ... if there are threads it does not know of */
};

/* The control socket is ready: struct source's callback. */
void records_ready(struct agent *agent, struct source *source, uint32_t events);

/* Reads what the driver sent, as far as there is room. */
void records_receive(struct agent *agent);

/* Handles what was received. Returns false when a record has to wait until
 * the host takes more output. */
bool records_handle(struct agent *agent);

/* Goes on sending the code of repl.sending. */
void records_send(struct agent *agent);

#endif
