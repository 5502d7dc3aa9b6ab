/* PID 1 of the guest: see init.h. */
#include "guest/agent/init.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "guest/agent/util.h"

#define HOSTNAME        "ramet"
#define MODULE_LINE_MAX 512
#define NOFILE_HARD     1048576 /* the kernel's default fs.nr_open */

static const struct {
	const char *type, *dir, *options;
	unsigned long flags;
} mounts[] = {
	{ "proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
	{ "sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
	{ "devtmpfs", "/dev", "mode=0755", MS_NOSUID },
	{ "devpts", "/dev/pts", "gid=5,mode=0620,ptmxmode=0666", MS_NOSUID | MS_NOEXEC },
	{ "tmpfs", "/dev/shm", "mode=1777", MS_NOSUID | MS_NODEV },
	{ "tmpfs", "/run", "mode=0755", MS_NOSUID | MS_NODEV },
	{ "tmpfs", "/tmp", "mode=1777", MS_NOSUID | MS_NODEV },
};

static const struct {
	const char *target, *name;
} links[] = {
	{ "/proc/self/fd", "/dev/fd" },
	{ "/proc/self/fd/0", "/dev/stdin" },
	{ "/proc/self/fd/1", "/dev/stdout" },
	{ "/proc/self/fd/2", "/dev/stderr" },
};

static int file_systems_mount(void)
{
	for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
		if (mkdir(mounts[i].dir, 0755) < 0 && errno != EEXIST)
			return -errno;
		if (mount(mounts[i].type, mounts[i].dir, mounts[i].type, mounts[i].flags,
			  mounts[i].options) < 0) {
			int err = -errno;

			agent_log("cannot mount %s: %s", mounts[i].dir, strerror(-err));
			return err;
		}
	}
	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
		if (symlink(links[i].target, links[i].name) < 0 && errno != EEXIST)
			return -errno;
	return 0;
}

/* The kernel gives init its console only when the initramfs has the node. */
static int console_open(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);

	if (fd < 0)
		return -errno;
	for (int i = 0; i < 3; i++)
		if (fd != i && dup2(fd, i) < 0)
			return -errno;
	if (fd > 2)
		(void)close(fd);
	return 0;
}

static int module_load(const char *dir, const char *line)
{
	char path[MODULE_LINE_MAX * 2];
	size_t name_len = strcspn(line, " ");
	const char *params = line + name_len + strspn(line + name_len, " ");
	cleanup_close int fd = -1;

	(void)snprintf(path, sizeof(path), "%s/%.*s", dir, (int)name_len, line);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || (syscall(SYS_finit_module, fd, params, 0) < 0 && errno != EEXIST)) {
		int err = -errno;

		agent_log("cannot load the module %s: %s", path, strerror(-err));
		return err;
	}
	return 0;
}

/* ramet.load lists files below the kernel's module directory in the order in
 * which they have to be loaded, each with its parameters. A kernel without
 * the list has built in what is needed. */
static int modules_load(void)
{
	char dir[128], list[160], line[MODULE_LINE_MAX];
	struct utsname name;
	FILE *f;
	int err = 0;

	if (uname(&name) < 0)
		return -errno;
	(void)snprintf(dir, sizeof(dir), "/usr/lib/modules/%s", name.release);
	(void)snprintf(list, sizeof(list), "%s/ramet.load", dir);
	f = fopen(list, "re");
	if (!f) {
		agent_log("no modules for this kernel: %s: %s", list, strerror(errno));
		return 0;
	}
	while (!err && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (line[0])
			err = module_load(dir, line);
	}
	(void)fclose(f);
	return err;
}

static int loopback_up(void)
{
	cleanup_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = { .ifr_name = "lo" };

	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		return -errno;
	request.ifr_flags = (short)(request.ifr_flags | IFF_UP);
	return ioctl(fd, SIOCSIFFLAGS, &request) < 0 ? -errno : 0;
}

/* Names change when machines are copied: the file says what the kernel does. */
static void hostname_link(void)
{
	static const char path[] = "/etc/hostname", temporary[] = "/etc/hostname.new";
	struct stat st;

	if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	if (symlink("/proc/sys/kernel/hostname", temporary) < 0 || rename(temporary, path) < 0)
		agent_log("%s keeps the name of the image: %s", path, strerror(errno));
}

int init_setup(void)
{
	struct rlimit files = { .rlim_cur = 1024, .rlim_max = NOFILE_HARD };
	int err;

	(void)umask(0022);
	err = file_systems_mount();
	if (!err)
		err = console_open();
	if (err) {
		agent_log("cannot set up the guest: %s", strerror(-err));
		return err;
	}
	(void)setrlimit(RLIMIT_NOFILE, &files);
	(void)sethostname(HOSTNAME, strlen(HOSTNAME));
	hostname_link();
	(void)mkdir("/root", 0700);
	(void)mkdir("/run/ramet", 0755);
	err = loopback_up();
	if (err)
		agent_log("no loopback interface: %s", strerror(-err));
	return modules_load();
}

void init_power_off(void)
{
	sync();
	(void)reboot(RB_POWER_OFF);
	for (;;) /* the kernel could not: the host sees the console */
		(void)pause();
}
