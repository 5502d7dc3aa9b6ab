/* What all file transfers share: see file.h and engine.h. */
#include "engine/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/log.h"

void file_set_init(struct file_set *set, sd_event *loop, const struct limits *limits)
{
	*set = (struct file_set){ .loop = loop, .limits = limits };
	LIST_INIT(&set->transfers);
}

void file_set_connect(struct file_set *set, struct agent *agent)
{
	set->agent = agent;
}

void file_set_end(struct file_set *set, const struct ramet_err *err)
{
	struct file_transfer *transfer;

	while ((transfer = LIST_FIRST(&set->transfers)))
		file_end(transfer, NULL, err);
	set->agent = NULL;
}

static void file_settle(struct file_transfer *transfer);

static void file_ready(struct agent_waiter *waiter)
{
	struct file_transfer *transfer = (struct file_transfer *)waiter;

	if (transfer->error.code)
		file_settle(transfer);
	else
		transfer->ops->proceed(transfer);
}

/* Requests of a transfer end with it (file_set_end); none is left for this. */
static void file_lost(struct agent_request *request, const struct ramet_err *err)
{
	(void)request;
	(void)err;
}

int file_make(struct file_set *set, const struct file_kind_ops *ops, const char *path,
	      const struct file_callbacks *callbacks, void *arg, struct file_transfer **transfer,
	      struct ramet_err *err)
{
	struct file_transfer *t;

	if (!path || !path[0])
		return err_set(err, EINVAL, "no path");
	if (strlen(path) > set->limits->path_length)
		return err_set(err, ENAMETOOLONG,
			       "the path is longer than %zu bytes (limit path_length)",
			       set->limits->path_length);
	if (set->count >= set->limits->transfers)
		return err_set(err, EBUSY,
			       "%u file transfers run already in this sandbox (limit transfers); "
			       "try again later",
			       set->count);
	t = calloc(1, sizeof(*t));
	if (t)
		t->hash = XXH3_createState();
	if (!t || !t->hash || XXH3_64bits_reset(t->hash) != XXH_OK) {
		if (t)
			(void)XXH3_freeState(t->hash);
		free(t);
		return err_set(err, ENOMEM, "no memory for a file transfer");
	}
	t->set = set;
	t->ops = ops;
	t->callbacks = *callbacks;
	t->arg = arg;
	t->start_ns = clock_monotonic_ns();
	t->waiter.ready = file_ready;
	t->control.lost = file_lost;
	LIST_INSERT_HEAD(&set->transfers, t, link);
	set->count++;
	*transfer = t;
	return 0;
}

void file_unmake(struct file_transfer *transfer)
{
	struct file_set *set = transfer->set;

	agent_request_end(&transfer->control);
	for (size_t i = 0; i < FILE_REQUESTS_MAX; i++)
		agent_request_end(&transfer->slots[i].request);
	if (set->agent)
		agent_wait_cancel(set->agent, &transfer->waiter);
	transfer->stall = sd_event_source_disable_unref(transfer->stall);
	LIST_REMOVE(transfer, link);
	set->count--;
	(void)XXH3_freeState(transfer->hash);
	free(transfer->chunk);
	free(transfer);
}

void file_end(struct file_transfer *transfer, const struct file_result *result,
	      const struct ramet_err *err)
{
	transfer->ending = true;
	if (!transfer->abandoned)
		transfer->callbacks.done(transfer->arg, result, err);
	file_unmake(transfer);
}

/* Ends the caller's part now; the rest goes on until the guest is done. */
static void file_detach(struct file_transfer *transfer, const struct ramet_err *err)
{
	if (transfer->abandoned)
		return;
	transfer->abandoned = true;
	transfer->callbacks.done(transfer->arg, NULL, err);
}

static int file_on_stall(sd_event_source *source, uint64_t usec, void *arg)
{
	struct file_transfer *transfer = arg;
	struct ramet_err err;

	(void)source;
	(void)usec;
	if (!transfer->control.agent && !transfer->slot_count && !transfer->waiter.waiting)
		return 0; /* it is the caller who takes his time */
	(void)err_set(&err, ETIMEDOUT,
		      "the sandbox did not answer within %llu s (limit file_stall)",
		      (unsigned long long)(transfer->set->limits->file_stall / SECONDS_NS));
	if (!transfer->error.code)
		transfer->error = err;
	file_detach(transfer, &err);
	return 0;
}

void file_progress(struct file_transfer *transfer)
{
	uint64_t usec = transfer->set->limits->file_stall / 1000;
	int r;

	if (transfer->stall)
		r = sd_event_source_set_time_relative(transfer->stall, usec);
	else
		r = sd_event_add_time_relative(transfer->set->loop, &transfer->stall,
					       CLOCK_MONOTONIC, usec, TIMER_ACCURACY, file_on_stall,
					       transfer);
	if (r >= 0)
		r = sd_event_source_set_enabled(transfer->stall, SD_EVENT_ONESHOT);
	if (r < 0)
		log_warn("no timer for a file transfer");
}

bool file_slot_free(const struct file_transfer *transfer)
{
	return transfer->slot_count < transfer->set->limits->file_requests;
}

/* Acts on a noted error as soon as nothing is outstanding. */
static void file_settle(struct file_transfer *transfer)
{
	if (!transfer->error.code || transfer->slot_count || transfer->control.agent)
		return;
	if (transfer->open && !transfer->closing)
		file_close_handle(transfer);
	else if (!transfer->open)
		file_end(transfer, NULL, &transfer->error);
}

void file_fail(struct file_transfer *transfer, const struct ramet_err *err)
{
	if (!transfer->error.code)
		transfer->error = *err;
}

static int file_slot_reply(struct agent_request *request, const struct frame *frame,
			   struct ramet_err *err)
{
	struct file_slot *slot = (struct file_slot *)request;
	struct file_transfer *transfer = slot->transfer;
	struct ramet_err refusal;
	int r = 0;

	if (slot != &transfer->slots[transfer->slot_first])
		return err_set(err, EPROTO, "the agent answered a %s out of order",
			       transfer->ops->name);
	agent_request_end(request);
	transfer->slot_first = (transfer->slot_first + 1) % FILE_REQUESTS_MAX;
	transfer->slot_count--;
	file_progress(transfer);
	if (frame->type == MSG_ERROR) {
		(void)agent_error(frame, &refusal);
		file_fail(transfer, &refusal);
	} else {
		r = transfer->ops->answered(transfer, slot, frame, err);
	}
	if (r < 0)
		return r;
	if (transfer->error.code)
		file_settle(transfer);
	else
		transfer->ops->proceed(transfer);
	return 0;
}

void file_slot_send(struct file_transfer *transfer, uint8_t type, uint32_t length,
		    const void *fixed, size_t fixed_length, const void *data)
{
	unsigned int next = (transfer->slot_first + transfer->slot_count) % FILE_REQUESTS_MAX;
	struct file_slot *slot = &transfer->slots[next];
	struct agent *agent = transfer->set->agent;
	struct ramet_err err;

	slot->transfer = transfer;
	slot->length = length;
	slot->request.reply = file_slot_reply;
	slot->request.lost = file_lost;
	transfer->slot_count++;
	if (transfer->slot_count == 1)
		file_progress(transfer);
	if (agent_request_send(agent, &slot->request, type, fixed, fixed_length, data,
			       data ? length : 0, &err) < 0)
		agent_break(agent, &err);
}

static int file_close_reply(struct agent_request *request, const struct frame *frame,
			    struct ramet_err *err)
{
	struct file_transfer *transfer =
		(void *)((char *)request - offsetof(struct file_transfer, control));
	struct file_result result = { .size = transfer->moved };
	struct msg_file_closed closed;
	struct ramet_err refusal;

	if (frame->type == MSG_ERROR) {
		(void)agent_error(frame, &refusal);
		file_fail(transfer, &refusal);
	} else if (frame->type != MSG_FILE_CLOSED) {
		return agent_unexpected(frame, "FILE_CLOSE", err);
	}
	agent_request_end(request);
	if (transfer->error.code) {
		file_end(transfer, NULL, &transfer->error);
		return 0;
	}
	frame_fixed(frame, &closed, sizeof(closed));
	result.xxh3 = XXH3_64bits_digest(transfer->hash);
	result.total_ns = clock_monotonic_ns() - transfer->start_ns;
	if (closed.size != result.size || closed.xxh3 != result.xxh3) {
		(void)err_set(&refusal, EIO,
			      "the %s is damaged: %llu bytes with XXH3 %016llx here, %llu with "
			      "%016llx in the sandbox",
			      transfer->ops->name, (unsigned long long)result.size,
			      (unsigned long long)result.xxh3, (unsigned long long)closed.size,
			      (unsigned long long)closed.xxh3);
		file_end(transfer, NULL, &refusal);
		return 0;
	}
	file_end(transfer, &result, NULL);
	return 0;
}

void file_close_handle(struct file_transfer *transfer)
{
	struct msg_file_close message = {
		.handle = transfer->handle,
		.abandon = transfer->error.code != 0,
		.size = transfer->moved,
		.xxh3 = XXH3_64bits_digest(transfer->hash),
	};
	struct ramet_err err;

	transfer->closing = true;
	transfer->control.reply = file_close_reply;
	file_progress(transfer);
	if (agent_request_send(transfer->set->agent, &transfer->control, MSG_FILE_CLOSE, &message,
			       sizeof(message), NULL, 0, &err) < 0)
		agent_break(transfer->set->agent, &err);
}

static int file_open_reply(struct agent_request *request, const struct frame *frame,
			   struct ramet_err *err)
{
	struct file_transfer *transfer =
		(void *)((char *)request - offsetof(struct file_transfer, control));
	struct msg_file_opened opened = { 0 };
	struct ramet_err refusal;

	if (frame->type == MSG_ERROR) {
		(void)agent_error(frame, &refusal);
		file_fail(transfer, &refusal);
	} else if (frame->type == MSG_FILE_OPENED) {
		frame_fixed(frame, &opened, sizeof(opened));
		transfer->handle = opened.handle;
		transfer->open = true;
	} else {
		return agent_unexpected(frame, "FILE_OPEN", err);
	}
	agent_request_end(request);
	file_progress(transfer);
	if (!transfer->error.code)
		transfer->ops->opened(transfer, &opened);
	if (transfer->error.code)
		file_settle(transfer);
	else
		transfer->ops->proceed(transfer);
	return 0;
}

int file_open(struct file_transfer *transfer, const char *path, uint32_t flags, uint32_t mode,
	      struct ramet_err *err)
{
	struct msg_file_open message = { .flags = flags, .mode = mode };

	transfer->control.reply = file_open_reply;
	file_progress(transfer);
	return agent_request_send(transfer->set->agent, &transfer->control, MSG_FILE_OPEN, &message,
				  sizeof(message), path, strlen(path), err);
}

void file_abandon(struct file_transfer *transfer)
{
	struct ramet_err err;

	if (transfer->abandoned)
		return;
	transfer->abandoned = true;
	if (transfer->ending)
		return;
	(void)err_set(&err, ECANCELED, "the transfer was abandoned");
	file_fail(transfer, &err);
	/* An open or close that is under way, or an answer being dealt with,
	 * ends it; else nothing more would come. */
	file_settle(transfer);
}
