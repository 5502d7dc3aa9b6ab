/* What rametd and a worker (ramet-vmm) say to each other: one datagram per
 * message on a SOCK_SEQPACKET socket, descriptors with SCM_RIGHTS.
 *
 * A worker is started as
 *     ramet-vmm --control-fd N --channel-fd N --kvm-fd N [jail options]
 * where --channel-fd is one end of a SOCK_STREAM socketpair: the worker moves
 * bytes between it and the guest's agent channel (guest/channel.h) and never
 * looks inside. The worker jails itself, answers with CONTROL_READY, and waits.
 *
 * The daemon sends CONTROL_BOOT once; the worker then runs the guest until it
 * ends and reports CONTROL_ENDED as its last message before it exits with
 * status 0. When the control socket closes, the worker exits. */
#ifndef RAMET_VMM_CONTROL_H
#define RAMET_VMM_CONTROL_H

#include <stdint.h>

#define CONTROL_VERSION 1u
#define CONTROL_MESSAGE_MAX 8192u
#define CONTROL_CMDLINE_MAX 1024u
#define CONTROL_INITRD_MAX 4u

enum control_type {
	/* Daemon to worker. */
	CONTROL_BOOT = 1,  /* struct control_boot + kernel fd + initrd fds */
	CONTROL_STATS = 2, /* [CONTROL_STATS_REPLY] */

	/* Worker to daemon. */
	CONTROL_READY = 64,  /* struct control_ready */
	CONTROL_BOOTED = 65, /* struct control_booted: the guest's first instruction is next */
	CONTROL_CHANNEL = 66, /* the guest's agent channel is connected */
	CONTROL_CONSOLE = 67, /* struct control_console + bytes the guest printed */
	CONTROL_STATS_REPLY = 68, /* struct control_stats */
	CONTROL_ENDED = 69,  /* struct control_ended */
};

enum isolation_mode {
	ISOLATION_FULL = 1, /* guest user space cannot reach the guest kernel */
	ISOLATION_FAST = 2, /* one set of page tables; single-tenant guests */
};

struct control_header {
	uint32_t version; /* CONTROL_VERSION */
	uint32_t type;    /* enum control_type */
};

struct control_boot {
	struct control_header header;
	uint64_t ram_bytes;   /* 64 MiB .. RAM_BYTES_MAX, a multiple of 2 MiB */
	uint32_t isolation;   /* enum isolation_mode */
	uint32_t plain;       /* 1: every event exits (reference path, for tests) */
	uint32_t initrd_count; /* <= CONTROL_INITRD_MAX; loaded back to back */
	uint32_t cmdline_length; /* < CONTROL_CMDLINE_MAX */
	char cmdline[CONTROL_CMDLINE_MAX]; /* added to the built-in command line */
};

struct control_ready {
	struct control_header header;
	uint32_t kvm_kind; /* enum kvm_kind of vmm/probe.h */
	uint32_t pid;      /* in the worker's own pid namespace */
};

struct control_booted {
	struct control_header header;
	uint64_t setup_ns; /* from CONTROL_BOOT to here */
};

struct control_console {
	struct control_header header;
	uint32_t dropped; /* bytes lost before these because the socket was full */
	uint32_t length;
};

struct control_stats {
	struct control_header header;
	uint64_t exits;      /* KVM_RUN returns */
	uint64_t hypercalls; /* handled by the VMM */
	uint64_t exceptions; /* bounced by the VMM */
	uint64_t upcalls;
	uint64_t blocked_ns; /* time the vCPU was idle */
	uint64_t channel_to_host;  /* bytes */
	uint64_t channel_to_guest; /* bytes */
};

enum end_reason {
	END_POWEROFF = 1, /* the guest shut down */
	END_REBOOT = 2,   /* the guest asked for a reboot; it is not restarted */
	END_PANIC = 3,    /* the guest kernel crashed; text = its last console lines */
	END_GUEST_FAULT = 4, /* the guest did what a PV guest must not; text says what */
	END_ERROR = 5,    /* the VMM or the host failed; text says how */
};

struct control_ended {
	struct control_header header;
	uint32_t reason; /* enum end_reason */
	uint32_t code;   /* errno of END_ERROR, else 0 */
	char text[1024]; /* NUL-terminated sentence */
};

#endif
