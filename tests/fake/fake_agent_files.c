/* The scripted agent: files made of a pattern. See fake_agent.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/fake/fake_agent.h"
#include "tests/fake/fake_agent_state.h"

static bool path_is(const char *path, const char *prefix)
{
	return !strncmp(path, prefix, strlen(prefix));
}

static uint64_t path_number(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? strtoull(slash + 1, NULL, 10) : 0;
}

static void file_open(struct fake_agent *agent, const struct frame *frame)
{
	struct msg_file_opened opened = { .mode = 0640 };
	struct fake_handle *handle = agent->handles;
	struct msg_file_open message;
	size_t length = frame->length - sizeof(message);

	frame_fixed(frame, &message, sizeof(message));
	while (handle->used)
		if (++handle == agent->handles + FAKE_HANDLES) {
			fake_send_error(agent, frame->id, EMFILE, "too many handles");
			return;
		}
	*handle = (struct fake_handle){ .used = true, .write = message.flags & FILE_OPEN_WRITE };
	if (length >= sizeof(handle->path))
		length = sizeof(handle->path) - 1;
	memcpy(handle->path, frame->payload + sizeof(message), length);
	if (path_is(handle->path, "/missing")) {
		handle->used = false;
		fake_send_error(agent, frame->id, ENOENT, "/missing: no such file");
		return;
	}
	handle->hash = XXH3_createState();
	(void)XXH3_64bits_reset(handle->hash);
	handle->size = path_number(handle->path);
	if (path_is(handle->path, "/badhash") || path_is(handle->path, "/overread"))
		handle->size = 1000;
	if (path_is(handle->path, "/reorder") || path_is(handle->path, "/stall"))
		handle->size = 4 * FILE_CHUNK_MAX;
	opened.handle = (uint32_t)(handle - agent->handles);
	opened.size = path_is(handle->path, "/unknown") ? UINT64_MAX : handle->size;
	if (path_is(handle->path, "/shrink"))
		handle->size /= 2;
	fake_send(agent, MSG_FILE_OPENED, frame->id, &opened, sizeof(opened), NULL, 0);
}

static struct fake_handle *handle_get(struct fake_agent *agent, uint32_t number)
{
	if (number >= FAKE_HANDLES || !agent->handles[number].used)
		_exit(93); /* the engine is wrong; tests see the status */
	return &agent->handles[number];
}

static void file_read(struct fake_agent *agent, const struct frame *frame)
{
	static uint8_t bytes[FILE_CHUNK_MAX + 1];
	struct msg_file_read message;
	struct fake_handle *handle;
	uint64_t left;
	size_t n;

	frame_fixed(frame, &message, sizeof(message));
	handle = handle_get(agent, message.handle);
	if (path_is(handle->path, "/stall"))
		return;
	if (path_is(handle->path, "/reorder") && !handle->held) {
		handle->held = frame->id;
		return; /* the next one is answered first */
	}
	left = message.offset < handle->size ? handle->size - message.offset : 0;
	n = left < message.length ? (size_t)left : message.length;
	for (size_t i = 0; i < n; i++)
		bytes[i] = fake_pattern(message.offset + i);
	(void)XXH3_64bits_update(handle->hash, bytes, n);
	handle->moved += n;
	if (path_is(handle->path, "/overread"))
		n = message.length + 1;
	fake_send(agent, MSG_FILE_DATA, frame->id, NULL, 0, bytes, n);
}

static void file_write(struct fake_agent *agent, const struct frame *frame)
{
	struct msg_file_write message;
	struct fake_handle *handle;
	size_t length = frame->length - sizeof(message);

	frame_fixed(frame, &message, sizeof(message));
	handle = handle_get(agent, message.handle);
	handle->writes++;
	if (path_is(handle->path, "/full") && handle->writes >= 3) {
		fake_send_error(agent, frame->id, ENOSPC, "/full: no space left");
		return;
	}
	if (message.offset != handle->moved || length > FILE_CHUNK_MAX)
		_exit(94);
	for (size_t i = 0; path_is(handle->path, "/pattern") && i < length; i++)
		if (frame->payload[sizeof(message) + i] != fake_pattern(message.offset + i))
			_exit(95);
	(void)XXH3_64bits_update(handle->hash, frame->payload + sizeof(message), length);
	handle->moved += length;
	fake_send(agent, MSG_OK, frame->id, NULL, 0, NULL, 0);
}

static void file_close(struct fake_agent *agent, const struct frame *frame)
{
	struct msg_file_closed closed;
	struct msg_file_close message;
	struct fake_handle *handle;
	bool bad;

	frame_fixed(frame, &message, sizeof(message));
	handle = handle_get(agent, message.handle);
	closed.size = handle->moved;
	closed.xxh3 = XXH3_64bits_digest(handle->hash) ^ path_is(handle->path, "/badhash");
	bad = handle->write && !message.abandon &&
	      (message.size != closed.size || message.xxh3 != closed.xxh3);
	(void)XXH3_freeState(handle->hash);
	handle->used = false;
	if (bad)
		fake_send_error(agent, frame->id, EIO, "the upload is damaged");
	else
		fake_send(agent, MSG_FILE_CLOSED, frame->id, &closed, sizeof(closed), NULL, 0);
}

static void send_entries(struct fake_agent *agent, uint32_t id, uint64_t first, uint32_t count,
			 const char *format)
{
	struct msg_file_entries header = { .count = count };
	char bytes[16384];
	size_t used = 0;

	for (uint32_t i = 0; i < count; i++) {
		struct file_entry entry = {
			.size = first + i, .mtime_ns = 5, .mode = 0100644, .kind = FILE_REGULAR
		};
		char name[32];

		(void)snprintf(name, sizeof(name), "%s%llu", format,
			       (unsigned long long)(first + i));
		entry.name_length = (uint16_t)strlen(name);
		memcpy(bytes + used, &entry, sizeof(entry));
		used += sizeof(entry);
		memcpy(bytes + used, name, entry.name_length);
		used += entry.name_length;
	}
	fake_send(agent, MSG_FILE_ENTRIES, id, &header, sizeof(header), bytes, used);
}

static void file_list(struct fake_agent *agent, const struct frame *frame)
{
	char path[128] = "";
	uint64_t total;

	if (frame->length >= sizeof(path))
		_exit(96);
	memcpy(path, frame->payload, frame->length);
	if (path_is(path, "/missing")) {
		fake_send_error(agent, frame->id, ENOENT, "/missing: no such directory");
		return;
	}
	if (path_is(path, "/badname"))
		send_entries(agent, frame->id, 0, 1, "../");
	total = path_number(path);
	for (uint64_t i = 0; i < total; i += 100)
		send_entries(agent, frame->id, i, total - i < 100 ? (uint32_t)(total - i) : 100,
			     "file-");
	send_entries(agent, frame->id, 0, 0, "");
}

void fake_file_take(struct fake_agent *agent, const struct frame *frame)
{
	switch (frame->type) {
	case MSG_FILE_OPEN:
		file_open(agent, frame);
		break;
	case MSG_FILE_READ:
		file_read(agent, frame);
		break;
	case MSG_FILE_WRITE:
		file_write(agent, frame);
		break;
	case MSG_FILE_CLOSE:
		file_close(agent, frame);
		break;
	case MSG_FILE_LIST:
		file_list(agent, frame);
		break;
	default:
		_exit(97);
	}
}
