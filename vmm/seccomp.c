/* jail_seal(): loads the system call filter. Its rules are in vmm/filter/generate.c. */
#include <errno.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "vmm/filter/filter.h"
#include "vmm/jail.h"

#ifdef SANITIZED
/* LeakSanitizer asks at exit: a sealed process cannot start its tracer. */
static bool sealed;

int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
	return sealed;
}
#endif

static void own_pid_set(struct sock_filter *filter, size_t count)
{
	const uint32_t pid = (uint32_t)getpid();

	for (size_t i = 0; i < count; i++)
		if (filter[i].code == (BPF_JMP | BPF_JEQ | BPF_K) && filter[i].k == FILTER_OWN_PID)
			filter[i].k = pid;
}

static int filter_load(const struct sock_fprog *program)
{
	const unsigned int how[] = { SECCOMP_FILTER_FLAG_LOG, 0 };

	/* Logging needs a kernel of 4.14; without it the worker dies as surely. */
	for (size_t i = 0; i < sizeof(how) / sizeof(how[0]); i++) {
		if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, how[i], program) == 0)
			return 0;
		if (errno != EINVAL)
			break;
	}
	return -errno;
}

int jail_seal(struct ramet_err *err)
{
	const size_t count = (size_t)(filter_end - filter_start);
	cleanup_free struct sock_filter *filter = malloc(count * sizeof(*filter));
	struct sock_fprog program = { .len = (unsigned short)count, .filter = filter };
	int ret;

	if (!filter)
		return err_set(err, ENOMEM, "cannot prepare the system call filter");
	memcpy(filter, filter_start, count * sizeof(*filter));
	own_pid_set(filter, count);
	ret = filter_load(&program);
	if (ret < 0)
		return err_errno(err, -ret, "cannot load the system call filter");
#ifdef SANITIZED
	sealed = true;
#endif
	return 0;
}
