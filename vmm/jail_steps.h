/* Steps of jail_enter() that have a file of their own. Internal to vmm/jail*.c;
 * tests use them to try one layer at a time. */
#ifndef RAMET_VMM_JAIL_STEPS_H
#define RAMET_VMM_JAIL_STEPS_H

#include "vmm/jail.h"

/* Lowers every resource limit to the values of jail.h. */
int jail_limit_resources(struct ramet_err *err);

/* Empties the bounding set; needs CAP_SETPCAP, so it comes before the drop. */
int jail_drop_bounding(struct ramet_err *err);

/* Becomes uid:gid without supplementary groups or capabilities and checks that
 * there is no way back; sets no_new_privs. */
int jail_drop_privileges(uid_t uid, gid_t gid, struct ramet_err *err);

/* Denies every right that the running kernel's Landlock knows. 0 also when the
 * kernel has no Landlock: it doubles what the empty root already ensures. */
int jail_landlock(struct ramet_err *err);

#endif
