/* The machine-to-physical table that all guests of a daemon have in common: its
 * entry i is i. Workers map what their guest's RAM needs of it, read-only.
 * Without it each would fill 2 MiB per GiB of RAM of its own. */
#ifndef RAMET_ENGINE_M2P_H
#define RAMET_ENGINE_M2P_H

#include <stdint.h>

#include "lib/err.h"

struct m2p {
	int fd; /* sealed, for reading; -1: none yet */
	uint64_t bytes;
};

/* A descriptor of the table for guests of `ram_bytes`, which stays the table's.
 * A longer one replaces it when it is needed: about 1 ms per GiB of RAM. -ENOMEM,
 * -EMFILE, -errno. */
int m2p_fd(struct m2p *m2p, uint64_t ram_bytes, struct ramet_err *err);

void m2p_close(struct m2p *m2p);

#endif
