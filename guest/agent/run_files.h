/* The run directory (/run/ramet), where every process of the guest can read who
 * this guest is: `generation` (UUID), `token` (32 hex digits, root's alone) and,
 * in a child of a fork, `fork_index` (from 0). Each is replaced as a whole. */
#ifndef RAMET_GUEST_RUN_FILES_H
#define RAMET_GUEST_RUN_FILES_H

#include <stdint.h>

struct agent;

/* Writes what agent->identity says, and the token (RESEED_TOKEN_SIZE bytes)
 * unless that is NULL. Machine ids (machine-id(5)) that exist are made of the
 * generation. Returns 0 or -errno. */
int run_files_write(const struct agent *agent, const uint8_t *token);

#endif
