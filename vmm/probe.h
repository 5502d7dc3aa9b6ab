/* What this host's KVM does, found out by trying it in a tiny throw-away VM.
 *
 * CPU flags and driver names do not tell; behaviour does. On a KVM without
 * hardware virtualisation guest code at CPL 3 runs natively, `syscall` stays
 * at CPL 3 and CPL-0 code is emulated; on VMX and SVM the architecture holds.
 *
 * The probe needs nothing but a /dev/kvm descriptor, so it runs in the daemon,
 * in `ramet doctor` and inside a worker's jail. It uses
 *   ioctls on the KVM fd: KVM_GET_API_VERSION KVM_CHECK_EXTENSION KVM_CREATE_VM
 *     KVM_GET_VCPU_MMAP_SIZE
 *   on the VM: KVM_SET_TSS_ADDR KVM_SET_USER_MEMORY_REGION KVM_CREATE_VCPU
 *   on the vCPU: KVM_SET_CPUID2 KVM_GET_SREGS KVM_SET_SREGS KVM_SET_MSRS
 *     KVM_SET_SIGNAL_MASK KVM_GET_DEVICE_ATTR KVM_RUN
 *   system calls: ioctl mmap munmap close gettid timer_create timer_settime
 *     timer_delete rt_sigprocmask rt_sigtimedwait clock_gettime. */
#ifndef RAMET_VMM_PROBE_H
#define RAMET_VMM_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"

enum kvm_kind {
	KVM_KIND_SOFTWARE = 1, /* `syscall` at CPL 3 stays at CPL 3 */
	KVM_KIND_HARDWARE = 2, /* `syscall` raises CPL as the architecture says */
};

#define PROBE_SLOTS_MAX 16u

/* CPL-0 code slower than this is emulated, faster is native: emulators reach
 * single digits, processors hundreds and more. */
#define PROBE_NATIVE_MIPS 20.0

struct probe_slot {
	uint16_t pml4_slot;
	bool usable; /* code there runs at CPL 3 and reads its own page */
};

struct probe_result {
	enum kvm_kind kind;
	uint8_t syscall_cpl;   /* CPL at LSTAR after `syscall` at CPL 3 */
	bool native_gates;     /* IDT gates with CS=0x33 and an IST arrive at CPL 3 */
	bool io_bitmap;        /* the TSS I/O bitmap is honoured at CPL 3, both ways */
	bool fsgsbase;         /* rd/wr fs/gs base work at CPL 3 with CR4.FSGSBASE clear */
	bool cpuid_native;     /* CPUID at CPL 3 ignores KVM_SET_CPUID2 */
	bool host_pte_add;     /* a host write not-present -> present is seen */
	bool host_pte_change;  /* a host write present -> present is seen after mov cr3 */
	bool guest_pte_change; /* the same once CPL-0 code wrote the entry + invlpg */
	bool root_switch;      /* a CPL-0 stub may change CR3 and go on in the other root's
				* page at the same address, frame popped from there */
	bool sysret;           /* sysretq works at CPL 0 */
	bool irq_window;       /* request_interrupt_window exits at CPL 3, IF=1, after iretq */
	bool tsc_offset;       /* KVM_VCPU_TSC_CTRL is there */
	double cpl0_mips;      /* speed of a CPL-0 loop, million instructions per second */
	double exit_us;        /* median round trip of an exit to user space */
	uint32_t duration_us;  /* of the whole probe */
	uint32_t slot_count;
	struct probe_slot slots[PROBE_SLOTS_MAX];

	/* The answers fit together, so that the in-guest fast path of this kind may
	 * be used. When false, `reason` says which did not, and only the plain path
	 * (every event exits, page tables stored by CPL-0 code) is to be trusted. */
	bool fast_paths_ok;
	char reason[200]; /* a sentence; empty when fast_paths_ok */
};

/* Runs the probe on an open /dev/kvm and fills *result. Takes a few
 * milliseconds of CPU time and at most PROBE_LIMIT_MS, whatever the KVM does,
 * and gives up soon after PROBE_WALL_LIMIT_MS where others have the CPUs. Blocks one
 * realtime signal of the calling thread meanwhile; leaves no fd, mapping, timer
 * or signal behind. kvm_fd stays the caller's.
 * -ENOTSUP: this KVM cannot run a PV guest in any way, err says why.
 * Other -errno: the host failed. *result is untouched on error. */
#define PROBE_LIMIT_MS      1000u
#define PROBE_WALL_LIMIT_MS 20000u
int probe_run(int kvm_fd, struct probe_result *result, struct ramet_err *err);

/* Sets fast_paths_ok and reason from the other facts. probe_run() does it. */
void probe_judge(struct probe_result *result);

/* Whether the slot was tried and works. */
bool probe_slot_usable(const struct probe_result *result, unsigned int pml4_slot);

/* "software", "hardware" or "unknown". */
const char *probe_kind_name(enum kvm_kind kind);

#endif
