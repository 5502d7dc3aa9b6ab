/* The interpreter's process: see repl.h. Its records: records.c. */
#include "guest/agent/repl.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "guest/agent/agent.h"
#include "guest/agent/process.h"
#include "guest/agent/records.h"
#include "guest/agent/repl_identity.h"
#include "guest/agent/util.h"

#define PYTHON         "/usr/bin/python3"
#define START_LIMIT_NS (30 * NS_PER_S)

/* Descriptors in the interpreter; high, where code seldom looks. repl.py and
 * the command below name the same numbers. */
#define HELPER_FD   1018
#define IDENTITY_FD 1019
#define SOURCE_FD   1020
#define CONTROL_FD  1021

/* Short, because everybody sees it in the list of processes. */
static const char bootstrap[] = "import os; exec(os.pread(1020, 1 << 20, 0), {})";

__asm__(".pushsection .rodata\n"
	"repl_source: .incbin \"guest/agent/repl.py\"\n"
	"	.incbin \"guest/agent/repl_identity.py\"\n"
	"	.incbin \"guest/agent/repl_start.py\"\n"
	"repl_source_end:\n"
	".popsection\n");
extern const char repl_source[], repl_source_end[];

static bool runs_python(const struct agent *agent)
{
	return agent->execs.running && agent->execs.running->language == EXEC_PYTHON;
}

/* ---- output outside calls ---- */

static void backlog_take(struct agent *agent, struct pipe_in *pipe)
{
	struct backlog *backlog = &agent->repl.backlog[pipe == &agent->repl.err];
	size_t room = BACKLOG_SIZE - backlog->len;
	ssize_t n;

	if (room > 0) {
		n = read(pipe->source.fd, backlog->buf + backlog->len, room);
		if (n > 0)
			backlog->len += (size_t)n;
	} else {
		n = read(pipe->source.fd, agent->execs.scratch, EXEC_SCRATCH_SIZE);
		if (n > 0)
			backlog->dropped += (uint64_t)n;
	}
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		loop_close(&agent->loop, &pipe->source);
}

static void repl_pipe_ready(struct agent *agent, struct source *source, uint32_t events)
{
	struct pipe_in *pipe = (struct pipe_in *)(void *)source;

	(void)events;
	if (runs_python(agent))
		exec_pipe_ready(agent, pipe);
	else
		backlog_take(agent, pipe);
}

/* The initial credit exceeds the backlog: all of it can be passed on. */
static void backlog_emit(struct agent *agent)
{
	for (size_t i = 0; i < 2; i++) {
		struct backlog *backlog = &agent->repl.backlog[i];
		char text[96];
		int len;

		if (backlog->len)
			(void)exec_emit(agent, i ? OUTPUT_STDERR : OUTPUT_STDOUT, backlog->buf,
					backlog->len);
		if (backlog->dropped) {
			len = snprintf(text, sizeof(text),
				       "%llu bytes written between calls were dropped\n",
				       (unsigned long long)backlog->dropped);
			(void)exec_emit(agent, OUTPUT_NOTICE, text, (size_t)len);
		}
		backlog->len = 0;
		backlog->dropped = 0;
	}
}

/* ---- the process ---- */

static int source_file(void)
{
	size_t size = (size_t)(repl_source_end - repl_source);
	int fd = memfd_create("repl", MFD_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (write(fd, repl_source, size) != (ssize_t)size) {
		(void)close(fd);
		return -EIO;
	}
	return fd;
}

static void spawn_fd(struct spawn *spawn, int from, int to)
{
	spawn->fds[spawn->nfds].from = from;
	spawn->fds[spawn->nfds++].to = to;
}

static int repl_socket(int *ours, int *theirs)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	*ours = pair[0];
	*theirs = pair[1];
	return 0;
}

static int repl_spawn(struct agent *agent)
{
	struct repl *repl = &agent->repl;
	char *argv[] = { (char *)PYTHON, (char *)"-c", (char *)bootstrap, NULL };
	struct spawn spawn = { .argv = argv,
			       .home = agent->home,
			       .run_dir = agent->run_dir,
			       .identity = &agent->identity };
	cleanup_close int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	cleanup_close int out_read = -1, out_write = -1, err_read = -1, err_write = -1;
	cleanup_close int ours = -1, theirs = -1, helper = -1, helps = -1;
	int err;

	if (null < 0)
		return -errno;
	err = repl_socket(&ours, &theirs);
	if (!err)
		err = repl_socket(&helper, &helps);
	if (!err)
		err = process_pipe(&out_read, &out_write);
	if (!err)
		err = process_pipe(&err_read, &err_write);
	if (err)
		return err;
	spawn_fd(&spawn, null, STDIN_FILENO);
	spawn_fd(&spawn, out_write, STDOUT_FILENO);
	spawn_fd(&spawn, err_write, STDERR_FILENO);
	spawn_fd(&spawn, repl->source_fd, SOURCE_FD);
	spawn_fd(&spawn, theirs, CONTROL_FD);
	spawn_fd(&spawn, repl->identity_fd, IDENTITY_FD);
	spawn_fd(&spawn, helps, HELPER_FD);
	err = process_spawn(&spawn, &repl->pid);
	if (err)
		return err;
	repl->control.fd = take_fd(&ours);
	repl->helper.fd = take_fd(&helper);
	repl->out.source.fd = take_fd(&out_read);
	repl->err.source.fd = take_fd(&err_read);
	return 0;
}

static int repl_start(struct agent *agent)
{
	struct repl *repl = &agent->repl;
	int err = repl_spawn(agent);

	if (err) {
		repl->state = REPL_DOWN;
		agent_log("cannot start " PYTHON ": %s", strerror(-err));
		return err;
	}
	repl->state = REPL_STARTING;
	repl->start_deadline_ns = now_ns() + START_LIMIT_NS;
	repl->sending = NULL;
	repl->asks = 0;
	repl->head = repl->tail = repl->record_used = 0;
	return 0;
}

void repl_init(struct agent *agent)
{
	struct repl *repl = &agent->repl;

	repl->control = (struct source){ .fd = -1, .ready = records_ready };
	repl->helper = (struct source){ .fd = -1, .ready = repl_helper_ready };
	repl->out = (struct pipe_in){ .source = { .fd = -1, .ready = repl_pipe_ready },
				      .stream = OUTPUT_STDOUT };
	repl->err = (struct pipe_in){ .source = { .fd = -1, .ready = repl_pipe_ready },
				      .stream = OUTPUT_STDERR };
	repl->source_fd = source_file();
	if (repl->source_fd < 0)
		agent_log("cannot keep the Python driver: %s", strerror(-repl->source_fd));
	repl_identity_init(agent);
	(void)repl_start(agent);
}

int repl_ready(struct agent *agent)
{
	struct repl *repl = &agent->repl;
	char text[128];
	int err;

	if (repl->state == REPL_READY)
		return 1;
	if (repl->state != REPL_DOWN)
		return 0;
	err = repl_start(agent);
	if (!err)
		return 0;
	(void)snprintf(text, sizeof(text), "cannot start " PYTHON ": %s", strerror(-err));
	exec_refuse_first(agent, -err, text);
	return -1;
}

void repl_exec(struct agent *agent, struct exec *x)
{
	struct repl *repl = &agent->repl;

	if (repl->lost)
		x->flags |= EXIT_REPL_RESTARTED | EXIT_STATE_LOST;
	repl->lost = false;
	backlog_emit(agent);
	repl->sending = x;
	repl->sent = 0;
	records_send(agent);
}

void repl_died(struct agent *agent, int status)
{
	struct repl *repl = &agent->repl;

	process_group_kill(repl->pid, SIGKILL);
	repl->pid = 0;
	repl->ended_early = repl->state == REPL_STARTING;
	if (!repl->ended_early)
		repl->lost = true;
	repl->ended_status = status;
	repl->state = REPL_ENDED;
	repl->sending = NULL;
}

/* ---- after the end of the process ---- */

static void start_failed(struct agent *agent)
{
	const struct exec *x = agent->execs.first;
	int code = process_exit_code(agent->repl.ended_status);
	char text[128];

	(void)snprintf(text, sizeof(text), PYTHON " ended while it started, with exit code %d",
		       code);
	agent_log("%s", text);
	agent->repl.state = REPL_DOWN;
	if (x && !agent->execs.running && x->language == EXEC_PYTHON &&
	    x->code_have == x->code_length)
		exec_refuse_first(agent, ENOEXEC, text);
}

/* Everything it sent has been handled. Goes on when its exec is answered. */
static void repl_bury(struct agent *agent)
{
	struct repl *repl = &agent->repl;
	struct exec *x = agent->execs.running;

	if (runs_python(agent)) {
		if (x->stage != STAGE_ENDED) {
			exec_ended(agent, process_exit_code(repl->ended_status),
				   EXIT_REPL_RESTARTED | EXIT_STATE_LOST);
			repl->lost = false;
		}
		x->result_left = 0;
		return;
	}
	if (repl->out.source.fd >= 0)
		backlog_take(agent, &repl->out);
	if (repl->err.source.fd >= 0)
		backlog_take(agent, &repl->err);
	loop_close(&agent->loop, &repl->control);
	loop_close(&agent->loop, &repl->helper);
	loop_close(&agent->loop, &repl->out.source);
	loop_close(&agent->loop, &repl->err.source);
	identity_python_done(agent); /* a new interpreter has new seeds */
	if (repl->ended_early)
		start_failed(agent);
	else
		(void)repl_start(agent);
}

void repl_progress(struct agent *agent)
{
	bool ended = agent->repl.state == REPL_ENDED;

	if (ended)
		records_receive(agent);
	if (records_handle(agent) && ended)
		repl_bury(agent);
}

void repl_watch(struct agent *agent)
{
	struct repl *repl = &agent->repl;
	uint32_t events = 0;

	if (repl->tail - repl->head < RECORD_BUFFER_SIZE)
		events |= EPOLLIN;
	if (repl->sending)
		events |= EPOLLOUT;
	(void)loop_watch(&agent->loop, &repl->control, events);
	(void)loop_watch(&agent->loop, &repl->helper, agent->identity.pending ? EPOLLIN : 0);
	if (runs_python(agent))
		return;
	(void)loop_watch(&agent->loop, &repl->out.source, EPOLLIN);
	(void)loop_watch(&agent->loop, &repl->err.source, EPOLLIN);
}

/* ---- deadlines ---- */

uint64_t repl_deadline(const struct agent *agent)
{
	return agent->repl.state == REPL_STARTING ? agent->repl.start_deadline_ns : UINT64_MAX;
}

void repl_expire(struct agent *agent, uint64_t now)
{
	if (agent->repl.state != REPL_STARTING || now < agent->repl.start_deadline_ns)
		return;
	agent_log(PYTHON " did not get ready in time; it is killed");
	agent->repl.start_deadline_ns = UINT64_MAX;
	process_group_kill(agent->repl.pid, SIGKILL);
}
