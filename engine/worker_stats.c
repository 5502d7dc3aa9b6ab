/* CONTROL_STATS: see worker.h. A worker answers in the order it was asked. */
#include <errno.h>

#include "engine/worker_state.h"

int worker_ask_stats(struct worker *worker, struct worker_stats *request, int bitmap_fd,
		     struct ramet_err *err)
{
	struct control_header message = { CONTROL_VERSION, CONTROL_STATS };
	int r;

	/* What was sent before comes first, so the guest is there and is no donor. */
	if (worker->phase < WORKER_SENT_RUN && worker->phase != WORKER_RUNNING)
		return err_set(err, EBUSY, "the worker has no guest yet");
	if (worker->phase > WORKER_PAUSED)
		return err_set(err, EBUSY, "the worker has no guest any more");
	r = worker_send(worker, &message, sizeof(message), &bitmap_fd, bitmap_fd >= 0, err);
	if (r < 0)
		return r;
	request->worker = worker;
	request->number = ++worker->stats_asked;
	TAILQ_INSERT_TAIL(&worker->stats, request, link);
	return 0;
}

void worker_stats_cancel(struct worker_stats *request)
{
	if (!request->worker)
		return;
	TAILQ_REMOVE(&request->worker->stats, request, link);
	request->worker = NULL;
}

int worker_take_stats(struct worker *worker, const struct control_stats *stats, size_t length,
		      struct ramet_err *err)
{
	struct worker_stats *request;

	if (length != sizeof(*stats))
		return err_set(err, EPROTO, "the worker sent statistics of the wrong length");
	if (worker->stats_answered == worker->stats_asked)
		return err_set(err, EPROTO, "the worker sent statistics nobody asked for");
	worker->stats_answered++;
	request = TAILQ_FIRST(&worker->stats);
	if (!request || request->number != worker->stats_answered)
		return 0; /* who asked has lost interest */
	worker_stats_cancel(request);
	request->done(request, stats, NULL);
	return 0;
}

void worker_stats_lost(struct worker *worker, const struct ramet_err *err)
{
	struct worker_stats *request;

	while ((request = TAILQ_FIRST(&worker->stats))) {
		worker_stats_cancel(request);
		request->done(request, NULL, err);
	}
}
