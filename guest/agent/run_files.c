/* The files that say who this guest is: see run_files.h. */
#include "guest/agent/run_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "guest/agent/agent.h"
#include "guest/agent/util.h"

#define MACHINE_ID_DIGITS 32

static int file_make(const char *path, mode_t mode, const char *text)
{
	cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	size_t len = strlen(text);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = write(fd, text, len);
	if (n < 0)
		return -errno;
	return n == (ssize_t)len ? 0 : -ENOSPC;
}

/* Whoever reads the file sees the old or the new text. */
static int run_write(const struct agent *agent, const char *name, mode_t mode, const char *text)
{
	char path[PATH_LENGTH_MAX], temporary[PATH_LENGTH_MAX + 8];
	int err;

	(void)snprintf(path, sizeof(path), "%.4000s/%s", agent->run_dir, name);
	(void)snprintf(temporary, sizeof(temporary), "%s.new", path);
	err = file_make(temporary, mode, text);
	if (err == -ENOENT && mkdir(agent->run_dir, 0755) == 0)
		err = file_make(temporary, mode, text);
	if (err == -EEXIST && unlink(temporary) == 0)
		err = file_make(temporary, mode, text);
	if (err)
		return err;
	return rename(temporary, path) < 0 ? -errno : 0;
}

static int token_write(const struct agent *agent, const uint8_t *token)
{
	char text[2 * RESEED_TOKEN_SIZE + 2];

	for (size_t i = 0; i < RESEED_TOKEN_SIZE; i++)
		(void)snprintf(text + 2 * i, 3, "%02x", token[i]);
	text[2 * RESEED_TOKEN_SIZE] = '\n';
	text[2 * RESEED_TOKEN_SIZE + 1] = '\0';
	return run_write(agent, "token", 0600, text);
}

/* An empty one means that none was given yet (machine-id(5)) and stays so. */
static int machine_id_write(const struct agent *agent, const char *path)
{
	char text[MACHINE_ID_DIGITS + 1];
	struct stat st;
	size_t len = 0;
	cleanup_close int fd = -1;

	if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < MACHINE_ID_DIGITS)
		return 0;
	for (const char *c = agent->identity.generation; *c && len < MACHINE_ID_DIGITS; c++)
		if (*c != '-')
			text[len++] = *c;
	text[len++] = '\n';
	fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || write(fd, text, len) < 0 || ftruncate(fd, (off_t)len) < 0)
		return -errno;
	return 0;
}

static int machine_ids_write(const struct agent *agent)
{
	static const char *const paths[] = { "/etc/machine-id", "/var/lib/dbus/machine-id" };
	int err = 0;

	for (size_t i = 0; !err && i < sizeof(paths) / sizeof(paths[0]); i++)
		err = machine_id_write(agent, paths[i]);
	return err;
}

int run_files_write(const struct agent *agent, const uint8_t *token)
{
	const struct identity *identity = &agent->identity;
	char text[GENERATION_TEXT + 1];
	int err;

	if (!agent->run_dir)
		return 0;
	(void)snprintf(text, sizeof(text), "%s\n", identity->generation);
	err = run_write(agent, "generation", 0644, text);
	if (!err && token)
		err = token_write(agent, token);
	if (!err && identity->fork_number) {
		(void)snprintf(text, sizeof(text), "%u\n", identity->fork_number - 1);
		err = run_write(agent, "fork_index", 0644, text);
	}
	if (!err && agent->is_init)
		err = machine_ids_write(agent);
	return err;
}
