/* Engine calls that cannot be taken back, so outlive their request: see request.h. */
#include <stdlib.h>

#include "api/server/request.h"

struct pending *pending_new(struct request *request)
{
	struct server *server = request->server;
	struct pending *pending = calloc(1, sizeof(*pending));

	if (!pending)
		return NULL;
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

void pending_release(struct request *request)
{
	struct pending *pending = request->state;

	if (pending)
		pending->request = NULL;
	request->state = NULL;
}
