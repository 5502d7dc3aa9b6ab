/* The command line client: what its verbs share.
 *
 * A verb is one file with one function of type verb_fn. It parses its own
 * options (the common ones by way of cli_option()), prints results on stdout
 * and complaints on stderr, and returns the exit status. */
#ifndef RAMET_CLI_H
#define RAMET_CLI_H

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define RAMET_VERSION "0.1.0"

enum cli_status {
	CLI_OK = 0,
	CLI_FAILED = 1,
	CLI_USAGE = 2,
	CLI_EXEC_FAILED = 125, /* exec: ramet itself failed, not the code */
};

struct cli {
	const char *socket;
	bool json;
	const char *usage; /* of the verb */
};

typedef int (*verb_fn)(struct cli *cli, int argc, char **argv);

int verb_create(struct cli *cli, int argc, char **argv);
int verb_exec(struct cli *cli, int argc, char **argv);
int verb_cp(struct cli *cli, int argc, char **argv);
int verb_ls(struct cli *cli, int argc, char **argv);
int verb_rm(struct cli *cli, int argc, char **argv);
int verb_fork(struct cli *cli, int argc, char **argv);
int verb_merge(struct cli *cli, int argc, char **argv);
int verb_diff(struct cli *cli, int argc, char **argv);
int verb_pause(struct cli *cli, int argc, char **argv);
int verb_reclaim(struct cli *cli, int argc, char **argv);
int verb_resume(struct cli *cli, int argc, char **argv);
int verb_tree(struct cli *cli, int argc, char **argv);
int verb_info(struct cli *cli, int argc, char **argv);
int verb_console(struct cli *cli, int argc, char **argv);
int verb_doctor(struct cli *cli, int argc, char **argv);
int verb_version(struct cli *cli, int argc, char **argv);

/* ---- options.c ---- */

/* Long options that every verb takes; put at the end of its table. */
#define CLI_COMMON_OPTIONS                                                                         \
	{ "socket", required_argument, NULL, 'S' }, { "json", no_argument, NULL, 'J' },            \
		{ "help", no_argument, NULL, 'H' },                                                \
	{                                                                                          \
		NULL, 0, NULL, 0                                                                   \
	}

/* Handles an option that the verb does not know itself. Returns -1 to go on,
 * else the exit status. */
int cli_option(struct cli *cli, int option);

/* Complains, shows the verb's usage; returns CLI_USAGE. */
int cli_usage(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Complains; returns CLI_FAILED. */
int cli_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Parses only common options; the operands follow at argv[optind]. -1: go on. */
int cli_options(struct cli *cli, int argc, char **argv);

/* The same for `verb`, which takes one id: argv[optind]. */
int cli_one_id(struct cli *cli, int argc, char **argv, const char *verb);

/* Writes text from a guest to a terminal or file: control characters, which a
 * terminal would obey, as \xNN. */
void print_safe(FILE *out, const char *text);

/* Adds NAME=VALUE to the object "metadata" of a request. -1: go on. */
int cli_metadata(struct cli *cli, json_t *body, const char *pair);

/* Adds the number `text`, 1 or more, as `key`; else complains that `option` wants a
 * number of `what`. -1: go on. */
int cli_number(const struct cli *cli, json_t *body, const char *key, const char *text,
	       const char *option, const char *what);

/* A reply on stdout, as --json wants it. */
void print_json(const json_t *reply);

/* "<what> in 12.3 ms (phase 1.2, ...)" on stderr, from a reply's "timings". */
void print_timings(const char *what, const json_t *reply);

/* Flushes stdout; CLI_FAILED when what was printed could not be written. */
int cli_finish(void);

/* ---- fork_trace.c ---- */

/* Writes a fork's reply as a trace in Chrome's format to `out`. CLI_FAILED when
 * it could not be written; `path` is for the complaint. */
int fork_trace_write(FILE *out, const char *path, const json_t *reply);

/* ---- diff_patch.c ---- */

/* Prints a change of the text at `path` as `diff -u` does; is_old, is_new: it is
 * there before, after. CLI_FAILED when diff(1) cannot be had. */
int diff_patch_print(const char *path, const char *old_text, const char *new_text, bool is_old,
		     bool is_new);

/* ---- client.c: HTTP on the Unix socket ---- */

struct reply {
	long status;
	json_t *json; /* NULL when the body was none */
};

void reply_clear(struct reply *reply);

/* One request with an optional JSON body and a JSON reply. Complains and
 * returns CLI_FAILED when the daemon cannot be reached or answers with an
 * error; else 0 and the reply is the caller's to clear. */
int client_call(const struct cli *cli, const char *method, const char *path, json_t *body,
		struct reply *reply);

/* client_call() for "/v1/sandboxes/<id><rest>". */
int client_call_sandbox(const struct cli *cli, const char *method, const char *id, const char *rest,
			json_t *body, struct reply *reply);

struct transfer {
	/* Reply bytes of a 200; returns false to give up. */
	bool (*data)(void *arg, const char *data, size_t len);
	/* A header of the reply, may be NULL. */
	void (*header)(void *arg, const char *name, const char *value);
	void *arg;
	FILE *upload;        /* body; NULL: none */
	int64_t upload_size; /* -1: unknown */
	json_t *body;        /* JSON body; NULL: none */
};

/* A request whose body or reply is streamed. As client_call(). */
int client_transfer(const struct cli *cli, const char *method, const char *path,
		    struct transfer *transfer);

/* "/v1/sandboxes/<id><rest>", with "path" percent-encoded behind it when it is
 * not NULL. NULL when out of memory; the caller's to free. */
char *client_path(const char *id, const char *rest, const char *path);

/* Whether the daemon answers, without complaints; its version or a reason. */
bool client_probe(const struct cli *cli, char *text, size_t size);

#endif
