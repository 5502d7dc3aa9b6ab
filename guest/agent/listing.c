/* Directory listings: see files.h. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "guest/agent/agent.h"
#include "guest/agent/util.h"

#define LISTING_FRAME_MAX (32u * 1024)

static uint16_t kind_of(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return FILE_REGULAR;
	case S_IFDIR:
		return FILE_DIRECTORY;
	case S_IFLNK:
		return FILE_SYMLINK;
	default:
		return FILE_OTHER;
	}
}

/* Appends one entry at `to`. Returns its size; 0 when the file is gone. */
static size_t entry_put(int dir_fd, const char *name, uint8_t *to)
{
	struct file_entry entry;
	struct stat st;

	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	entry = (struct file_entry){
		.size = (uint64_t)st.st_size,
		.mtime_ns = st.st_mtim.tv_sec * (int64_t)NS_PER_S + st.st_mtim.tv_nsec,
		.mode = st.st_mode & 07777,
		.kind = kind_of(st.st_mode),
		.name_length = (uint16_t)strlen(name),
	};
	memcpy(to, &entry, sizeof(entry));
	memcpy(to + sizeof(entry), name, entry.name_length);
	return sizeof(entry) + entry.name_length;
}

void listing_start(struct agent *agent, const struct frame *frame)
{
	cleanup_free char *path = file_path(agent, frame, 0);
	DIR *dir;

	if (!path)
		return;
	dir = opendir(path);
	if (!dir) {
		outbox_error(&agent->out, frame->id, errno, "cannot list %.300s: %s", path,
			     strerror(errno));
		return;
	}
	agent->listing.dir = dir;
	agent->listing.id = frame->id;
}

/* One frame of entries; an empty one ends the listing. */
static void listing_frame(struct agent *agent)
{
	struct msg_file_entries msg = { 0 };
	uint8_t *payload = outbox_begin(&agent->out, LISTING_FRAME_MAX);
	size_t len = sizeof(msg);

	while (len + sizeof(struct file_entry) + NAME_MAX < LISTING_FRAME_MAX) {
		const struct dirent *d = readdir(agent->listing.dir);
		size_t n;

		if (!d)
			break;
		if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, ".."))
			continue;
		n = entry_put(dirfd(agent->listing.dir), d->d_name, payload + len);
		len += n;
		msg.count += n > 0;
	}
	memcpy(payload, &msg, sizeof(msg));
	outbox_end(&agent->out, MSG_FILE_ENTRIES, agent->listing.id, len);
	if (msg.count == 0)
		listing_abandon(agent);
}

void listing_progress(struct agent *agent)
{
	while (agent->listing.dir && outbox_room(&agent->out) >= OUTBOX_REPLY_ROOM)
		listing_frame(agent);
}

void listing_abandon(struct agent *agent)
{
	if (agent->listing.dir)
		(void)closedir(agent->listing.dir);
	agent->listing.dir = NULL;
}
