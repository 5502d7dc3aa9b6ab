/* The worker proper: see worker.h. */
#include "vmm/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/clock.h"
#include "lib/fdpass.h"
#include "lib/log.h"
#include "vmm/control.h"
#include "vmm/domain.h"
#include "vmm/machine.h"
#include "vmm/run.h"

#define CONSOLE_CHUNK (CONTROL_MESSAGE_MAX - sizeof(struct control_console))

struct worker {
	struct worker_fds fds;
	struct machine machine;
	uint32_t console_dropped;
};

static int send_blocking(int fd, const void *data, size_t len)
{
	struct pollfd pfd = { .fd = fd, .events = POLLOUT };
	int rc;

	while ((rc = fdpass_send(fd, data, len, NULL, 0)) == -EAGAIN)
		(void)poll(&pfd, 1, -1);
	return rc;
}

/* The console may lose output rather than hold up the guest. */
static void console_send(void *arg, const char *data, size_t len)
{
	struct worker *w = arg;
	union {
		struct control_console head;
		char bytes[CONTROL_MESSAGE_MAX];
	} message;

	while (len) {
		size_t n = len < CONSOLE_CHUNK ? len : CONSOLE_CHUNK;

		message.head = (struct control_console){
			.header = { CONTROL_VERSION, CONTROL_CONSOLE },
			.dropped = w->console_dropped,
			.length = (uint32_t)n,
		};
		memcpy(message.bytes + sizeof(message.head), data, n);
		if (fdpass_send(w->fds.control, &message, sizeof(message.head) + n, NULL, 0))
			w->console_dropped += (uint32_t)n;
		else
			w->console_dropped = 0;
		data += n;
		len -= n;
	}
}

static void channel_report(void *arg)
{
	struct worker *w = arg;
	struct control_header message = { CONTROL_VERSION, CONTROL_CHANNEL };

	(void)send_blocking(w->fds.control, &message, sizeof(message));
}

static void stats_reply(struct worker *w)
{
	const struct machine_stats *s = &w->machine.stats;
	struct control_stats message = {
		.header = { CONTROL_VERSION, CONTROL_STATS_REPLY },
		.exits = s->exits,
		.hypercalls = s->hypercalls,
		.exceptions = s->exceptions,
		.upcalls = s->upcalls,
		.blocked_ns = s->blocked_ns,
		.channel_to_host = s->channel_to_host,
		.channel_to_guest = s->channel_to_guest,
	};

	(void)send_blocking(w->fds.control, &message, sizeof(message));
}

/* Closes what a message should not have carried. */
static void fds_discard(const int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		(void)close(fds[i]);
}

/* While the guest runs: statistics, and the end of the daemon. */
static void control_service(void *arg)
{
	struct worker *w = arg;
	union {
		struct control_header header;
		char bytes[CONTROL_MESSAGE_MAX];
	} message;
	int fds[FDPASS_MAX];
	size_t nfds = 0;
	ssize_t n;

	while ((n = fdpass_recv(w->fds.control, &message, sizeof(message), fds, &nfds)) > 0) {
		fds_discard(fds, nfds);
		if ((size_t)n >= sizeof(message.header) && message.header.version == CONTROL_VERSION &&
		    message.header.type == CONTROL_STATS)
			stats_reply(w);
		else
			log_warn("ignored control message of %zd bytes, type %u", n,
				 message.header.type);
	}
	if (n == 0 || (n != -EAGAIN && n != -EMSGSIZE))
		exit(EXIT_SUCCESS); /* nobody is left to report to */
}

static int ready_send(struct worker *w, const struct probe_result *probe)
{
	struct control_ready message = { .header = { CONTROL_VERSION, CONTROL_READY },
					 .kvm_kind = probe->kind,
					 .pid = (uint32_t)getpid() };

	return send_blocking(w->fds.control, &message, sizeof(message));
}

static int boot_check(const struct control_boot *boot, ssize_t len, size_t nfds, struct ramet_err *err)
{
	if (len != (ssize_t)sizeof(*boot) || boot->header.version != CONTROL_VERSION ||
	    boot->header.type != CONTROL_BOOT)
		return err_set(err, EPROTO, "expected a boot message, got %zd bytes", len);
	if (boot->initrd_count > CONTROL_INITRD_MAX || nfds != boot->initrd_count + 1)
		return err_set(err, EPROTO, "boot message with %u initrds came with %zu descriptors",
			       boot->initrd_count, nfds);
	if (boot->cmdline_length >= CONTROL_CMDLINE_MAX ||
	    strnlen(boot->cmdline, CONTROL_CMDLINE_MAX) != boot->cmdline_length)
		return err_set(err, EPROTO, "boot message with a bad command line length %u",
			       boot->cmdline_length);
	return 0;
}

/* Waits for CONTROL_BOOT. 0, -ECONNRESET when the daemon went away, -errno. */
static int boot_receive(struct worker *w, struct control_boot *boot, int *fds, struct ramet_err *err)
{
	struct pollfd pfd = { .fd = w->fds.control, .events = POLLIN };
	size_t nfds = 0;
	ssize_t n;
	int rc;

	while ((n = fdpass_recv(w->fds.control, boot, sizeof(*boot), fds, &nfds)) == -EAGAIN)
		(void)poll(&pfd, 1, -1);
	if (n == 0)
		return err_set(err, ECONNRESET, "the daemon closed the control socket");
	if (n < 0)
		return err_errno(err, (int)-n, "control socket");
	rc = boot_check(boot, n, nfds, err);
	if (rc)
		fds_discard(fds, nfds);
	return rc;
}

static int guest_start(struct worker *w, const struct probe_result *probe,
		       const struct control_boot *boot, const int *fds, struct ramet_err *err)
{
	struct machine *m = &w->machine;
	struct domain_config config = { .kernel_fd = fds[0],
					.initrd_fds = fds + 1,
					.initrd_count = boot->initrd_count,
					.cmdline = boot->cmdline };
	int rc;

	rc = machine_create(m, w->fds.kvm, probe, boot->ram_bytes,
			    (enum isolation_mode)boot->isolation, boot->plain != 0, err);
	if (rc)
		return rc;
	m->channel_fd = w->fds.channel;
	m->sink = (struct machine_sink){ .arg = w,
					 .console = console_send,
					 .channel_connected = channel_report,
					 .service = control_service };
	rc = domain_build(m, &config, err);
	if (!rc)
		rc = m->ops->setup(m, err);
	if (!rc && (run_watch_fd(w->fds.control) || run_watch_fd(w->fds.channel)))
		rc = err_errno(err, errno, "cannot watch the worker's sockets");
	return rc;
}

static void ended_send(struct worker *w, enum end_reason reason, int code, const char *text)
{
	struct control_ended message = { .header = { CONTROL_VERSION, CONTROL_ENDED },
					 .reason = reason,
					 .code = (uint32_t)code };

	(void)snprintf(message.text, sizeof(message.text), "%s", text);
	(void)send_blocking(w->fds.control, &message, sizeof(message));
}

static int guest_run(struct worker *w, const struct probe_result *probe,
		     const struct control_boot *boot, const int *fds, struct ramet_err *err)
{
	struct control_booted booted = { .header = { CONTROL_VERSION, CONTROL_BOOTED } };
	uint64_t start = clock_monotonic_ns();
	int rc = guest_start(w, probe, boot, fds, err);

	fds_discard(fds, boot->initrd_count + 1);
	if (rc)
		return rc;
	booted.setup_ns = clock_monotonic_ns() - start;
	rc = send_blocking(w->fds.control, &booted, sizeof(booted));
	if (rc)
		return err_errno(err, -rc, "control socket");
	rc = machine_run(&w->machine, err);
	if (!rc)
		ended_send(w, w->machine.end_reason, 0, w->machine.end_text);
	return rc;
}

int worker_run(const struct worker_fds *fds)
{
	cleanup_free struct worker *w = calloc(1, sizeof(*w));
	struct probe_result probe;
	struct control_boot boot;
	struct ramet_err err = { 0 };
	int boot_fds[FDPASS_MAX];
	int rc;

	if (!w)
		return EXIT_FAILURE;
	w->fds = *fds;
	rc = probe_run(fds->kvm, &probe, &err);
	if (!rc)
		rc = ready_send(w, &probe);
	if (!rc)
		rc = boot_receive(w, &boot, boot_fds, &err);
	if (rc == -ECONNRESET)
		return EXIT_SUCCESS;
	if (!rc)
		rc = guest_run(w, &probe, &boot, boot_fds, &err);
	if (rc) {
		log_error("%s", err.msg);
		ended_send(w, END_ERROR, -rc, err.msg);
	}
	machine_destroy(&w->machine);
	return EXIT_SUCCESS;
}
