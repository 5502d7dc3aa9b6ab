/* One guest in the foreground: see standalone.h. */
#include "vmm/standalone.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/clock.h"
#include "vmm/domain.h"
#include "vmm/hv_area.h"
#include "vmm/machine.h"
#include "vmm/probe.h"
#include "vmm/run.h"
#include "vmm/shim/shim_data.h"

static void console_print(void *arg, const char *data, size_t len)
{
	(void)arg;
	while (len) {
		ssize_t n = write(STDOUT_FILENO, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		data += n;
		len -= (size_t)n;
	}
}

static int open_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		fprintf(stderr, "ramet-vmm: %s: %m\n", path);
	return fd;
}

static void stats_print(const struct machine *m, uint64_t start)
{
	const struct shim_data *d = hv_page_ptr(m, HV_PAGE_DATA);

	fprintf(stderr,
		"stats: seconds=%.3f kvm=%s fast_path=%d exits=%" PRIu64 " hypercalls=%" PRIu64
		" exceptions=%" PRIu64 " upcalls=%" PRIu64 " blocked=%.3f\n",
		(double)(clock_monotonic_ns() - start) / 1e9, probe_kind_name(m->probe.kind),
		m->fast_path, m->stats.exits, m->stats.hypercalls, m->stats.exceptions,
		m->stats.upcalls, (double)m->stats.blocked_ns / 1e9);
	if (m->fast_path)
		fprintf(stderr,
			"stats: in-guest syscalls=%" PRIu64 " iret_user=%" PRIu64
			" iret_kernel=%" PRIu64 " faults=%" PRIu64 "\n",
			d->stat_syscall, d->stat_iret_user, d->stat_iret_kernel, d->stat_fault);
}

static int guest_run(struct machine *m, const struct standalone_options *o, struct ramet_err *err)
{
	struct domain_config config = { .kernel_fd = -1, .cmdline = o->cmdline };
	int initrds[STANDALONE_INITRDS_MAX];
	int rc = -ENOENT;

	config.kernel_fd = open_file(o->kernel);
	config.initrd_fds = initrds;
	for (; config.initrd_count < o->initrd_count; config.initrd_count++) {
		initrds[config.initrd_count] = open_file(o->initrds[config.initrd_count]);
		if (initrds[config.initrd_count] < 0)
			break;
	}
	if (config.kernel_fd < 0 || config.initrd_count < o->initrd_count)
		(void)err_set(err, ENOENT, "an input file cannot be opened");
	else
		rc = domain_build(m, &config, err);
	if (!rc)
		rc = m->ops->setup(m, err);
	close_fd(&config.kernel_fd);
	for (unsigned int i = 0; i < config.initrd_count; i++)
		close_fd(&initrds[i]);
	return rc ? rc : machine_run(m, err);
}

static int end_status(enum end_reason reason)
{
	switch (reason) {
	case END_POWEROFF:
		return STANDALONE_POWEROFF;
	case END_REBOOT:
		return STANDALONE_REBOOT;
	case END_PANIC:
		return STANDALONE_PANIC;
	case END_GUEST_FAULT:
		return STANDALONE_GUEST_FAULT;
	case END_ERROR:
		break;
	}
	return STANDALONE_ERROR;
}

int standalone_run(const struct standalone_options *o)
{
	cleanup_free struct machine *m = calloc(1, sizeof(*m));
	cleanup_close int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	uint64_t start = clock_monotonic_ns();
	struct machine_config config = { .m2p_fd = -1,
					 .ram_bytes = o->ram_bytes,
					 .isolation = o->isolation,
					 .plain = o->plain };
	struct host_facts host = { 0 };
	struct ramet_err err = { 0 };
	int status = STANDALONE_ERROR;
	int rc;

	if (!m || kvm_fd < 0) {
		fprintf(stderr, "ramet-vmm: /dev/kvm: %m\n");
		return STANDALONE_ERROR;
	}
	config.kvm_fd = kvm_fd;
	rc = machine_create(m, &config, &host, &err);
	if (!rc) {
		m->sink.console = console_print;
		rc = guest_run(m, o, &err);
		if (o->stats)
			stats_print(m, start);
		if (!rc) {
			fprintf(stderr, "ramet-vmm: %s\n", m->end_text);
			status = end_status(m->end_reason);
		}
		machine_destroy(m);
	}
	if (rc)
		fprintf(stderr, "ramet-vmm: %s\n", err.msg);
	return status;
}
