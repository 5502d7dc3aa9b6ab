/* Engine calls that cannot be taken back, so outlive their request: see request.h. */
#include <stdlib.h>

#include "api/server/request.h"

struct pending *pending_begin(struct request *request)
{
	struct server *server = request->server;
	struct pending *pending = calloc(1, sizeof(*pending));

	if (!pending) {
		reply_no_memory(request);
		return NULL;
	}
	pending->server = server;
	pending->request = request;
	pending->next = server->pending;
	if (pending->next)
		pending->next->prev = pending;
	server->pending = pending;
	return pending;
}

void pending_free(struct pending *pending)
{
	if (!pending)
		return;
	if (pending->prev)
		pending->prev->next = pending->next;
	else
		pending->server->pending = pending->next;
	if (pending->next)
		pending->next->prev = pending->prev;
	free(pending);
}

void pending_begun(struct pending *pending, int r, const struct ramet_err *err)
{
	struct request *request = pending->request;

	if (r < 0) {
		pending_free(pending);
		reply_engine_error(request, err);
		return;
	}
	request->state = pending;
}

struct request *pending_end(struct pending *pending)
{
	struct request *request = pending->request;

	pending_free(pending);
	if (request)
		request->state = NULL;
	return request;
}

void pending_release(struct request *request)
{
	struct pending *pending = request->state;

	if (pending)
		pending->request = NULL;
	request->state = NULL;
}
