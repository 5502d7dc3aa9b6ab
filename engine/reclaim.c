/* sandbox_reclaim(): the guest gives the host what memory it does not use. */
#include <errno.h>
#include <stdlib.h>

#include "engine/internal.h"

#define GUEST_PAGE 4096u

struct reclaim {
	struct agent_request request; /* first */
	reclaim_cb done;              /* NULL: too late, nobody waits */
	void *arg;
	sd_event_source *deadline;
	double limit_s;
};

static void reclaim_tell(struct reclaim *reclaim, uint64_t bytes, const struct ramet_err *err)
{
	reclaim_cb done = reclaim->done;

	reclaim->done = NULL;
	reclaim->deadline = sd_event_source_disable_unref(reclaim->deadline);
	if (done)
		done(reclaim->arg, bytes, err);
}

static void reclaim_finish(struct reclaim *reclaim, uint64_t bytes, const struct ramet_err *err)
{
	agent_request_end(&reclaim->request);
	reclaim_tell(reclaim, bytes, err);
	free(reclaim);
}

static int reclaim_reply(struct agent_request *request, const struct frame *frame,
			 struct ramet_err *err)
{
	struct reclaim *reclaim = (struct reclaim *)request;
	struct msg_reclaimed message;
	struct ramet_err refusal;

	if (frame->type == MSG_ERROR) {
		(void)agent_error(frame, &refusal);
		reclaim_finish(reclaim, 0, &refusal);
		return 0;
	}
	if (frame->type != MSG_RECLAIMED)
		return agent_unexpected(frame, "RECLAIM", err);
	frame_fixed(frame, &message, sizeof(message));
	if (message.pages > UINT64_MAX / GUEST_PAGE)
		return err_set(err, EPROTO, "the guest gave back more memory than there is");
	reclaim_finish(reclaim, message.pages * GUEST_PAGE, NULL);
	return 0;
}

static void reclaim_lost(struct agent_request *request, const struct ramet_err *err)
{
	reclaim_finish((struct reclaim *)request, 0, err);
}

/* The answer may still come: the request stays until then. */
static int reclaim_on_deadline(sd_event_source *source, uint64_t usec, void *arg)
{
	struct reclaim *reclaim = arg;
	struct ramet_err err;

	(void)source;
	(void)usec;
	(void)err_set(&err, ETIMEDOUT,
		      "the guest did not go through its memory within %.1f s (limit "
		      "reclaim_deadline)",
		      reclaim->limit_s);
	reclaim_tell(reclaim, 0, &err);
	return 0;
}

int sandbox_reclaim(struct sandbox *sandbox, reclaim_cb done, void *arg, struct ramet_err *err)
{
	const struct limits *limits = &sandbox->engine->limits;
	struct reclaim *reclaim;
	int r = sandbox_check_ready(sandbox, err);

	if (r < 0)
		return r;
	reclaim = calloc(1, sizeof(*reclaim));
	if (!reclaim)
		return err_set(err, ENOMEM, "no memory for a request to the agent");
	reclaim->request.reply = reclaim_reply;
	reclaim->request.lost = reclaim_lost;
	reclaim->done = done;
	reclaim->arg = arg;
	reclaim->limit_s = (double)limits->reclaim_deadline / SECONDS_NS;
	r = sd_event_add_time_relative(sandbox->engine->loop, &reclaim->deadline, CLOCK_MONOTONIC,
				       limits->reclaim_deadline / 1000, TIMER_ACCURACY,
				       reclaim_on_deadline, reclaim);
	if (r < 0)
		r = err_errno(err, -r, "no timer for a request to the agent");
	else
		r = agent_request_send(sandbox->agent, &reclaim->request, MSG_RECLAIM, NULL, 0,
				       NULL, 0, err);
	if (r < 0) {
		(void)sd_event_source_disable_unref(reclaim->deadline);
		free(reclaim);
	}
	return r;
}
