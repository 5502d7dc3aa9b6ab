/* Walks in child processes: see tree.h. */
#include "guest/agent/tree.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "guest/agent/agent.h"
#include "guest/agent/tree_walk.h"
#include "guest/agent/util.h"

#define CHILD_SOCKET 3

/* What is there is passed on in the next round. */
static void tree_ready(struct agent *agent, struct source *source, uint32_t events)
{
	(void)agent;
	(void)source;
	(void)events;
}

void tree_init(struct agent *agent)
{
	for (size_t i = 0; i < TREES_MAX; i++)
		agent->trees.slots[i].source = (struct source){ .fd = -1, .ready = tree_ready };
}

static struct tree *tree_find(struct agent *agent, uint32_t id)
{
	for (size_t i = 0; i < TREES_MAX; i++)
		if (agent->trees.slots[i].source.fd >= 0 && agent->trees.slots[i].id == id)
			return &agent->trees.slots[i];
	return NULL;
}

static struct tree *tree_free_slot(struct agent *agent)
{
	for (size_t i = 0; i < TREES_MAX; i++)
		if (agent->trees.slots[i].source.fd < 0)
			return &agent->trees.slots[i];
	return NULL;
}

/* The child is reaped with all others. */
static void tree_end(struct agent *agent, struct tree *tree)
{
	if (tree->pid > 0)
		(void)kill(tree->pid, SIGKILL);
	tree->pid = 0;
	loop_close(&agent->loop, &tree->source);
}

/* In the child: nothing of the agent's stays but the socket and the request. */
_Noreturn static void child_run(int fd, const struct tree_job *job)
{
	static const int defaults[] = { SIGPIPE, SIGTERM, SIGINT, SIGHUP, SIGCHLD };
	sigset_t none;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)prctl(PR_SET_NAME, "ramet-tree");
	for (size_t i = 0; i < sizeof(defaults) / sizeof(defaults[0]); i++)
		(void)signal(defaults[i], SIG_DFL);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	if (fd != CHILD_SOCKET && dup2(fd, CHILD_SOCKET) < 0)
		_exit(1);
	if (close_range(CHILD_SOCKET + 1, ~0u, 0) < 0)
		_exit(1);
	tree_walk(CHILD_SOCKET, job);
	_exit(0);
}

static int child_start(struct tree *tree, const struct tree_job *job)
{
	int fds[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		return -errno;
	pid = fork();
	if (pid == 0)
		child_run(fds[1], job);
	(void)close(fds[1]);
	if (pid < 0) {
		int err = -errno;

		(void)close(fds[0]);
		return err;
	}
	tree->pid = pid;
	tree->source.fd = fds[0];
	return 0;
}

/* Reads the paths; false when they are not what they should be. */
static bool roots_read(const struct frame *frame, const struct msg_tree *msg, struct tree_job *job)
{
	const char *at = (const char *)frame->payload + sizeof(*msg);
	size_t left = frame->length - sizeof(*msg);

	if (!msg->root_count || msg->root_count > TREE_ROOTS_MAX)
		return false;
	for (uint32_t i = 0; i < msg->root_count; i++) {
		size_t length = strnlen(at, left);

		if (length == left || length > PATH_LENGTH_MAX || at[0] != '/')
			return false;
		job->roots[i] = at;
		at += length + 1;
		left -= length + 1;
	}
	job->root_count = msg->root_count;
	return left == 0;
}

void tree_start(struct agent *agent, const struct frame *frame)
{
	struct tree *tree = tree_free_slot(agent);
	struct tree_job job = { .leave_out = agent->run_dir };
	struct msg_tree msg;
	int err;

	memcpy(&msg, frame->payload, sizeof(msg));
	if (!roots_read(frame, &msg, &job)) {
		outbox_error(&agent->out, frame->id, EINVAL,
			     "not 1 to %u absolute paths of up to %u bytes, each with NUL",
			     TREE_ROOTS_MAX, PATH_LENGTH_MAX);
		return;
	}
	if (!tree) {
		outbox_error(&agent->out, frame->id, EBUSY,
			     "%u walks through the files run already", TREES_MAX);
		return;
	}
	err = child_start(tree, &job);
	if (err) {
		outbox_error(&agent->out, frame->id, -err,
			     "cannot start a walk through the files: %s", strerror(-err));
		return;
	}
	tree->id = frame->id;
	tree->credit = msg.credit;
}

bool tree_credit(struct agent *agent, const struct frame *frame)
{
	struct tree *tree = tree_find(agent, frame->id);
	struct msg_credit msg;

	if (!tree)
		return false;
	memcpy(&msg, frame->payload, sizeof(msg));
	tree->credit += msg.bytes;
	return true;
}

bool tree_cancel(struct agent *agent, uint32_t id)
{
	struct tree *tree = tree_find(agent, id);

	if (!tree)
		return false;
	tree_end(agent, tree);
	outbox_error(&agent->out, id, ECANCELED, "cancelled");
	return true;
}

/* Whether one more page can be taken now. */
static bool tree_may(const struct agent *agent, const struct tree *tree)
{
	return tree->credit >= TREE_PAGE_MAX && outbox_room(&agent->out) >= OUTBOX_OUTPUT_ROOM;
}

/* Passes on one datagram of the child. Returns false when there is none. */
static bool tree_take(struct agent *agent, struct tree *tree)
{
	uint8_t *payload = outbox_begin(&agent->out, TREE_PAGE_MAX);
	struct msg_tree_entries head = { 0 };
	uint32_t type = 0;
	struct iovec parts[] = { { &type, sizeof(type) }, { payload, TREE_PAGE_MAX } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
	ssize_t n = recvmsg(tree->source.fd, &message, MSG_DONTWAIT);
	size_t length = n > (ssize_t)sizeof(type) ? (size_t)n - sizeof(type) : 0;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (length < sizeof(head) || (message.msg_flags & MSG_TRUNC) ||
	    (type != MSG_TREE_ENTRIES && type != MSG_ERROR)) {
		outbox_error(&agent->out, tree->id, EIO,
			     "the walk through the files was killed before its end");
		tree_end(agent, tree);
		return false;
	}
	memcpy(&head, payload, sizeof(head));
	outbox_end(&agent->out, (uint8_t)type, tree->id, length);
	tree->credit -= length;
	if (type == MSG_ERROR || head.count == 0)
		tree_end(agent, tree);
	return tree->source.fd >= 0;
}

void tree_progress(struct agent *agent)
{
	for (size_t i = 0; i < TREES_MAX; i++) {
		struct tree *tree = &agent->trees.slots[i];

		if (tree->source.fd < 0)
			continue;
		while (tree_may(agent, tree) && tree_take(agent, tree))
			;
		(void)loop_watch(&agent->loop, &tree->source, tree_may(agent, tree) ? EPOLLIN : 0);
	}
}

void tree_died(struct agent *agent, pid_t pid)
{
	for (size_t i = 0; i < TREES_MAX; i++)
		if (agent->trees.slots[i].pid == pid)
			agent->trees.slots[i].pid = 0;
}

void tree_abandon_all(struct agent *agent)
{
	for (size_t i = 0; i < TREES_MAX; i++)
		tree_end(agent, &agent->trees.slots[i]);
}
