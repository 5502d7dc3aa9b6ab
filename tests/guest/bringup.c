/* The first programs to run in a new machine: a greeting, and the cost of a
 * system call. */
#include "check.h"
#include "suite.h"

#include <stdio.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

int hello_main(int argc, char **argv)
{
	struct utsname u;
	struct sysinfo info;

	(void)argc;
	(void)argv;
	if (uname(&u) < 0 || sysinfo(&info) < 0)
		return 1;
	printf("hello from pid %d uid %d on %s %s %s, %lu MiB RAM, up %ld s\n", getpid(), getuid(),
	       u.sysname, u.release, u.machine, info.totalram * info.mem_unit >> 20, info.uptime);
	return 0;
}

int bench_getpid_main(int argc, char **argv)
{
	long n = param_get(argc, argv, "n", 10000, 1, 100000000);
	struct check c = { 0 };
	long bad = 0;
	pid_t self = getpid();
	int64_t start = now_us();

	for (long i = 0; i < n; i++)
		bad += syscall(SYS_getpid) != self;
	int64_t spent = now_us() - start;

	start = now_us();
	for (long i = 0; i < n; i++)
		bad += now_us() < start;
	int64_t clocks = now_us() - start;

	check_that(&c, bad == 0, "getpid-and-clock", "%ld wrong answers", bad);
	printf("# getpid %.3f us, clock_gettime %.3f us\n", (double)spent / (double)n,
	       (double)clocks / (double)n);
	return check_finish(&c);
}
