/* Taking a machine's state and giving it to another: see state.h. */
#include "vmm/state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/clock.h"
#include "vmm/cpuid.h"
#include "vmm/mmu.h"
#include "vmm/timekeeping.h"

/* Calibrations of one processor's TSC differ by some ppm from boot to boot; KVM
 * itself takes this much for the same frequency. */
#define TSC_TOLERANCE_PPM 250u

/* A stop that a guest kernel does not take for a processor that hangs (its
 * watchdogs wait for 20 s). */
#define STOP_SHORT_NS (10 * 1000000000ull)

void state_buffer_free(struct state_buffer *buffer)
{
	free(buffer->data);
	*buffer = (struct state_buffer){ 0 };
}

static int state_take(struct machine *m, struct machine_state *s, struct ramet_err *err)
{
	s->ram_bytes = m->mem.ram_bytes;
	s->isolation = m->isolation;
	s->tsc_khz = m->tsc_khz;
	s->exposed_xcr0 = m->xcr0;
	s->cpuid_hash = m->cpuid.hash;
	s->vcpu = m->vcpu;
	s->blocked = m->blocked;
	s->pv = m->pv;
	s->pv.tsc_base = s->pv.time_base = 0;
	s->system_time_ns = time_now(m);
	s->wall_time_ns = clock_wall_ns();
	return state_registers_save(m, s, err);
}

int state_capture(struct machine *m, struct state_buffer *out, struct ramet_err *err)
{
	cleanup_free struct machine_state *s = NULL;
	int rc;

	/* Elsewhere the vCPU may be half way through an exception. Page-table
	 * changes that are still pending do not matter: they are in memory, and a
	 * new processor has nothing stale. */
	if (!m->paused || m->ended)
		return err_set(err, EBUSY, "the guest is not paused");
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(err, ENOMEM, "no memory for the machine state");
	rc = state_take(m, s, err);
	if (!rc)
		rc = state_check(s, err);
	return rc ? rc : state_encode(s, out, err);
}

static bool tsc_fits(uint64_t a, uint64_t b)
{
	uint64_t difference = a > b ? a - b : b - a;

	return difference * 1000000 <= a * TSC_TOLERANCE_PPM;
}

static int machine_fits(const struct machine *m, const struct machine_state *s,
			struct ramet_err *err)
{
	if (m->has_guest)
		return err_set(err, EBUSY, "the machine runs a guest already");
	if (s->ram_bytes != m->mem.ram_bytes)
		return err_set(err, EXDEV,
			       "the state is of a guest with %" PRIu64
			       " MiB of memory, this machine "
			       "has %" PRIu64 " MiB",
			       s->ram_bytes >> 20, m->mem.ram_bytes >> 20);
	if (s->isolation != m->isolation)
		return err_set(err, EXDEV, "the state is of a guest with %s isolation",
			       s->isolation == ISOLATION_FULL ? "full" : "fast");
	if (s->exposed_xcr0 != m->xcr0 || s->cpuid_hash != m->cpuid.hash)
		return err_set(err, EXDEV,
			       "the state is of a guest on another processor (features %#" PRIx64
			       "/%016" PRIx64 ", here %#" PRIx64 "/%016" PRIx64 ")",
			       s->exposed_xcr0, s->cpuid_hash, m->xcr0, m->cpuid.hash);
	if (!tsc_fits(s->tsc_khz, m->tsc_khz))
		return err_set(err, EXDEV,
			       "the state is of a guest whose time stamp counter runs at %" PRIu64
			       " kHz, here it is %" PRIu64 " kHz",
			       s->tsc_khz, m->tsc_khz);
	return 0;
}

/* The memory must be the one that the state was taken with. */
static int root_check(const struct machine *m, uint64_t root, const char *what,
		      struct ramet_err *err)
{
	uint8_t level = 0;

	(void)guest_read(&m->mem, m->mem.levels_gpa + (root >> PAGE_SHIFT), &level, sizeof(level));
	if ((level & LEVEL_MASK) != 4)
		return err_set(
			err, EXDEV,
			"the state does not belong to this memory: %s root table at %#" PRIx64
			" has level %u",
			what, root, level & LEVEL_MASK);
	return 0;
}

static int memory_fits(const struct machine *m, const struct machine_state *s,
		       struct ramet_err *err)
{
	int rc = root_check(m, s->vcpu.kernel_cr3, "the kernel's", err);

	if (!rc && s->vcpu.user_cr3 && s->isolation == ISOLATION_FULL)
		rc = root_check(m, s->vcpu.user_cr3, "the user's", err);
	return rc;
}

/* Nanoseconds that a guest which goes on after a short stop must not lose: its
 * wall clock would go slow by each fork. After a long one its time goes on from
 * where it stopped, and it is told what the wall clock says. */
static uint64_t time_missed(const struct machine_state *s)
{
	uint64_t now = clock_wall_ns();
	uint64_t missed = now > s->wall_time_ns ? now - s->wall_time_ns : 0;

	return missed <= STOP_SHORT_NS ? missed : 0;
}

static int state_give(struct machine *m, const struct machine_state *s, struct ramet_err *err)
{
	int rc;

	m->vcpu = s->vcpu;
	m->pv = s->pv;
	m->blocked = s->blocked;
	mmu_pending_clear(m);
	rc = m->ops->setup(m, err);
	if (!rc)
		rc = state_registers_restore(m, s, err);
	if (rc)
		return rc;
	time_start(m, s->system_time_ns + time_missed(s));
	time_publish(m);
	time_arm(m, s->pv.timer_deadline);
	return 0;
}

int state_apply(struct machine *m, const void *data, size_t len, struct ramet_err *err)
{
	cleanup_free struct machine_state *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return err_set(err, ENOMEM, "no memory for the machine state");
	rc = state_decode(s, data, len, err);
	if (!rc)
		rc = machine_fits(m, s, err);
	if (!rc)
		rc = memory_fits(m, s, err);
	return rc ? rc : state_give(m, s, err);
}
