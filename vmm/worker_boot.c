/* CONTROL_BOOT: a guest from its kernel's first instruction; and what is known
 * about the host before there is any machine. */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "lib/clock.h"
#include "vmm/domain.h"
#include "vmm/worker_internal.h"

int handle_host(struct worker *w, struct worker_message *message, struct ramet_err *err)
{
	const struct control_host *host = &message->u.host;

	return host_facts_take(&w->host, host->facts,
			       message->length - offsetof(struct control_host, facts), err);
}

static int host_report(struct worker *w, struct ramet_err *err)
{
	struct {
		struct control_header header;
		struct host_facts facts;
	} message = { .header = { CONTROL_VERSION, CONTROL_HOST_FOUND } };

	_Static_assert(offsetof(__typeof__(message), facts) == offsetof(struct control_host, facts),
		       "as in struct control_host");
	_Static_assert(sizeof(message) <= CONTROL_MESSAGE_MAX, "facts fit into a message");
	if (!host_facts_reliable(&w->host))
		return 0;
	memcpy(&message.facts, &w->host, sizeof(message.facts));
	if (control_reply(w, &message, sizeof(message), NULL, 0))
		return err_set(err, EPIPE, "the daemon closed the control socket");
	return 0;
}

int machine_start(struct worker *w, const struct machine_config *config, struct ramet_err *err)
{
	bool told = w->host.known;
	int rc = machine_create(&w->machine, config, &w->host, err);

	if (rc)
		return rc;
	w->has_machine = true;
	return told ? 0 : host_report(w, err);
}

static int boot_check(const struct worker_message *message, struct ramet_err *err)
{
	const struct control_boot *boot = &message->u.boot;

	if (boot->initrd_count > CONTROL_INITRD_MAX || message->fd_count != boot->initrd_count + 1)
		return err_set(err, EPROTO,
			       "boot message with %u initrds came with %zu descriptors",
			       boot->initrd_count, message->fd_count);
	if (boot->cmdline_length >= CONTROL_CMDLINE_MAX ||
	    strnlen(boot->cmdline, CONTROL_CMDLINE_MAX) != boot->cmdline_length)
		return err_set(err, EPROTO, "boot message with a bad command line length %u",
			       boot->cmdline_length);
	return 0;
}

int handle_boot(struct worker *w, struct worker_message *message, struct ramet_err *err)
{
	const struct control_boot *boot = &message->u.boot;
	struct domain_config config = { .kernel_fd = message->fds[0],
					.initrd_fds = message->fds + 1,
					.initrd_count = boot->initrd_count,
					.cmdline = boot->cmdline };
	struct control_booted booted = { .header = { CONTROL_VERSION, CONTROL_BOOTED } };
	const struct machine_config machine = { .kvm_fd = w->fds.kvm,
						.m2p_fd = -1,
						.ram_bytes = boot->ram_bytes,
						.isolation = (enum isolation_mode)boot->isolation,
						.plain = boot->plain != 0 };
	struct machine *m = &w->machine;
	uint64_t start = clock_monotonic_ns();
	int rc = boot_check(message, err);

	if (!rc)
		rc = machine_start(w, &machine, err);
	if (rc)
		return rc;
	rc = machine_connect(w, err);
	if (!rc)
		rc = domain_build(m, &config, err);
	if (!rc)
		rc = m->ops->setup(m, err);
	if (rc)
		return rc;
	booted.setup_ns = clock_monotonic_ns() - start;
	w->phase = WORKER_RUNNING;
	return control_reply(w, &booted, sizeof(booted), NULL, 0);
}
