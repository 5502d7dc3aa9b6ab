/* Which mounts hold files: see tree_walk.h. proc(5) describes mountinfo. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "guest/agent/tree_walk.h"
#include "guest/agent/util.h"

/* Whatever is not known to hold files does not: a walk through it may never
 * end, or wait for somebody. */
static bool type_holds_files(const char *type)
{
	static const char *const known[] = { "rootfs", "ramfs",    "tmpfs",   "ext2",  "ext3",
					     "ext4",   "xfs",      "btrfs",   "f2fs",  "erofs",
					     "vfat",   "squashfs", "overlay", "exfat", "iso9660" };

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(type, known[i]))
			return true;
	return false;
}

static int mount_add(struct tree_mounts *mounts, dev_t device, const char *type)
{
	if (mounts->count == mounts->room) {
		size_t room = mounts->room ? 2 * mounts->room : 32;
		struct tree_mount *grown = realloc(mounts->virtual, room * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		mounts->virtual = grown;
		mounts->room = room;
	}
	mounts->virtual[mounts->count].device = device;
	(void)snprintf(mounts->virtual[mounts->count].type, sizeof(mounts->virtual->type), "%s",
		       type);
	mounts->count++;
	return 0;
}

/* 36 35 98:0 /root /where options [more] - type source options */
static int line_take(struct tree_mounts *mounts, const char *line)
{
	const char *dash = strstr(line, " - ");
	unsigned int major, minor;
	char type[32];

	if (!dash || sscanf(line, "%*d %*d %u:%u", &major, &minor) != 2 ||
	    sscanf(dash, " - %31s", type) != 1)
		return -EPROTO;
	if (type_holds_files(type))
		return 0;
	return mount_add(mounts, makedev(major, minor), type);
}

int tree_mounts_read(struct tree_mounts *mounts)
{
	FILE *list = fopen("/proc/self/mountinfo", "re");
	cleanup_free char *line = NULL;
	size_t size = 0;
	int err = 0;

	if (!list)
		return -errno;
	while (!err && getline(&line, &size, list) > 0)
		err = line_take(mounts, line);
	(void)fclose(list);
	return err;
}

const char *tree_mounts_virtual(const struct tree_mounts *mounts, dev_t device)
{
	for (size_t i = 0; i < mounts->count; i++)
		if (mounts->virtual[i].device == device)
			return mounts->virtual[i].type;
	return NULL;
}
