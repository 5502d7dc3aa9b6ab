/* MSG_RESEED: see identity.h. random(4) describes the ioctls. */
#include "guest/agent/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "guest/agent/agent.h"
#include "guest/agent/hypercall.h"
#include "guest/agent/repl_identity.h"
#include "guest/agent/run_files.h"
#include "guest/agent/util.h"
#include "guest/channel.h"

#define HOSTNAME_MAX      64
#define ENTROPY_MAX       512
#define CLOCK_TRIES       10
#define CLOCK_NEAR_NS     (5 * NS_PER_MS)
#define PYTHON_LIMIT_NS   (250 * NS_PER_MS) /* to be reseeded */
#define CALLBACK_LIMIT_NS NS_PER_S          /* for all that code registered */
#define GIVE_UP_NS        (100 * NS_PER_MS) /* for what was interrupted to return */

void identity_init(struct agent *agent)
{
	agent->identity.hypercall_fd = agent->is_init ? hypercall_open() : -1;
	agent->identity.random_fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	run_files_init(agent);
}

static int entropy_add(const struct agent *agent, const uint8_t *entropy, uint32_t len)
{
	int fd = agent->identity.random_fd, err = 0;
	union {
		struct rand_pool_info info;
		uint8_t room[sizeof(struct rand_pool_info) + ENTROPY_MAX];
	} pool = { .info = { .entropy_count = (int)len * 8, .buf_size = (int)len } };

	if (!len)
		return 0;
	if (fd < 0)
		return -ENODEV;
	if (!agent->is_init)
		return write(fd, entropy, len) < 0 ? -errno : 0;
	memcpy(pool.room + sizeof(struct rand_pool_info), entropy, len);
	if (ioctl(fd, RNDADDENTROPY, &pool) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
		err = -errno;
	explicit_bzero(&pool, sizeof(pool));
	return err;
}

/* The message may have waited for this guest's turn on a busy host: what the
 * host says now, in microseconds and modulo its range, puts it right. */
static uint64_t wall_correct(const struct agent *agent, uint64_t wall_ns)
{
	const int64_t range = WALL_CLOCK_MASK + 1ll;
	int64_t late;
	int answer;

	if (agent->identity.hypercall_fd < 0)
		return wall_ns;
	answer = hypercall_make(agent->identity.hypercall_fd, RAMET_OP_WALL_CLOCK, 0, 0, 0);
	if (answer < 0)
		return wall_ns;
	late = (answer - (int64_t)(wall_ns / 1000)) & WALL_CLOCK_MASK;
	if (late > range / 2)
		late -= range;
	return wall_ns + (uint64_t)late * 1000;
}

/* Again when the guest did not get to run between asking and setting. */
static int clock_set(const struct agent *agent, uint64_t wall_ns)
{
	if (!agent->is_init || wall_ns == 0)
		return 0;
	for (int i = 0; i < CLOCK_TRIES; i++) {
		uint64_t before = now_ns();
		uint64_t now = wall_correct(agent, wall_ns);
		struct timespec ts = { .tv_sec = (time_t)(now / NS_PER_S),
				       .tv_nsec = (long)(now % NS_PER_S) };

		if (clock_settime(CLOCK_REALTIME, &ts) < 0)
			return -errno;
		if (now_ns() - before < CLOCK_NEAR_NS)
			break;
	}
	return 0;
}

static int name_set(const struct agent *agent, const uint8_t *name, uint32_t len)
{
	if (!agent->is_init || len == 0)
		return 0;
	return sethostname((const char *)name, len) < 0 ? -errno : 0;
}

static void generation_keep(struct identity *identity, const uint8_t uuid[16])
{
	char *text = identity->generation;
	size_t len = 0;

	for (size_t i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			text[len++] = '-';
		len += (size_t)snprintf(text + len, GENERATION_TEXT - len, "%02x", uuid[i]);
	}
}

static void identity_answer(struct agent *agent)
{
	agent->identity.pending = false;
	outbox_frame(&agent->out, MSG_OK, agent->identity.id, NULL, 0);
}

static void python_tell(struct agent *agent, const struct msg_reseed *msg)
{
	struct identity *identity = &agent->identity;

	identity->calling = identity->interrupted = false;
	identity->pending = true;
	identity->deadline_ns = now_ns() + PYTHON_LIMIT_NS;
	if (!repl_identify(agent, msg->flags & RESEED_PYTHON, msg->flags & RESEED_FORK))
		identity_answer(agent);
}

/* Returns what failed, with *err, or NULL. */
static const char *identity_apply(struct agent *agent, const struct msg_reseed *msg,
				  const uint8_t *name, int *err)
{
	const uint8_t *entropy = name + msg->hostname_length;
	const uint8_t *token = entropy + msg->entropy_length;

	*err = entropy_add(agent, entropy, msg->entropy_length);
	if (*err)
		return "entropy";
	*err = clock_set(agent, msg->wall_ns);
	if (*err)
		return "clock";
	*err = name_set(agent, name, msg->hostname_length);
	if (*err)
		return "host name";
	generation_keep(&agent->identity, msg->generation);
	if (msg->flags & RESEED_FORK)
		agent->identity.fork_number = msg->fork_number;
	*err = run_files_write(agent, msg->flags & RESEED_TOKEN ? token : NULL);
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
	if (agent->identity.pending) {
		outbox_error(&agent->out, frame->id, EBUSY, "another reseed is not confirmed yet");
		return 0;
	}
	reclaim_copied(agent);
	what = identity_apply(agent, &msg, frame->payload + sizeof(msg), &err);
	agent->identity.id = frame->id;
	if (what)
		outbox_error(&agent->out, frame->id, -err, "reseed: %s: %s", what, strerror(-err));
	else if (msg.flags & (RESEED_PYTHON | RESEED_FORK))
		python_tell(agent, &msg);
	else
		identity_answer(agent);
	return 0;
}

void identity_python_calls(struct agent *agent)
{
	if (!agent->identity.pending || agent->identity.calling)
		return;
	agent->identity.calling = true;
	agent->identity.deadline_ns = now_ns() + CALLBACK_LIMIT_NS;
}

void identity_python_done(struct agent *agent)
{
	if (agent->identity.pending)
		identity_answer(agent);
}

uint64_t identity_deadline(const struct agent *agent)
{
	return agent->identity.pending ? agent->identity.deadline_ns : UINT64_MAX;
}

/* See repl_identity.h for why the answer is yes in the end. */
void identity_expire(struct agent *agent, uint64_t now)
{
	struct identity *identity = &agent->identity;

	if (!identity->pending || now < identity->deadline_ns)
		return;
	if (identity->calling && !identity->interrupted) {
		identity->interrupted = true;
		identity->deadline_ns = now + GIVE_UP_NS;
		repl_signal(agent, SIGINT);
		return;
	}
	if (identity->calling)
		agent_log("functions registered with ramet_fork take too long");
	else
		agent_log("Python is inside a long call: it is reseeded right after it");
	identity_answer(agent);
}
