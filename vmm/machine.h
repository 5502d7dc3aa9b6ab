/* The machine: one PV guest, its logical state and the host objects behind it.
 *
 * struct pv_state is everything that is not guest memory, registers or FPU: it
 * is plain data, and vmm/state.h gives it a versioned encoding. The rest of
 * struct machine belongs to this process. */
#ifndef RAMET_VMM_MACHINE_H
#define RAMET_VMM_MACHINE_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "guest/channel.h"
#include "lib/err.h"
#include "vmm/control.h"
#include "vmm/guest_memory.h"
#include "vmm/host_facts.h"
#include "vmm/vcpu.h"

#define EVTCHN_PORTS 1024u
#define EVTCHN_VIRQS 24u
#define TRAP_VECTORS 256u

enum evtchn_kind {
	EVTCHN_FREE,
	EVTCHN_RESERVED, /* port 0, and the console's and the store's own */
	EVTCHN_UNBOUND,  /* allocated by the guest for the host to bind */
	EVTCHN_VIRQ,
	EVTCHN_IPI,
	EVTCHN_LOCAL, /* both ends in the guest; data is the other port */
};

struct evtchn_port {
	uint8_t kind;
	uint8_t virq;
	uint16_t peer;
};

struct trap_gate {
	uint64_t address; /* 0: none */
	uint8_t dpl;
	bool masks_events;
};

struct channel_state {
	bool connected;
	uint32_t port;
	uint32_t control_gref;
	uint32_t ring_pages;
	uint64_t control_gpa;
	uint64_t data_gpa[2 * CHANNEL_RING_PAGES_MAX];
	uint32_t to_host_cons; /* ours: the guest's copy is not trusted */
	uint32_t to_guest_prod;
};

struct pv_state {
	struct trap_gate traps[TRAP_VECTORS];
	uint64_t event_callback;
	uint64_t failsafe_callback;
	uint64_t syscall_callback;
	bool syscall_masks_events;
	uint64_t vcpu_info_gpa;
	uint64_t debugreg[8];
	uint64_t timer_deadline; /* guest system time, ns; 0: not armed */
	uint64_t tsc_base;       /* TSC at which system_time was time_base */
	uint64_t time_base;
	uint64_t time_info_gpa; /* the guest's own copy of the PV clock; 0: none */
	struct evtchn_port ports[EVTCHN_PORTS];
	uint16_t virq_port[EVTCHN_VIRQS];
	uint64_t console_gpa;
	uint32_t console_port;
	uint32_t grant_frames;
	struct channel_state channel;
};

#define MMU_PENDING_MAX 4096u

/* Page-table changes made in memory that the processor has not seen. */
struct mmu_pending {
	uint32_t touch_count;
	uint32_t invlpg_count;
	bool flush;
	uint64_t touch[MMU_PENDING_MAX]; /* gpa of changed entries */
	uint64_t invlpg[64];             /* linear addresses */
	/* Work done since the guest was left: bounded, or a multicall of absurd
	 * operations would keep the VMM busy for hours. */
	uint32_t operations;
	uint64_t tables; /* visited while pinning */
};

struct machine_stats {
	uint64_t exits, hypercalls, exceptions, upcalls, blocked_ns;
	uint64_t channel_to_host, channel_to_guest;
};

/* KVM's memory slots. */
enum memory_slot { SLOT_MEMORY, SLOT_HV, SLOT_M2P, SLOT_ALIAS };

/* Where the machine's events go. */
struct machine_sink {
	void *arg;
	void (*console)(void *arg, const char *data, size_t len);
	void (*channel_connected)(void *arg);
	/* A descriptor with O_ASYNC has something: look at the control socket. */
	void (*service)(void *arg);
};

/* Since when nobody has talked to the guest: idle.h. */
struct machine_idle {
	uint64_t bytes; /* that had gone through the channel by then */
	uint64_t since_ns;
	bool trimmed; /* since then */
};

struct machine {
	struct guest_memory mem;
	struct vcpu vcpu;
	struct pv_state pv;
	struct machine_stats stats;
	struct machine_idle idle;

	enum isolation_mode isolation;
	bool fast_path; /* hot paths run inside the guest */
	bool shell;     /* memory is stitched in, changes are logged from the start */
	bool logged;    /* KVM logs writes: dirty_log_start() was called */
	bool aliased;   /* machine_alias_ram() was called */
	const struct vcpu_ops *ops;
	struct probe_result probe;
	struct reclaim *reclaim; /* reclaim.h; NULL until the guest names free pages */

	/* KVM objects; owned. */
	int kvm_fd, vm_fd, vcpu_fd;
	struct kvm_run *run;
	size_t run_size;
	uint8_t *hv;  /* hypervisor area, HV_SIZE */
	uint8_t *m2p; /* machine-to-physical table; read-only when it is shared */
	uint64_t m2p_size;
	void *backend; /* of vcpu_ops */

	uint64_t tsc_khz;
	uint32_t tsc_mul;
	int8_t tsc_shift;
	uint64_t xcr0;                      /* exposed to the guest */
	struct cpuid_facts cpuid;           /* cpuid.h */
	struct kvm_cpuid2 *cpuid_supported; /* owned; NULL: KVM sets no limits */

	/* Run loop. */
	bool has_guest; /* the processor was set up for one */
	bool want_injection;
	bool want_pause; /* set by a sink: machine_run() returns when it can */
	bool paused;     /* it did, and m->vcpu is at an instruction boundary */
	bool blocked;
	bool ended;
	enum end_reason end_reason;
	char end_text[512];
	int signal_fd;
	bool timer_valid;
	void *timer_id; /* timer_t */
	int channel_fd; /* -1: none */
	bool channel_eof;
	struct machine_sink sink;
	char console_tail[4096];
	size_t console_tail_len;

	struct mmu_pending mmu; /* last: large, and little of it is ever used */
};

struct machine_config {
	int kvm_fd; /* stays the caller's */
	int m2p_fd; /* the machine-to-physical table, at least as long as RAM needs it,
		     * which stays the caller's; -1: one of its own */
	uint64_t ram_bytes;
	enum isolation_mode isolation;
	bool plain; /* every event exits */
	/* Memory is reserved, not mapped, and KVM logs writes to it: for
	 * state_apply() once layers have been stitched in. */
	bool shell;
};

/* Opens KVM objects and guest memory. What is not yet known about the host is
 * found out first, and added to *host. On error nothing is left. -EINVAL for bad
 * parameters; -ENOTSUP: no guest can run on this KVM. */
int machine_create(struct machine *m, const struct machine_config *config, struct host_facts *host,
		   struct ramet_err *err);
void machine_destroy(struct machine *m);

/* Adds to `bitmap` (a bit per page of m->mem.size) what has changed since the
 * shell was created and was not given back (reclaim.h): KVM's log and what the
 * VMM touched itself. Does not reset either. 0 or -errno. */
int machine_dirty_pages(const struct machine *m, uint64_t *bitmap, struct ramet_err *err);

/* KVM_SET_USER_MEMORY_REGION. 0 or -errno. */
int machine_slot_set(struct machine *m, uint32_t slot, uint64_t gpa, uint64_t size, void *host,
		     uint32_t flags, struct ramet_err *err);

/* Registers RAM a second time at ALIAS_GPA (layout.h). Costs the host about as
 * much kernel memory as the first. 0 or -errno. */
int machine_alias_ram(struct machine *m, struct ramet_err *err);

/* Gives back what KVM has built of shadow page tables; it builds those that the
 * guest uses again. Only between runs. 0; -errno: the guest cannot go on. */
int machine_shadow_drop(struct machine *m, struct ramet_err *err);

/* Marks the guest as ended; the first reason wins. The text says what happened. */
void machine_end(struct machine *m, enum end_reason reason, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
