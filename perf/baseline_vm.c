/* See baseline_vm.h. Sources: Documentation/virt/kvm/api.rst; AMD64 APM vol. 2
 * ch. 4 (segments), 5 (long mode paging), vol. 3 (encodings). */
#include "perf/baseline_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "lib/cleanup.h"
#include "lib/clock.h"

#define TABLE_PML4   0x1000u
#define TABLE_PDPT   0x2000u
#define TABLE_PD     0x3000u /* one per GiB */
#define PROGRAM      0x8000u
#define PORT         0x10u
#define PTE_TABLE    0x7u    /* present, writable, user */
#define PTE_LARGE    0x87u   /* the same, 2 MiB */
#define FLAGS        0x3002u /* I/O at CPL 3 */
#define CPUID_ROOM   128
#define RUN_ATTEMPTS 1000

/* rdi: from, rsi: to, rdx: step, al: value */
static const uint8_t program[] = {
	0x88, 0x07,       /* 1: mov %al, (%rdi) */
	0x48, 0x01, 0xd7, /* add %rdx, %rdi */
	0x48, 0x39, 0xf7, /* cmp %rsi, %rdi */
	0x72, 0xf6,       /* jb 1b */
	0xe6, PORT,       /* 2: out %al, PORT */
	0xeb, 0xfc,       /* jmp 2b */
};
#define PROGRAM_OUT (PROGRAM + 10)

void baseline_memory_init(void *memory)
{
	uint8_t *base = memory;
	uint64_t *pml4 = (void *)(base + TABLE_PML4), *pdpt = (void *)(base + TABLE_PDPT);
	uint64_t *pd = (void *)(base + TABLE_PD);

	pml4[0] = TABLE_PDPT | PTE_TABLE;
	for (uint64_t gib = 0; gib < BASELINE_BYTES_MAX >> 30; gib++)
		pdpt[gib] = (TABLE_PD + gib * BASELINE_PAGE) | PTE_TABLE;
	for (uint64_t i = 0; i < BASELINE_BYTES_MAX >> 21; i++)
		pd[i] = i << 21 | PTE_LARGE;
	memcpy(base + PROGRAM, program, sizeof(program));
}

static struct kvm_segment segment_flat(uint16_t selector, bool code)
{
	return (struct kvm_segment){
		.selector = selector,
		.limit = 0xffffffff,
		.type = code ? 11 : 3,
		.present = 1,
		.dpl = 3,
		.db = !code,
		.s = 1,
		.l = code,
		.g = 1,
	};
}

int baseline_kvm_open(struct baseline_kvm *kvm, struct ramet_err *err)
{
	size_t room = sizeof(*kvm->cpuid) + CPUID_ROOM * sizeof(kvm->cpuid->entries[0]);

	kvm->fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm->fd < 0)
		return err_errno(err, errno, "cannot open /dev/kvm");
	kvm->cpuid = calloc(1, room);
	if (kvm->cpuid)
		kvm->cpuid->nent = CPUID_ROOM;
	if (!kvm->cpuid || ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, kvm->cpuid) < 0) {
		(void)err_errno(err, errno, "KVM does not tell its CPUID");
		baseline_kvm_close(kvm);
		return -EIO;
	}
	return 0;
}

void baseline_kvm_close(struct baseline_kvm *kvm)
{
	free(kvm->cpuid);
	kvm->cpuid = NULL;
	close_fd(&kvm->fd);
}

static int memory_set(const struct baseline_vm *vm, void *memory, uint64_t bytes)
{
	struct kvm_userspace_memory_region region = { .memory_size = bytes,
						      .userspace_addr = (uintptr_t)memory };

	return ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno : 0;
}

static int registers_set(const struct baseline_vm *vm, uint64_t rip)
{
	struct kvm_regs regs = { .rip = rip, .rflags = FLAGS };
	struct kvm_sregs s;

	if (ioctl(vm->vcpu_fd, KVM_GET_SREGS, &s) < 0)
		return -errno;
	s.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
	s.cr3 = TABLE_PML4;
	s.cr4 = 0x20;   /* PAE */
	s.efer = 0x500; /* LMA LME */
	s.cs = segment_flat(0x33, true);
	s.ss = s.ds = s.es = s.fs = s.gs = segment_flat(0x2b, false);
	s.tr = (struct kvm_segment){ .limit = 0x67, .selector = 0x40, .type = 11, .present = 1 };
	if (ioctl(vm->vcpu_fd, KVM_SET_SREGS, &s) < 0 ||
	    ioctl(vm->vcpu_fd, KVM_SET_REGS, &regs) < 0)
		return -errno;
	return 0;
}

/* Runs until the program's `out`. */
static int run_to_out(struct baseline_vm *vm)
{
	for (int i = 0; i < RUN_ATTEMPTS; i++) {
		if (ioctl(vm->vcpu_fd, KVM_RUN, 0) == 0)
			return vm->run->exit_reason == KVM_EXIT_IO && vm->run->io.port == PORT
				       ? 0
				       : -EPROTO;
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
	}
	return -EINTR;
}

static int vcpu_create(struct baseline_vm *vm, const struct baseline_kvm *kvm)
{
	int size = ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	void *run;

	vm->vcpu_fd = ioctl(vm->vm_fd, KVM_CREATE_VCPU, 0);
	if (vm->vcpu_fd < 0 || size < (int)sizeof(*vm->run))
		return -errno;
	run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu_fd, 0);
	if (run == MAP_FAILED)
		return -errno;
	vm->run = run;
	vm->run_bytes = (size_t)size;
	return 0;
}

static int vm_step(struct baseline_vm *vm, enum baseline_step step, const struct baseline_kvm *kvm,
		   void *memory, uint64_t bytes)
{
	switch (step) {
	case STEP_VM:
		vm->vm_fd = ioctl(kvm->fd, KVM_CREATE_VM, 0);
		return vm->vm_fd < 0 ? -errno : 0;
	case STEP_VCPU:
		return vcpu_create(vm, kvm);
	case STEP_CPUID:
		return ioctl(vm->vcpu_fd, KVM_SET_CPUID2, kvm->cpuid) < 0 ? -errno : 0;
	case STEP_MEMSLOT:
		return memory_set(vm, memory, bytes);
	case STEP_STATE:
		return registers_set(vm, PROGRAM_OUT);
	case STEP_RUN:
		return run_to_out(vm);
	case STEPS:
		break;
	}
	return -EINVAL;
}

int baseline_vm_create(struct baseline_vm *vm, const struct baseline_kvm *kvm, void *memory,
		       uint64_t bytes, struct ramet_err *err)
{
	static const char *const names[STEPS] = {
		"make a VM",      "make a vCPU",       "set CPUID",
		"give it memory", "set its registers", "run its first instruction"
	};

	*vm = (struct baseline_vm){ .vm_fd = -1, .vcpu_fd = -1 };
	for (enum baseline_step step = 0; step < STEPS; step++) {
		uint64_t began = clock_monotonic_ns();
		int ret = vm_step(vm, step, kvm, memory, bytes);

		vm->step_ns[step] = clock_monotonic_ns() - began;
		if (ret < 0) {
			baseline_vm_destroy(vm);
			return err_errno(err, -ret, "KVM: cannot %s", names[step]);
		}
	}
	return 0;
}

int baseline_vm_write(struct baseline_vm *vm, uint64_t start, uint64_t end, uint8_t value,
		      struct ramet_err *err)
{
	struct kvm_regs regs = { .rip = PROGRAM,
				 .rflags = FLAGS,
				 .rdi = start,
				 .rsi = end,
				 .rdx = BASELINE_PAGE,
				 .rax = value };
	int ret;

	vm->run->immediate_exit = 1; /* completes the `out` before, and nothing else */
	if (ioctl(vm->vcpu_fd, KVM_RUN, 0) == 0 || errno != EINTR)
		return err_errno(err, EPROTO, "KVM ran on");
	vm->run->immediate_exit = 0;
	if (ioctl(vm->vcpu_fd, KVM_SET_REGS, &regs) < 0)
		return err_errno(err, errno, "KVM: cannot set registers");
	ret = run_to_out(vm);
	return ret < 0 ? err_errno(err, -ret, "KVM: the guest did not write its memory") : 0;
}

int baseline_vm_out(struct baseline_vm *vm, struct ramet_err *err)
{
	int ret = run_to_out(vm);

	return ret < 0 ? err_errno(err, -ret, "KVM: no exit") : 0;
}

void baseline_vm_destroy(struct baseline_vm *vm)
{
	if (vm->run)
		(void)munmap(vm->run, vm->run_bytes);
	vm->run = NULL;
	close_fd(&vm->vcpu_fd);
	close_fd(&vm->vm_fd);
}
