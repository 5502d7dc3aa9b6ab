/* The state directory of a daemon.
 *
 *     <dir>/lock         flock(2)ed by the daemon that owns the directory
 *     <dir>/run/<id>     one record per living sandbox: a link to the lock, because a
 *                        file of its own takes ext4 a fifth of a millisecond
 *
 * Everything below run/ belongs to one life of one daemon: it is emptied under
 * the lock when the next one starts, so a crash at any instruction leaves
 * nothing that is not cleaned. No process is ever found by a recorded pid:
 * workers are found by the cgroups they are in, whose name derives from the
 * directory (state_cgroup_name). */
#ifndef RAMET_ENGINE_STATE_H
#define RAMET_ENGINE_STATE_H

#include "lib/err.h"

struct state;

/* Makes the directory when it is missing (its parent must exist), mode 0700,
 * locks it and empties run/. -EINVAL: not an absolute path; -EBUSY: another
 * daemon owns it; -errno. */
int state_open(const char *dir, struct state **state, struct ramet_err *err);

/* Removes what this daemon recorded and unlocks. NULL is fine. */
void state_close(struct state *state);

/* A name for the workers' cgroups, the same for every daemon on this
 * directory and different for other directories. */
const char *state_cgroup_name(const struct state *state);

/* A directory for this daemon's own short-lived files; emptied at the start. */
const char *state_run_dir(const struct state *state);

/* Records a sandbox until it is removed, for the log of the next daemon. */
int state_record(struct state *state, const char *id, struct ramet_err *err);
void state_forget(struct state *state, const char *id);

#endif
