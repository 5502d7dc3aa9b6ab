/* The worker's jail: what a worker gives up before it reads any input.
 *
 * Call order, once per process, while it is single-threaded:
 *     parse the arguments -> jail_enter() -> jail_seal() -> CONTROL_READY
 * The descriptors the worker needs (control and channel sockets, /dev/kvm) are
 * open before and listed in `keep_fds`; later ones arrive with SCM_RIGHTS. No
 * step can be undone. When either call fails the process must exit: it may be
 * half jailed. docs/jail.md lists each rule and the test that tries to break it. */
#ifndef RAMET_VMM_JAIL_H
#define RAMET_VMM_JAIL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "lib/err.h"

/* The jail's limits, all in one place. */
#define JAIL_NOFILE_MAX    2304u    /* highest descriptor + 1; a donor holds one for each child */
#define JAIL_NPROC_MAX     3u       /* tasks of its uid: itself, one of KVM per VM */
#define JAIL_SIGNALS_MAX   256u     /* queued signals and POSIX timers */
#define JAIL_LOG_BYTES_MAX 1048576u /* growth of stderr when that is a regular file */
#define JAIL_KEEP_MAX      16u      /* entries of keep_fds */
#define JAIL_PROCESS_NAME  "ramet-vmm" /* as ps(1) shows it; <= 15 characters */

struct jail_config {
	uid_t uid; /* unprivileged, of this worker alone */
	gid_t gid;
	const int *keep_fds; /* stay open besides 0, 1 and 2 */
	size_t keep_count;   /* <= JAIL_KEEP_MAX */
	/* Started by hand rather than by the spawner: enter new namespaces here
	 * instead of checking that the spawner did. The pid namespace stays the
	 * caller's then, as only a child could be in a new one. */
	bool standalone;
};

/* Takes away namespaces, file system, descriptors, identity, capabilities and
 * resources; sets the death signal to SIGKILL (not when standalone).
 * Needs root; afterwards the process is config->uid in an empty read-only root,
 * umask 077, SIGXFSZ ignored. Returns 0, -EINVAL for a bad config, -EPERM when
 * not root or not in own namespaces, -ESRCH when the parent died meanwhile, or
 * the -errno of the step that `err` names.
 * Sources: pivot_root(2), namespaces(7), capabilities(7), landlock(7),
 * getrlimit(2), close_range(2). */
int jail_enter(const struct jail_config *config, struct ramet_err *err);

/* Loads the system call allow-list of vmm/filter/generate.c; everything else kills the
 * process (SIGSYS, logged to the audit log where there is one). Arguments that
 * name a process are pinned to the caller, so a child could not use them.
 * Needs no_new_privs, which jail_enter() set. Returns 0 or -errno.
 * Sources: seccomp(2), seccomp_rule_add(3). */
int jail_seal(struct ramet_err *err);

#endif
