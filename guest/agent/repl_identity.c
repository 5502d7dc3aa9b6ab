/* Telling the interpreter who its guest is: see repl_identity.h. The other end
 * is repl_identity.py. */
#include "guest/agent/repl_identity.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest/agent/agent.h"
#include "guest/agent/records.h"
#include "guest/agent/util.h"

/* Threads of an interpreter that runs nothing: the main one and the helper. */
#define THREADS_IDLE 2

enum told_flags { TOLD_RESEED = 1u << 0, TOLD_FORK = 1u << 1 };

struct told {
	uint32_t sequence; /* another one each time */
	uint32_t flags;    /* enum told_flags */
	uint32_t fork_number;
	char generation[GENERATION_TEXT + 3]; /* NUL-padded */
};

struct helped {
	uint32_t sequence;
	uint32_t callbacks; /* functions are registered: the main thread calls them */
};

_Static_assert(sizeof(struct told) == 52, "driver ABI");

void repl_identity_init(struct agent *agent)
{
	struct told none = { 0 };
	int fd = memfd_create("identity", MFD_CLOEXEC);

	if (fd < 0 || pwrite(fd, &none, sizeof(none), 0) != (ssize_t)sizeof(none))
		agent_log("cannot make the interpreter's identity: %s", strerror(errno));
	agent->repl.identity_fd = fd;
}

void repl_signal(const struct agent *agent, int signal)
{
	if (agent->repl.pid > 0)
		(void)syscall(SYS_tgkill, agent->repl.pid, agent->repl.pid, signal);
}

static void told_write(struct agent *agent, bool reseed, bool fork)
{
	struct told told = { .sequence = ++agent->repl.told,
			     .flags = (reseed ? (uint32_t)TOLD_RESEED : 0) |
				      (fork ? (uint32_t)TOLD_FORK : 0),
			     .fork_number = agent->identity.fork_number };

	memcpy(told.generation, agent->identity.generation, sizeof(agent->identity.generation));
	if (pwrite(agent->repl.identity_fd, &told, sizeof(told), 0) != (ssize_t)sizeof(told))
		agent_log("cannot write the interpreter's identity: %s", strerror(errno));
}

/* Whether anything in an interpreter that waits for code can run Python. */
static bool others_run(const struct repl *repl)
{
	char path[32];
	struct stat st;

	if (repl->asks & DRIVER_CONFIRMS)
		return true;
	if (!(repl->asks & DRIVER_HAS_FOREIGN))
		return false;
	/* proc(5): a link for each thread. */
	(void)snprintf(path, sizeof(path), "/proc/%d/task", repl->pid);
	return stat(path, &st) < 0 || st.st_nlink > 2 + THREADS_IDLE;
}

/* Returns false when the process is about to end: the next one is a new one. */
static bool record_queue(const struct repl *repl)
{
	static const uint8_t record[RECORD_HEADER_SIZE] = { 'F' };

	return send(repl->control.fd, record, sizeof(record), MSG_DONTWAIT | MSG_NOSIGNAL) ==
	       (ssize_t)sizeof(record);
}

bool repl_identify(struct agent *agent, bool reseed, bool fork)
{
	struct repl *repl = &agent->repl;
	bool busy = agent->execs.running && agent->execs.running->language == EXEC_PYTHON;

	if (repl->state != REPL_READY && repl->state != REPL_STARTING)
		return false;
	told_write(agent, reseed, fork);
	if (!busy)
		return record_queue(repl) && repl->state == REPL_READY && others_run(repl);
	repl_signal(agent, SIGRTMAX);
	if (repl->helper.fd >= 0)
		(void)send(repl->helper.fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	return true;
}

bool repl_identity_record(struct agent *agent, uint8_t kind, const uint8_t *payload, size_t length)
{
	uint32_t sequence;

	if (length != sizeof(sequence))
		return false;
	memcpy(&sequence, payload, sizeof(sequence));
	if (sequence != agent->repl.told)
		return true;
	if (kind == 'S')
		identity_python_done(agent);
	else
		identity_python_calls(agent);
	return true;
}

void repl_helper_ready(struct agent *agent, struct source *source, uint32_t events)
{
	struct helped helped;
	ssize_t n = recv(source->fd, &helped, sizeof(helped), MSG_DONTWAIT);

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n != (ssize_t)sizeof(helped)) {
		loop_close(&agent->loop, source);
		return;
	}
	/* The main thread may still call what is registered, soon. */
	if (helped.sequence == agent->repl.told && !helped.callbacks)
		identity_python_done(agent);
}
