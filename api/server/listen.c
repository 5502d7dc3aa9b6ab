/* The Unix socket that rametd listens on: see server.h, unix(7). */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "api/server/server.h"
#include "lib/cleanup.h"

#define LISTEN_BACKLOG 128

/* Locks the directory of `path` against another daemon that is just starting.
 * Returns the descriptor that holds the lock. */
static int directory_lock(const char *path, struct ramet_err *err)
{
	char copy[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	cleanup_close int fd = -1;
	const char *directory;

	(void)snprintf(copy, sizeof(copy), "%s", path);
	directory = dirname(copy);
	fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, errno, "cannot open \"%s\", the directory of the socket",
				 directory);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno == EWOULDBLOCK)
			return err_set(err, EADDRINUSE,
				       "another daemon is just starting in \"%s\"; try again",
				       directory);
		return err_errno(err, errno, "cannot lock \"%s\"", directory);
	}
	return take_fd(&fd);
}

/* Makes room at `path`: nothing there, or a socket that nobody answers on. */
static int stale_remove(const struct sockaddr_un *address, struct ramet_err *err)
{
	cleanup_close int fd = -1;
	struct stat st;

	if (lstat(address->sun_path, &st) < 0) {
		if (errno == ENOENT)
			return 0;
		return err_errno(err, errno, "cannot look at \"%s\"", address->sun_path);
	}
	if (!S_ISSOCK(st.st_mode))
		return err_set(
			err, EEXIST,
			"\"%s\" exists and is not a socket; remove it or choose another path",
			address->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(err, errno, "cannot make a socket");
	if (!connect(fd, (const struct sockaddr *)address, sizeof(*address)) || errno == EAGAIN)
		return err_set(err, EADDRINUSE,
			       "another daemon listens on \"%s\"; stop it or choose another path",
			       address->sun_path);
	if (errno != ECONNREFUSED)
		return err_errno(err, errno, "cannot tell whether \"%s\" is in use",
				 address->sun_path);
	if (unlink(address->sun_path) < 0 && errno != ENOENT)
		return err_errno(err, errno, "cannot remove the stale socket \"%s\"",
				 address->sun_path);
	return 0;
}

/* bind(2) gives the file the mode of the socket's own inode less the umask, so
 * the file never exists with other permissions than these. */
static int bind_with_mode(int fd, const struct sockaddr_un *address, mode_t mode)
{
	mode_t before;
	int ret;

	if (fchmod(fd, mode) < 0)
		return -errno;
	before = umask(0);
	ret = bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;
	(void)umask(before);
	return ret;
}

int listener_open(const char *path, mode_t mode, struct listener *listener, struct ramet_err *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	cleanup_close int lock = -1, fd = -1;
	struct stat st;
	int ret;

	if (!*path || strlen(path) >= sizeof(address.sun_path))
		return err_set(err, ENAMETOOLONG, "a socket path has 1 to %zu bytes",
			       sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, path, strlen(path) + 1);
	lock = directory_lock(path, err);
	if (lock < 0)
		return lock;
	ret = stale_remove(&address, err);
	if (ret)
		return ret;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(err, errno, "cannot make a socket");
	ret = bind_with_mode(fd, &address, mode);
	if (ret)
		return err_errno(err, -ret, "cannot bind to \"%s\"", path);
	if (listen(fd, LISTEN_BACKLOG) < 0 || lstat(path, &st) < 0) {
		ret = err_errno(err, errno, "cannot listen on \"%s\"", path);
		(void)unlink(path);
		return ret;
	}
	memcpy(listener->path, path, strlen(path) + 1);
	listener->device = st.st_dev;
	listener->inode = st.st_ino;
	listener->fd = take_fd(&fd);
	return 0;
}

void listener_close(struct listener *listener)
{
	struct stat st;

	if (!*listener->path)
		return;
	if (!lstat(listener->path, &st) && st.st_dev == listener->device &&
	    st.st_ino == listener->inode)
		(void)unlink(listener->path);
	close_fd(&listener->fd);
	*listener->path = '\0';
}
