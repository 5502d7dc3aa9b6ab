/* The user ids of workers: one per living worker, so that no worker may signal,
 * trace or count against another.
 *
 * They lie above what systemd, login.defs(5) and subuid(5) hand out on Debian
 * and below 2^31 (systemd, "Users, Groups, UIDs and GIDs"), have no entry in
 * passwd and own no file. A worker's gid is the same number. */
#ifndef RAMET_ENGINE_WORKER_IDS_H
#define RAMET_ENGINE_WORKER_IDS_H

#include <sys/types.h>

#define WORKER_UID_BASE 1912602624u /* 0x72000000 */

static inline uid_t worker_uid(unsigned int slot)
{
	return WORKER_UID_BASE + slot;
}

#endif
