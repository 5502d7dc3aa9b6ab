/* Builds, enters and takes apart the probe's VM.
 *
 * Deadlines use no signal handler: a timer signal that stays blocked in the
 * thread is let in by KVM_SET_SIGNAL_MASK, so that KVM_RUN returns EINTR with
 * the signal still pending. There is no race with the entry and nothing global.
 * What counts is the CPU time of the thread: where hundreds of workers start at
 * once a step may have to wait for a CPU, and that says nothing about KVM.
 *
 * Sources: Documentation/virt/kvm/api.rst; AMD64 APM vol. 2 ch. 4, 5, 8, 12. */
#include "vmm/probe_vm.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/clock.h"
#include "vmm/probe.h"
#include "vmm/probe_guest.h"

#define STEP_NS      300000000u /* of CPU time; a step takes microseconds */
#define STEP_SLACK   (STEP_NS / 10)
#define PROBE_SIGNAL (SIGRTMIN + 7)

static struct kvm_segment segment_flat(uint16_t selector, bool code, uint8_t dpl)
{
	return (struct kvm_segment){
		.selector = selector,
		.limit = 0xffffffff,
		.type = code ? 11 : 3,
		.present = 1,
		.dpl = dpl,
		.db = !code,
		.s = 1,
		.l = code,
		.g = 1,
	};
}

/* The least that lets KVM accept long mode, plus a leaf of our own making. */
static int cpuid_set(int vcpu_fd)
{
	static const struct kvm_cpuid_entry2 leaves[] = {
		{ .function = 0,
		  .eax = 1,
		  .ebx = 0x68747541,
		  .ecx = 0x444d4163,
		  .edx = 0x69746e65 },
		{ .function = 1, .eax = 0xf00, .ebx = 0x10000, .edx = 0x078bfbff },
		{ .function = 0x40000000, .eax = 0x40000000, .ebx = PROBE_SLOT_MARK },
		{ .function = 0x80000000, .eax = 0x80000008 },
		{ .function = 0x80000001, .edx = 1u << 29 | 1u << 20 | 1u << 11 },
		{ .function = 0x80000008, .eax = 0x3030 },
	};
	union {
		struct kvm_cpuid2 head;
		uint8_t bytes[sizeof(struct kvm_cpuid2) + sizeof(leaves)];
	} table = { .head.nent = sizeof(leaves) / sizeof(leaves[0]) };

	memcpy(table.head.entries, leaves, sizeof(leaves));
	return ioctl(vcpu_fd, KVM_SET_CPUID2, &table);
}

static int syscall_msrs_set(int vcpu_fd)
{
	const struct kvm_msr_entry entries[] = {
		{ .index = 0xc0000081, /* STAR */
		  .data = (uint64_t)PROBE_SEL_CS0 << 32 | (uint64_t)PROBE_SEL_CS3_32 << 48 },
		{ .index = 0xc0000082, /* LSTAR */
		  .data = probe_code(PROBE_HOME_SLOT, probe_lstar) },
		{ .index = 0xc0000084, /* SFMASK: TF IF DF IOPL NT AC */
		  .data = 0x47700 },
	};
	const int count = sizeof(entries) / sizeof(entries[0]);
	union {
		struct kvm_msrs head;
		uint8_t bytes[sizeof(struct kvm_msrs) + sizeof(entries)];
	} msrs = { .head.nmsrs = (uint32_t)count };

	memcpy(msrs.head.entries, entries, sizeof(entries));
	return ioctl(vcpu_fd, KVM_SET_MSRS, &msrs) == count ? 0 : -1;
}

static int registers_set(struct probe_vm *vm)
{
	struct kvm_sregs s;

	if (ioctl(vm->vcpu_fd, KVM_GET_SREGS, &s) < 0)
		return -1;
	s.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
	s.cr3 = probe_root(PROBE_ROOT_A);
	s.cr4 = 0x620;  /* PAE OSFXSR OSXMMEXCPT */
	s.efer = 0xd01; /* NXE LMA LME SCE */
	s.gdt.base = probe_va(PROBE_HOME_SLOT, PROBE_PAGE_GDT);
	s.gdt.limit = PROBE_SEL_TSS + 15;
	s.idt.base = probe_va(PROBE_HOME_SLOT, PROBE_PAGE_IDT);
	s.idt.limit = PROBE_VECTORS * 16 - 1;
	s.cs = segment_flat(PROBE_SEL_CS3, true, 3);
	s.ss = s.ds = s.es = s.fs = s.gs = segment_flat(PROBE_SEL_SS3, false, 3);
	s.tr = (struct kvm_segment){ .base = probe_va(PROBE_HOME_SLOT, PROBE_PAGE_TSS),
				     .limit = PROBE_TSS_LIMIT,
				     .selector = PROBE_SEL_TSS,
				     .type = 11,
				     .present = 1 };
	vm->run->s.regs.sregs = s;
	if (ioctl(vm->vcpu_fd, KVM_SET_SREGS, &s) < 0)
		return -1;
	return syscall_msrs_set(vm->vcpu_fd);
}

static int kvm_check(int kvm_fd, struct ramet_err *err)
{
	const int sync = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
	int version = ioctl(kvm_fd, KVM_GET_API_VERSION, 0);

	if (version < 0)
		return err_errno(err, errno, "the descriptor is not an open /dev/kvm");
	if (version != KVM_API_VERSION)
		return err_set(err, ENOTSUP, "this KVM speaks API version %d, not %d", version,
			       KVM_API_VERSION);
	if ((ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS) & sync) != sync)
		return err_set(err, ENOTSUP,
			       "this KVM lacks KVM_CAP_SYNC_REGS for registers and events");
	if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT) <= 0)
		return err_set(err, ENOTSUP,
			       "this KVM lacks KVM_CAP_IMMEDIATE_EXIT; Linux 4.13 or later has it");
	return 0;
}

static int memory_create(struct probe_vm *vm, struct ramet_err *err)
{
	struct kvm_userspace_memory_region region = { .memory_size = PROBE_MEMORY_BYTES };
	void *memory = mmap(NULL, PROBE_MEMORY_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return err_errno(err, errno, "cannot map the probe's guest memory");
	vm->memory = memory;
	probe_memory_build(vm);
	region.userspace_addr = (uintptr_t)memory;
	if (ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return err_errno(err, errno, "cannot give the probe's VM memory");
	return 0;
}

static int vcpu_create(struct probe_vm *vm, int kvm_fd, struct ramet_err *err)
{
	int size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	void *run;

	if (size < (int)sizeof(struct kvm_run))
		return err_set(err, EPROTO, "KVM reports a run area of %d bytes", size);
	vm->vcpu_fd = ioctl(vm->vm_fd, KVM_CREATE_VCPU, 0);
	if (vm->vcpu_fd < 0)
		return err_errno(err, errno, "cannot create the probe's vCPU");
	run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu_fd, 0);
	if (run == MAP_FAILED)
		return err_errno(err, errno, "cannot map the probe's vCPU");
	vm->run = run;
	vm->run_size = (size_t)size;
	vm->run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
	if (cpuid_set(vm->vcpu_fd) < 0)
		return err_errno(err, errno, "KVM refused the probe's CPUID");
	if (registers_set(vm) < 0)
		return err_errno(err, errno, "KVM refused the probe's 64-bit registers");
	return 0;
}

static int deadline_create(struct probe_vm *vm, struct ramet_err *err)
{
	union {
		struct kvm_signal_mask head;
		uint8_t bytes[sizeof(struct kvm_signal_mask) + sizeof(uint64_t)];
	} allowed;
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = PROBE_SIGNAL };
	uint64_t blocked;
	sigset_t own;

	(void)sigemptyset(&own);
	(void)sigaddset(&own, PROBE_SIGNAL);
	if (pthread_sigmask(SIG_BLOCK, &own, &vm->old_mask) != 0)
		return err_set(err, EINVAL, "cannot block the probe's signal");
	vm->masked = true;

	/* The kernel's signal set is the first 64 bits of the C library's. */
	memcpy(&blocked, &vm->old_mask, sizeof(blocked));
	blocked &= ~(1ull << (PROBE_SIGNAL - 1));
	allowed.head.len = sizeof(blocked);
	memcpy(allowed.bytes + sizeof(allowed.head), &blocked, sizeof(blocked));
	if (ioctl(vm->vcpu_fd, KVM_SET_SIGNAL_MASK, &allowed) < 0)
		return err_errno(err, errno, "KVM refused a signal mask");

	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	if (timer_create(CLOCK_MONOTONIC, &event, &vm->timer) < 0)
		return err_errno(err, errno, "cannot create the probe's timer");
	vm->has_timer = true;
	vm->patience_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) + PROBE_LIMIT_MS * 1000000ull;
	vm->deadline_ns = clock_monotonic_ns() + PROBE_WALL_LIMIT_MS * 1000000ull;
	return 0;
}

int probe_vm_create(struct probe_vm *vm, int kvm_fd, struct ramet_err *err)
{
	int rc = kvm_check(kvm_fd, err);

	*vm = (struct probe_vm){ .vm_fd = -1, .vcpu_fd = -1 };
	if (rc < 0)
		return rc;
	vm->vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	if (vm->vm_fd < 0)
		return err_errno(err, errno, "cannot create a VM");
	/* Only VMX without unrestricted guests needs it; others may refuse. */
	(void)ioctl(vm->vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000ul);
	rc = memory_create(vm, err);
	if (rc == 0)
		rc = vcpu_create(vm, kvm_fd, err);
	if (rc == 0)
		rc = deadline_create(vm, err);
	if (rc < 0)
		probe_vm_destroy(vm);
	return rc;
}

/* Whether the deadline's signal was pending; it no longer is. */
static bool deadline_take(void)
{
	const struct timespec now = { 0 };
	sigset_t own;

	(void)sigemptyset(&own);
	(void)sigaddset(&own, PROBE_SIGNAL);
	return sigtimedwait(&own, NULL, &now) == PROBE_SIGNAL;
}

void probe_vm_destroy(struct probe_vm *vm)
{
	if (vm->has_timer)
		(void)timer_delete(vm->timer);
	if (vm->masked) {
		(void)deadline_take();
		(void)pthread_sigmask(SIG_SETMASK, &vm->old_mask, NULL);
	}
	if (vm->run)
		(void)munmap(vm->run, vm->run_size);
	close_fd(&vm->vcpu_fd);
	close_fd(&vm->vm_fd);
	if (vm->memory)
		(void)munmap(vm->memory, PROBE_MEMORY_BYTES);
	*vm = (struct probe_vm){ .vm_fd = -1, .vcpu_fd = -1 };
}

void probe_vm_start(struct probe_vm *vm, uint64_t rip, unsigned int cpl)
{
	struct kvm_sync_regs *s = &vm->run->s.regs;

	s->regs = (struct kvm_regs){ .rip = rip,
				     .rsp = probe_va(PROBE_HOME_SLOT, PROBE_PAGE_STACK + 1) - 256,
				     .rflags = PROBE_FLAGS };
	s->sregs.cr3 = probe_root(PROBE_ROOT_A);
	s->sregs.cs = segment_flat(cpl ? PROBE_SEL_CS3 : PROBE_SEL_CS0, true, cpl ? 3 : 0);
	s->sregs.ss = segment_flat(cpl ? PROBE_SEL_SS3 : PROBE_SEL_SS0, false, cpl ? 3 : 0);
	s->events = (struct kvm_vcpu_events){ 0 }; /* a step cut short may have left one */
	vm->run->request_interrupt_window = 0;
	vm->run->kvm_dirty_regs = vm->run->kvm_valid_regs;
}

static void step_arm(struct probe_vm *vm, uint64_t ns)
{
	struct itimerspec when = { .it_value.tv_nsec = (long)ns };

	(void)timer_settime(vm->timer, 0, &when, NULL);
}

static void step_begin(struct probe_vm *vm)
{
	uint64_t used = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	uint64_t left = vm->patience_ns > used ? vm->patience_ns - used : 1;

	if (left > STEP_NS)
		left = STEP_NS;
	vm->step_ns = used + left;
	step_arm(vm, left);
}

/* Whether a step has had its time. If only the timer has gone off, because
 * others had the CPU, it is armed again. */
static bool step_late(struct probe_vm *vm)
{
	uint64_t used;

	if (!deadline_take())
		return false;
	used = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	if (used + STEP_SLACK >= vm->step_ns || clock_monotonic_ns() >= vm->deadline_ns)
		return true;
	step_arm(vm, vm->step_ns - used);
	return false;
}

void probe_vm_run(struct probe_vm *vm, struct probe_stop *stop)
{
	struct kvm_run *run = vm->run;
	int rc;

	*stop = (struct probe_stop){ .kind = PROBE_STOP_FAILED };
	step_begin(vm);
	do {
		rc = ioctl(vm->vcpu_fd, KVM_RUN, 0);
		stop->error = rc < 0 ? errno : 0;
		run->kvm_dirty_regs = 0; /* taken over, also when interrupted */
	} while ((stop->error == EINTR || stop->error == EAGAIN) && !step_late(vm));
	step_arm(vm, 0);
	(void)deadline_take(); /* may have gone off since */
	stop->cpl = run->s.regs.sregs.ss.dpl;
	if (stop->error) {
		if (stop->error == EINTR || stop->error == EAGAIN)
			stop->kind = PROBE_STOP_LATE;
		return;
	}
	stop->exit_reason = run->exit_reason;
	if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_OUT) {
		stop->kind = PROBE_STOP_PORT;
		stop->port = run->io.port;
	} else if (run->exit_reason == KVM_EXIT_IRQ_WINDOW_OPEN) {
		stop->kind = PROBE_STOP_WINDOW;
	}
}
