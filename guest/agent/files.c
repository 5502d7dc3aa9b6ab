/* Reading and writing files for the host: see files.h. */
#include "guest/agent/files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "guest/agent/agent.h"
#include "guest/agent/util.h"

#define MODE_DEFAULT    0644
#define MODE_PARENT     0755
#define TEMPORARY_TRIES 8

static void path_error(struct agent *agent, uint32_t id, const char *path, int err)
{
	outbox_error(&agent->out, id, -err, "%.300s: %s", path, strerror(-err));
}

char *file_path(struct agent *agent, const struct frame *frame, size_t offset)
{
	const char *text = (const char *)frame->payload + offset;
	size_t len = frame->length - offset;
	char *path;

	if (len == 0 || memchr(text, '\0', len)) {
		outbox_error(&agent->out, frame->id, EINVAL, "the path is empty or contains NUL");
		return NULL;
	}
	if (len > PATH_LENGTH_MAX) {
		outbox_error(&agent->out, frame->id, ENAMETOOLONG,
			     "the path is longer than %u bytes", PATH_LENGTH_MAX);
		return NULL;
	}
	path = strndup(text, len);
	if (!path)
		outbox_error(&agent->out, frame->id, ENOMEM, "out of memory in the guest");
	return path;
}

void files_init(struct agent *agent)
{
	for (size_t i = 0; i < FILE_HANDLES_MAX; i++)
		agent->files.slots[i].fd = -1;
}

static struct file *slot_free(struct agent *agent)
{
	for (size_t i = 0; i < FILE_HANDLES_MAX; i++)
		if (agent->files.slots[i].fd < 0)
			return &agent->files.slots[i];
	return NULL;
}

/* The open file of a handle. NULL with MSG_ERROR sent when there is none. */
static struct file *slot_of(struct agent *agent, uint32_t id, uint32_t handle)
{
	if (handle < FILE_HANDLES_MAX && agent->files.slots[handle].fd >= 0)
		return &agent->files.slots[handle];
	outbox_error(&agent->out, id, EBADF, "file handle %u is not open", handle);
	return NULL;
}

static void slot_reset(struct file *file)
{
	if (file->temporary)
		(void)unlink(file->temporary);
	free(file->temporary);
	free(file->target);
	if (file->fd >= 0)
		(void)close(file->fd);
	file->temporary = file->target = NULL;
	file->fd = -1;
}

void files_close_all(struct agent *agent)
{
	for (size_t i = 0; i < FILE_HANDLES_MAX; i++)
		slot_reset(&agent->files.slots[i]);
}

/* ---- open for reading ---- */

/* File systems whose sizes say nothing about the content. */
static bool size_unknown(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return true;
	switch ((unsigned long)fs.f_type) {
	case PROC_SUPER_MAGIC:
	case SYSFS_MAGIC:
	case DEBUGFS_MAGIC:
	case TRACEFS_MAGIC:
	case SECURITYFS_MAGIC:
	case CGROUP_SUPER_MAGIC:
	case CGROUP2_SUPER_MAGIC:
		return true;
	default:
		return false;
	}
}

/* O_NONBLOCK: neither a FIFO nor a file of /proc that waits may stop the agent. */
static int open_read(struct file *file, const char *path, struct msg_file_opened *opened)
{
	cleanup_close int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	opened->size = size_unknown(fd) ? UINT64_MAX : (uint64_t)st.st_size;
	opened->mode = st.st_mode & 07777;
	file->fd = take_fd(&fd);
	file->writes = false;
	return 0;
}

/* ---- open for writing ---- */

/* Makes the directories that lead to `path`. */
static int parents_make(const char *path)
{
	cleanup_free char *dir = strdup(path);

	if (!dir)
		return -ENOMEM;
	for (char *slash = strchr(dir + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(dir, MODE_PARENT) < 0 && errno != EEXIST && errno != EISDIR)
			return -errno;
		*slash = '/';
	}
	return 0;
}

/* Follows links and looks at what is there. *mode is set to the bits the file
 * shall have. */
static int target_resolve(const char *path, char **target, mode_t *mode)
{
	struct stat st;
	size_t len = strlen(path);
	char *resolved;

	if (path[len - 1] == '/')
		return -EISDIR;
	if (stat(path, &st) == 0) {
		if (S_ISDIR(st.st_mode))
			return -EISDIR;
		if (!S_ISREG(st.st_mode))
			return -EINVAL;
		*mode = st.st_mode & 07777;
		resolved = realpath(path, NULL);
	} else {
		if (errno != ENOENT)
			return -errno;
		resolved = strdup(path);
	}
	if (!resolved)
		return -errno;
	*target = resolved;
	return 0;
}

/* A name beside `target` that nobody else uses. Returns an open descriptor. */
static int temporary_make(const char *target, mode_t mode, char **name)
{
	const char *slash = strrchr(target, '/');
	int dir_len = slash ? (int)(slash - target) + 1 : 0;

	for (int i = 0; i < TEMPORARY_TRIES; i++) {
		uint64_t random;
		char *path;
		int fd;

		if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
			return -EIO;
		if (asprintf(&path, "%.*s.ramet-%016llx", dir_len, target,
			     (unsigned long long)random) < 0)
			return -ENOMEM;
		fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd >= 0 && fchmod(fd, mode) == 0) {
			*name = path;
			return fd;
		}
		if (fd >= 0) {
			(void)close(fd);
			(void)unlink(path);
		}
		free(path);
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

static int open_write(struct file *file, const char *path, uint32_t asked_mode,
		      struct msg_file_opened *opened)
{
	mode_t mode = asked_mode & 07777 ? asked_mode & 07777 : MODE_DEFAULT;
	char *target = NULL, *temporary = NULL;
	int fd;

	fd = parents_make(path);
	if (!fd)
		fd = target_resolve(path, &target, &mode);
	if (!fd)
		fd = temporary_make(target, mode, &temporary);
	if (fd < 0) {
		free(target);
		return fd;
	}
	file->fd = fd;
	file->writes = true;
	file->target = target;
	file->temporary = temporary;
	opened->mode = mode;
	opened->size = 0;
	return 0;
}

void file_open(struct agent *agent, const struct frame *frame)
{
	struct file *file = slot_free(agent);
	struct msg_file_opened opened = { 0 };
	cleanup_free char *path = NULL;
	struct msg_file_open msg;
	int err;

	memcpy(&msg, frame->payload, sizeof(msg));
	path = file_path(agent, frame, sizeof(msg));
	if (!path)
		return;
	if (!file) {
		outbox_error(&agent->out, frame->id, EMFILE, "%u files are open already",
			     FILE_HANDLES_MAX);
		return;
	}
	err = -EINVAL;
	if (msg.flags == FILE_OPEN_READ)
		err = open_read(file, path, &opened);
	else if (msg.flags == FILE_OPEN_WRITE)
		err = open_write(file, path, msg.mode, &opened);
	if (err) {
		path_error(agent, frame->id, path, err);
		return;
	}
	file->failed = 0;
	file->size = 0;
	(void)XXH3_64bits_reset(&file->hash);
	opened.handle = (uint32_t)(file - agent->files.slots);
	outbox_frame(&agent->out, MSG_FILE_OPENED, frame->id, &opened, sizeof(opened));
}

/* ---- data ---- */

/* Fills `buf` from `offset`. Returns less than `size` only at end of file. */
static ssize_t read_full(int fd, uint8_t *buf, size_t size, off_t offset)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = pread(fd, buf + done, size - done, offset + (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

void file_read(struct agent *agent, const struct frame *frame)
{
	struct msg_file_read msg;
	struct file *file;
	uint8_t *data;
	ssize_t n;

	memcpy(&msg, frame->payload, sizeof(msg));
	file = slot_of(agent, frame->id, msg.handle);
	if (!file)
		return;
	if (file->writes || msg.length > FILE_CHUNK_MAX || msg.offset > INT64_MAX) {
		outbox_error(&agent->out, frame->id, EINVAL,
			     "not a file open for reading, or more than %u bytes asked",
			     FILE_CHUNK_MAX);
		return;
	}
	data = outbox_begin(&agent->out, msg.length);
	n = read_full(file->fd, data, msg.length, (off_t)msg.offset);
	if (n < 0) {
		outbox_error(&agent->out, frame->id, (int)-n, "read: %s", strerror((int)-n));
		return;
	}
	(void)XXH3_64bits_update(&file->hash, data, (size_t)n);
	file->size += (uint64_t)n;
	outbox_end(&agent->out, MSG_FILE_DATA, frame->id, (size_t)n);
}

static int write_full(int fd, const uint8_t *data, size_t len, off_t offset)
{
	while (len > 0) {
		ssize_t n = pwrite(fd, data, len, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
		offset += n;
	}
	return 0;
}

void file_write(struct agent *agent, const struct frame *frame)
{
	struct msg_file_write msg;
	size_t len = frame->length - sizeof(msg);
	const uint8_t *data = frame->payload + sizeof(msg);
	struct file *file;

	memcpy(&msg, frame->payload, sizeof(msg));
	file = slot_of(agent, frame->id, msg.handle);
	if (!file)
		return;
	if (!file->writes || len > FILE_CHUNK_MAX || msg.offset != file->size) {
		outbox_error(&agent->out, frame->id, EINVAL,
			     "not a file open for writing, a piece above %u bytes, or a gap",
			     FILE_CHUNK_MAX);
		return;
	}
	if (!file->failed)
		file->failed = write_full(file->fd, data, len, (off_t)msg.offset);
	if (file->failed) {
		outbox_error(&agent->out, frame->id, -file->failed, "write to %.300s: %s",
			     file->target, strerror(-file->failed));
		return;
	}
	(void)XXH3_64bits_update(&file->hash, data, len);
	file->size += len;
	outbox_frame(&agent->out, MSG_OK, frame->id, NULL, 0);
}

/* Gives a written file its name. */
static int write_finish(struct file *file, const struct msg_file_close *msg,
			const struct msg_file_closed *closed)
{
	if (file->failed)
		return file->failed;
	if (msg->size != closed->size || msg->xxh3 != closed->xxh3)
		return -EBADMSG;
	if (rename(file->temporary, file->target) < 0)
		return -errno;
	free(file->temporary);
	file->temporary = NULL;
	return 0;
}

void file_close(struct agent *agent, const struct frame *frame)
{
	struct msg_file_closed closed;
	struct msg_file_close msg;
	struct file *file;
	int err = 0;

	memcpy(&msg, frame->payload, sizeof(msg));
	file = slot_of(agent, frame->id, msg.handle);
	if (!file)
		return;
	closed.size = file->size;
	closed.xxh3 = XXH3_64bits_digest(&file->hash);
	if (file->writes && !msg.abandon)
		err = write_finish(file, &msg, &closed);
	if (err == -EBADMSG)
		outbox_error(&agent->out, frame->id, EBADMSG,
			     "%.300s: size or checksum differ from what was sent; it is "
			     "left as it was",
			     file->target);
	else if (err)
		path_error(agent, frame->id, file->target, err);
	else
		outbox_frame(&agent->out, MSG_FILE_CLOSED, frame->id, &closed, sizeof(closed));
	slot_reset(file);
}
