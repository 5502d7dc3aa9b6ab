/* A sandbox on its way to ready: worker, guest kernel, agent, identity.
 *
 * Every step is a callback of the worker or the agent. One that comes when the
 * sandbox is no longer in the phase that expects it finds nothing to do. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "engine/internal.h"
#include "lib/clock.h"
#include "lib/log.h"

#define ENTROPY_BYTES 64

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

static void boot_reseeded(void *arg, const struct ramet_err *err)
{
	struct sandbox *s = arg;
	struct ramet_err cause;

	if (s->phase != PHASE_RESEED)
		return;
	if (err) {
		cause = *err;
		(void)err_prefix(&cause, "the guest refused its identity");
		sandbox_fail(s, &cause);
		return;
	}
	s->phase = PHASE_RUN;
	s->state = SANDBOX_READY;
	s->timings.total_ns = clock_monotonic_ns() - s->created_ns;
	s->deadline = sd_event_source_disable_unref(s->deadline);
	log_info("sandbox %s (%s, %s) ready after %llu ms", s->id, s->template_name, s->kernel,
		 (unsigned long long)(s->timings.total_ns / 1000000));
	if (s->created) {
		sandbox_cb created = s->created;

		s->created = NULL;
		created(s->created_arg, s, NULL);
	}
}

/* Who the guest is: clock, host name, generation (a version 4 UUID, RFC 9562)
 * and entropy that no other guest has. Python is not asked to reseed: in a
 * guest that has just booted it seeds from a kernel that is only now filled,
 * and waiting for its start would cost more than all the rest. */
static int boot_identify(struct sandbox *s, struct ramet_err *err)
{
	uint8_t entropy[ENTROPY_BYTES];
	struct agent_identity identity = {
		.hostname = s->id,
		.entropy = entropy,
		.entropy_length = sizeof(entropy),
	};
	int r;

	if (getrandom(entropy, sizeof(entropy), 0) != (ssize_t)sizeof(entropy) ||
	    getrandom(identity.generation, sizeof(identity.generation), 0) !=
		    (ssize_t)sizeof(identity.generation))
		return err_set(err, EIO, "the host has no random numbers");
	identity.generation[6] = (uint8_t)((identity.generation[6] & 0x0f) | 0x40);
	identity.generation[8] = (uint8_t)((identity.generation[8] & 0x3f) | 0x80);
	identity.wall_ns = clock_wall_ns();
	r = agent_reseed(s->agent, &identity, boot_reseeded, s, err);
	explicit_bzero(entropy, sizeof(entropy));
	return r;
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
	if (boot_identify(s, &err) < 0)
		sandbox_fail(s, &err);
}

/* When the channel merely closed, the worker knows better why. */
static void boot_agent_failed(void *arg, const struct ramet_err *err)
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
		.failed = boot_agent_failed,
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

	return vm_start(sandbox->engine, sandbox->memory_bytes, &events, sandbox, &sandbox->vm,
			err);
}
