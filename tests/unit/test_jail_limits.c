/* jail_enter() alone, without the system call filter: the network, descriptors and
 * resource limits. One test per rule tries to break it. Needs root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "lib/cleanup.h"
#include "tests/fake/jail_assert.h"

/* ---- network ---- */

static int try_connect_udp(const void *arg)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(53) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0)
		return -errno;
	(void)inet_pton(AF_INET, arg, &to.sin_addr);
	return jailed_result(connect(fd, (const struct sockaddr *)&to, sizeof(to)));
}

static void reaches_no_remote_address(void **state)
{
	(void)state;
	jail_returns(try_connect_udp, "192.0.2.1", -ENETUNREACH);
}

static void reaches_no_loopback_address(void **state)
{
	(void)state;
	jail_returns(try_connect_udp, "127.0.0.1", -ENETUNREACH);
}

static void standalone_enters_namespaces_by_itself(void **state)
{
	struct jailed how = { .standalone = true, .keep = -1 };
	struct outcome o = jailed_run(&how, try_connect_udp, "127.0.0.1");

	(void)state;
	assert_true(o.entered);
	assert_int_equal(o.value, -ENETUNREACH);
}

static int try_interfaces(const void *arg)
{
	struct ifreq request = { .ifr_ifindex = 2 };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	(void)arg;
	return fd < 0 ? -errno : jailed_result(ioctl(fd, SIOCGIFNAME, &request));
}

static void has_no_network_interface_but_loopback(void **state)
{
	(void)state;
	jail_returns(try_interfaces, NULL, -ENODEV);
}

static int try_abstract(const void *arg)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	return fd < 0 ? -errno
		      : jailed_result(connect(fd, arg, (socklen_t)sizeof(struct sockaddr_un)));
}

static void reaches_no_abstract_socket_of_the_host(void **state)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	(void)snprintf(name.sun_path + 1, sizeof(name.sun_path) - 1, "ramet-test-%d", getpid());
	assert_int_equal(bind(fd, (struct sockaddr *)&name, sizeof(name)), 0);
	assert_int_equal(listen(fd, 1), 0);
	jail_returns(try_abstract, &name, -ECONNREFUSED);
}

/* ---- descriptors and resources ---- */

static int try_open_fds(const void *arg)
{
	int open_fds = 0;

	(void)arg;
	for (int fd = 0; fd < 1024; fd++)
		open_fds += fcntl(fd, F_GETFD) >= 0;
	return open_fds;
}

static void keeps_no_descriptor_but_those_listed(void **state)
{
	cleanup_close int a = open("/dev/null", O_RDONLY), b = open("/dev/null", O_RDONLY);
	cleanup_close int high = fcntl(a, F_DUPFD, 700);

	(void)state;
	(void)b;
	assert_int_equal(high, 700);
	jail_returns(try_open_fds, NULL, 4); /* 0, 1, 2 and the report pipe */
}

static void keeps_a_listed_descriptor_above_the_limit(void **state)
{
	cleanup_close int low = open("/dev/null", O_RDONLY);
	cleanup_close int high = fcntl(low, F_DUPFD, 700);
	struct jailed how = JAILED_DEFAULT;
	struct outcome o;

	(void)state;
	how.keep = high;
	o = jailed_run(&how, try_open_fds, NULL);
	assert_true(o.entered);
	assert_int_equal(o.value, 5);
}

static int try_many_fds(const void *arg)
{
	int fd = 0;

	(void)arg;
	while (fd >= 0 && fd < 4096)
		fd = dup(0);
	return fd < 0 ? -errno : 0;
}

static void cannot_open_many_descriptors(void **state)
{
	(void)state;
	jail_returns(try_many_fds, NULL, -EMFILE);
}

static int try_fork(const void *arg)
{
	pid_t pid = 1;
	int forks;

	(void)arg;
	for (forks = 0; pid > 0 && forks < 100; forks++) {
		pid = fork();
		if (pid == 0) {
			(void)pause();
			_exit(0);
		}
	}
	/* The children die with the pid namespace. */
	return pid < 0 && errno == EAGAIN ? forks : -errno;
}

static void cannot_fork_beyond_kvms_needs(void **state)
{
	(void)state;
	jail_returns(try_fork, NULL, JAIL_NPROC_MAX); /* itself counts: the last one failed */
}

static int try_write(const void *arg)
{
	return jailed_result(write(*(const int *)arg, "x", 1));
}

/* A log in a file is allowed to grow a little: the runner's must not be one. */
static int log_to_nowhere(void)
{
	cleanup_close int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

	return fd < 0 || dup2(fd, STDERR_FILENO) < 0 ? -errno : 0;
}

static void cannot_write_to_a_file(void **state)
{
	cleanup_file FILE *file = tmpfile();
	int fd = fileno(file);
	struct jailed how = JAILED_DEFAULT;
	struct outcome o;

	(void)state;
	how.keep = fd;
	how.before = log_to_nowhere;
	o = jailed_run(&how, try_write, &fd);
	assert_true(o.entered);
	assert_int_equal(o.value, -EFBIG); /* and not killed by SIGXFSZ */
}

static FILE *log_file;

static int log_to_file(void)
{
	return dup2(fileno(log_file), STDERR_FILENO) < 0 ? -errno : 0;
}

static int try_flood_log(const void *arg)
{
	char block[4096] = { 0 };
	ssize_t n = 1;

	(void)arg;
	for (int i = 0; n > 0 && i < 1024; i++)
		n = write(STDERR_FILENO, block, sizeof(block));
	return n < 0 ? -errno : 0;
}

static void log_in_a_file_stays_bounded(void **state)
{
	struct jailed how = JAILED_DEFAULT;
	struct outcome o;
	struct stat st;

	(void)state;
	log_file = tmpfile();
	how.before = log_to_file;
	o = jailed_run(&how, try_flood_log, NULL);
	assert_int_equal(fstat(fileno(log_file), &st), 0);
	(void)fclose(log_file);
	assert_true(o.entered);
	assert_int_equal(o.value, -EFBIG);
	assert_int_equal(st.st_size, JAIL_LOG_BYTES_MAX);
}

static int try_core_limit(const void *arg)
{
	struct rlimit limit;

	(void)arg;
	return getrlimit(RLIMIT_CORE, &limit) == 0 && limit.rlim_cur == 0 && limit.rlim_max == 0;
}

static void leaves_no_core_dump(void **state)
{
	(void)state;
	jail_returns(try_core_limit, NULL, 1);
}

static int try_raise_limit(const void *arg)
{
	const struct rlimit limit = { .rlim_cur = 4096, .rlim_max = 4096 };

	(void)arg;
	return jailed_result(setrlimit(RLIMIT_NOFILE, &limit));
}

static void cannot_raise_a_limit(void **state)
{
	(void)state;
	jail_returns(try_raise_limit, NULL, -EPERM);
}

static int try_mlock(const void *arg)
{
	static char page[4096];

	(void)arg;
	return jailed_result(syscall(SYS_mlock, page, sizeof(page)));
}

static void cannot_lock_memory(void **state)
{
	(void)state;
	jail_returns(try_mlock, NULL, -EPERM);
}

#define T(name) cmocka_unit_test(name)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(reaches_no_remote_address),
		T(reaches_no_loopback_address),
		T(standalone_enters_namespaces_by_itself),
		T(has_no_network_interface_but_loopback),
		T(reaches_no_abstract_socket_of_the_host),
		T(keeps_no_descriptor_but_those_listed),
		T(keeps_a_listed_descriptor_above_the_limit),
		T(cannot_open_many_descriptors),
		T(cannot_fork_beyond_kvms_needs),
		T(cannot_write_to_a_file),
		T(log_in_a_file_stays_bounded),
		T(leaves_no_core_dump),
		T(cannot_raise_a_limit),
		T(cannot_lock_memory),
	};

	if (geteuid() != 0) {
		print_message("skipped: a jail can only be entered by root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
