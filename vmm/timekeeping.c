/* Guest time: see timekeeping.h. */
#include "vmm/timekeeping.h"

#include <errno.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <time.h>
#include <x86intrin.h>

#include "lib/clock.h"
#include "vmm/evtchn.h"
#include "vmm/mmu.h"

#define TIMER_MIN_NS 1000u /* shorter waits are not worth a signal's precision */

int time_init(struct machine *m, struct ramet_err *err)
{
	int khz = ioctl(m->vcpu_fd, KVM_GET_TSC_KHZ, 0);
	uint64_t hz;

	if (khz <= 0)
		return err_errno(err, khz < 0 ? errno : EIO, "KVM_GET_TSC_KHZ");
	m->tsc_khz = (uint64_t)khz;
	/* system_time = ((tsc << shift) * mul) >> 32, mul with its top bit near. */
	hz = m->tsc_khz * 1000;
	m->tsc_shift = 0;
	while (hz > 2000000000u) {
		hz >>= 1;
		m->tsc_shift--;
	}
	while (hz <= 1000000000u) {
		hz <<= 1;
		m->tsc_shift++;
	}
	m->tsc_mul = (uint32_t)((1000000000ull << 32) / hz);
	return 0;
}

uint64_t time_now(const struct machine *m)
{
	uint64_t delta = __rdtsc() - m->pv.tsc_base;

	if (m->tsc_shift < 0)
		delta >>= -m->tsc_shift;
	else
		delta <<= m->tsc_shift;
	return m->pv.time_base + (uint64_t)(((unsigned __int128)delta * m->tsc_mul) >> 32);
}

void time_start(struct machine *m, uint64_t base_ns)
{
	m->pv.tsc_base = __rdtsc();
	m->pv.time_base = base_ns;
}

static void time_info_write(const struct machine *m, struct vcpu_time_info *t)
{
	t->version |= 1;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	t->tsc_timestamp = m->pv.tsc_base;
	t->system_time = m->pv.time_base;
	t->tsc_to_system_mul = m->tsc_mul;
	t->tsc_shift = m->tsc_shift;
	t->flags = XEN_PVCLOCK_TSC_STABLE_BIT;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	t->version++;
}

int time_info_register(struct machine *m, uint64_t va)
{
	struct vcpu_time_info *t = NULL;
	uint64_t gpa = 0;

	if (va && (va % sizeof(uint64_t) || mmu_translate(m, m->vcpu.kernel_cr3, va, &gpa) ||
		   (gpa & ~PAGE_MASK) > PAGE_SIZE - sizeof(*t)))
		return -EFAULT;
	if (gpa) {
		t = guest_ram_ptr(&m->mem, gpa, sizeof(*t));
		if (!t)
			return -EFAULT;
		time_info_write(m, t);
	}
	m->pv.time_info_gpa = gpa;
	return 0;
}

void time_publish(struct machine *m)
{
	struct shared_info *shared = shared_info_get(m);
	struct vcpu_time_info *copy = guest_ram_ptr(&m->mem, m->pv.time_info_gpa, sizeof(*copy));
	uint64_t boot_wall = clock_wall_ns() - time_now(m);

	time_info_write(m, &vcpu_info_get(m)->time);
	if (m->pv.time_info_gpa && copy)
		time_info_write(m, copy);
	shared->wc_version |= 1;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	shared->wc_sec = (uint32_t)(boot_wall / 1000000000u);
	shared->wc_sec_hi = (uint32_t)((boot_wall / 1000000000u) >> 32);
	shared->wc_nsec = (uint32_t)(boot_wall % 1000000000u);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	shared->wc_version++;
}

void time_arm(struct machine *m, uint64_t deadline)
{
	struct itimerspec spec = { 0 };

	m->pv.timer_deadline = deadline;
	if (deadline) {
		uint64_t now = time_now(m);
		uint64_t wait = deadline > now + TIMER_MIN_NS ? deadline - now : TIMER_MIN_NS;

		spec.it_value.tv_sec = (time_t)(wait / 1000000000u);
		spec.it_value.tv_nsec = (long)(wait % 1000000000u);
	}
	(void)timer_settime((timer_t)m->timer_id, 0, &spec, NULL);
}

void time_check(struct machine *m)
{
	if (m->pv.timer_deadline && time_now(m) >= m->pv.timer_deadline) {
		m->pv.timer_deadline = 0;
		evtchn_raise_virq(m, VIRQ_TIMER);
	}
}
