/* What rametd and a worker (ramet-vmm) say to each other: one datagram per
 * message on a SOCK_SEQPACKET socket, descriptors with SCM_RIGHTS.
 *
 * A worker is started as
 *     ramet-vmm --control-fd N --channel-fd N --kvm-fd N [jail options]
 * where --channel-fd is one end of a SOCK_STREAM socketpair: the worker moves
 * bytes between it and the guest's agent channel (guest/channel.h) and never
 * looks inside. The worker jails itself, answers with CONTROL_READY, and waits.
 *
 * A worker needs to know what this KVM and this processor do. One that is not
 * told with CONTROL_HOST finds out when it makes its machine, which takes longer
 * than all else, and reports it with CONTROL_HOST_FOUND before CONTROL_BOOTED or
 * CONTROL_SHELL_READY; the daemon tells all that it starts from then on.
 *
 * A worker becomes a guest in one of two ways. CONTROL_BOOT starts a kernel.
 * CONTROL_SHELL makes it a shell: a virtual machine over reserved, unmapped
 * memory, which CONTROL_RESTORE later gives memory layers and machine state
 * and CONTROL_RUN starts. Either way the guest runs until it ends and the worker
 * reports CONTROL_ENDED as its last message before it exits with status 0. When
 * the control socket closes, the worker exits.
 *
 * A fork or freeze: CONTROL_PAUSE stops the guest at an instruction boundary and
 * writes its state and the ranges of changed memory into the bundle (a memfd of
 * the daemon's). Then either CONTROL_RESUME, and nothing has happened, or
 * CONTROL_DONATE: the guest is retired, and the worker copies those ranges into
 * the new layer, on demand of the children it is told of with CONTROL_CHILD and
 * otherwise in the background, until CONTROL_FILLED. It exits when the daemon
 * closes the socket.
 *
 * Order for the daemon: it sends no agent bytes from before CONTROL_PAUSE until
 * the answer, so that the stream to the guest is at a frame boundary. */
#ifndef RAMET_VMM_CONTROL_H
#define RAMET_VMM_CONTROL_H

#include <stdint.h>

#define CONTROL_VERSION     2u
#define CONTROL_MESSAGE_MAX 8192u
#define CONTROL_CMDLINE_MAX 1024u
#define CONTROL_INITRD_MAX  4u

enum control_type {
	/* Daemon to worker. */
	CONTROL_BOOT = 1,    /* struct control_boot + kernel fd + initrd fds */
	CONTROL_STATS = 2,   /* [CONTROL_STATS_REPLY] nothing, or a file for a bitmap */
	CONTROL_SHELL = 3,   /* [CONTROL_SHELL_READY] struct control_shell, /dev/userfaultfd,
			      * the machine-to-physical table (its u64 i is i; a page of it
			      * for every 2 MiB of RAM or more; read-only) */
	CONTROL_RESTORE = 4, /* [CONTROL_RESTORED] struct control_restore, bundle, layer fds */
	CONTROL_RUN = 5,     /* [CONTROL_BOOTED] starts or continues a restored guest */
	CONTROL_PAUSE = 6,   /* [CONTROL_PAUSED] struct control_pause, bundle (read-write) */
	CONTROL_RESUME = 7,  /* no reply; after CONTROL_PAUSED */
	CONTROL_DONATE = 8,  /* [CONTROL_FILLED] struct control_donate, layer (read-write),
			      * /dev/userfaultfd, all layers of its own memory */
	CONTROL_CHILD = 9,   /* no reply; struct control_child, the child's userfaultfd */
	CONTROL_HOST = 10,   /* no reply; struct control_host, at most once, first */
	CONTROL_BASE = 11,   /* [CONTROL_SHELL_READY] struct control_base, bundle, layer */

	/* Worker to daemon. */
	CONTROL_READY = 64,       /* struct control_ready */
	CONTROL_BOOTED = 65,      /* struct control_booted: the guest's first instruction is next */
	CONTROL_CHANNEL = 66,     /* the guest's agent channel is connected */
	CONTROL_CONSOLE = 67,     /* struct control_console + bytes the guest printed */
	CONTROL_STATS_REPLY = 68, /* struct control_stats */
	CONTROL_ENDED = 69,       /* struct control_ended */
	CONTROL_SHELL_READY = 70, /* struct control_header */
	CONTROL_RESTORED = 71, /* struct control_restored, a userfaultfd for each filling layer */
	CONTROL_PAUSED = 72,   /* struct control_paused */
	CONTROL_FILLED = 73,   /* struct control_filled */
	CONTROL_FAILED = 74,   /* struct control_failed: the request was refused, nothing changed */
	CONTROL_HOST_FOUND = 75, /* struct control_host: what the worker was not told */
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
	uint64_t ram_bytes;                /* 64 MiB .. RAM_BYTES_MAX, a multiple of 2 MiB */
	uint32_t isolation;                /* enum isolation_mode */
	uint32_t plain;                    /* 1: every event exits (reference path, for tests) */
	uint32_t initrd_count;             /* <= CONTROL_INITRD_MAX; loaded back to back */
	uint32_t cmdline_length;           /* < CONTROL_CMDLINE_MAX */
	char cmdline[CONTROL_CMDLINE_MAX]; /* added to the built-in command line */
};

struct control_ready {
	struct control_header header;
	uint32_t pid; /* in the worker's own pid namespace */
	uint32_t reserved;
};

/* What is known about the host: struct host_facts (vmm/host_facts.h), which ends
 * the message. The daemon passes it on as it came. */
struct control_host {
	struct control_header header;
	uint8_t facts[CONTROL_MESSAGE_MAX - sizeof(struct control_header)];
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
	uint64_t blocked_ns;       /* time the vCPU was idle */
	uint64_t channel_to_host;  /* bytes */
	uint64_t channel_to_guest; /* bytes */
	/* Pages that the guest wrote to since its memory was restored. They are
	 * marked in the file, if it came (read-write; a bit per page of guest
	 * memory; as long as that). UINT64_MAX: not known, as writes of a guest
	 * that was booted are not logged, or the file is too short. */
	uint64_t dirty_pages;
};

struct control_shell {
	struct control_header header;
	uint64_t ram_bytes;
	uint32_t isolation;
	uint32_t plain;
};

#define CONTROL_LAYERS_MAX 48u
#define CONTROL_BUNDLE_MAX (256u * 1024) /* the size of every bundle */

/* The bundle is the machine state, then the encoded extent map (uffd/extent_map.h);
 * layer i of the map is descriptor i + 1. */
#define CONTROL_HOT_MAX 256u

struct control_pages {
	uint32_t first, count;
};

/* A shell gets what most guests of its kind begin with: an image, from the bundle
 * of a frozen template. CONTROL_RESTORE of memory that has the same layer 0 then
 * maps only what is above it, and finds `hot` in the shell's page tables. */
struct control_base {
	struct control_header header;
	uint64_t map_at; /* where the bundle has the map */
	uint64_t map_bytes;
	uint32_t reserved;
	uint32_t hot_count;
	struct control_pages hot[CONTROL_HOT_MAX];
};

struct control_restore {
	struct control_header header;
	uint64_t state_bytes;
	uint64_t map_bytes;
	uint32_t layer_count;
	uint32_t hot_count;
	uint64_t filling; /* bit i: layer i still has holes that its donor will fill */
	/* Pages that the guest will write to soon: they are copied at once, which
	 * takes a tenth of the time that they take one by one. */
	struct control_pages hot[CONTROL_HOT_MAX];
};

/* Sent as soon as the memory is in place and, where layers are filling, watched:
 * the daemon hands `base` and the descriptor to each layer's donor; descriptors
 * come in the order of the bits of control_restore.filling. The state is applied
 * after that, and touching memory for it may need them. */
struct control_restored {
	struct control_header header;
	uint64_t base; /* the worker's address of gpa 0 */
	uint64_t stitch_ns;
	uint32_t extents;
	uint32_t reserved;
};

struct control_pause {
	struct control_header header;
	uint32_t full;        /* 1: all memory that is not zero, for a template's image */
	uint32_t gap_pages;   /* merge ranges over gaps up to this */
	uint32_t ranges_max;  /* and then down to this many */
	uint32_t keep_layers; /* n > 0: what restored memory has of layers n and up counts as
			       * changed, so that the new layer takes their place */
};

/* The bundle then holds the machine state, and behind it `range_count` pairs of
 * uint64_t: start and end gpa of the changed memory. */
struct control_paused {
	struct control_header header;
	uint64_t state_bytes;
	uint32_t range_count;
	uint32_t reserved;
	uint64_t dirty_pages; /* changed, before gaps were merged in */
	uint64_t range_pages;
	uint64_t channel_to_host; /* bytes that went through the channel socket, ever */
	uint64_t channel_to_guest;
	uint64_t pause_ns; /* from the request to the guest being stopped */
	uint64_t state_ns; /* from there to this message */
};

struct control_donate {
	struct control_header header;
	uint32_t source_layers; /* descriptors behind the first two: what the donor's own
				 * memory is mapped from */
	uint32_t hot_count;
	uint32_t hurry; /* 1: nobody else needs the processor */
	uint32_t reserved;
	/* Pages that guests will ask for first: they are copied before all others. */
	struct control_pages hot[CONTROL_HOT_MAX];
};

#define CONTROL_CHILD_RANGES_MAX 500u

/* A child whose memory has holes of this donor's layer: it is served through its
 * userfaultfd, in these ranges (its extents of the layer). The message ends with
 * the last range. */
struct control_child {
	struct control_header header;
	uint64_t base; /* as in its control_restored */
	uint32_t id;   /* the daemon's name for it */
	uint32_t range_count;
	struct {
		uint64_t start, end;
	} ranges[CONTROL_CHILD_RANGES_MAX];
};

/* The layer is complete, and sealed unless its pages were too busy for that. */
struct control_filled {
	struct control_header header;
	uint64_t pages;
	uint64_t demanded_pages; /* of those, asked for by children */
	uint64_t fill_ns;
};

struct control_failed {
	struct control_header header;
	uint32_t request; /* enum control_type */
	uint32_t code;    /* errno */
	char text[500];
};

enum end_reason {
	END_POWEROFF = 1,    /* the guest shut down */
	END_REBOOT = 2,      /* the guest asked for a reboot; it is not restarted */
	END_PANIC = 3,       /* the guest kernel crashed; text = its last console lines */
	END_GUEST_FAULT = 4, /* the guest did what a PV guest must not; text says what */
	END_ERROR = 5,       /* the VMM or the host failed; text says how */
};

struct control_ended {
	struct control_header header;
	uint32_t reason; /* enum end_reason */
	uint32_t code;   /* errno of END_ERROR, else 0 */
	char text[1024]; /* NUL-terminated sentence */
};

#endif
