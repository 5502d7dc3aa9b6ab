/* Every limit of the engine, with its default, in one table.
 *
 * An engine keeps its own copy (see engine/internal.h), so a program may
 * change one before it creates sandboxes. Errors name the field that was
 * exceeded, as "limit <field>". */
#ifndef RAMET_ENGINE_LIMITS_H
#define RAMET_ENGINE_LIMITS_H

#include <stddef.h>
#include <stdint.h>

#include "guest/protocol.h"

#define KIB        1024u
#define MIB        (1024u * 1024u)
#define GIB        (1024u * 1024u * 1024u)
#define SECONDS_NS 1000000000u

/* How exactly timers fire, in us; sd-event's default is 250 ms. */
#define TIMER_ACCURACY 1000u

struct limits {
	/* Sandboxes. */
	unsigned int max_sandboxes; /* all states, listed or closing */
	uint64_t memory_min;        /* guest RAM, bytes */
	uint64_t memory_max;
	uint64_t memory_default;
	uint64_t memory_step;         /* sizes are multiples of it */
	size_t metadata_key_length;   /* bytes */
	size_t metadata_value_length; /* bytes */
	size_t template_name_length;  /* bytes */

	/* Workers. */
	uint64_t worker_memory_extra;        /* cgroup memory beyond guest RAM, bytes */
	unsigned int worker_memory_fraction; /* and this part (1/n) of guest RAM: page tables */
	uint32_t worker_pids;
	uint32_t worker_cpu_percent;
	size_t console_tail;     /* bytes of console kept */
	uint64_t boot_deadline;  /* ns from create to ready */
	uint64_t end_grace;      /* ns a worker gets to report its end and exit */
	uint64_t close_deadline; /* ns from SIGKILL to the exit report */

	/* Forks. */
	unsigned int fork_children;  /* of one fork */
	unsigned int fork_layers;    /* of one guest's memory, <= CONTROL_LAYERS_MAX */
	unsigned int fork_extents;   /* of one guest's memory */
	unsigned int fork_gap_pages; /* changed pages this close become one range */
	unsigned int fork_served;    /* guests that one donor serves, <= DONOR_CHILDREN_MAX */
	uint64_t fork_child_memory;  /* free host memory that each child needs, bytes */
	uint64_t fork_deadline;      /* ns from the call until all children answered */
	uint64_t pause_deadline;     /* ns until a guest took its input and stopped */
	uint64_t reclaim_deadline;   /* ns a guest gets to give back its free memory */
	unsigned int heat_sandboxes; /* with more than these, copies take less memory rather
				      * than less time: see hot.h */
	uint64_t reseed_deadline;    /* ns from a guest's first instruction to its answer */

	/* Templates and the pool. */
	unsigned int templates_max; /* frozen at once */
	unsigned int pool_size;     /* idle shells of a kind, while it is in use */
	uint64_t pool_delay;        /* ns without creates and forks before it is refilled */
	uint64_t pool_idle;         /* ns without use before its shells go */

	/* The agent channel, per sandbox. */
	size_t channel_queue_low;  /* waiting writers go on below it, bytes */
	size_t channel_queue_high; /* bulk writers wait above it, bytes */
	size_t channel_queue_max;  /* the sandbox fails above it, bytes */
	unsigned int requests_max; /* outstanding */

	/* Execs. */
	size_t code_length;        /* bytes */
	size_t code_queued;        /* of all execs of a sandbox, bytes; as in the agent */
	unsigned int exec_waiting; /* behind the running one */
	uint64_t output_default;   /* bytes of output per exec */
	uint64_t output_max;
	uint32_t timeout_max_ms;
	uint64_t timeout_grace; /* ns the guest gets beyond an exec's timeout to end it */

	/* Files. */
	size_t path_length;         /* bytes */
	unsigned int transfers;     /* at once, per sandbox */
	size_t file_window;         /* downloaded bytes not yet consumed */
	unsigned int file_requests; /* outstanding per transfer, <= FILE_REQUESTS_MAX */
	uint64_t file_stall;        /* ns without an answer before a transfer fails */
	unsigned int list_entries;  /* of one listing */

	/* Comparing two sandboxes. */
	unsigned int diffs;       /* at once */
	uint64_t diff_entries;    /* files and directories looked at, per sandbox */
	size_t diff_changes;      /* that differ */
	size_t diff_change_bytes; /* of their paths */
	uint64_t diff_deadline;   /* ns for all of it */
};

/* Room for outstanding requests in a transfer; bounds limits.file_requests. */
#define FILE_REQUESTS_MAX 8

static const struct limits limits_default = {
	.max_sandboxes = 256,
	.memory_min = 64 * (uint64_t)MIB,
	.memory_max = 12 * (uint64_t)GIB,
	.memory_default = 512 * (uint64_t)MIB,
	.memory_step = 2 * (uint64_t)MIB,
	.metadata_key_length = 64,
	.metadata_value_length = 512,
	.template_name_length = 63,

	.worker_memory_extra = 64 * (uint64_t)MIB,
	.worker_memory_fraction = 32,
	.worker_pids = 32,
	.worker_cpu_percent = 200,
	.console_tail = 64 * KIB,
	.boot_deadline = 60 * (uint64_t)SECONDS_NS,
	.end_grace = 5 * (uint64_t)SECONDS_NS,
	.close_deadline = 10 * (uint64_t)SECONDS_NS,

	.fork_children = 1024,
	.fork_layers = 16,
	.fork_extents = 384,
	.fork_gap_pages = 16,
	.fork_served = 2048,
	.fork_child_memory = 4 * (uint64_t)MIB,
	.fork_deadline = 60 * (uint64_t)SECONDS_NS,
	.pause_deadline = 5 * (uint64_t)SECONDS_NS,
	.reclaim_deadline = 30 * (uint64_t)SECONDS_NS,
	.heat_sandboxes = 256,
	.reseed_deadline = 20 * (uint64_t)SECONDS_NS,

	.templates_max = 16,
	.pool_size = 8,
	.pool_delay = 100 * (uint64_t)1000000,
	.pool_idle = 300 * (uint64_t)SECONDS_NS,

	.channel_queue_low = 512 * KIB,
	.channel_queue_high = 1 * MIB,
	.channel_queue_max = 4 * MIB,
	.requests_max = 1024,

	.code_length = CODE_LENGTH_MAX,
	.code_queued = 16 * MIB,
	.exec_waiting = EXEC_QUEUE_MAX,
	.output_default = 8 * MIB,
	.output_max = 1 * (uint64_t)GIB,
	.timeout_max_ms = 24u * 3600 * 1000,
	.timeout_grace = 30 * (uint64_t)SECONDS_NS,

	.path_length = PATH_LENGTH_MAX,
	.transfers = FILE_HANDLES_MAX,
	.file_window = 1 * MIB,
	.file_requests = 4,
	.file_stall = 60 * (uint64_t)SECONDS_NS,
	.list_entries = 100000,

	.diffs = 32,
	.diff_entries = 2000000,
	.diff_changes = 50000,
	.diff_change_bytes = 8 * MIB,
	.diff_deadline = 300 * (uint64_t)SECONDS_NS,
};

#endif
