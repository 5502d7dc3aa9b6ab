/* The run directory (/run/ramet), where every process of the guest can read who
 * this guest is: `generation` (UUID) and `token` (32 hex digits, root's alone).
 *
 * A copied guest is told who it is before anybody else may use it, and each page
 * that it touches for the first time costs: so the files stay mapped, and are
 * changed where they are. */
#ifndef RAMET_GUEST_RUN_FILES_H
#define RAMET_GUEST_RUN_FILES_H

#include <stdbool.h>
#include <stdint.h>

struct agent;

struct run_file {
	int fd;     /* -1: not made yet */
	char *page; /* mapped from it */
};

struct run_files {
	struct run_file generation, token;
	bool machine_ids; /* there was one at the last look */
};

void run_files_init(struct agent *agent);

/* Looks for machine ids (machine-id(5)): whatever just ran may have made one. */
void run_files_look(struct agent *agent);

/* Writes what agent->identity says, and the token (RESEED_TOKEN_SIZE bytes)
 * unless that is NULL. Machine ids that were seen are made of the generation.
 * Returns 0 or -errno. */
int run_files_write(struct agent *agent, const uint8_t *token);

#endif
