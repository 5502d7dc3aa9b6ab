/* Agent requests with one short answer: reseed, ping, shutdown. See agent.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/agent.h"

#define HOSTNAME_MAX 64u
#define ENTROPY_MAX  512u

struct simple_request {
	struct agent_request request; /* first */
	const char *what;
	agent_done_cb done;
	void *arg;
};

static void simple_finish(struct simple_request *simple, const struct ramet_err *err)
{
	agent_request_end(&simple->request);
	simple->done(simple->arg, err);
	free(simple);
}

static int simple_reply(struct agent_request *request, const struct frame *frame,
			struct ramet_err *err)
{
	struct simple_request *simple = (struct simple_request *)request;
	struct ramet_err refusal;

	if (frame->type == MSG_OK) {
		simple_finish(simple, NULL);
	} else if (frame->type == MSG_ERROR) {
		(void)agent_error(frame, &refusal);
		simple_finish(simple, &refusal);
	} else {
		return agent_unexpected(frame, simple->what, err);
	}
	return 0;
}

static void simple_lost(struct agent_request *request, const struct ramet_err *err)
{
	simple_finish((struct simple_request *)request, err);
}

static int simple_send(struct agent *agent, uint8_t type, const char *what, const void *fixed,
		       size_t fixed_length, const void *data, size_t length, agent_done_cb done,
		       void *arg, struct ramet_err *err)
{
	struct simple_request *simple = calloc(1, sizeof(*simple));
	int r;

	if (!simple)
		return err_set(err, ENOMEM, "no memory for a request to the agent");
	simple->request.reply = simple_reply;
	simple->request.lost = simple_lost;
	simple->what = what;
	simple->done = done;
	simple->arg = arg;
	r = agent_request_send(agent, &simple->request, type, fixed, fixed_length, data, length,
			       err);
	if (r < 0)
		free(simple);
	return r;
}

int agent_reseed(struct agent *agent, const struct agent_identity *identity, agent_done_cb done,
		 void *arg, struct ramet_err *err)
{
	size_t name_length = strlen(identity->hostname);
	size_t token_length = identity->token ? RESEED_TOKEN_SIZE : 0;
	size_t length = name_length + identity->entropy_length + token_length;
	char data[HOSTNAME_MAX + ENTROPY_MAX + RESEED_TOKEN_SIZE];
	struct msg_reseed reseed = {
		.wall_ns = identity->wall_ns,
		.hostname_length = (uint32_t)name_length,
		.entropy_length = (uint32_t)identity->entropy_length,
		.flags = (identity->reseed_python ? (uint32_t)RESEED_PYTHON : 0) |
			 (identity->token ? (uint32_t)RESEED_TOKEN : 0) |
			 (identity->fork_number ? (uint32_t)RESEED_FORK : 0),
		.fork_number = identity->fork_number,
	};
	int r;

	if (name_length > HOSTNAME_MAX || identity->entropy_length > ENTROPY_MAX)
		return err_set(err, EINVAL, "host name or entropy too long for a reseed");
	memcpy(reseed.generation, identity->generation, sizeof(reseed.generation));
	memcpy(data, identity->hostname, name_length);
	if (identity->entropy_length)
		memcpy(data + name_length, identity->entropy, identity->entropy_length);
	if (token_length)
		memcpy(data + name_length + identity->entropy_length, identity->token,
		       token_length);
	r = simple_send(agent, MSG_RESEED, "RESEED", &reseed, sizeof(reseed), data, length, done,
			arg, err);
	explicit_bzero(data, sizeof(data));
	return r;
}

int agent_ping(struct agent *agent, agent_done_cb done, void *arg, struct ramet_err *err)
{
	return simple_send(agent, MSG_PING, "PING", NULL, 0, NULL, 0, done, arg, err);
}

int agent_shutdown(struct agent *agent, agent_done_cb done, void *arg, struct ramet_err *err)
{
	return simple_send(agent, MSG_SHUTDOWN, "SHUTDOWN", NULL, 0, NULL, 0, done, arg, err);
}
