/* MSG_RESEED: see identity.h. random(4) describes the ioctls. */
#include "guest/agent/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "guest/agent/agent.h"
#include "guest/agent/util.h"

#define HOSTNAME_MAX    64
#define ENTROPY_MAX     512
#define PYTHON_LIMIT_NS (2 * NS_PER_S)

static int entropy_add(const struct agent *agent, const uint8_t *entropy, uint32_t len)
{
	cleanup_close int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	union {
		struct rand_pool_info info;
		uint8_t room[sizeof(struct rand_pool_info) + ENTROPY_MAX];
	} pool = { .info = { .entropy_count = (int)len * 8, .buf_size = (int)len } };

	if (fd < 0)
		return -errno;
	if (!agent->is_init)
		return write(fd, entropy, len) < 0 ? -errno : 0;
	memcpy(pool.room + sizeof(struct rand_pool_info), entropy, len);
	if (len && ioctl(fd, RNDADDENTROPY, &pool) < 0)
		return -errno;
	return ioctl(fd, RNDRESEEDCRNG) < 0 ? -errno : 0;
}

static int clock_set(const struct agent *agent, uint64_t wall_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(wall_ns / NS_PER_S),
			       .tv_nsec = (long)(wall_ns % NS_PER_S) };

	if (!agent->is_init || wall_ns == 0)
		return 0;
	return clock_settime(CLOCK_REALTIME, &ts) < 0 ? -errno : 0;
}

static int name_set(const struct agent *agent, const uint8_t *name, uint32_t len)
{
	if (!agent->is_init || len == 0)
		return 0;
	return sethostname((const char *)name, len) < 0 ? -errno : 0;
}

/* Puts a file into the run directory; it changes at once. */
static int run_write(const struct agent *agent, const char *name, mode_t mode, const char *text)
{
	char path[PATH_LENGTH_MAX], temporary[PATH_LENGTH_MAX + 8];
	size_t len = strlen(text);

	if (!agent->run_dir)
		return 0;
	(void)snprintf(path, sizeof(path), "%.4000s/%s", agent->run_dir, name);
	(void)snprintf(temporary, sizeof(temporary), "%s.new", path);
	if (mkdir(agent->run_dir, 0755) < 0 && errno != EEXIST)
		return -errno;
	if (unlink(temporary) < 0 && errno != ENOENT)
		return -errno;
	{
		cleanup_close int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);

		if (fd < 0 || write(fd, text, len) != (ssize_t)len)
			return -errno;
	}
	return rename(temporary, path) < 0 ? -errno : 0;
}

static int generation_write(const struct agent *agent, const uint8_t uuid[16])
{
	char text[40];
	size_t len = 0;

	for (size_t i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			text[len++] = '-';
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%02x", uuid[i]);
	}
	text[len++] = '\n';
	text[len] = '\0';
	return run_write(agent, "generation", 0644, text);
}

static int token_write(const struct agent *agent, const uint8_t token[RESEED_TOKEN_SIZE])
{
	char text[2 * RESEED_TOKEN_SIZE + 2];

	for (size_t i = 0; i < RESEED_TOKEN_SIZE; i++)
		(void)snprintf(text + 2 * i, 3, "%02x", token[i]);
	text[2 * RESEED_TOKEN_SIZE] = '\n';
	text[2 * RESEED_TOKEN_SIZE + 1] = '\0';
	return run_write(agent, "token", 0600, text);
}

static int fork_write(struct agent *agent, const struct msg_reseed *msg)
{
	char text[32];

	agent->identity.fork_number = msg->fork_number;
	(void)snprintf(text, sizeof(text), "%u\n%s\n", msg->fork_number - 1,
		       msg->flags & RESEED_PYTHON ? "reseed" : "keep");
	return run_write(agent, "fork_index", 0644, text);
}

static void python_reseed(struct agent *agent, uint32_t id)
{
	if (agent->identity.pending) {
		outbox_error(&agent->out, id, EBUSY, "another reseed is not confirmed yet");
		return;
	}
	if (!repl_reseed(agent)) {
		outbox_frame(&agent->out, MSG_OK, id, NULL, 0);
		return;
	}
	agent->identity.pending = true;
	agent->identity.id = id;
	agent->identity.deadline_ns = now_ns() + PYTHON_LIMIT_NS;
}

/* Returns what failed, with *err, or NULL. */
static const char *identity_apply(struct agent *agent, const struct msg_reseed *msg,
				  const uint8_t *name, int *err)
{
	const uint8_t *entropy = name + msg->hostname_length;

	*err = entropy_add(agent, entropy, msg->entropy_length);
	if (*err)
		return "entropy";
	*err = clock_set(agent, msg->wall_ns);
	if (*err)
		return "clock";
	*err = name_set(agent, name, msg->hostname_length);
	if (*err)
		return "host name";
	*err = generation_write(agent, msg->generation);
	if (!*err && msg->flags & RESEED_TOKEN)
		*err = token_write(agent, entropy + msg->entropy_length);
	if (!*err && msg->flags & RESEED_FORK)
		*err = fork_write(agent, msg);
	return *err ? "file in the run directory" : NULL;
}

int identity_reseed(struct agent *agent, const struct frame *frame, const char **why)
{
	struct msg_reseed msg;
	const char *what;
	size_t token;
	int err;

	memcpy(&msg, frame->payload, sizeof(msg));
	token = msg.flags & RESEED_TOKEN ? RESEED_TOKEN_SIZE : 0;
	if (msg.hostname_length > HOSTNAME_MAX || msg.entropy_length > ENTROPY_MAX ||
	    frame->length != sizeof(msg) + msg.hostname_length + msg.entropy_length + token) {
		*why = "reseed lengths do not add up";
		return -EPROTO;
	}
	if (msg.flags & RESEED_FORK && !msg.fork_number) {
		*why = "reseed of a fork without its number";
		return -EPROTO;
	}
	reclaim_copied(agent);
	what = identity_apply(agent, &msg, frame->payload + sizeof(msg), &err);
	if (what)
		outbox_error(&agent->out, frame->id, -err, "reseed: %s: %s", what, strerror(-err));
	else if (msg.flags & (RESEED_PYTHON | RESEED_FORK))
		python_reseed(agent, frame->id);
	else
		outbox_frame(&agent->out, MSG_OK, frame->id, NULL, 0);
	return 0;
}

void identity_python_done(struct agent *agent)
{
	if (!agent->identity.pending)
		return;
	agent->identity.pending = false;
	outbox_frame(&agent->out, MSG_OK, agent->identity.id, NULL, 0);
}

uint64_t identity_deadline(const struct agent *agent)
{
	return agent->identity.pending ? agent->identity.deadline_ns : UINT64_MAX;
}

void identity_expire(struct agent *agent, uint64_t now)
{
	if (!agent->identity.pending || now < agent->identity.deadline_ns)
		return;
	agent->identity.pending = false;
	outbox_error(&agent->out, agent->identity.id, ETIMEDOUT,
		     "reseed: kernel, clock and name are done, but the Python interpreter has not "
		     "confirmed: it is inside a long call");
}
