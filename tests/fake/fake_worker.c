/* A stand-in for ramet-vmm that needs no KVM: it speaks vmm/control.h and has
 * an agent of its own behind the channel, so that the engine can be tested end
 * to end, also against workers and guests that misbehave.
 *
 * Before CONTROL_BOOT it does what the file "<its own path>.mode" says, if
 * there is one:
 *     exit N, die N (SIGKILL, SIGSYS or SIGILL), never-ready, garbage, short, oversized,
 *     bad-version, with-fd, booted-first
 *     host-early (reports what the host is before it is asked for a machine)
 * Unless it is told what the host is it reports that; told anything else than it
 * would report it exits with status 84.
 * While a guest is made of layers, copied or donated, that file says what goes
 * wrong (see tests/fake/fake_guest.h).
 * After CONTROL_BOOT, what the content of the first initrd says:
 *     boot-error, panic, die-in-setup N, die-in-boot N, never-boots,
 *     exit-in-boot N, garbage-in-boot, channel-twice, poweroff, linger
 *     real PATH    PATH --fd N becomes the agent
 *     any script of tests/fake/fake_agent.h */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fdpass.h"
#include "tests/fake/fake_guest.h"
#include "vmm/control.h"

#define CONTROL_FD 3
#define CHANNEL_FD 4

static void say(const void *message, size_t length)
{
	if (send(CONTROL_FD, message, length, MSG_NOSIGNAL) != (ssize_t)length)
		_exit(0); /* the daemon is gone */
}

static void say_type(uint32_t type)
{
	struct control_header header = { CONTROL_VERSION, type };

	say(&header, sizeof(header));
}

static void say_console(const char *text)
{
	struct {
		struct control_console console;
		char text[256];
	} message = { .console = { { CONTROL_VERSION, CONTROL_CONSOLE }, 0, 0 } };

	message.console.length = (uint32_t)strlen(text);
	memcpy(message.text, text, strlen(text));
	say(&message, sizeof(message.console) + strlen(text));
}

_Noreturn static void say_ended(uint32_t reason, const char *text)
{
	struct control_ended ended = { { CONTROL_VERSION, CONTROL_ENDED }, reason, 0, "" };

	(void)snprintf(ended.text, sizeof(ended.text), "%s", text);
	say(&ended, sizeof(ended));
	_exit(0);
}

/* Stays until the daemon closes the control socket or kills it. */
_Noreturn static void stay(void)
{
	char byte[CONTROL_MESSAGE_MAX];

	while (recv(CONTROL_FD, byte, sizeof(byte), 0) > 0)
		;
	_exit(0);
}

/* The first process of a pid namespace is immune to signals of its own, except
 * those that the kernel forces on it. */
_Noreturn static void die(const char *number)
{
	struct sock_filter kill_all = { BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS };
	struct sock_fprog program = { .len = 1, .filter = &kill_all };

	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	switch (atoi(number)) {
	case SIGKILL:
		(void)prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
		break;
	case SIGSYS:
		(void)prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
		break;
	default:
		(void)signal(SIGILL, SIG_DFL);
		__builtin_trap();
	}
	(void)syscall(SYS_getppid);
	_exit(80);
}

static const char *after(const char *mode, const char *word)
{
	size_t n = strlen(word);

	return strncmp(mode, word, n) ? NULL : mode + n;
}

static void read_text(int fd, char *text, size_t size)
{
	ssize_t n = pread(fd, text, size - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	text[strcspn(text, "\n")] = '\0';
}

static void before_boot(void)
{
	struct control_ready ready = { { CONTROL_VERSION, CONTROL_READY }, (uint32_t)getpid(), 0 };
	static const char huge[CONTROL_MESSAGE_MAX + 1];
	char path[4096] = "", mode[64] = "";
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 8);
	int fd;

	(void)memcpy(path + (n > 0 ? n : 0), ".mode", 6);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		read_text(fd, mode, sizeof(mode));
		(void)close(fd);
	}
	if (after(mode, "exit "))
		_exit(atoi(after(mode, "exit ")));
	if (after(mode, "die "))
		die(after(mode, "die "));
	if (!strcmp(mode, "never-ready"))
		stay();
	if (!strcmp(mode, "garbage"))
		say("complete nonsense, longer than a header", 39);
	if (!strcmp(mode, "short"))
		say("abc", 3);
	if (!strcmp(mode, "oversized"))
		say(huge, sizeof(huge));
	if (!strcmp(mode, "bad-version"))
		ready.header.version = 77;
	if (!strcmp(mode, "booted-first"))
		ready.header.type = CONTROL_BOOTED;
	if (!strcmp(mode, "host-early"))
		say_type(CONTROL_HOST_FOUND);
	if (!strcmp(mode, "with-fd"))
		(void)fdpass_send(CONTROL_FD, &ready, sizeof(ready), (int[]){ 0 }, 1);
	say(&ready, sizeof(ready));
}

/* Takes CONTROL_BOOT, checks it as ramet-vmm would, returns the first initrd. */
static int take_boot(const struct control_boot *boot, ssize_t n, const int *fds, size_t nfds)
{
	char vmlinux[8] = "";

	if (n != (ssize_t)sizeof(*boot) || boot->header.type != CONTROL_BOOT || nfds != 4 ||
	    boot->initrd_count != 3 || boot->ram_bytes % (2u << 20))
		_exit(81); /* the engine is wrong; tests see the status */
	read_text(fds[0], vmlinux, sizeof(vmlinux));
	if (strcmp(vmlinux, "vmlinux") != 0)
		_exit(82);
	return fds[1];
}

/* A real agent on the channel, as a child; its end is the guest's end. */
_Noreturn static void run_real(const char *program)
{
	char number[16];
	pid_t child;
	int status;

	(void)snprintf(number, sizeof(number), "%d", CHANNEL_FD);
	child = fork();
	if (child == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
		(void)execl(program, program, "--fd", number, (char *)NULL);
		_exit(127);
	}
	(void)close(CHANNEL_FD);
	if (child < 0 || waitpid(child, &status, 0) != child)
		_exit(1);
	say_ended(END_PANIC, "the agent exited");
}

_Noreturn static void after_boot(const char *mode, uint64_t ram_bytes)
{
	struct control_booted booted = { { CONTROL_VERSION, CONTROL_BOOTED }, 1000 };

	say_console("loading\n");
	if (!strcmp(mode, "boot-error"))
		say_ended(END_ERROR, "no memory for the guest");
	if (after(mode, "die-in-setup "))
		die(after(mode, "die-in-setup "));
	if (!strcmp(mode, "never-boots"))
		stay();
	say(&booted, sizeof(booted));
	say_console("Linux version 6.1.0-fake\r\n");
	if (!strcmp(mode, "panic"))
		say_ended(END_PANIC, "Kernel panic - not syncing:\nVFS: Unable to mount root fs");
	if (after(mode, "die-in-boot "))
		die(after(mode, "die-in-boot "));
	if (after(mode, "exit-in-boot "))
		_exit(atoi(after(mode, "exit-in-boot ")));
	if (!strcmp(mode, "garbage-in-boot"))
		say("zzzzzzzzzzzzzzzz", 16);
	say_type(CONTROL_CHANNEL);
	if (!strcmp(mode, "channel-twice"))
		say_type(CONTROL_CHANNEL);
	if (!strcmp(mode, "poweroff"))
		say_ended(END_POWEROFF, "");
	if (!strcmp(mode, "linger")) { /* closes everything and does not exit */
		(void)close(CONTROL_FD);
		(void)close(CHANNEL_FD);
		for (;;)
			(void)pause();
	}
	if (after(mode, "real "))
		run_real(after(mode, "real "));
	(void)fcntl(CHANNEL_FD, F_SETFL, fcntl(CHANNEL_FD, F_GETFL) & ~O_NONBLOCK);
	fake_guest_boot(CONTROL_FD, CHANNEL_FD, ram_bytes, mode);
}

union first_message {
	struct control_header header;
	struct control_host host;
	struct control_boot boot;
	struct control_shell shell;
};

static ssize_t take_first(union first_message *message, int *fds, size_t *nfds)
{
	struct pollfd wait = { .fd = CONTROL_FD, .events = POLLIN };
	ssize_t n;

	(void)poll(&wait, 1, -1);
	n = fdpass_recv(CONTROL_FD, message, sizeof(*message), fds, nfds);
	if (n == 0)
		_exit(0);
	return n;
}

/* Facts that any worker of a test finds out. */
static const char facts[] = "what the host is";

static void tell_host(void)
{
	struct {
		struct control_header header;
		char facts[sizeof(facts)];
	} message = { .header = { CONTROL_VERSION, CONTROL_HOST_FOUND } };

	memcpy(message.facts, facts, sizeof(facts));
	say(&message, sizeof(message.header) + sizeof(facts));
}

int main(void)
{
	union first_message message;
	char mode[256];
	int fds[FDPASS_MAX];
	size_t nfds = 0;
	ssize_t n;

	(void)fcntl(CONTROL_FD, F_SETFL, fcntl(CONTROL_FD, F_GETFL) & ~O_NONBLOCK);
	before_boot();
	n = take_first(&message, fds, &nfds);
	if (message.header.type == CONTROL_HOST) {
		if (n != (ssize_t)(offsetof(struct control_host, facts) + sizeof(facts)) || nfds ||
		    memcmp(message.host.facts, facts, sizeof(facts)) != 0)
			_exit(84);
		n = take_first(&message, fds, &nfds);
	} else {
		tell_host();
	}
	if (message.header.type == CONTROL_SHELL) {
		if (n != (ssize_t)sizeof(message.shell) || nfds != 2)
			_exit(83);
		fake_guest_shell(CONTROL_FD, CHANNEL_FD, message.shell.ram_bytes);
	}
	read_text(take_boot(&message.boot, n, fds, nfds), mode, sizeof(mode));
	after_boot(mode, message.boot.ram_bytes);
}
