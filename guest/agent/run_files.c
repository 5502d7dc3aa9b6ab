/* The files that say who this guest is: see run_files.h. */
#include "guest/agent/run_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/agent/agent.h"
#include "guest/agent/util.h"

#define MACHINE_ID_DIGITS 32
#define PAGE              4096u
#define COUNT(array)      (sizeof(array) / sizeof((array)[0]))

static const char *const machine_id_paths[] = { "/etc/machine-id", "/var/lib/dbus/machine-id" };

static void run_file_forget(struct run_file *file)
{
	if (file->page)
		(void)munmap(file->page, PAGE);
	file->page = NULL;
	if (file->fd >= 0)
		(void)close(file->fd);
	file->fd = -1;
}

/* Made under another name first: whoever sees it sees its text. */
static int run_file_make(const struct agent *agent, const char *name, mode_t mode, const char *text)
{
	char path[PATH_LENGTH_MAX], temporary[PATH_LENGTH_MAX + 8];
	size_t len = strlen(text);
	cleanup_close int fd = -1;

	(void)snprintf(path, sizeof(path), "%.4000s/%s", agent->run_dir, name);
	(void)snprintf(temporary, sizeof(temporary), "%s.new", path);
	if (mkdir(agent->run_dir, 0755) < 0 && errno != EEXIST)
		return -errno;
	if (unlink(temporary) < 0 && errno != ENOENT)
		return -errno;
	fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (fd < 0)
		return -errno;
	if (write(fd, text, len) != (ssize_t)len)
		return -ENOSPC;
	if (rename(temporary, path) < 0)
		return -errno;
	return take_fd(&fd);
}

/* In place, as long as nobody removed or cut the file. */
static int run_file_put(const struct agent *agent, struct run_file *file, const char *name,
			mode_t mode, const char *text)
{
	size_t len = strlen(text);
	struct stat st;
	void *page;

	if (file->page && fstat(file->fd, &st) == 0 && st.st_nlink && st.st_size == (off_t)len) {
		memcpy(file->page, text, len);
		return 0;
	}
	run_file_forget(file);
	file->fd = run_file_make(agent, name, mode, text);
	if (file->fd < 0) {
		int err = file->fd;

		file->fd = -1;
		return err;
	}
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file->fd, 0);
	file->page = page == MAP_FAILED ? NULL : page;
	return 0;
}

static int token_write(struct agent *agent, const uint8_t *token)
{
	static const char digits[] = "0123456789abcdef";
	char text[2 * RESEED_TOKEN_SIZE + 2];

	for (size_t i = 0; i < RESEED_TOKEN_SIZE; i++) {
		text[2 * i] = digits[token[i] >> 4];
		text[2 * i + 1] = digits[token[i] & 15];
	}
	text[2 * RESEED_TOKEN_SIZE] = '\n';
	text[2 * RESEED_TOKEN_SIZE + 1] = '\0';
	return run_file_put(agent, &agent->run_files.token, "token", 0600, text);
}

static int generation_write(struct agent *agent)
{
	char text[GENERATION_TEXT + 1];
	size_t len = strlen(agent->identity.generation);

	memcpy(text, agent->identity.generation, len);
	text[len] = '\n';
	text[len + 1] = '\0';
	return run_file_put(agent, &agent->run_files.generation, "generation", 0644, text);
}

/* ---- machine ids ---- */

/* An empty one means that none was given yet and stays so. */
static bool machine_id_is_set(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size >= MACHINE_ID_DIGITS;
}

static int machine_id_write(const struct agent *agent, const char *path)
{
	char text[MACHINE_ID_DIGITS + 1];
	size_t len = 0;
	cleanup_close int fd = -1;

	if (!machine_id_is_set(path))
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

void run_files_look(struct agent *agent)
{
	bool seen = false;

	for (size_t i = 0; agent->is_init && !seen && i < COUNT(machine_id_paths); i++)
		seen = machine_id_is_set(machine_id_paths[i]);
	agent->run_files.machine_ids = seen;
}

/* ---- all of them ---- */

void run_files_init(struct agent *agent)
{
	agent->run_files.generation.fd = agent->run_files.token.fd = -1;
	run_files_look(agent);
}

int run_files_write(struct agent *agent, const uint8_t *token)
{
	int err;

	if (!agent->run_dir)
		return 0;
	err = generation_write(agent);
	if (!err && token)
		err = token_write(agent, token);
	for (size_t i = 0; !err && agent->run_files.machine_ids && i < COUNT(machine_id_paths); i++)
		err = machine_id_write(agent, machine_id_paths[i]);
	return err;
}
