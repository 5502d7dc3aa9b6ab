/* What the files of the scripted agent share. */
#ifndef RAMET_TESTS_FAKE_AGENT_STATE_H
#define RAMET_TESTS_FAKE_AGENT_STATE_H

#include <stdbool.h>
#include <sys/queue.h>
#include <xxhash.h>

#include "engine/frame.h"
#include "tests/fake/fake_agent.h"

struct fake_exec {
	TAILQ_ENTRY(fake_exec) link;
	uint32_t id, length, received;
	char *code;
	bool running;
	uint64_t credit, left, limit;
};

#define FAKE_HANDLES 64

struct fake_handle {
	bool used, write;
	char path[128];
	uint64_t size;  /* of a read handle */
	uint64_t moved; /* bytes read or written */
	unsigned int writes;
	uint32_t held; /* id of a read whose answer waits */
	XXH3_state_t *hash;
};

#define FAKE_WALKS 4

struct fake_walk {
	uint32_t id;   /* 0: none */
	uint32_t left; /* entries */
	uint8_t *bytes;
	size_t length, room, at;
	uint64_t credit;
};

struct fake_agent {
	int fd;
	const char *script;
	struct frame_parser parser;
	TAILQ_HEAD(, fake_exec) execs;
	struct fake_handle handles[FAKE_HANDLES];
	struct fake_walk walks[FAKE_WALKS];
	struct fake_host *host;
	uint32_t fork_number, reseed_flags; /* of the last MSG_RESEED */
	uint64_t sent, received;            /* bytes, through this channel */
};

void fake_send_bytes(struct fake_agent *agent, const void *bytes, size_t length);
void fake_send(struct fake_agent *agent, uint8_t type, uint32_t id, const void *fixed,
	       size_t fixed_length, const void *data, size_t length);
void fake_send_error(struct fake_agent *agent, uint32_t id, int code, const char *text);

/* A request about files. fake_agent_files.c */
void fake_file_take(struct fake_agent *agent, const struct frame *frame);

/* Walks. fake_agent_tree.c; false: `id` is not a walk's. */
void fake_tree_take(struct fake_agent *agent, const struct frame *frame);
bool fake_tree_credit(struct fake_agent *agent, uint32_t id, uint32_t bytes);
bool fake_tree_cancel(struct fake_agent *agent, uint32_t id);

#endif
