/* Names of a directory: see tree_level.h. */
#include "guest/agent/tree_level.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GETDENTS_SIZE (32u * 1024)

/* While names are read: `text` may move, so they are found afterwards. */
struct reading {
	char *text;
	size_t used, room, count;
};

static int name_add(struct reading *reading, const struct dirent64 *entry)
{
	size_t length = strlen(entry->d_name) + 1;

	if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
		return 0;
	if (reading->used + 1 + length > reading->room) {
		size_t room = reading->room ? 2 * reading->room : 4096;
		char *grown = realloc(reading->text, room); /* a name is at most 255 bytes */

		if (!grown)
			return -ENOMEM;
		reading->text = grown;
		reading->room = room;
	}
	reading->text[reading->used] = (char)entry->d_type;
	memcpy(reading->text + reading->used + 1, entry->d_name, length);
	reading->used += 1 + length;
	reading->count++;
	return 0;
}

static size_t reading_bytes(const struct reading *reading)
{
	return reading->room + reading->count * sizeof(char *);
}

static int names_read(struct reading *reading, int fd, size_t held)
{
	_Alignas(struct dirent64) char buffer[GETDENTS_SIZE];

	for (;;) {
		ssize_t n = getdents64(fd, buffer, sizeof(buffer));

		if (n < 0)
			return errno == ENOENT ? 0 : -errno; /* ENOENT: it was removed */
		if (n == 0)
			return 0;
		for (ssize_t at = 0; at < n;) {
			const struct dirent64 *entry = (const void *)(buffer + at);
			int err = name_add(reading, entry);

			if (err)
				return err;
			at += entry->d_reclen;
		}
		if (held + reading_bytes(reading) > TREE_NAMES_MAX)
			return -E2BIG;
	}
}

static int names_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* A name may have come twice when others rename at the same time. */
static size_t names_unique(char **names, size_t count)
{
	size_t kept = 0;

	for (size_t i = 0; i < count; i++)
		if (!kept || strcmp(names[kept - 1], names[i]) != 0)
			names[kept++] = names[i];
	return kept;
}

int tree_level_read(struct tree_level *level, int fd, size_t held)
{
	struct reading reading = { 0 };
	int err = names_read(&reading, fd, held);
	char *at = reading.text;
	char **names;

	if (err == -E2BIG || err == -ENOMEM) {
		free(reading.text);
		return err;
	}
	names = calloc(reading.count + 1, sizeof(*names));
	if (!names) {
		free(reading.text);
		return -ENOMEM;
	}
	for (size_t i = 0; i < reading.count; i++) {
		names[i] = at + 1;
		at += strlen(names[i]) + 2;
	}
	if (reading.count)
		qsort(names, reading.count, sizeof(*names), names_compare);
	level->count = names_unique(names, reading.count);
	level->text = reading.text;
	level->names = names;
	level->bytes = reading_bytes(&reading);
	return err;
}

void tree_level_free(struct tree_level *level)
{
	free(level->text);
	free(level->names);
	(void)close(level->fd);
}
