/* Templates: the files a sandbox is booted from.
 *
 *     <image_dir>/kernel/vmlinux           the guest kernel
 *     <image_dir>/kernel/modules.cpio      its modules, as an initramfs piece
 *     <image_dir>/agent.cpio               the guest agent
 *     <image_dir>/templates/<name>/root.cpio*   the root file system, one file
 *
 * Every sandbox gets descriptors of its own: with a shared open file
 * description one worker could move another's offset. */
#ifndef RAMET_ENGINE_TEMPLATE_H
#define RAMET_ENGINE_TEMPLATE_H

#include "lib/err.h"

#define TEMPLATE_INITRDS 3

/* What a worker boots from; -1: not open. */
struct template_files {
	int kernel_fd;
	int initrd_fds[TEMPLATE_INITRDS]; /* root, modules, agent: loaded in this order */
};

/* Opens a template's files for reading, for template_close(). -EINVAL: a name
 * that cannot be; -ENOENT: no such template, or the image directory is not
 * complete (the sentence says which file); -errno. */
int template_open(const char *image_dir, const char *name, struct template_files *files,
		  struct ramet_err *err);

/* Closes what is open. */
void template_close(struct template_files *files);

#endif
