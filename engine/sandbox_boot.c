/* A sandbox on its way to ready: worker, guest kernel, agent, identity.
 *
 * Every step is a callback of the worker or the agent. One that comes when the
 * sandbox is no longer in the phase that expects it finds nothing to do. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/internal.h"
#include "lib/clock.h"
#include "lib/log.h"

static void boot_ready(void *arg)
{
	struct sandbox *s = arg;
	struct worker_boot boot = {
		.ram_bytes = s->memory_bytes,
		.isolation = s->isolation,
		.plain = s->plain,
		.kernel_fd = s->image.kernel_fd,
		.initrd_count = TEMPLATE_INITRDS,
	};
	struct ramet_err err;
	int r;

	if (s->phase != PHASE_JAIL)
		return;
	memcpy(boot.initrd_fds, s->image.initrd_fds, sizeof(s->image.initrd_fds));
	r = worker_boot(s->vm->worker, &boot, &err);
	template_close(&s->image);
	s->phase = PHASE_SETUP;
	s->jailed_ns = clock_monotonic_ns();
	s->timings.spawn_ns = s->jailed_ns - s->created_ns;
	if (r < 0)
		sandbox_fail(s, &err);
}

static void boot_booted(void *arg)
{
	struct sandbox *s = arg;

	if (s->phase != PHASE_SETUP)
		return;
	s->phase = PHASE_KERNEL;
	s->booted_ns = clock_monotonic_ns();
	s->timings.setup_ns = s->booted_ns - s->jailed_ns;
}

static void boot_hello(void *arg, const char *kernel, const char *version)
{
	struct sandbox *s = arg;
	struct ramet_err err;

	if (s->phase != PHASE_AGENT)
		return;
	s->phase = PHASE_RESEED;
	s->timings.boot_ns = clock_monotonic_ns() - s->booted_ns;
	(void)snprintf(s->kernel, sizeof(s->kernel), "%s", kernel);
	log_debug("sandbox %s: agent %s on Linux %s", s->id, version, kernel);
	if (sandbox_identify(s, &err) < 0)
		sandbox_fail(s, &err);
}

/* When the channel merely closed, the worker knows better why. */
void sandbox_agent_failed(void *arg, const struct ramet_err *err)
{
	struct ramet_err cause = *err;

	if (err->code == EPROTO)
		(void)err_prefix(&cause, "the guest broke the agent protocol");
	sandbox_fail(arg, err->code == ECONNRESET ? NULL : &cause);
}

static void boot_channel(void *arg)
{
	static const struct agent_callbacks callbacks = {
		.hello = boot_hello,
		.failed = sandbox_agent_failed,
	};
	struct sandbox *s = arg;
	struct ramet_err err;

	if (s->phase != PHASE_KERNEL)
		return;
	s->phase = PHASE_AGENT;
	if (agent_create(s->engine->loop, &s->engine->limits, s->vm->channel_fd, &callbacks, s,
			 &s->agent, &err) < 0) {
		sandbox_fail(s, &err);
		return;
	}
	s->vm->channel_fd = -1;
	vm_set_owner(s->vm, &sandbox_running_events, s);
	exec_queue_connect(&s->execs, s->agent);
	file_set_connect(&s->files, s->agent);
}

int sandbox_boot(struct sandbox *sandbox, struct ramet_err *err)
{
	static const struct vm_events events = {
		.worker = { .ready = boot_ready,
			    .booted = boot_booted,
			    .channel = boot_channel,
			    .lost = sandbox_vm_lost },
		.gone = sandbox_vm_gone,
	};

	sandbox->phase = PHASE_JAIL;
	return vm_start(sandbox->engine, sandbox->memory_bytes, &events, sandbox, &sandbox->vm,
			err);
}
