/* jail_enter(): the order of the steps, descriptors, namespaces and the root
 * directory. Resources, identity and Landlock are in jail_privileges.c. */
#include "vmm/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "vmm/jail_steps.h"

/* A directory that exists wherever a worker can start: namespaces are checked
 * through it, and the new root is mounted over it. */
#define PROC_DIR "/proc"

static const struct {
	const char *name; /* below /proc/PID/ns */
	int flag;
} namespaces[] = {
	{ "mnt", CLONE_NEWNS },  { "net", CLONE_NEWNET },       { "ipc", CLONE_NEWIPC },
	{ "uts", CLONE_NEWUTS }, { "cgroup", CLONE_NEWCGROUP }, { "pid", CLONE_NEWPID },
};
#define NAMESPACE_COUNT (sizeof(namespaces) / sizeof(namespaces[0]))

static int config_check(const struct jail_config *config, struct ramet_err *err)
{
	if (geteuid() != 0)
		return err_set(err, EPERM,
			       "the worker must be started as root to be able to jail itself");
	if (config->uid == 0 || config->gid == 0 || config->uid == (uid_t)-1 ||
	    config->gid == (gid_t)-1)
		return err_set(err, EINVAL, "uid %u and gid %u: both must be unprivileged",
			       config->uid, config->gid);
	if (config->keep_count > JAIL_KEEP_MAX)
		return err_set(err, EINVAL, "%zu descriptors to keep, at most %u are possible",
			       config->keep_count, JAIL_KEEP_MAX);
	for (size_t i = 0; i < config->keep_count; i++)
		if (fcntl(config->keep_fds[i], F_GETFD) < 0)
			return err_errno(err, errno, "descriptor %d is to be kept",
					 config->keep_fds[i]);
	return 0;
}

static int fd_compare(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;

	return (x > y) - (x < y);
}

/* Closes everything but 0, 1, 2 and the kept descriptors: the gaps between them. */
static int descriptors_close(const struct jail_config *config, struct ramet_err *err)
{
	int keep[JAIL_KEEP_MAX];
	unsigned int next = STDERR_FILENO + 1;

	for (size_t i = 0; i < config->keep_count; i++)
		keep[i] = config->keep_fds[i];
	qsort(keep, config->keep_count, sizeof(keep[0]), fd_compare);
	for (size_t i = 0; i <= config->keep_count; i++) {
		unsigned int end = i < config->keep_count ? (unsigned int)keep[i] : ~0u;

		if (end > next && close_range(next, end - 1, 0) < 0)
			return err_errno(err, errno, "cannot close descriptors %u to %u", next,
					 end - 1);
		if (end >= next)
			next = end + 1;
	}
	return 0;
}

/* The parent's pid as /proc shows it: from outside the pid namespace. It turns
 * into another one when the parent dies. */
static int parent_read(int status_fd, pid_t *parent)
{
	char text[4096];
	const char *line;
	ssize_t n = pread(status_fd, text, sizeof(text) - 1, 0);

	if (n < 0)
		return -errno;
	text[n] = '\0';
	line = strstr(text, "\nPPid:");
	if (!line)
		return -ENODATA;
	*parent = (pid_t)strtol(line + strlen("\nPPid:"), NULL, 10);
	return 0;
}

static int namespaces_enter(struct ramet_err *err)
{
	int flags = 0;

	for (size_t i = 0; i < NAMESPACE_COUNT; i++)
		flags |= namespaces[i].flag;
	if (unshare(flags & ~CLONE_NEWPID) < 0)
		return err_errno(err, errno, "cannot enter new namespaces");
	return 0;
}

/* Each namespace must differ from the parent's. */
static int namespaces_check(pid_t parent, struct ramet_err *err)
{
	for (size_t i = 0; i < NAMESPACE_COUNT; i++) {
		char path[64];
		struct stat own, outer;

		(void)snprintf(path, sizeof(path), PROC_DIR "/self/ns/%s", namespaces[i].name);
		if (stat(path, &own) < 0)
			return err_errno(err, errno, "cannot see the own namespace %s", path);
		(void)snprintf(path, sizeof(path), PROC_DIR "/%d/ns/%s", parent,
			       namespaces[i].name);
		if (stat(path, &outer) < 0)
			return err_errno(err, errno, "cannot see the parent's namespace %s", path);
		if (own.st_ino == outer.st_ino && own.st_dev == outer.st_dev)
			return err_set(err, EPERM,
				       "the worker shares its parent's %s namespace; start it "
				       "through rametd, or with --no-spawner",
				       namespaces[i].name);
	}
	if (getpid() != 1)
		return err_set(err, EPERM, "the worker is not alone in its pid namespace");
	return 0;
}

/* Makes the working directory, a mount point, the root and drops all else. */
static int root_switch(struct ramet_err *err)
{
	/* The old root is stacked on "." and detached with all below it. */
	if (syscall(SYS_pivot_root, ".", ".") == 0) {
		if (umount2(".", MNT_DETACH) < 0)
			return err_errno(err, errno, "cannot detach the old root");
		return 0;
	}
	/* The initial ramfs and a directory of chroot(2) cannot be pivoted away
	 * (EINVAL): cover them. Leaving a chroot takes a capability that the
	 * next steps drop. */
	if (errno != EINVAL)
		return err_errno(err, errno, "cannot make the empty directory the root");
	if (mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0)
		return err_errno(err, errno, "cannot cover the old root");
	return 0;
}

/* An empty read-only tmpfs becomes all there is of a file system. */
static int root_empty(struct ramet_err *err)
{
	const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY;
	int ret;

	/* Nothing done from here on may reach the host's mount namespace. */
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_errno(err, errno, "cannot make the mounts private");
	if (mount("ramet-jail", PROC_DIR, "tmpfs", flags, "size=4k,nr_inodes=2,mode=0555") < 0)
		return err_errno(err, errno, "cannot mount the empty root");
	if (chdir(PROC_DIR) < 0)
		return err_errno(err, errno, "cannot enter the empty root");
	ret = root_switch(err);
	if (ret < 0)
		return ret;
	if (chdir("/") < 0)
		return err_errno(err, errno, "cannot enter the new root");
	(void)umask(077);
	return 0;
}

/* setresuid() cleared the death signal, so set it again and make sure that the
 * parent did not die in between. */
static int parent_bind(int status_fd, pid_t parent, struct ramet_err *err)
{
	pid_t now = 0;
	int ret;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return err_errno(err, errno, "cannot bind the worker's life to its parent's");
	ret = parent_read(status_fd, &now);
	if (ret < 0)
		return err_errno(err, -ret, "cannot read who the parent is");
	if (now != parent)
		return err_set(err, ESRCH, "the spawner died while the worker started");
	return 0;
}

static int process_hide(struct ramet_err *err)
{
	/* No core dump, no ptrace, /proc/PID owned by root. The kernel resets
	 * this on every change of uid, so it comes after the last one. */
	if (prctl(PR_SET_DUMPABLE, 0) < 0 || prctl(PR_SET_NAME, JAIL_PROCESS_NAME) < 0)
		return err_errno(err, errno, "cannot make the worker undumpable");
	return 0;
}

int jail_enter(const struct jail_config *config, struct ramet_err *err)
{
	cleanup_close int status = -1;
	pid_t parent = 0;
	int ret;

	if ((ret = config_check(config, err)) < 0 || (ret = descriptors_close(config, err)) < 0)
		return ret;
	status = open(PROC_DIR "/self/status", O_RDONLY | O_CLOEXEC);
	if (status < 0)
		return err_errno(err, errno,
				 "cannot open " PROC_DIR "/self/status; is it mounted?");
	ret = parent_read(status, &parent);
	if (ret < 0)
		return err_errno(err, -ret, "cannot read who the parent is");
	ret = config->standalone ? namespaces_enter(err) : namespaces_check(parent, err);
	if (ret < 0 || (ret = jail_drop_bounding(err)) < 0 || (ret = root_empty(err)) < 0 ||
	    (ret = jail_limit_resources(err)) < 0 ||
	    (ret = jail_drop_privileges(config->uid, config->gid, err)) < 0 ||
	    (ret = jail_landlock(err)) < 0 || (ret = process_hide(err)) < 0)
		return ret;
	return config->standalone ? 0 : parent_bind(status, parent, err);
}
