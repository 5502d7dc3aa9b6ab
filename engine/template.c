/* Templates: see template.h. */
#include "engine/template.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/limits.h"
#include "lib/cleanup.h"

/* Opens a regular, non-empty file. O_NONBLOCK: no waiting on a fifo. */
static int file_open_regular(const char *path, struct ramet_err *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(err, errno, "cannot open %s (have the images been built?)", path);
	if (!S_ISREG(st.st_mode) || st.st_size == 0)
		return err_set(err, EINVAL,
			       "%s is not a regular file with content; build the images again",
			       path);
	return take_fd(&fd);
}

static int file_open_below(const char *image_dir, const char *name, struct ramet_err *err)
{
	cleanup_free char *path = NULL;

	if (asprintf(&path, "%s/%s", image_dir, name) < 0) {
		path = NULL;
		return err_set(err, ENOMEM, "no memory for a template");
	}
	return file_open_regular(path, err);
}

/* [a-z0-9][a-z0-9-]*, so that it is a path component and nothing else. */
static bool name_valid(const char *name)
{
	size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");

	return length && length <= limits_default.template_name_length && !name[length] &&
	       name[0] != '-';
}

/* Opens the one file that matches root.cpio*, whatever compressed it. */
static int root_open_match(const char *name, const char *pattern, struct ramet_err *err)
{
	glob_t found = { 0 };
	int r = glob(pattern, GLOB_ERR, NULL, &found);

	if (r == GLOB_NOMATCH)
		r = err_set(err, ENOENT, "template '%s' has no %s; build the images again", name,
			    pattern);
	else if (r != 0)
		r = err_set(err, EIO, "cannot look for %s", pattern);
	else if (found.gl_pathc > 1)
		r = err_set(err, EINVAL, "template '%s' has several root images (%s and %s)", name,
			    found.gl_pathv[0], found.gl_pathv[1]);
	else
		r = file_open_regular(found.gl_pathv[0], err);
	globfree(&found);
	return r;
}

static int root_open(const char *image_dir, const char *name, struct ramet_err *err)
{
	cleanup_free char *pattern = NULL;
	struct stat st;
	char *slash;

	if (asprintf(&pattern, "%s/templates/%s/root.cpio*", image_dir, name) < 0) {
		pattern = NULL;
		return err_set(err, ENOMEM, "no memory for a template");
	}
	slash = strrchr(pattern, '/');
	*slash = '\0';
	if (stat(pattern, &st) < 0)
		return err_set(err, ENOENT, "there is no template '%s' (looked for %s)", name,
			       pattern);
	*slash = '/';
	return root_open_match(name, pattern, err);
}

int template_open(const char *image_dir, const char *name, struct template_files *files,
		  struct ramet_err *err)
{
	struct template_files opened = { -1, { -1, -1, -1 } };
	int r;

	if (!name_valid(name))
		return err_set(
			err, EINVAL,
			"a template name is 1 to %zu characters of a-z, 0-9 and '-', not '-' first",
			limits_default.template_name_length);
	r = opened.initrd_fds[0] = root_open(image_dir, name, err);
	if (r >= 0)
		r = opened.initrd_fds[1] = file_open_below(image_dir, "kernel/modules.cpio", err);
	if (r >= 0)
		r = opened.initrd_fds[2] = file_open_below(image_dir, "agent.cpio", err);
	if (r >= 0)
		r = opened.kernel_fd = file_open_below(image_dir, "kernel/vmlinux", err);
	if (r < 0) {
		template_close(&opened);
		return r;
	}
	*files = opened;
	return 0;
}

void template_close(struct template_files *files)
{
	close_fd(&files->kernel_fd);
	for (int i = 0; i < TEMPLATE_INITRDS; i++)
		close_fd(&files->initrd_fds[i]);
}
