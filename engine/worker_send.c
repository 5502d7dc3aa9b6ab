/* Requests to a worker: see worker.h. A request that does not fit the worker's
 * phase is refused here; one that the socket does not take waits. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "engine/worker_state.h"
#include "lib/cleanup.h"
#include "lib/fdpass.h"

/* Many children may ask one donor at once; each is one message. */
#define WAITING_MAX 8192u

static void message_free(struct worker_message *message)
{
	for (size_t i = 0; i < message->nfds; i++)
		(void)close(message->fds[i]);
	free(message->fds);
	free(message);
}

void worker_forget_waiting(struct worker *worker)
{
	struct worker_message *message;

	while ((message = STAILQ_FIRST(&worker->waiting))) {
		STAILQ_REMOVE_HEAD(&worker->waiting, link);
		message_free(message);
	}
	worker->waiting_count = 0;
}

void worker_flush(struct worker *worker)
{
	struct worker_message *message;

	while ((message = STAILQ_FIRST(&worker->waiting))) {
		int r = fdpass_send(worker->fd, message->bytes, message->length, message->fds,
				    message->nfds);

		if (r == -EAGAIN || r == -ETOOMANYREFS)
			break;
		/* Other errors: the worker is gone, which its next event says. */
		STAILQ_REMOVE_HEAD(&worker->waiting, link);
		worker->waiting_count--;
		message_free(message);
	}
	if (worker->io)
		(void)sd_event_source_set_io_events(
			worker->io,
			EPOLLIN | (STAILQ_EMPTY(&worker->waiting) ? 0u : (uint32_t)EPOLLOUT));
}

bool worker_waiting(const struct worker *worker)
{
	return worker->io && !STAILQ_EMPTY(&worker->waiting);
}

static struct worker_message *message_make(const void *bytes, size_t length, const int *fds,
					   size_t nfds)
{
	struct worker_message *message = malloc(sizeof(*message) + length);

	if (!message)
		return NULL;
	message->length = length;
	message->nfds = 0;
	message->fds = calloc(nfds + 1, sizeof(int));
	memcpy(message->bytes, bytes, length);
	for (size_t i = 0; message->fds && i < nfds; i++) {
		int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);

		if (fd < 0)
			break;
		message->fds[message->nfds++] = fd;
	}
	if (!message->fds || message->nfds < nfds) {
		message_free(message);
		return NULL;
	}
	return message;
}

int worker_send(struct worker *worker, const void *bytes, size_t length, const int *fds,
		size_t nfds, struct ramet_err *err)
{
	struct worker_message *message;
	int r = -EAGAIN;

	if (worker->fd < 0 || !worker->io)
		return err_set(err, EPIPE, "the connection to the worker is lost");
	if (STAILQ_EMPTY(&worker->waiting))
		r = fdpass_send(worker->fd, bytes, length, fds, nfds);
	if (r == 0)
		return 0;
	if (r != -EAGAIN && r != -ETOOMANYREFS)
		return err_errno(err, -r, "cannot send a request to the worker");
	if (worker->waiting_count >= WAITING_MAX)
		return err_set(err, ENOBUFS, "the worker does not read its control socket");
	message = message_make(bytes, length, fds, nfds);
	if (!message)
		return err_set(err, ENOMEM, "no memory or descriptors for a request to the worker");
	STAILQ_INSERT_TAIL(&worker->waiting, message, link);
	worker->waiting_count++;
	worker_flush(worker);
	return 0;
}

/* Sends a request that is allowed in phase `from` and leads to `to`. */
static int worker_request(struct worker *worker, enum worker_phase from, enum worker_phase to,
			  const void *bytes, size_t length, const int *fds, size_t nfds,
			  struct ramet_err *err)
{
	int r;

	if (worker->phase != from)
		return err_set(err, EINVAL, "the worker cannot take request %u now",
			       ((const struct control_header *)bytes)->type);
	r = worker_send(worker, bytes, length, fds, nfds, err);
	if (r == 0)
		worker->phase = to;
	return r;
}

int worker_host(struct worker *worker, const void *facts, size_t length, struct ramet_err *err)
{
	struct control_host message = {
		.header = { .version = CONTROL_VERSION, .type = CONTROL_HOST },
	};

	if (length > sizeof(message.facts))
		return err_set(err, E2BIG, "%zu bytes about the host", length);
	memcpy(message.facts, facts, length);
	return worker_request(worker, WORKER_READY, WORKER_READY, &message,
			      offsetof(struct control_host, facts) + length, NULL, 0, err);
}

int worker_boot(struct worker *worker, const struct worker_boot *boot, struct ramet_err *err)
{
	struct control_boot message = {
		.header = { .version = CONTROL_VERSION, .type = CONTROL_BOOT },
		.ram_bytes = boot->ram_bytes,
		.isolation = (uint32_t)boot->isolation,
		.plain = boot->plain,
		.initrd_count = boot->initrd_count,
	};
	int fds[1 + CONTROL_INITRD_MAX] = { boot->kernel_fd };

	if (boot->initrd_count > CONTROL_INITRD_MAX)
		return err_set(err, EINVAL, "more than %u initrds", CONTROL_INITRD_MAX);
	memcpy(fds + 1, boot->initrd_fds, boot->initrd_count * sizeof(fds[0]));
	return worker_request(worker, WORKER_READY, WORKER_SENT_BOOT, &message, sizeof(message),
			      fds, 1 + boot->initrd_count, err);
}

int worker_shell(struct worker *worker, const struct worker_shell *shell, struct ramet_err *err)
{
	struct control_shell message = {
		.header = { .version = CONTROL_VERSION, .type = CONTROL_SHELL },
		.ram_bytes = shell->ram_bytes,
		.isolation = (uint32_t)shell->isolation,
		.plain = shell->plain,
	};
	const int fds[] = { shell->uffd_fd, shell->m2p_fd };

	return worker_request(worker, WORKER_READY, WORKER_SENT_SHELL, &message, sizeof(message),
			      fds, 2, err);
}

int worker_base(struct worker *worker, const struct worker_base *base, struct ramet_err *err)
{
	struct control_base message = {
		.header = { .version = CONTROL_VERSION, .type = CONTROL_BASE },
		.map_at = base->map_at,
		.map_bytes = base->map_bytes,
		.hot_count = base->hot_count,
	};
	const int fds[] = { base->bundle_fd, base->layer_fd };

	if (base->hot_count > CONTROL_HOT_MAX)
		return err_set(err, EINVAL, "more than %u hot ranges", CONTROL_HOT_MAX);
	if (base->hot_count)
		memcpy(message.hot, base->hot, base->hot_count * sizeof(message.hot[0]));
	return worker_request(worker, WORKER_SHELL, WORKER_SENT_SHELL, &message, sizeof(message),
			      fds, 2, err);
}

int worker_restore(struct worker *worker, const struct worker_restore *restore,
		   struct ramet_err *err)
{
	struct control_restore message = {
		.header = { .version = CONTROL_VERSION, .type = CONTROL_RESTORE },
		.state_bytes = restore->state_bytes,
		.map_bytes = restore->map_bytes,
		.layer_count = restore->layer_count,
		.filling = restore->filling,
		.hot_count = restore->hot_count,
	};
	int fds[1 + CONTROL_LAYERS_MAX] = { restore->bundle_fd };

	if (restore->layer_count > CONTROL_LAYERS_MAX)
		return err_set(err, EINVAL, "more than %u memory layers", CONTROL_LAYERS_MAX);
	if (restore->hot_count > CONTROL_HOT_MAX)
		return err_set(err, EINVAL, "more than %u hot ranges", CONTROL_HOT_MAX);
	if (restore->hot_count)
		memcpy(message.hot, restore->hot, restore->hot_count * sizeof(message.hot[0]));
	memcpy(fds + 1, restore->layer_fds, restore->layer_count * sizeof(fds[0]));
	return worker_request(worker, WORKER_SHELL, WORKER_SENT_RESTORE, &message, sizeof(message),
			      fds, 1 + restore->layer_count, err);
}

int worker_run(struct worker *worker, struct ramet_err *err)
{
	struct control_header message = { CONTROL_VERSION, CONTROL_RUN };

	return worker_request(worker, WORKER_RESTORED, WORKER_SENT_RUN, &message, sizeof(message),
			      NULL, 0, err);
}

int worker_pause(struct worker *worker, const struct control_pause *pause, int bundle_fd,
		 struct ramet_err *err)
{
	struct control_pause message = *pause;

	message.header = (struct control_header){ CONTROL_VERSION, CONTROL_PAUSE };
	return worker_request(worker, WORKER_RUNNING, WORKER_SENT_PAUSE, &message, sizeof(message),
			      &bundle_fd, 1, err);
}

int worker_resume(struct worker *worker, struct ramet_err *err)
{
	struct control_header message = { CONTROL_VERSION, CONTROL_RESUME };

	return worker_request(worker, WORKER_PAUSED, WORKER_RUNNING, &message, sizeof(message),
			      NULL, 0, err);
}

int worker_donate(struct worker *worker, const struct worker_donate *donate, struct ramet_err *err)
{
	struct control_donate message = {
		.header = { CONTROL_VERSION, CONTROL_DONATE },
		.source_layers = donate->source_count,
		.hot_count = donate->hot_count,
		.hurry = donate->hurry,
	};
	int fds[2 + CONTROL_LAYERS_MAX] = { donate->layer_fd, donate->uffd_fd };

	if (donate->source_count > CONTROL_LAYERS_MAX)
		return err_set(err, EINVAL, "more than %u memory layers", CONTROL_LAYERS_MAX);
	if (donate->hot_count > CONTROL_HOT_MAX)
		return err_set(err, EINVAL, "more than %u hot ranges", CONTROL_HOT_MAX);
	if (donate->source_count)
		memcpy(fds + 2, donate->source_fds, donate->source_count * sizeof(fds[0]));
	if (donate->hot_count)
		memcpy(message.hot, donate->hot, donate->hot_count * sizeof(message.hot[0]));
	return worker_request(worker, WORKER_PAUSED, WORKER_DONATING, &message, sizeof(message),
			      fds, 2 + donate->source_count, err);
}

int worker_child(struct worker *worker, uint32_t id, uint64_t base, int uffd,
		 const struct range_list *ranges, struct ramet_err *err)
{
	struct control_child message = {
		.header = { CONTROL_VERSION, CONTROL_CHILD },
		.base = base,
		.id = id,
	};
	size_t length = offsetof(struct control_child, ranges);

	if (worker->phase != WORKER_DONATING && worker->phase != WORKER_FILLED)
		return err_set(err, EINVAL, "the worker is no donor");
	if (ranges->count > CONTROL_CHILD_RANGES_MAX)
		return err_set(err, E2BIG, "a child with %zu ranges of one layer", ranges->count);
	message.range_count = (uint32_t)ranges->count;
	memcpy(message.ranges, ranges->ranges, ranges->count * sizeof(ranges->ranges[0]));
	length += ranges->count * sizeof(message.ranges[0]);
	return worker_send(worker, &message, length, &uffd, 1, err);
}
