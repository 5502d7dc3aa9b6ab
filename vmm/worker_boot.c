/* CONTROL_BOOT: a guest from its kernel's first instruction. */
#include <errno.h>
#include <string.h>

#include "lib/clock.h"
#include "vmm/domain.h"
#include "vmm/worker_internal.h"

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
	struct machine *m = &w->machine;
	uint64_t start = clock_monotonic_ns();
	int rc = boot_check(message, err);

	if (!rc)
		rc = machine_create(m, w->fds.kvm, &w->probe, boot->ram_bytes,
				    (enum isolation_mode)boot->isolation, boot->plain != 0, err);
	if (rc)
		return rc;
	w->has_machine = true;
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
