/* The patch of one text, made by diff(1). */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/cli/cli.h"
#include "lib/cleanup.h"

extern char **environ;

static int write_all(int fd, const char *data, size_t length)
{
	while (length) {
		ssize_t n = write(fd, data, length);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		length -= (size_t)n;
	}
	return 0;
}

/* A file with the text; NULL is an empty one. */
static int text_file(const char *text)
{
	int fd = memfd_create("text", MFD_CLOEXEC);
	int r = fd < 0 ? -errno : text ? write_all(fd, text, strlen(text)) : 0;

	if (r == 0)
		return fd;
	if (fd >= 0)
		(void)close(fd);
	return r;
}

/* Starts diff(1) with the texts as descriptors 3 and 4 and `out` as its output. */
static int diff_start(const int fds[2], int out, char *const labels[2], pid_t *pid)
{
	char *argv[] = { (char *)"diff",      (char *)"-u",        (char *)"--label",
			 labels[0],           (char *)"--label",   labels[1],
			 (char *)"/dev/fd/3", (char *)"/dev/fd/4", NULL };
	posix_spawn_file_actions_t actions;
	int high[3] = { -1, -1, -1 };
	int r = posix_spawn_file_actions_init(&actions);

	if (r)
		return -r;
	/* Out of the way of 0 to 4. */
	for (int i = 0; !r && i < 3; i++) {
		high[i] = fcntl(i < 2 ? fds[i] : out, F_DUPFD_CLOEXEC, 10);
		r = high[i] < 0 ? errno
				: posix_spawn_file_actions_adddup2(&actions, high[i],
								   i < 2 ? i + 3 : STDOUT_FILENO);
	}
	if (!r)
		r = posix_spawnp(pid, argv[0], &actions, NULL, argv, environ);
	for (int i = 0; i < 3; i++)
		close_fd(&high[i]);
	(void)posix_spawn_file_actions_destroy(&actions);
	return -r;
}

/* A terminal would obey what a guest wrote. */
static void output_print(const char *data, size_t length, bool escape)
{
	for (size_t i = 0; i < length; i++) {
		unsigned char c = (unsigned char)data[i];

		if (escape && ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f))
			(void)printf("\\x%02x", c);
		else
			(void)putchar(c);
	}
}

static void output_copy(int fd)
{
	bool escape = isatty(STDOUT_FILENO);
	char data[16384];
	ssize_t n;

	while ((n = read(fd, data, sizeof(data))) > 0 || (n < 0 && errno == EINTR))
		if (n > 0)
			output_print(data, (size_t)n, escape);
}

static int diff_run(const int fds[2], char *const labels[2])
{
	cleanup_close int out_read = -1, out_write = -1;
	int pipe_fds[2], status = 0, r;
	pid_t pid = -1;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return cli_fail("cannot make a pipe: %s", strerror(errno));
	out_read = pipe_fds[0];
	out_write = pipe_fds[1];
	r = diff_start(fds, out_write, labels, &pid);
	if (r < 0)
		return cli_fail("--text needs the program \"diff\": %s", strerror(-r));
	close_fd(&out_write);
	output_copy(out_read);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status) > 1)
		return cli_fail("\"diff\" failed");
	return CLI_OK;
}

/* In a patch a name ends with its line. */
static char *label_make(const char *prefix, const char *path)
{
	char *label = NULL;
	size_t size;
	FILE *out = open_memstream(&label, &size);

	if (!out)
		return NULL;
	(void)fputs(path ? prefix : "/dev/null", out);
	if (path)
		print_safe(out, path);
	if (fclose(out) == 0)
		return label;
	free(label);
	return NULL;
}

int diff_patch_print(const char *path, const char *old_text, const char *new_text, bool is_old,
		     bool is_new)
{
	cleanup_free char *old_label = label_make("a", is_old ? path : NULL);
	cleanup_free char *new_label = label_make("b", is_new ? path : NULL);
	cleanup_close int old_fd = text_file(old_text), new_fd = text_file(new_text);

	if (!old_label || !new_label)
		return cli_fail("out of memory");
	if (old_fd < 0 || new_fd < 0)
		return cli_fail("cannot hold a text: %s", strerror(old_fd < 0 ? -old_fd : -new_fd));
	return diff_run((const int[]){ old_fd, new_fd }, (char *const[]){ old_label, new_label });
}
