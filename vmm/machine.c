/* Creating and destroying a machine: see machine.h. */
#include "vmm/machine.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "vmm/cpuid.h"
#include "vmm/dirty_log.h"
#include "vmm/mmu.h"
#include "vmm/reclaim.h"
#include "vmm/timekeeping.h"

#define M2P_INVALID         (~0ull)
#define KERNEL_SIGSET_BYTES 8u

static int map_anonymous(size_t size, uint8_t **p, const char *what, struct ramet_err *err)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return err_errno(err, errno, "cannot map %zu bytes for %s", size, what);
	*p = at;
	return 0;
}

/* Machine frames are physical frames: the identity, and invalid beyond RAM. */
static void m2p_fill(uint64_t *table, uint64_t frames)
{
	for (uint64_t i = 0; i < frames; i++)
		table[i] = i;
	/* Only to the end of the page: what lies behind is never looked up. */
	for (uint64_t i = frames; i % (PAGE_SIZE / 8); i++)
		table[i] = M2P_INVALID;
}

/* The table that all guests have in common: RAM is a multiple of 2 MiB, so its
 * part of the table ends with a page. */
static int m2p_share(struct machine *m, int fd, uint64_t bytes, struct ramet_err *err)
{
	struct stat st;

	if (fstat(fd, &st))
		return err_errno(err, errno, "the shared machine-to-physical table");
	if (st.st_size < (off_t)bytes)
		return err_set(err, EINVAL,
			       "the shared machine-to-physical table has %lld bytes, not %llu",
			       (long long)st.st_size, (unsigned long long)bytes);
	if (mmap(m->m2p, bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) == MAP_FAILED)
		return err_errno(err, errno, "cannot map the shared machine-to-physical table");
	return 0;
}

static int m2p_create(struct machine *m, int fd, struct ramet_err *err)
{
	uint64_t frames = guest_frames(&m->mem);
	int rc;

	m->m2p_size = (frames * 8 + PAGE_SIZE_2M - 1) & ~(PAGE_SIZE_2M - 1);
	rc = map_anonymous(m->m2p_size, &m->m2p, "the machine-to-physical table", err);
	if (rc)
		return rc;
	if (fd >= 0)
		return m2p_share(m, fd, frames * 8, err);
	m2p_fill((uint64_t *)(void *)m->m2p, frames);
	return 0;
}

int machine_slot_set(struct machine *m, uint32_t slot, uint64_t gpa, uint64_t size, void *host,
		     uint32_t flags, struct ramet_err *err)
{
	struct kvm_userspace_memory_region region = { .slot = slot,
						      .flags = flags,
						      .guest_phys_addr = gpa,
						      .memory_size = size,
						      .userspace_addr = (uint64_t)host };

	if (ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &region))
		return err_errno(err, errno, "KVM_SET_USER_MEMORY_REGION slot %u at %#llx", slot,
				 (unsigned long long)gpa);
	return 0;
}

int machine_alias_ram(struct machine *m, struct ramet_err *err)
{
	int rc = machine_slot_set(m, SLOT_ALIAS, ALIAS_GPA, m->mem.ram_bytes, m->mem.base,
				  m->logged ? KVM_MEM_LOG_DIRTY_PAGES : 0, err);

	m->aliased = !rc;
	return rc;
}

static int vm_create(struct machine *m, struct ramet_err *err)
{
	int rc;

	m->vm_fd = ioctl(m->kvm_fd, KVM_CREATE_VM, 0);
	if (m->vm_fd < 0)
		return err_errno(err, errno, "KVM_CREATE_VM");
	rc = m->shell ? dirty_log_start(m, err)
		      : machine_slot_set(m, SLOT_MEMORY, 0, m->mem.size, m->mem.base, 0, err);
	if (!rc)
		rc = machine_slot_set(m, SLOT_HV, HV_GPA, HV_SIZE, m->hv, 0, err);
	if (!rc)
		rc = machine_slot_set(m, SLOT_M2P, M2P_GPA, m->m2p_size, m->m2p, KVM_MEM_READONLY,
				      err);
	return rc;
}

int machine_shadow_drop(struct machine *m, struct ramet_err *err)
{
	/* Deleting any slot drops the shadow of all of them. */
	int rc = machine_slot_set(m, SLOT_M2P, M2P_GPA, 0, m->m2p, KVM_MEM_READONLY, err);

	if (!rc)
		rc = machine_slot_set(m, SLOT_M2P, M2P_GPA, m->m2p_size, m->m2p, KVM_MEM_READONLY,
				      err);
	return rc;
}

static int vcpu_create(struct machine *m, struct host_facts *host, struct ramet_err *err)
{
	int size = ioctl(m->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	void *run;
	int rc;

	m->vcpu_fd = ioctl(m->vm_fd, KVM_CREATE_VCPU, 0);
	if (m->vcpu_fd < 0 || size < (int)sizeof(struct kvm_run))
		return err_errno(err, errno, "KVM_CREATE_VCPU");
	run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu_fd, 0);
	if (run == MAP_FAILED)
		return err_errno(err, errno, "cannot map the vCPU's run area");
	m->run = run;
	m->run_size = (size_t)size;
	rc = time_init(m, err);
	if (!rc)
		rc = cpuid_supported_load(m, err);
	if (!rc && !host->known)
		cpuid_learn(m, host);
	return rc ? rc : cpuid_install(m, host, err);
}

static void signals_of_interest(sigset_t *set)
{
	(void)sigemptyset(set);
	(void)sigaddset(set, SIGALRM); /* the guest's timer */
	(void)sigaddset(set, SIGIO);   /* a socket of the worker */
}

/* Signals stay blocked except while the guest runs: there they end KVM_RUN with
 * EINTR, elsewhere they wait in the signalfd. So no handler and no race. */
static int signals_create(struct machine *m, struct ramet_err *err)
{
	union {
		struct kvm_signal_mask
			head; /* the kernel's sigset_t: blocked while the guest runs */
		uint8_t room[sizeof(struct kvm_signal_mask) + KERNEL_SIGSET_BYTES];
	} mask = { .room = { 0 } };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
	sigset_t set;
	timer_t timer;

	mask.head.len = KERNEL_SIGSET_BYTES;
	signals_of_interest(&set);
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return err_errno(err, errno, "sigprocmask");
	m->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (m->signal_fd < 0)
		return err_errno(err, errno, "signalfd");
	if (ioctl(m->vcpu_fd, KVM_SET_SIGNAL_MASK, &mask))
		return err_errno(err, errno, "KVM_SET_SIGNAL_MASK");
	if (timer_create(CLOCK_MONOTONIC, &event, &timer))
		return err_errno(err, errno, "timer_create");
	m->timer_id = (void *)timer;
	m->timer_valid = true;
	return 0;
}

static const struct vcpu_ops *ops_choose(const struct probe_result *probe)
{
	return probe->kind == KVM_KIND_HARDWARE ? &vcpu_ops_hardware : &vcpu_ops_software;
}

static void machine_init(struct machine *m, const struct machine_config *config,
			 const struct host_facts *host)
{
	memset(m, 0, offsetof(struct machine, mmu));
	mmu_pending_clear(m);
	mmu_work_reset(m);
	m->kvm_fd = config->kvm_fd;
	m->vm_fd = m->vcpu_fd = m->signal_fd = m->channel_fd = -1;
	/* With CPL 0 inside the guest two root tables cost next to nothing. */
	m->isolation = host->probe.kind == KVM_KIND_HARDWARE ? ISOLATION_FULL : config->isolation;
	m->probe = host->probe;
	m->fast_path = !config->plain && host->probe.fast_paths_ok;
	m->ops = ops_choose(&host->probe);
	m->shell = config->shell;
}

int machine_create(struct machine *m, const struct machine_config *config, struct host_facts *host,
		   struct ramet_err *err)
{
	int rc = host->known ? 0 : probe_run(config->kvm_fd, &host->probe, err);

	if (rc)
		return rc;
	machine_init(m, config, host);
	if (config->isolation != ISOLATION_FULL && config->isolation != ISOLATION_FAST)
		return err_set(err, EINVAL, "isolation mode %d does not exist", config->isolation);
	rc = m->shell ? guest_memory_reserve(&m->mem, config->ram_bytes, err)
		      : guest_memory_create(&m->mem, config->ram_bytes, err);
	if (!rc)
		rc = map_anonymous(HV_SIZE, &m->hv, "the hypervisor area", err);
	if (!rc)
		rc = m2p_create(m, config->m2p_fd, err);
	if (!rc)
		rc = vm_create(m, err);
	if (!rc)
		rc = vcpu_create(m, host, err);
	if (!rc)
		rc = signals_create(m, err);
	if (!rc)
		rc = m->ops->prepare(m, err);
	if (rc)
		machine_destroy(m);
	return rc;
}

int machine_dirty_pages(const struct machine *m, uint64_t *bitmap, struct ramet_err *err)
{
	int rc = dirty_log_read(m, bitmap, err);

	if (!rc)
		reclaim_changed_add(m, bitmap);
	return rc;
}

void machine_destroy(struct machine *m)
{
	if (m->timer_valid)
		(void)timer_delete((timer_t)m->timer_id);
	m->timer_valid = false;
	if (m->run)
		(void)munmap(m->run, m->run_size);
	m->run = NULL;
	close_fd(&m->signal_fd);
	close_fd(&m->vcpu_fd);
	close_fd(&m->vm_fd);
	if (m->hv)
		(void)munmap(m->hv, HV_SIZE);
	m->hv = NULL;
	if (m->m2p)
		(void)munmap(m->m2p, m->m2p_size);
	m->m2p = NULL;
	guest_memory_destroy(&m->mem);
	reclaim_destroy(m);
	free(m->backend);
	free(m->cpuid_supported);
	memset(m, 0, sizeof(*m));
	m->kvm_fd = m->vm_fd = m->vcpu_fd = m->signal_fd = m->channel_fd = -1;
}

void machine_end(struct machine *m, enum end_reason reason, const char *fmt, ...)
{
	va_list ap;

	if (m->ended)
		return;
	m->ended = true;
	m->end_reason = reason;
	va_start(ap, fmt);
	(void)vsnprintf(m->end_text, sizeof(m->end_text), fmt, ap);
	va_end(ap);
}
