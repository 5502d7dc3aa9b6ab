/* The run loop: see run.h. */
#include "vmm/run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "lib/clock.h"
#include "vmm/channel.h"
#include "vmm/emulate.h"
#include "vmm/evtchn.h"
#include "vmm/hypercall.h"
#include "vmm/idle.h"
#include "vmm/mmu.h"
#include "vmm/timekeeping.h"
#include "vmm/trap.h"

/* Page faults at one place with nothing in between: the guest (or the fast
 * path) does not get anywhere. */
#define FAULT_LOOP_MAX 100000u

#define PF_PRESENT       1u
#define PF_WRITE         2u
#define LINUX_DIRECT_MAP 0xffff880000000000ull
#define VECTOR_INT80     0x80

struct run_loop {
	struct machine *m;
	uint64_t fault_rip, fault_address;
	unsigned int fault_repeats;
};

int run_watch_fd(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETOWN, getpid()) ||
	    fcntl(fd, F_SETFL, flags | O_ASYNC | O_NONBLOCK))
		return -errno;
	return 0;
}

/* Takes pending signals and does what they announce. */
static void service(struct machine *m)
{
	struct signalfd_siginfo info;
	bool timer = false;

	while (read(m->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		timer |= info.ssi_signo == SIGALRM;
	time_check(m);
	/* The host's clock may run a little ahead of the TSC, and the back-end
	 * borrows the timer: what is still due is armed again. */
	if (timer && m->pv.timer_deadline)
		time_arm(m, m->pv.timer_deadline);
	channel_pump(m);
	if (m->sink.service)
		m->sink.service(m->sink.arg);
}

/* Waits for a signal, or until the guest has been idle for long enough. */
static void wait_for_signal(struct machine *m)
{
	struct pollfd pfd = { .fd = m->signal_fd, .events = POLLIN };
	int timeout = idle_wait_ms(m, clock_monotonic_ns());
	struct ramet_err err = { 0 };

	if (timeout)
		(void)poll(&pfd, 1, timeout);
	else if (idle_trim(m, &err))
		machine_end(m, END_ERROR, "%s", err.msg);
}

/* SCHEDOP_block: nothing runs until an event is pending. */
static void wait_for_event(struct machine *m)
{
	uint64_t start = clock_monotonic_ns();

	time_check(m);
	while (!vcpu_info_pending(m) && !m->ended && !m->want_pause) {
		wait_for_signal(m);
		service(m);
	}
	m->blocked = !vcpu_info_pending(m) && !m->ended;
	m->stats.blocked_ns += clock_monotonic_ns() - start;
}

/* Some KVMs report `int n` from CPL 3 as #UD. Delivers what the guest's own
 * gates say. True when it was one. */
static bool soft_interrupt(struct machine *m)
{
	struct kvm_regs *r = &m->vcpu.regs;
	const struct trap_gate *gate;
	uint8_t bytes[2];

	if (mmu_fetch(m, r->rip, bytes, sizeof(bytes)) != sizeof(bytes) || bytes[0] != 0xcd)
		return false;
	gate = &m->pv.traps[bytes[1]];
	if (m->vcpu.kernel_mode || (gate->address && gate->dpl == 3)) {
		r->rip += sizeof(bytes);
		trap_exception(m, bytes[1], 0, 0);
	} else {
		trap_exception(m, VECTOR_GP, bytes[1] * 8u + 2u, 0);
	}
	return true;
}

static bool fault_loops(struct run_loop *loop, uint64_t address)
{
	uint64_t rip = loop->m->vcpu.regs.rip;

	if (rip != loop->fault_rip || address != loop->fault_address) {
		loop->fault_rip = rip;
		loop->fault_address = address;
		loop->fault_repeats = 0;
		return false;
	}
	return ++loop->fault_repeats > FAULT_LOOP_MAX;
}

static void handle_exception(struct run_loop *loop, const struct vcpu_exit *exit)
{
	struct machine *m = loop->m;
	bool kernel = m->vcpu.kernel_mode;

	if (exit->vector == VECTOR_UD) {
		if (kernel && emulate_prefixed_cpuid(m))
			return;
		if (soft_interrupt(m))
			return;
	} else if (exit->vector == VECTOR_GP && kernel && emulate_privileged(m)) {
		return;
	} else if (exit->vector == VECTOR_PF) {
		if (fault_loops(loop, exit->cr2)) {
			machine_end(m, END_GUEST_FAULT, "page fault loop at %#llx, address %#llx",
				    (unsigned long long)m->vcpu.regs.rip,
				    (unsigned long long)exit->cr2);
			return;
		}
		if (kernel && (exit->error & PF_PRESENT) && (exit->error & PF_WRITE) &&
		    exit->cr2 >= LINUX_DIRECT_MAP && mmu_fix_table_write(m, exit->cr2))
			return;
	}
	trap_exception(m, exit->vector, exit->error, exit->cr2);
}

static void handle_exit(struct run_loop *loop, const struct vcpu_exit *exit,
			const struct ramet_err *err)
{
	struct machine *m = loop->m;

	switch (exit->kind) {
	case EXIT_SYSCALL:
		loop->fault_repeats = 0;
		if (m->vcpu.kernel_mode)
			hypercall_dispatch(m);
		else
			trap_syscall(m);
		break;
	case EXIT_COMPAT:
		/* No handler was accepted for it (callback_op): an invalid opcode. */
		trap_exception(m, VECTOR_UD, 0, 0);
		break;
	case EXIT_EXCEPTION:
		handle_exception(loop, exit);
		break;
	case EXIT_INTERRUPTED:
		service(m);
		break;
	case EXIT_BROKEN:
		machine_end(m, END_GUEST_FAULT, "%s", err->msg);
		break;
	}
}

/* Whether m->vcpu is all there is to know about where the guest is. */
static bool at_boundary(const struct vcpu_exit *exit)
{
	return exit->kind != EXIT_INTERRUPTED || exit->injectable;
}

static bool pause_taken(struct machine *m, const struct vcpu_exit *exit)
{
	m->paused = m->want_pause && at_boundary(exit);
	if (m->paused)
		m->want_pause = false;
	return m->paused;
}

int machine_run(struct machine *m, struct ramet_err *err)
{
	struct run_loop loop = { .m = m };
	struct vcpu_exit exit = { .kind = EXIT_INTERRUPTED, .injectable = true };
	struct ramet_err local = { 0 };

	/* What came before there were signals, or while nobody looked at them. */
	service(m);
	while (!m->ended) {
		int rc;

		if (m->blocked)
			wait_for_event(m);
		if (!m->ended && pause_taken(m, &exit))
			break;
		time_check(m);
		if (at_boundary(&exit)) {
			if (trap_upcall_wanted(m))
				trap_upcall(m);
			m->want_injection = false;
		} else {
			m->want_injection = m->want_pause || trap_upcall_wanted(m);
		}
		if (m->ended)
			break;
		rc = m->ops->enter(m, &exit, &local);
		if (rc) {
			*err = local;
			return rc;
		}
		m->stats.exits++;
		handle_exit(&loop, &exit, &local);
	}
	return 0;
}
