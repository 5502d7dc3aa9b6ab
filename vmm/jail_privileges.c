/* Resource limits, identity, capabilities and Landlock of the jail. */
#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <linux/landlock.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "vmm/jail_steps.h"

/* The size that no file may grow beyond. A worker writes to no file but its
 * log, when stderr is one: that may grow by a bounded amount. */
static rlim_t file_limit(void)
{
	struct stat st;

	if (fstat(STDERR_FILENO, &st) < 0 || !S_ISREG(st.st_mode))
		return 0;
	return (rlim_t)st.st_size + JAIL_LOG_BYTES_MAX;
}

int jail_limit_resources(struct ramet_err *err)
{
	const struct {
		__rlimit_resource_t resource;
		const char *name;
		rlim_t value;
	} limits[] = {
		{ RLIMIT_NOFILE, "RLIMIT_NOFILE", JAIL_NOFILE_MAX },
		{ RLIMIT_NPROC, "RLIMIT_NPROC", JAIL_NPROC_MAX },
		{ RLIMIT_CORE, "RLIMIT_CORE", 0 }, /* guest memory must not reach a disk */
		{ RLIMIT_FSIZE, "RLIMIT_FSIZE", file_limit() },
		{ RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK", 0 },
		{ RLIMIT_MSGQUEUE, "RLIMIT_MSGQUEUE", 0 },
		{ RLIMIT_RTPRIO, "RLIMIT_RTPRIO", 0 },
		{ RLIMIT_SIGPENDING, "RLIMIT_SIGPENDING", JAIL_SIGNALS_MAX },
	};

	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		struct rlimit now;

		if (getrlimit(limits[i].resource, &now) < 0)
			return err_errno(err, errno, "cannot read %s", limits[i].name);
		/* Lower only: raising takes CAP_SYS_RESOURCE. */
		if (now.rlim_max > limits[i].value)
			now.rlim_max = limits[i].value;
		now.rlim_cur = now.rlim_max;
		if (setrlimit(limits[i].resource, &now) < 0)
			return err_errno(err, errno, "cannot set %s to %ju", limits[i].name,
					 (uintmax_t)now.rlim_max);
	}
	/* A full log costs the worker its log lines, not its life. */
	if (signal(SIGXFSZ, SIG_IGN) == SIG_ERR)
		return err_errno(err, errno, "cannot ignore SIGXFSZ");
	return 0;
}

int jail_drop_bounding(struct ramet_err *err)
{
	if (capng_get_caps_process() < 0)
		return err_set(err, EPERM, "cannot read the worker's capabilities");
	capng_clear(CAPNG_SELECT_BOUNDS);
	if (capng_apply(CAPNG_SELECT_BOUNDS) < 0)
		return err_set(err, EPERM,
			       "cannot empty the capability bounding set; CAP_SETPCAP is needed");
	return 0;
}

static int capabilities_drop(struct ramet_err *err)
{
	/* setresuid() emptied the permitted and effective sets already, unless
	 * securebits say otherwise; inheritable and ambient are emptied here. */
	capng_clear(CAPNG_SELECT_ALL);
	if (capng_apply(CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT) < 0 ||
	    capng_get_caps_process() < 0 || capng_have_capabilities(CAPNG_SELECT_ALL) != CAPNG_NONE)
		return err_set(err, EPERM, "capabilities remain after they were dropped");
	return 0;
}

int jail_drop_privileges(uid_t uid, gid_t gid, struct ramet_err *err)
{
	uid_t u[3];
	gid_t g[3];
	int ret;

	if (setgroups(0, NULL) < 0)
		return err_errno(err, errno, "cannot drop the supplementary groups");
	if (setresgid(gid, gid, gid) < 0)
		return err_errno(err, errno, "cannot become gid %u", gid);
	if (setresuid(uid, uid, uid) < 0)
		return err_errno(err, errno, "cannot become uid %u", uid);
	ret = capabilities_drop(err);
	if (ret < 0)
		return ret;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_errno(err, errno, "cannot set no_new_privs");
	if (getresuid(&u[0], &u[1], &u[2]) < 0 || getresgid(&g[0], &g[1], &g[2]) < 0)
		return err_errno(err, errno, "cannot read the identity");
	for (int i = 0; i < 3; i++)
		if (u[i] != uid || g[i] != gid)
			return err_set(err, EPERM, "an identity other than %u:%u remains", uid,
				       gid);
	if (setresuid(0, 0, 0) == 0)
		return err_set(err, EPERM, "the worker could become root again");
	return 0;
}

/* struct landlock_ruleset_attr as of ABI 6; older kernels take the fields they
 * know when the rest is left out. */
struct landlock_attr {
	uint64_t fs;
	uint64_t net;    /* ABI 4: TCP bind, connect */
	uint64_t scoped; /* ABI 6: abstract Unix sockets, signals */
};

int jail_landlock(struct ramet_err *err)
{
	struct landlock_attr attr = { .fs = (1u << 13) - 1 }; /* ABI 1 has 13 rights */
	cleanup_close int ruleset = -1;
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	if (abi < 1)
		return 0;                   /* not built in or not switched on */
	attr.fs |= abi >= 2 ? 1u << 13 : 0; /* refer */
	attr.fs |= abi >= 3 ? 1u << 14 : 0; /* truncate */
	attr.fs |= abi >= 5 ? 1u << 15 : 0; /* ioctl on devices opened from now on */
	attr.net = abi >= 4 ? 3 : 0;
	attr.scoped = abi >= 6 ? 3 : 0;
	ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr,
			       abi >= 6   ? sizeof(attr)
			       : abi >= 4 ? 16u
					  : 8u,
			       0);
	if (ruleset < 0)
		return err_errno(err, errno, "cannot create a Landlock rule set (ABI %ld)", abi);
	if (syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		return err_errno(err, errno, "cannot enforce Landlock (ABI %ld)", abi);
	return 0;
}
