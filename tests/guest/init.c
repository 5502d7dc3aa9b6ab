/* A stand-in for the agent: PID 1 that runs test programs and powers off.
 *
 * Reads the kernel command line:
 *   ramet.run=prog,arg,arg;prog2   what to run, in order (default: hello);
 *                                  a name without '/' is in /opt/ramet-tests;
 *                                  a leading '@' runs it as nobody (65534)
 *   ramet.timeout=SECONDS          per program (default 300)
 *   ramet.end=poweroff|reboot|exit what to do at the end; "exit" lets PID 1
 *                                  return, which makes the kernel panic
 * and prints on the console, per program, how long it took and
 * "RAMET-TEST <name> exit <code>"
 * (128 + n after signal n, 124 after a timeout, 127 if it could not be run)
 * and at last "RAMET-TEST end <failed>/<run>". */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TEST_DIR       "/opt/ramet-tests"
#define MODULE_DIR     TEST_DIR "/modules"
#define CMDLINE_MAX    4096
#define ARGS_MAX       32
#define NOBODY         65534
#define TIMEOUT_S      300
#define TIMEOUT_S_MAX  86400
#define EXIT_TIMEOUT   124
#define EXIT_NOT_FOUND 127

struct boot_mount {
	const char *source, *target, *type, *data;
};

static const struct boot_mount boot_mounts[] = {
	{ "proc", "/proc", "proc", NULL },         { "sysfs", "/sys", "sysfs", NULL },
	{ "devtmpfs", "/dev", "devtmpfs", NULL },  { "tmpfs", "/dev/shm", "tmpfs", "mode=1777" },
	{ "tmpfs", "/tmp", "tmpfs", "mode=1777" },
};

/* Mounts what programs expect; goes on after an error, since the console may
 * only become usable with /dev. */
static int mounts_make(void)
{
	int err = 0;

	for (size_t i = 0; i < sizeof(boot_mounts) / sizeof(boot_mounts[0]); i++) {
		const struct boot_mount *m = &boot_mounts[i];

		mkdir(m->target, 0755);
		if (mount(m->source, m->target, m->type, MS_NOSUID, m->data) < 0 && errno != EBUSY)
			err = -errno;
	}
	return err;
}

/* Makes /dev/console fds 0, 1 and 2. */
static void console_open(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);

	if (fd < 0)
		return;
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
	setvbuf(stdout, NULL, _IOLBF, 0);
}

/* Loads one module; `line` is its file's name and perhaps parameters. One that
 * is already there is fine. */
static void module_load(char *line)
{
	char path[PATH_MAX];
	char *name = strsep(&line, " ");

	snprintf(path, sizeof(path), "%s/%s", MODULE_DIR, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || (syscall(SYS_finit_module, fd, line ? line : "", 0) < 0 && errno != EEXIST))
		printf("RAMET-TEST module %s: %s\n", name, strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* Loads the modules of the list that is packed with them, in its order. */
static void modules_load(void)
{
	FILE *list = fopen(MODULE_DIR "/list", "re");
	char line[256];

	if (!list)
		return;
	while (fgets(line, sizeof(line), list)) {
		line[strcspn(line, "\n")] = '\0';
		module_load(line);
	}
	fclose(list);
}

/* A copy of the value of `key` (with its '=') in the command line, or NULL; it
 * lives as long as the machine. */
static char *cmdline_value(char *line, const char *key)
{
	size_t len = strlen(key);

	for (char *at = line; (at = strstr(at, key)); at += len) {
		if (at != line && at[-1] != ' ')
			continue;
		return strndup(at + len, strcspn(at + len, " \n"));
	}
	return NULL;
}

static void cmdline_read(char *line, size_t size)
{
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, line, size - 1);

	line[n > 0 ? n : 0] = '\0';
	if (fd >= 0)
		close(fd);
}

/* The child's side: a fresh session and signal state, then the program. */
static void program_exec(char **argv, bool as_nobody)
{
	char path[PATH_MAX];
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	setenv("PATH", TEST_DIR ":/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", 1);
	setenv("HOME", "/", 1);
	if (chdir("/tmp") < 0)
		_exit(EXIT_NOT_FOUND);
	if (as_nobody && (setgroups(0, NULL) < 0 || setgid(NOBODY) < 0 || setuid(NOBODY) < 0))
		_exit(EXIT_NOT_FOUND);
	snprintf(path, sizeof(path), "%s%s", strchr(argv[0], '/') ? "" : TEST_DIR "/", argv[0]);
	execv(path, argv);
	fprintf(stderr, "cannot run %s: %s\n", path, strerror(errno));
	_exit(EXIT_NOT_FOUND);
}

static long ms_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Waits for `pid`, reaping whatever else ends; kills its session's process
 * group at the deadline. Returns the exit code as printed. */
static int program_wait(pid_t pid, long timeout)
{
	long deadline = ms_now() + timeout * 1000;
	bool killed = false;
	sigset_t chld;
	int status;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	for (;;) {
		pid_t got = waitpid(-1, &status, WNOHANG);
		long left = (deadline - ms_now() + 999) / 1000;

		if (got == pid && killed)
			return EXIT_TIMEOUT;
		if (got == pid)
			return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		if (got > 0)
			continue;
		if (left <= 0 && !killed) {
			kill(-pid, SIGKILL);
			kill(pid, SIGKILL);
			killed = true;
		}
		struct timespec wait = { .tv_sec = left > 0 ? left : 1 };

		sigtimedwait(&chld, NULL, &wait);
	}
}

/* Runs one "prog,arg,arg" (cut up in place). Returns its exit code. */
static int program_run(char *spec, long timeout)
{
	char *argv[ARGS_MAX + 1];
	char *save = NULL;
	int argc = 0;
	bool as_nobody = spec[0] == '@';

	for (char *a = strtok_r(spec + as_nobody, ",", &save); a; a = strtok_r(NULL, ",", &save)) {
		if (argc < ARGS_MAX)
			argv[argc++] = a;
	}
	argv[argc] = NULL;
	if (!argc)
		return 0;
	fflush(NULL);
	long start = ms_now();
	pid_t pid = fork();

	if (pid == 0)
		program_exec(argv, as_nobody);
	int code = pid < 0 ? EXIT_NOT_FOUND : program_wait(pid, timeout);

	start = ms_now() - start;
	printf("# %s took %ld.%03ld s\n", argv[0], start / 1000, start % 1000);
	printf("RAMET-TEST %s exit %d\n", argv[0], code);
	return code;
}

static void machine_end(const char *how)
{
	fflush(NULL);
	sync();
	if (how && !strcmp(how, "exit"))
		return;
	reboot(how && !strcmp(how, "reboot") ? RB_AUTOBOOT : RB_POWER_OFF);
	printf("RAMET-TEST cannot power off: %s\n", strerror(errno));
}

int main(void)
{
	char line[CMDLINE_MAX];
	char fallback[] = "hello";
	char *save = NULL;
	unsigned run = 0, failed = 0;
	sigset_t chld;

	if (getpid() != 1) {
		fputs("this is an init: it runs as process 1 of a guest only\n", stderr);
		return 2;
	}
	int err = mounts_make();

	console_open();
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	printf("RAMET-TEST init%s%s\n", err ? ": some mount failed: " : "",
	       err ? strerror(-err) : "");
	modules_load();
	cmdline_read(line, sizeof(line));
	char *list = cmdline_value(line, "ramet.run=");
	char *timeout_text = cmdline_value(line, "ramet.timeout=");
	char *end = cmdline_value(line, "ramet.end=");
	long timeout = timeout_text ? strtol(timeout_text, NULL, 10) : TIMEOUT_S;

	if (timeout < 1 || timeout > TIMEOUT_S_MAX)
		timeout = TIMEOUT_S;
	for (char *spec = strtok_r(list ? list : fallback, ";", &save); spec;
	     spec = strtok_r(NULL, ";", &save)) {
		run++;
		failed += program_run(spec, timeout) != 0;
	}
	printf("RAMET-TEST end %u/%u\n", failed, run);
	machine_end(end);
	return 1;
}
