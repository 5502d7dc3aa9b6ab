/* A worker for the spawner's tests: the test program itself, which the spawner
 * starts as "ramet-vmm". It obeys one-byte commands on its control socket and
 * answers each with a struct worker_answer. */
#ifndef RAMET_TESTS_FAKE_WORKER_H
#define RAMET_TESTS_FAKE_WORKER_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/clock.h"
#include "vmm/jail.h"

enum worker_command {
	WORKER_TELL = 't', /* what it was started with */
	WORKER_JAIL = 'j', /* enter and seal the jail; value = 0 or -errno */
	WORKER_EXIT = 'e', /* with status 7 */
	WORKER_EAT = 'm',  /* memory, until it is killed; value = it was not */
	WORKER_FORK = 'f', /* once; value = 0 or -errno */
	WORKER_SPIN = 's', /* for a second of wall clock; value = ms of CPU time */
};

#define WORKER_FDS_TOLD  16
#define WORKER_EAT_BYTES (256u << 20)

struct worker_answer {
	int value;
	int pid;
	int fds[WORKER_FDS_TOLD]; /* open descriptors, then -1 */
	int stdin_null, stdout_is_stderr;
	int environment;        /* variables */
	uint64_t namespaces[6]; /* inodes of mnt, net, ipc, uts, cgroup, pid */
	uint64_t enter_ns, seal_ns;
	char arguments[160]; /* joined by blanks */
	char text[200];
};

static const char *const worker_namespaces[] = { "mnt", "net", "ipc", "uts", "cgroup", "pid" };

static inline void worker_namespaces_read(const char *process, uint64_t inodes[6])
{
	for (int i = 0; i < 6; i++) {
		char path[64];
		struct stat st = { 0 };

		(void)snprintf(path, sizeof(path), "/proc/%s/ns/%s", process, worker_namespaces[i]);
		inodes[i] = stat(path, &st) == 0 ? st.st_ino : 0;
	}
}

static inline void worker_tell(struct worker_answer *a, int argc, char **argv, char **envp)
{
	struct stat in, null, out, error;
	size_t n = 0, len = 0;

	for (int fd = 0; fd < 1024 && n < WORKER_FDS_TOLD - 1; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			a->fds[n++] = fd;
	a->fds[n] = -1;
	for (int i = 0; i < argc && len < sizeof(a->arguments); i++)
		len += (size_t)snprintf(a->arguments + len, sizeof(a->arguments) - len, "%s%s",
					i ? " " : "", argv[i]);
	while (envp[a->environment])
		a->environment++;
	a->stdin_null =
		fstat(0, &in) == 0 && stat("/dev/null", &null) == 0 && in.st_rdev == null.st_rdev;
	a->stdout_is_stderr = fstat(1, &out) == 0 && fstat(2, &error) == 0 &&
			      out.st_ino == error.st_ino && out.st_dev == error.st_dev;
	worker_namespaces_read("self", a->namespaces);
}

static inline void worker_jail(struct worker_answer *a, char **argv)
{
	static const int keep[] = { 3, 4, 5 };
	const struct jail_config config = { .uid = (uid_t)strtoul(argv[8], NULL, 10),
					    .gid = (gid_t)strtoul(argv[10], NULL, 10),
					    .keep_fds = keep,
					    .keep_count = 3 };
	struct ramet_err err = { 0 };
	uint64_t begin = clock_monotonic_ns(), entered;

	a->value = jail_enter(&config, &err);
	entered = clock_monotonic_ns();
	if (a->value == 0)
		a->value = jail_seal(&err);
	a->seal_ns = clock_monotonic_ns() - entered;
	a->enter_ns = entered - begin;
	(void)snprintf(a->text, sizeof(a->text), "%.199s", err.msg);
}

static inline int worker_eat(void)
{
	char *bytes = mmap(NULL, WORKER_EAT_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (bytes == MAP_FAILED)
		return -errno;
	for (size_t i = 0; i < WORKER_EAT_BYTES; i += 4096)
		bytes[i] = 1;
	return 0;
}

static inline int worker_spin(void)
{
	uint64_t end = clock_monotonic_ns() + 1000000000u;

	while (clock_monotonic_ns() < end)
		;
	return (int)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1000000u);
}

static inline int worker_fork_once(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	return pid < 0 ? -errno : 0;
}

/* The worker's life; ends when the control socket closes. */
_Noreturn static inline void worker_main(int argc, char **argv, char **envp)
{
	struct pollfd ready = { .fd = argc == 11 ? atoi(argv[2]) : -1, .events = POLLIN };
	int control = ready.fd;
	char command;

	while (poll(&ready, 1, -1) == 1 && recv(control, &command, 1, 0) == 1) {
		struct worker_answer answer = { .pid = getpid() };

		switch (command) {
		case WORKER_TELL:
			worker_tell(&answer, argc, argv, envp);
			break;
		case WORKER_JAIL:
			worker_jail(&answer, argv);
			break;
		case WORKER_EAT:
			answer.value = worker_eat();
			break;
		case WORKER_FORK:
			answer.value = worker_fork_once();
			break;
		case WORKER_SPIN:
			answer.value = worker_spin();
			break;
		case WORKER_EXIT:
		default:
			_exit(7);
		}
		(void)send(control, &answer, sizeof(answer), MSG_NOSIGNAL);
	}
	_exit(0);
}

#endif
