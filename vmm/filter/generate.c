/* Makes the system call filter of jailed workers when ramet is built: the system
 * calls they may make, one line per rule, each with its reason, become a BPF
 * program (vmm/filter/filter.h) on stdout. What has no line kills the process.
 *
 * Conditions compare the bits the kernel looks at: 32 for flags, commands and
 * pids, 64 for pointers. A system call may have several lines; one that matches is enough.
 * Sources: seccomp(2), seccomp_rule_add(3), signal-safety(7), KVM's API. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/err.h"
#include "vmm/filter/filter.h"

#define RULE_CONDITIONS_MAX 2

struct rule {
	int call;
	struct condition {
		enum {
			COND_NONE,
			COND_EQ,
			COND_NULL,
			COND_BITS_CLEAR,
			COND_BITS_SET,
			COND_OWN_PID
		} kind;
		unsigned int arg;
		uint32_t value;
	} when[RULE_CONDITIONS_MAX];
};

/* clang-format off */
#define EQ(arg, value)		{ COND_EQ, (arg), (uint32_t)(value) }
#define NULL_POINTER(arg)	{ COND_NULL, (arg), 0 }
#define CLEAR(arg, bits)	{ COND_BITS_CLEAR, (arg), (uint32_t)(bits) }
#define SET(arg, bits)		{ COND_BITS_SET, (arg), (uint32_t)(bits) }
#define OWN_PID(arg)		{ COND_OWN_PID, (arg), 0 }
#define CALL(name)		{ SCMP_SYS(name), { { COND_NONE, 0, 0 } } }
#define CALL1(name, c)		{ SCMP_SYS(name), { c } }
#define CALL2(name, c, d)	{ SCMP_SYS(name), { c, d } }
#define IOCTL(request)		CALL1(ioctl, EQ(1, request))

static const struct rule rules[] = {
	IOCTL(KVM_RUN),				/* enter the guest */

	/* Bytes over descriptors that are open already. */
	CALL(read),				/* kernel and initrd images, timers, channel */
	CALL(readv),				/* channel, into a ring that wraps */
	CALL(pread64),				/* parts of the kernel image */
	CALL(write),				/* channel; log lines on stderr */
	CALL(writev),				/* channel, from a ring that wraps */
	CALL(recvmsg),				/* control messages with descriptors */
	CALL(sendmsg),				/* control replies */
	CALL(recvfrom),				/* channel with MSG_DONTWAIT */
	CALL1(sendto, NULL_POINTER(4)),		/* channel with MSG_NOSIGNAL; connected sockets only */
	CALL(close),				/* images once loaded */
	CALL1(newfstatat, SET(3, AT_EMPTY_PATH)), /* fstat(): size of an image; there are no paths */
	CALL(fstat),				/* the same in other C libraries */

	/* Waiting. */
	CALL(ppoll),				/* idle: sockets and timers, signals let in */
	CALL(poll),				/* the same without a signal mask */
	CALL(futex),				/* locks inside the C library */
	CALL(restart_syscall),			/* poll after SIGSTOP and SIGCONT */

	/* Memory, never executable. */
	CALL1(mmap, CLEAR(2, PROT_EXEC)),	/* guest RAM, the vCPU's page, malloc */
	CALL1(mprotect, CLEAR(2, PROT_EXEC)),	/* guard pages, malloc's arenas */
	CALL(munmap),				/* give back guest RAM, malloc */
	CALL(mremap),				/* realloc; keeps the protection */
	CALL(brk),				/* malloc */
	CALL1(madvise, EQ(2, MADV_DONTNEED)),	/* give back freed memory, malloc too */
	CALL1(madvise, EQ(2, MADV_FREE)),	/* the same, lazily */
	CALL1(madvise, EQ(2, MADV_REMOVE)),	/* give back shared guest RAM */
	CALL1(madvise, EQ(2, MADV_HUGEPAGE)),	/* fewer faults on guest RAM */
	CALL1(madvise, EQ(2, MADV_NOHUGEPAGE)),	/* fine-grained layers */
	CALL1(madvise, EQ(2, MADV_WILLNEED)),	/* read ahead of the images */
	CALL1(madvise, EQ(2, MADV_DONTDUMP)),	/* guest RAM stays out of dumps */
	CALL1(madvise, EQ(2, MADV_POPULATE_READ)),  /* fault in a range at once */
	CALL1(madvise, EQ(2, MADV_POPULATE_WRITE)), /* the same for writing */

	/* Signals: timer and socket events interrupt KVM_RUN. */
	CALL(rt_sigaction),			/* handlers; abort() resets SIGABRT */
	CALL(rt_sigprocmask),			/* masked outside of KVM_RUN */
	CALL(rt_sigreturn),			/* return from a handler */
	CALL(rt_sigtimedwait),			/* take a pending signal without a handler */
	CALL(rt_sigpending),			/* look for one */
	CALL(rt_sigsuspend),			/* wait for one */
	CALL(sigaltstack),			/* handler for faults in the VMM itself */
	CALL(getpid),				/* raise() */
	CALL(gettid),				/* raise(), timers aimed at the vCPU's thread */
	CALL1(tgkill, OWN_PID(0)),		/* raise(), abort(); nobody else */
	CALL1(fcntl, EQ(1, F_GETFL)),		/* O_ASYNC is added to what is set */
	CALL1(fcntl, EQ(1, F_SETFL)),		/* O_ASYNC, O_NONBLOCK on sockets */
	CALL1(fcntl, EQ(1, F_SETSIG)),		/* which signal a socket sends */
	CALL2(fcntl, EQ(1, F_SETOWN), OWN_PID(2)), /* to whom: the worker itself */

	/* Time. */
	CALL(clock_gettime),			/* where the vDSO has no fast clock */
	CALL(signalfd4),			/* timer and socket signals, read without a handler */
	CALL(timer_create),			/* the guest's single-shot timer */
	CALL(timer_settime),			/* arm it */
	CALL(timer_gettime),			/* what is left of it */
	CALL(timer_getoverrun),			/* expirations merged into one signal */
	CALL(timer_delete),			/* the guest is gone */
	CALL(timerfd_create),			/* the same while idle in ppoll() */
	CALL(timerfd_settime),			/* arm it */
	CALL(timerfd_gettime),			/* what is left of it */

	/* Forks: memory that comes on demand (uffd/). */
	IOCTL(USERFAULTFD_IOC_NEW),		/* a child watches its layers */
	IOCTL(UFFDIO_API),
	IOCTL(UFFDIO_REGISTER),
	IOCTL(UFFDIO_UNREGISTER),
	IOCTL(UFFDIO_COPY),			/* a donor fills a layer */
	IOCTL(UFFDIO_ZEROPAGE),
	IOCTL(UFFDIO_WAKE),			/* and lets its children go on */
	CALL(epoll_create1),			/* a donor's children */
	CALL(epoll_ctl),
	CALL(epoll_wait),
	CALL(preadv2),				/* their requests, many at a time */
	CALL1(fcntl, EQ(1, F_ADD_SEALS)),	/* a filled layer never changes again */
	CALL1(fcntl, EQ(1, F_GET_SEALS)),
	CALL1(fcntl, EQ(1, F_DUPFD_CLOEXEC)),	/* a child's own copy of its userfaultfd */

	CALL(sysinfo),				/* qsort() of more than 1 KiB: how much memory is there? */
	CALL(getrandom),			/* entropy for the guest's generation */
	CALL(exit),				/* a thread's end */
	CALL(exit_group),			/* the worker's end */

	/* KVM: one VM with one vCPU, no in-kernel devices. */
	IOCTL(KVM_GET_API_VERSION),		/* start-up probe */
	IOCTL(KVM_CHECK_EXTENSION),		/* start-up probe */
	IOCTL(KVM_GET_VCPU_MMAP_SIZE),		/* length of the vCPU's shared page */
	IOCTL(KVM_GET_SUPPORTED_CPUID),		/* what the guest can be shown */
	IOCTL(KVM_GET_MSR_INDEX_LIST),		/* what state there is to save */
	IOCTL(KVM_CREATE_VM),			/* the probe's and the guest's */
	IOCTL(KVM_SET_TSS_ADDR),		/* VMX without unrestricted guest needs it */
	IOCTL(KVM_SET_IDENTITY_MAP_ADDR),	/* the same */
	IOCTL(KVM_SET_USER_MEMORY_REGION),	/* guest RAM */
	IOCTL(KVM_SET_NR_MMU_PAGES),		/* bound of the shadow page tables */
	IOCTL(KVM_GET_NR_MMU_PAGES),		/* read it back */
	IOCTL(KVM_GET_DIRTY_LOG),		/* which pages a fork must copy */
	IOCTL(KVM_ENABLE_CAP),			/* reading the log must not reset it */
	IOCTL(KVM_CLEAR_DIRTY_LOG),		/* re-arm a part of it */
	IOCTL(KVM_CREATE_VCPU),			/* the one vCPU */
	IOCTL(KVM_SET_CPUID2),			/* what CPUID shows to the guest */
	IOCTL(KVM_GET_CPUID2),			/* leaf 0xD as KVM computed it */
	IOCTL(KVM_GET_REGS),			/* machine state: general registers */
	IOCTL(KVM_SET_REGS),
	IOCTL(KVM_GET_SREGS),			/* machine state: segments, control registers */
	IOCTL(KVM_SET_SREGS),
	IOCTL(KVM_GET_MSRS),			/* machine state: syscall entry, bases, TSC */
	IOCTL(KVM_SET_MSRS),
	IOCTL(KVM_GET_FPU),			/* machine state: FPU on hosts without XSAVE */
	IOCTL(KVM_SET_FPU),
	IOCTL(KVM_GET_XSAVE),			/* machine state: FPU, SSE, AVX */
	IOCTL(KVM_GET_XSAVE2),			/* the same where it exceeds 4 KiB */
	IOCTL(KVM_SET_XSAVE),
	IOCTL(KVM_GET_XCRS),			/* machine state: XCR0 */
	IOCTL(KVM_SET_XCRS),
	IOCTL(KVM_GET_DEBUGREGS),		/* machine state: the guest's breakpoints */
	IOCTL(KVM_SET_DEBUGREGS),
	IOCTL(KVM_GET_VCPU_EVENTS),		/* machine state: exception in delivery */
	IOCTL(KVM_SET_VCPU_EVENTS),
	IOCTL(KVM_INTERRUPT),			/* inject an event where gates deliver it */
	IOCTL(KVM_SET_SIGNAL_MASK),		/* let signals in during KVM_RUN only */
	IOCTL(KVM_GET_TSC_KHZ),			/* the guest's clock scale */
	IOCTL(KVM_SET_TSC_KHZ),			/* keep it on another host */
	IOCTL(KVM_HAS_DEVICE_ATTR),		/* is there a TSC offset? */
	IOCTL(KVM_GET_DEVICE_ATTR),		/* TSC offset */
	IOCTL(KVM_SET_DEVICE_ATTR),		/* TSC continues after a fork */
};

/* Answered with ENOTTY rather than death: stdio asks whether stdout is a terminal. */
static const struct rule refused[] = { IOCTL(TCGETS) };

#ifdef SANITIZED
/* ASan and UBSan builds only: what their runtime does in a healthy process. */
static const struct rule sanitizer_rules[] = {
	CALL(madvise),				/* MADV_NOHUGEPAGE and others on the shadow */
	CALL(sched_yield),			/* its spin locks */
	CALL(getrusage),			/* memory limits */
	CALL(sched_getaffinity),		/* number of processors */
	CALL1(prctl, EQ(0, PR_GET_NAME)),		/* thread name in a report */
};

/* And what it does to print a report: fails, so that the report is not symbolized. */
static const struct rule sanitizer_refused[] = {
	CALL(openat), CALL(open), CALL(readlink), CALL(readlinkat), CALL(stat), CALL(access),
	CALL(pipe), CALL(pipe2), CALL(clone), CALL(fork), CALL(getppid), CALL(getuid),
	CALL(geteuid), CALL(lseek), CALL(prlimit64), CALL(getrlimit), CALL(dup), CALL(dup2),
};
#endif
/* clang-format on */

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static struct scmp_arg_cmp condition_compare(const struct condition *c)
{
	struct scmp_arg_cmp cmp = { .arg = c->arg, .op = SCMP_CMP_MASKED_EQ };

	switch (c->kind) {
	case COND_BITS_CLEAR:
		cmp.datum_a = c->value;
		break;
	case COND_BITS_SET:
		cmp.datum_a = c->value;
		cmp.datum_b = c->value;
		break;
	case COND_NULL:
		cmp.datum_a = UINT64_MAX;
		break;
	case COND_OWN_PID:
		cmp.datum_a = UINT32_MAX;
		cmp.datum_b = FILTER_OWN_PID;
		break;
	case COND_EQ:
	case COND_NONE:
		cmp.datum_a = UINT32_MAX;
		cmp.datum_b = c->value;
		break;
	}
	return cmp;
}

static int rules_add(scmp_filter_ctx filter, uint32_t action, const struct rule *table,
		     size_t count, struct ramet_err *err)
{
	for (size_t i = 0; i < count; i++) {
		struct scmp_arg_cmp when[RULE_CONDITIONS_MAX];
		unsigned int n = 0;
		int ret;

		while (n < RULE_CONDITIONS_MAX && table[i].when[n].kind != COND_NONE) {
			when[n] = condition_compare(&table[i].when[n]);
			n++;
		}
		ret = seccomp_rule_add_exact_array(filter, action, table[i].call, n, when);
		if (ret < 0)
			return err_errno(err, -ret, "cannot add rule %zu, for system call %d", i,
					 table[i].call);
	}
	return 0;
}

static int filter_fill(scmp_filter_ctx filter, struct ramet_err *err)
{
	int ret;

	/* Foreign system call tables (i386, x32) kill as well. */
	ret = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (ret < 0)
		return err_errno(err, -ret, "cannot refuse foreign system calls");
	ret = seccomp_syscall_priority(filter, SCMP_SYS(ioctl), 255);
	if (ret < 0)
		return err_errno(err, -ret, "cannot put ioctl first");
	ret = rules_add(filter, SCMP_ACT_ALLOW, rules, COUNT(rules), err);
	if (ret == 0)
		ret = rules_add(filter, SCMP_ACT_ERRNO(ENOTTY), refused, COUNT(refused), err);
#ifdef SANITIZED
	if (ret == 0)
		ret = rules_add(filter, SCMP_ACT_ALLOW, sanitizer_rules, COUNT(sanitizer_rules),
				err);
	if (ret == 0)
		ret = rules_add(filter, SCMP_ACT_ERRNO(EACCES), sanitizer_refused,
				COUNT(sanitizer_refused), err);
#endif
	return ret;
}

int main(void)
{
	struct ramet_err err = { 0 };
	scmp_filter_ctx filter;
	int ret;

	/* What the kernel that ramet is built on can do does not matter. */
	(void)seccomp_api_set(3);
	filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
	if (!filter)
		ret = err_set(&err, ENOMEM, "cannot prepare the system call filter");
	else
		ret = filter_fill(filter, &err);
	if (ret == 0) {
		ret = seccomp_export_bpf(filter, STDOUT_FILENO);
		if (ret < 0)
			(void)err_errno(&err, -ret, "cannot write the system call filter");
	}
	seccomp_release(filter);
	if (ret < 0)
		fprintf(stderr, "filter: %s\n", err.msg);
	return ret < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
