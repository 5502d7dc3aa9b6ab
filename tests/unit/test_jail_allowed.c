/* What a sealed worker needs and must still get: each rule of the allow-list is
 * used at least once, and the mechanisms built from them work. Needs root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

#include "lib/cleanup.h"
#include "lib/fdpass.h"
#include "tests/fake/jailed.h"

struct attempt {
	const char *name;
	long call;
	long args[6];
};

static char bytes[8192] __attribute__((aligned(4096)));
#define BYTES  ((long)bytes)
#define BAD_FD 63
#define KVM_PASSES(request)                                                                        \
	{                                                                                          \
#request, SYS_ioctl,                                                               \
		{                                                                                  \
			BAD_FD, (long)(request), BYTES                                             \
		}                                                                                  \
	}

/* Calls that fail harmlessly or do nothing: they must return, whatever. */
/* clang-format off */
static const struct attempt attempts[] = {
	{ "read", SYS_read, { BAD_FD, BYTES, 1 } },
	{ "readv", SYS_readv, { BAD_FD, BYTES, 1 } },
	{ "pread64", SYS_pread64, { BAD_FD, BYTES, 1, 0 } },
	{ "write", SYS_write, { BAD_FD, BYTES, 1 } },
	{ "writev", SYS_writev, { BAD_FD, BYTES, 1 } },
	{ "recvmsg", SYS_recvmsg, { BAD_FD, BYTES, 0 } },
	{ "sendmsg", SYS_sendmsg, { BAD_FD, BYTES, 0 } },
	{ "recvfrom", SYS_recvfrom, { BAD_FD, BYTES, 1, 0, 0, 0 } },
	{ "sendto", SYS_sendto, { BAD_FD, BYTES, 1, 0, 0, 0 } },
	{ "close", SYS_close, { BAD_FD } },
	{ "newfstatat of a descriptor", SYS_newfstatat, { BAD_FD, (long)"", BYTES, AT_EMPTY_PATH } },
	{ "fstat", SYS_fstat, { BAD_FD, BYTES } },
	{ "poll", SYS_poll, { 0, 0, 0 } },
	{ "ppoll", SYS_ppoll, { BYTES, 1, BYTES, 0, 0 } },
	{ "futex", SYS_futex, { BYTES, 129, 1, 0, 0, 0 } },
	{ "restart_syscall", SYS_restart_syscall, { 0 } },
	{ "mremap", SYS_mremap, { 1, 4096, 4096, 0, 0 } },
	{ "brk", SYS_brk, { 0 } },
	{ "madvise MADV_DONTNEED", SYS_madvise, { BYTES, 4096, MADV_DONTNEED } },
	{ "madvise MADV_FREE", SYS_madvise, { BYTES, 4096, MADV_FREE } },
	{ "madvise MADV_REMOVE", SYS_madvise, { BYTES, 4096, MADV_REMOVE } },
	{ "madvise MADV_HUGEPAGE", SYS_madvise, { BYTES, 4096, MADV_HUGEPAGE } },
	{ "madvise MADV_NOHUGEPAGE", SYS_madvise, { BYTES, 4096, MADV_NOHUGEPAGE } },
	{ "madvise MADV_WILLNEED", SYS_madvise, { BYTES, 4096, MADV_WILLNEED } },
	{ "madvise MADV_DONTDUMP", SYS_madvise, { BYTES, 4096, MADV_DONTDUMP } },
	{ "madvise MADV_POPULATE_READ", SYS_madvise, { BYTES, 4096, MADV_POPULATE_READ } },
	{ "madvise MADV_POPULATE_WRITE", SYS_madvise, { BYTES, 4096, MADV_POPULATE_WRITE } },
	{ "rt_sigaction", SYS_rt_sigaction, { SIGUSR1, 0, 0, 8 } },
	{ "rt_sigprocmask", SYS_rt_sigprocmask, { SIG_BLOCK, 0, 0, 8 } },
	{ "rt_sigtimedwait", SYS_rt_sigtimedwait, { 0, 0, 0, 8 } },
	{ "rt_sigpending", SYS_rt_sigpending, { BYTES, 8 } },
	{ "rt_sigsuspend", SYS_rt_sigsuspend, { 0, 8 } },
	{ "signalfd4", SYS_signalfd4, { -1, BYTES, 8, 0 } },
	{ "sigaltstack", SYS_sigaltstack, { 0, 0 } },
	{ "getpid", SYS_getpid, { 0 } },
	{ "gettid", SYS_gettid, { 0 } },
	{ "tgkill of itself", SYS_tgkill, { 1, 1, 0 } },
	{ "fcntl F_GETFL", SYS_fcntl, { BAD_FD, F_GETFL } },
	{ "fcntl F_SETFL", SYS_fcntl, { BAD_FD, F_SETFL, O_NONBLOCK } },
	{ "fcntl F_SETSIG", SYS_fcntl, { BAD_FD, F_SETSIG, SIGIO } },
	{ "fcntl F_SETOWN of itself", SYS_fcntl, { BAD_FD, F_SETOWN, 1 } },
	{ "clock_gettime", SYS_clock_gettime, { CLOCK_MONOTONIC, BYTES } },
	{ "timer_gettime", SYS_timer_gettime, { 99, BYTES } },
	{ "timer_getoverrun", SYS_timer_getoverrun, { 99 } },
	{ "timerfd_create", SYS_timerfd_create, { CLOCK_MONOTONIC, 0 } },
	{ "timerfd_settime", SYS_timerfd_settime, { BAD_FD, 0, BYTES, 0 } },
	{ "timerfd_gettime", SYS_timerfd_gettime, { BAD_FD, BYTES } },
	{ "sysinfo", SYS_sysinfo, { BYTES } },
	{ "epoll_create1", SYS_epoll_create1, { 0 } },
	{ "epoll_ctl", SYS_epoll_ctl, { BAD_FD, 1, BAD_FD, BYTES } },
	{ "epoll_wait", SYS_epoll_wait, { BAD_FD, BYTES, 1, 0 } },
	{ "preadv2", SYS_preadv2, { BAD_FD, BYTES, 0, 0, 0, 0 } },
	{ "fcntl F_ADD_SEALS", SYS_fcntl, { BAD_FD, F_ADD_SEALS, 0 } },
	{ "fcntl F_GET_SEALS", SYS_fcntl, { BAD_FD, F_GET_SEALS } },
	{ "fcntl F_DUPFD_CLOEXEC", SYS_fcntl, { BAD_FD, F_DUPFD_CLOEXEC, 0 } },
	{ "getrandom", SYS_getrandom, { BYTES, 16, 0 } },
	{ "ioctl TCGETS", SYS_ioctl, { BAD_FD, TCGETS, BYTES } },
	KVM_PASSES(KVM_RUN), KVM_PASSES(KVM_GET_API_VERSION), KVM_PASSES(KVM_CHECK_EXTENSION),
	KVM_PASSES(KVM_GET_VCPU_MMAP_SIZE), KVM_PASSES(KVM_GET_SUPPORTED_CPUID),
	KVM_PASSES(KVM_GET_MSR_INDEX_LIST), KVM_PASSES(KVM_CREATE_VM),
	KVM_PASSES(KVM_SET_TSS_ADDR), KVM_PASSES(KVM_SET_IDENTITY_MAP_ADDR),
	KVM_PASSES(KVM_SET_USER_MEMORY_REGION), KVM_PASSES(KVM_SET_NR_MMU_PAGES),
	KVM_PASSES(KVM_GET_NR_MMU_PAGES), KVM_PASSES(KVM_GET_DIRTY_LOG),
	KVM_PASSES(KVM_CLEAR_DIRTY_LOG), KVM_PASSES(KVM_CREATE_VCPU), KVM_PASSES(KVM_SET_CPUID2),
	KVM_PASSES(KVM_GET_CPUID2), KVM_PASSES(KVM_GET_REGS), KVM_PASSES(KVM_SET_REGS),
	KVM_PASSES(KVM_GET_SREGS), KVM_PASSES(KVM_SET_SREGS), KVM_PASSES(KVM_GET_MSRS),
	KVM_PASSES(KVM_SET_MSRS), KVM_PASSES(KVM_GET_FPU), KVM_PASSES(KVM_SET_FPU),
	KVM_PASSES(KVM_GET_XSAVE), KVM_PASSES(KVM_GET_XSAVE2), KVM_PASSES(KVM_SET_XSAVE),
	KVM_PASSES(KVM_GET_XCRS), KVM_PASSES(KVM_SET_XCRS), KVM_PASSES(KVM_GET_DEBUGREGS),
	KVM_PASSES(KVM_SET_DEBUGREGS), KVM_PASSES(KVM_GET_VCPU_EVENTS),
	KVM_PASSES(KVM_SET_VCPU_EVENTS), KVM_PASSES(KVM_INTERRUPT),
	KVM_PASSES(KVM_SET_SIGNAL_MASK), KVM_PASSES(KVM_GET_TSC_KHZ),
	KVM_PASSES(KVM_SET_TSC_KHZ), KVM_PASSES(KVM_HAS_DEVICE_ATTR),
	KVM_PASSES(KVM_GET_DEVICE_ATTR), KVM_PASSES(KVM_SET_DEVICE_ATTR),
	KVM_PASSES(KVM_ENABLE_CAP), KVM_PASSES(USERFAULTFD_IOC_NEW), KVM_PASSES(UFFDIO_API),
	KVM_PASSES(UFFDIO_REGISTER), KVM_PASSES(UFFDIO_UNREGISTER), KVM_PASSES(UFFDIO_COPY),
	KVM_PASSES(UFFDIO_ZEROPAGE), KVM_PASSES(UFFDIO_WAKE),
};
/* clang-format on */

#define ATTEMPTS (sizeof(attempts) / sizeof(attempts[0]))

static int try_call(const void *arg)
{
	const struct attempt *a = arg;

	(void)syscall(a->call, a->args[0], a->args[1], a->args[2], a->args[3], a->args[4],
		      a->args[5]);
	return 1;
}

static void sealed_returns(int keep, jailed_attempt attempt, const void *arg, int expected)
{
	struct jailed how = JAILED_SEALED;
	struct outcome o;

	how.keep = keep;
	o = jailed_run(&how, attempt, arg);
	assert_false(o.timed_out);
	if (!o.reported)
		fail_msg("ended with wait status %#x", (unsigned int)o.status);
	if (!o.entered)
		fail_msg("not jailed: %s", o.text);
	assert_int_equal(o.value, expected);
}

static void passes(void **state)
{
	sealed_returns(-1, try_call, *state, 1);
}

/* ---- mechanisms ---- */

static int try_memory(const void *arg)
{
	char *large = malloc(8u << 20), *larger, *map;

	(void)arg;
	if (!large)
		return -ENOMEM;
	memset(large, 1, 8u << 20);
	larger = realloc(large, 64u << 20);
	if (!larger)
		return -ENOMEM;
	free(larger);
	map = mmap(NULL, 1u << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED || mprotect(map, 1u << 20, PROT_READ | PROT_WRITE) < 0)
		return -errno;
	map[4096] = 1;
	return jailed_result(munmap(map, 1u << 20));
}

static void memory_can_be_had_and_given_back(void **state)
{
	(void)state;
	sealed_returns(-1, try_memory, NULL, 0);
}

static volatile sig_atomic_t signals_seen;

static void count_signal(int number)
{
	(void)number;
	signals_seen++;
}

static int try_timer(const void *arg)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
	const struct itimerspec soon = { .it_value.tv_nsec = 1000000 };
	sigset_t blocked, open;
	timer_t timer;

	(void)arg;
	(void)sigemptyset(&open);
	(void)sigemptyset(&blocked);
	(void)sigaddset(&blocked, SIGALRM);
	if (sigprocmask(SIG_BLOCK, &blocked, NULL) < 0 ||
	    signal(SIGALRM, count_signal) == SIG_ERR ||
	    timer_create(CLOCK_MONOTONIC, &event, &timer) < 0 ||
	    timer_settime(timer, 0, &soon, NULL) < 0)
		return -errno;
	(void)sigsuspend(&open);
	return timer_delete(timer) < 0 ? -errno : signals_seen;
}

static void posix_timer_interrupts(void **state)
{
	(void)state;
	sealed_returns(-1, try_timer, NULL, 1);
}

static int try_sigio(const void *arg)
{
	int fd = *(const int *)arg;
	struct sigaction action = { .sa_handler = count_signal };
	sigset_t blocked, open;

	(void)sigemptyset(&open);
	(void)sigemptyset(&blocked);
	(void)sigaddset(&blocked, SIGIO);
	if (sigprocmask(SIG_BLOCK, &blocked, NULL) < 0 || sigaction(SIGIO, &action, NULL) < 0 ||
	    fcntl(fd, F_SETOWN, getpid()) < 0 || fcntl(fd, F_SETSIG, SIGIO) < 0 ||
	    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC | O_NONBLOCK) < 0)
		return -errno;
	/* The peer answers, so the signal comes after this was asked for. */
	if (send(fd, "q", 1, 0) != 1)
		return -errno;
	(void)sigsuspend(&open);
	return signals_seen == 1 && recv(fd, bytes, 1, 0) == 1;
}

static void socket_signals_its_events(void **state)
{
	struct jailed how = JAILED_SEALED;
	struct outcome o;
	int fds[2];
	pid_t peer;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	how.keep = fds[0];
	peer = fork();
	if (peer == 0) {
		char byte;

		(void)close(fds[0]);
		if (recv(fds[1], &byte, 1, 0) == 1)
			(void)send(fds[1], "a", 1, MSG_NOSIGNAL);
		_exit(0);
	}
	(void)close(fds[1]);
	o = jailed_run(&how, try_sigio, &fds[0]);
	(void)close(fds[0]);
	assert_int_equal(waitpid(peer, NULL, 0), peer);
	assert_true(o.entered);
	assert_int_equal(o.value, 1);
}

static int try_take_fd(const void *arg)
{
	int fds[FDPASS_MAX], got;
	size_t nfds = 0;
	struct stat st;
	ssize_t n = fdpass_recv(*(const int *)arg, bytes, sizeof(bytes), fds, &nfds);

	if (n < 0)
		return (int)n;
	if (nfds != 1 || fstat(fds[0], &st) < 0)
		return -EBADF;
	got = (int)pread(fds[0], bytes, 4, 0);
	(void)close(fds[0]);
	return fdpass_send(*(const int *)arg, "ok", 2, NULL, 0) < 0 ? -EPIPE : got;
}

static void takes_a_descriptor_and_reads_it(void **state)
{
	struct jailed how = JAILED_SEALED;
	cleanup_file FILE *image = tmpfile();
	struct outcome o;
	int fds[2], fd = fileno(image);

	(void)state;
	assert_int_equal(write(fd, "\177ELF", 4), 4);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(fdpass_send(fds[1], "boot", 4, &fd, 1), 0);
	how.keep = fds[0];
	o = jailed_run(&how, try_take_fd, &fds[0]);
	(void)close(fds[0]);
	(void)close(fds[1]);
	assert_true(o.entered);
	assert_int_equal(o.value, 4);
}

static int try_vm(const void *arg)
{
	int kvm = *(const int *)arg, vm, vcpu, size;
	struct kvm_regs regs;
	void *run;

	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	vcpu = vm < 0 ? -1 : ioctl(vm, KVM_CREATE_VCPU, 0);
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vcpu < 0 || size < 0)
		return -errno;
	run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED || ioctl(vcpu, KVM_GET_REGS, &regs) < 0)
		return -errno;
	/* The first entry makes KVM start a thread in this process, which a
	 * process limit that is too low refuses with EAGAIN. There is no memory,
	 * so any other answer will do. */
	return ioctl(vcpu, KVM_RUN, 0) == 0 || (errno != EAGAIN && errno != EINTR) ? 1 : -errno;
}

static void makes_and_enters_a_virtual_machine(void **state)
{
	cleanup_close int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	(void)state;
	if (kvm < 0) {
		print_message("skipped: no /dev/kvm\n");
		skip();
	}
	sealed_returns(kvm, try_vm, &kvm, 1);
}

static int try_printf(const void *arg)
{
	(void)arg;
	return printf("%s", "") == 0 && fflush(stdout) == 0;
}

static void stdio_works(void **state)
{
	(void)state;
	sealed_returns(-1, try_printf, NULL, 1);
}

static int try_abort(const void *arg)
{
	(void)arg;
	abort();
}

static void abort_ends_the_worker(void **state)
{
	const struct jailed how = JAILED_SEALED;
	struct outcome o = jailed_run(&how, try_abort, NULL);

	(void)state;
	assert_false(o.reported);
	assert_true(WIFSIGNALED(o.status));
	/* The first process of a pid namespace is immune to a SIGABRT of its own;
	 * glibc then executes a privileged instruction, which it is not. */
	assert_int_equal(WTERMSIG(o.status), SIGSEGV);
	assert_false(WCOREDUMP(o.status));
}

static int try_exit(const void *arg)
{
	(void)arg;
	exit(42); /* with all that runs at exit */
}

static void exit_ends_with_its_code(void **state)
{
	const struct jailed how = JAILED_SEALED;
	struct outcome o = jailed_run(&how, try_exit, NULL);

	(void)state;
	assert_true(WIFEXITED(o.status));
	assert_int_equal(WEXITSTATUS(o.status), 42);
}

#define MECHANISMS 8

int main(void)
{
	struct CMUnitTest tests[MECHANISMS + ATTEMPTS] = {
		cmocka_unit_test(memory_can_be_had_and_given_back),
		cmocka_unit_test(posix_timer_interrupts),
		cmocka_unit_test(socket_signals_its_events),
		cmocka_unit_test(takes_a_descriptor_and_reads_it),
		cmocka_unit_test(makes_and_enters_a_virtual_machine),
		cmocka_unit_test(stdio_works),
		cmocka_unit_test(abort_ends_the_worker),
		cmocka_unit_test(exit_ends_with_its_code),
	};

	for (size_t i = 0; i < ATTEMPTS; i++)
		tests[MECHANISMS + i] =
			(struct CMUnitTest){ .name = attempts[i].name,
					     .test_func = passes,
					     .initial_state = (void *)&attempts[i] };
	if (geteuid() != 0) {
		print_message("skipped: a jail can only be entered by root\n");
		return 77;
	}
	return cmocka_run_group_tests_name("allowed system calls", tests, NULL, NULL);
}
