/* Who a guest is: clock, host name, generation (a version 4 UUID, RFC 9562),
 * entropy and a secret that no other guest has. A sandbox is ready only when
 * its guest has confirmed all of it. */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "engine/internal.h"
#include "lib/clock.h"
#include "lib/log.h"

#define ENTROPY_BYTES 64

void sandbox_heat(struct sandbox *sandbox)
{
	if (!sandbox->hot)
		sandbox->engine->hot++;
	sandbox->hot = true;
}

void sandbox_cool(struct sandbox *sandbox)
{
	struct engine *engine = sandbox->engine;

	if (!sandbox->hot)
		return;
	sandbox->hot = false;
	if (--engine->hot == 0)
		pool_refill_soon(engine);
}

static void sandbox_ready(struct sandbox *s)
{
	sandbox_cb created = s->created;

	s->phase = PHASE_RUN;
	s->state = SANDBOX_READY;
	s->timings.total_ns = clock_monotonic_ns() - s->created_ns;
	s->deadline = sd_event_source_disable_unref(s->deadline);
	frozen_unref(s->frozen);
	s->frozen = NULL;
	if (!s->builder)
		log_info("sandbox %s (%s, %s) ready after %.1f ms", s->id, s->template_name,
			 s->kernel, (double)s->timings.total_ns / 1e6);
	s->created = NULL;
	if (created)
		created(s->created_arg, s, NULL);
	sandbox_cool(s);
}

static void identity_confirmed(void *arg, const struct ramet_err *err)
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
	if (s->restored_ns)
		s->timings.answer_ns = clock_monotonic_ns() - s->restored_ns;
	sandbox_ready(s);
}

static int random_fill(void *buf, size_t size, struct ramet_err *err)
{
	if (getrandom(buf, size, 0) != (ssize_t)size)
		return err_set(err, EIO, "the host has no random numbers");
	return 0;
}

int sandbox_identify(struct sandbox *sandbox, struct ramet_err *err)
{
	uint8_t entropy[ENTROPY_BYTES], token[RESEED_TOKEN_SIZE];
	struct agent_identity identity = {
		.hostname = sandbox->id,
		.entropy = entropy,
		.entropy_length = sizeof(entropy),
		.token = token,
		.reseed_python = sandbox->reseed_python,
		.fork_number = sandbox->fork_number,
	};
	int r = random_fill(entropy, sizeof(entropy), err);

	if (r == 0)
		r = random_fill(token, sizeof(token), err);
	if (r == 0)
		r = random_fill(sandbox->generation, sizeof(sandbox->generation), err);
	if (r < 0)
		return r;
	sandbox->generation[6] = (uint8_t)((sandbox->generation[6] & 0x0f) | 0x40);
	sandbox->generation[8] = (uint8_t)((sandbox->generation[8] & 0x3f) | 0x80);
	memcpy(identity.generation, sandbox->generation, sizeof(identity.generation));
	identity.wall_ns = clock_wall_ns();
	r = agent_reseed(sandbox->agent, &identity, identity_confirmed, sandbox, err);
	explicit_bzero(entropy, sizeof(entropy));
	explicit_bzero(token, sizeof(token));
	return r;
}
