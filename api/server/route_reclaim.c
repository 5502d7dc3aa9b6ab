/* POST .../reclaim: a guest's free memory goes back to the host. */
#include "api/server/request.h"

#define MIB (1024.0 * 1024.0)

static void reclaimed(void *arg, uint64_t bytes, const struct ramet_err *err)
{
	struct request *request = pending_end(arg);

	if (!request)
		return;
	if (err)
		reply_engine_error(request, err);
	else
		reply_json(request, MHD_HTTP_OK,
			   json_pack("{s:f}", "reclaimed_mb", (double)bytes / MIB));
}

static void reclaim_end(struct request *request)
{
	struct sandbox *sandbox = request_sandbox(request, true);
	struct ramet_err err = { 0 };
	struct pending *pending = sandbox ? pending_begin(request) : NULL;

	if (pending)
		pending_begun(pending, sandbox_reclaim(sandbox, reclaimed, pending, &err), &err);
}

const struct request_ops route_reclaim = {
	.busy = "sandbox_busy",
	.end = reclaim_end,
	.release = pending_release,
};
