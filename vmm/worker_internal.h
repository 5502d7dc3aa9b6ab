/* What the parts of the worker share: worker.c (sockets, dispatch, the run
 * loop), worker_stats.c (counters), worker_boot.c (a kernel from the start), worker_fork.c (shells,
 * restore, pause) and worker_donor.c (the retired parent). */
#ifndef RAMET_VMM_WORKER_INTERNAL_H
#define RAMET_VMM_WORKER_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/fdpass.h"
#include "uffd/extent_map.h"
#include "uffd/layer.h"
#include "uffd/ranges.h"
#include "vmm/control.h"
#include "vmm/machine.h"
#include "vmm/worker.h"

enum worker_phase {
	WORKER_IDLE,   /* jailed, nothing else */
	WORKER_SHELL,  /* a machine without memory */
	WORKER_LOADED, /* restored or built, not started */
	WORKER_RUNNING,
	WORKER_PAUSED, /* after CONTROL_PAUSED */
	WORKER_DONOR,  /* the guest is retired */
};

struct worker {
	struct worker_fds fds;
	enum worker_phase phase;
	struct host_facts host; /* told by the daemon, or found out */
	struct machine machine;
	bool has_machine;
	uint32_t console_dropped;
	int userfault_device; /* -1: none */

	/* A pause that was asked for while the guest ran. */
	struct control_pause pause;
	int pause_bundle;
	uint64_t pause_asked_ns;
	struct extent_map *map;    /* of restored memory */
	struct extent_map *below;  /* of CONTROL_BASE; NULL: none */
	struct layer_stat image;   /* its layer */
	struct range_list *ranges; /* what the last pause found changed */

	struct donor *donor; /* WORKER_DONOR */
	int donor_layer;     /* to be sealed when it is full */
	uint64_t donor_start_ns;
	uint64_t donor_gentle_ns; /* until then it rests between steps */
	uint64_t donor_rest_ns;   /* until then only children that wait are served */
};

/* One message as it came in. Handlers take the descriptors they keep out of
 * `fds` (take_fd); the rest is closed for them. */
struct worker_message {
	union {
		struct control_header header;
		struct control_host host;
		struct control_boot boot;
		struct control_shell shell;
		struct control_base base;
		struct control_restore restore;
		struct control_pause pause;
		struct control_donate donate;
		struct control_child child;
		char bytes[CONTROL_MESSAGE_MAX];
	} u;
	size_t length;
	int fds[FDPASS_MAX];
	size_t fd_count;
};

/* Sends one message to the daemon, waiting for room. 0 or -errno. */
int control_reply(struct worker *w, const void *data, size_t len, const int *fds, size_t nfds);

/* Makes the machine of CONTROL_BOOT or CONTROL_SHELL. Reports what had to be
 * found out about the host for it. 0 or -errno. */
int machine_start(struct worker *w, const struct machine_config *config, struct ramet_err *err);

/* Answers CONTROL_STATS. */
void stats_reply(struct worker *w, const struct worker_message *message);

/* Machine callbacks and watched sockets: before a guest first runs. */
int machine_connect(struct worker *w, struct ramet_err *err);

/* Handlers of messages; the phase and the message's size have been checked.
 * 0, or -errno when the worker can do nothing but report it and exit. */
int handle_host(struct worker *w, struct worker_message *message, struct ramet_err *err);
int handle_boot(struct worker *w, struct worker_message *message, struct ramet_err *err);
int handle_shell(struct worker *w, struct worker_message *message, struct ramet_err *err);
int handle_base(struct worker *w, struct worker_message *message, struct ramet_err *err);
int handle_restore(struct worker *w, struct worker_message *message, struct ramet_err *err);
int handle_start(struct worker *w, struct worker_message *message, struct ramet_err *err);
int handle_resume(struct worker *w, struct worker_message *message, struct ramet_err *err);
int handle_donate(struct worker *w, struct worker_message *message, struct ramet_err *err);
int handle_child(struct worker *w, struct worker_message *message, struct ramet_err *err);

/* One round of a donor: serves its children, copies a piece, or waits when all
 * is done. Control messages are the caller's. 0 or -errno. */
int donation_step(struct worker *w, struct ramet_err *err);
int donation_wait_ms(const struct worker *w); /* until the next step; -1: for ever */
int donation_fd(const struct worker *w);      /* -1: none */
void donation_end(struct worker *w);

/* The guest has stopped for w->pause: reports it. */
int machine_paused_report(struct worker *w, struct ramet_err *err);

#endif
