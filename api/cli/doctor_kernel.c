/* Doctor's checks of what the kernel lets this user do. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/cli/doctor.h"
#include "bpf/bpf_check.h"
#include "lib/cleanup.h"
#include "uffd/uffd_check.h"
#include "vmm/probe.h"

static bool cpu_virtualises(void)
{
	cleanup_file FILE *file = fopen("/proc/cpuinfo", "re");
	char line[4096];

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, "flags", 5))
			return strstr(line, " vmx ") || strstr(line, " svm ");
	return false;
}

static void kvm_absent(struct finding *finding, int error)
{
	if (error == EACCES || error == EPERM)
		finding_bad(finding, FINDING_FAIL,
			    "run as root, or join the group that owns /dev/kvm (usually \"kvm\")",
			    "/dev/kvm may not be opened by this user");
	else if (cpu_virtualises())
		finding_bad(finding, FINDING_FAIL,
			    "load the module: modprobe kvm_intel or modprobe kvm_amd; or enable "
			    "virtualisation in the firmware",
			    "/dev/kvm cannot be opened: %s", strerror(error));
	else
		finding_bad(finding, FINDING_FAIL,
			    "use a machine with KVM; in a virtual machine ask for nested "
			    "virtualisation, in a container pass the device /dev/kvm in",
			    "/dev/kvm cannot be opened: %s", strerror(error));
}

void check_kvm(const struct doctor *doctor, struct finding *finding)
{
	cleanup_close int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	struct probe_result probe;
	struct ramet_err err = { 0 };

	(void)doctor;
	if (fd < 0) {
		kvm_absent(finding, errno);
		return;
	}
	if (probe_run(fd, &probe, &err)) {
		finding_bad(finding, FINDING_FAIL,
			    "this KVM cannot run the guest; try another kernel or host", "%s",
			    err.msg);
		return;
	}
	if (probe.fast_paths_ok)
		finding_ok(finding, "usable, %s kind; an exit costs %.1f us (probed in %u us)",
			   probe_kind_name(probe.kind), probe.exit_us, probe.duration_us);
	else
		finding_bad(finding, FINDING_WARN,
			    "sandboxes run, on the slow path; report this kernel's version",
			    "usable, %s kind, without fast paths: %s", probe_kind_name(probe.kind),
			    probe.reason);
}

void check_userfaultfd(const struct doctor *doctor, struct finding *finding)
{
	struct uffd_support support;
	struct ramet_err err = { 0 };

	(void)doctor;
	if (uffd_check(&support, &err)) {
		finding_bad(
			finding, FINDING_FAIL,
			err.code == ENOSYS
				? "use a kernel with CONFIG_USERFAULTFD"
				: "run as root, or give this user access to /dev/userfaultfd, or "
				  "sysctl vm.unprivileged_userfaultfd=1",
			"%s", err.msg);
		return;
	}
	if (!support.shmem_missing || !support.shmem_minor || !support.shmem_write_protect) {
		finding_bad(finding, FINDING_FAIL, "use Linux 5.19 or later",
			    "lacks %s on shared memory",
			    !support.shmem_missing ? "missing faults"
			    : !support.shmem_minor ? "minor faults"
						   : "write protection");
		return;
	}
	finding_ok(finding, "usable by %s; missing, minor and write-protect faults on memfds",
		   support.device ? "/dev/userfaultfd" : "its system call");
}

/* One no-op through a real ring. */
static int ring_try(struct ramet_err *err)
{
	struct io_uring ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	int ret = io_uring_queue_init(2, &ring, 0);

	if (ret < 0)
		return err_errno(err, -ret, "cannot set up a ring");
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_nop(sqe);
	ret = io_uring_submit_and_wait(&ring, 1);
	if (ret >= 0)
		ret = io_uring_peek_cqe(&ring, &cqe);
	io_uring_queue_exit(&ring);
	return ret < 0 ? err_errno(err, -ret, "a ring does not complete operations") : 0;
}

void check_io_uring(const struct doctor *doctor, struct finding *finding)
{
	struct ramet_err err = { 0 };

	(void)doctor;
	if (ring_try(&err))
		finding_bad(finding, FINDING_FAIL,
			    err.code == ENOSYS
				    ? "use a kernel with CONFIG_IO_URING"
				    : "sysctl kernel.io_uring_disabled=0; in a container "
				      "allow the io_uring system calls",
			    "%s", err.msg);
	else
		finding_ok(finding, "usable");
}

void check_bpf(const struct doctor *doctor, struct finding *finding)
{
	struct bpf_support support;
	struct ramet_err err = { 0 };

	(void)doctor;
	if (bpf_check(&support, &err))
		finding_bad(finding, FINDING_FAIL,
			    err.code == EPERM
				    ? "run as root, or with the capabilities BPF and NET_ADMIN"
				    : "use a kernel with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF",
			    "%s", err.msg);
	else if (!support.btf)
		finding_bad(finding, FINDING_WARN, "use a kernel with CONFIG_DEBUG_INFO_BTF",
			    "programs load, but there is no /sys/kernel/btf/vmlinux");
	else
		finding_ok(finding, "programs load and run%s; BTF present",
			   support.jit ? "" : " (interpreted)");
}

void check_memfd(const struct doctor *doctor, struct finding *finding)
{
	cleanup_close int fd = memfd_create("ramet-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	(void)doctor;
	if (fd < 0)
		finding_bad(finding, FINDING_FAIL, "use a kernel with CONFIG_MEMFD_CREATE",
			    "memfd_create failed: %s", strerror(errno));
	else if (ftruncate(fd, 2 * 1024 * 1024) < 0 ||
		 fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
		finding_bad(finding, FINDING_FAIL, "use Linux 5.10 or later",
			    "a memfd cannot be sized and sealed: %s", strerror(errno));
	else
		finding_ok(finding, "usable, with seals");
}

void check_namespaces(const struct doctor *doctor, struct finding *finding)
{
	const int kinds = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
			  CLONE_NEWCGROUP;
	int status = 0;
	pid_t child;

	(void)doctor;
	(void)fflush(NULL);
	child = fork();
	if (!child)
		_exit(unshare(kinds) < 0 ? errno & 0x7f : 0);
	if (child < 0 || waitpid(child, &status, 0) < 0 || !WIFEXITED(status))
		finding_bad(finding, FINDING_FAIL, "check the limits on processes",
			    "cannot fork: %s", strerror(errno));
	else if (WEXITSTATUS(status))
		finding_bad(finding, FINDING_FAIL,
			    "run as root (rametd needs CAP_SYS_ADMIN to jail its workers)",
			    "cannot make namespaces: %s", strerror(WEXITSTATUS(status)));
	else
		finding_ok(finding, "pid, mount, net, ipc, uts and cgroup can be made");
}
