/* An engine with tests/fake/fake_worker.c behind it, for cmocka tests: a fresh
 * state directory, images and event loop per test, recorders for callbacks,
 * and a check at the end that no process, descriptor or file is left. Needs
 * root and /dev/kvm, because workers start as they do in a daemon. */
#ifndef RAMET_TESTS_ENGINE_HARNESS_H
#define RAMET_TESTS_ENGINE_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/internal.h"

struct harness {
	sd_event *loop;
	struct engine *engine;
	char dir[64]; /* below it: state, images, worker, worker.mode */
	bool use_templates;
	unsigned int fds_before;
};

/* cmocka fixture: *state is a struct harness with a running engine. The
 * teardown destroys the engine and checks that nothing is left. */
int harness_setup(void **state);
int harness_teardown(void **state);
/* The same with an engine that copies templates and can fork. */
int harness_setup_templates(void **state);

/* 77 (skip), with the reason on stdout, where workers cannot be started. */
int harness_unavailable(void);

/* The path of a program of this build, for free(3); NULL when not built. */
char *harness_program(const char *name);

int harness_engine(struct harness *h, struct ramet_err *err);

/* What the next workers do before CONTROL_BOOT; NULL: the normal thing. */
void harness_worker_mode(const struct harness *h, const char *mode);

/* Makes template `name`, whose root image has this content. */
void harness_template(const struct harness *h, const char *name, const char *content);

/* Runs the loop until *flag; fails the test after 20 s. */
void harness_wait(struct harness *h, const bool *flag);
/* Runs the loop for this long. */
void harness_spin(struct harness *h, unsigned int ms);

unsigned int harness_count_fds(void);

/* ---- recorders ---- */

struct created {
	bool done;
	struct sandbox *sandbox;
	struct ramet_err err; /* code 0: none */
};

void on_created(void *arg, struct sandbox *sandbox, const struct ramet_err *err);

struct ran {
	bool done;
	struct ramet_err err;
	struct exec_exit exit;
	struct exec *exec;
	char *text[5]; /* by stream */
	size_t length[5];
	bool hold;      /* does not give bytes back */
	bool abandon;   /* at the first output */
	bool discard;   /* counts only */
	uint64_t total; /* bytes of output */
};

extern const struct exec_callbacks ran_callbacks;
void ran_free(struct ran *ran);

struct moved {
	bool done;
	struct ramet_err err;
	struct file_result result;
	struct file_transfer *transfer;
	bool opened;
	uint64_t size;
	uint32_t mode;
	uint64_t received;
	bool bad;         /* a byte was not the pattern's */
	bool hold;        /* does not give bytes back */
	uint64_t to_send; /* upload: pattern bytes */
	uint64_t sent;
	unsigned int entries;
	char last_name[256];
};

extern const struct file_callbacks moved_callbacks;
/* Offers an upload the rest of its bytes. */
void moved_push(struct moved *moved);

/* ---- whole steps ---- */

/* Creates from a template that is made of `content`; waits for the answer. */
void create_wait(struct harness *h, const char *content, struct created *created);
/* The same, and it must succeed. */
struct sandbox *create_ok(struct harness *h, const char *content);
/* Creation must fail with `code` and words in its sentence. */
void create_fails(struct harness *h, const char *content, int code, const char *words);

/* Starts one; the sandbox must take it. */
void run_start(struct sandbox *sandbox, int language, const char *code, struct ran *ran);
/* Runs one to its end. */
void run_wait(struct harness *h, struct sandbox *sandbox, const char *code, struct ran *ran);

/* Runs one that must succeed; its output, or its result, as a number. */
long run_number(struct harness *h, struct sandbox *sandbox, const char *code);

#define FORKED_MAX 16

struct forked {
	bool done;
	struct ramet_err err; /* code 0: there is a result */
	unsigned int count;
	struct fork_child children[FORKED_MAX];
	struct fork_timings timings;
};

void on_forked(void *arg, const struct fork_result *result, const struct ramet_err *err);
/* Starts one; the engine must take it. */
void fork_start(struct sandbox *parent, unsigned int count, struct forked *forked);
void fork_wait(struct harness *h, struct sandbox *parent, unsigned int count,
	       struct forked *forked);
/* All children must be ready. */
void fork_ok(struct harness *h, struct sandbox *parent, unsigned int count, struct forked *forked);

void close_wait(struct harness *h, struct sandbox *sandbox);

#define assert_words(text, words)                                                                  \
	do {                                                                                       \
		if (!strstr((text), (words)))                                                      \
			fail_msg("'%s' does not mention '%s'", (text), (words));                   \
	} while (0)

#endif
