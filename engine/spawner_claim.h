/* Names that one spawner has for as long as it lives: abstract sockets
 * (unix(7)), which belong to one process and leave nothing behind. */
#ifndef RAMET_ENGINE_SPAWNER_CLAIM_H
#define RAMET_ENGINE_SPAWNER_CLAIM_H

#include "lib/err.h"

/* Claims a free block of uids for workers, for as long as the returned socket
 * is open anywhere. -EBUSY: all are claimed. */
int claim_uid_block(unsigned int *block, struct ramet_err *err);

/* Claims the cgroup called cgroup_name in the same way. The spawner of a killed
 * daemon removes that cgroup as the last thing that it does: waits for its end,
 * and fails with -EBUSY when it does not come within timeout_ms. */
int claim_cgroup(const char *cgroup_name, int timeout_ms, struct ramet_err *err);

#endif
