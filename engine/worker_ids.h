/* The user ids of workers: one per living worker on the host, so that no worker may
 * signal, trace or count against another, not even another daemon's.
 *
 * They lie above what systemd, login.defs(5) and subuid(5) hand out on Debian
 * and below 2^31 (systemd, "Users, Groups, UIDs and GIDs"), have no entry in
 * passwd and own no file. A worker's gid is the same number. Every daemon claims
 * a block of them, one id per slot, for as long as its spawner lives. */
#ifndef RAMET_ENGINE_WORKER_IDS_H
#define RAMET_ENGINE_WORKER_IDS_H

#include <sys/types.h>

#include "engine/spawner.h"

#define WORKER_UID_BASE   1912602624u /* 0x72000000 */
#define WORKER_UID_BLOCKS 64u         /* of WORKERS_MAX ids; daemons on one host */

static inline uid_t worker_uid(unsigned int block, unsigned int slot)
{
	return WORKER_UID_BASE + block * WORKERS_MAX + slot;
}

#endif
