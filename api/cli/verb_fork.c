/* ramet fork: copies a running sandbox, prints the ids of the copies. */
#include <errno.h>
#include <string.h>

#include "api/cli/cli.h"
#include "lib/cleanup.h"

static const struct option options[] = {
	{ "children", required_argument, NULL, 'n' },
	{ "keep-random", no_argument, NULL, 'k' },
	{ "metadata", required_argument, NULL, 'l' },
	{ "trace", required_argument, NULL, 't' },
	CLI_COMMON_OPTIONS,
};

/* Returns -1 to go on. */
static int option_take(struct cli *cli, int option, json_t *body, const char **trace)
{
	switch (option) {
	case 'n':
		return cli_number(cli, body, "n", optarg, "-n", "children");
	case 'k':
		(void)json_object_set_new(body, "keep_random", json_true());
		return -1;
	case 'l':
		return cli_metadata(cli, body, optarg);
	case 't':
		*trace = optarg;
		return -1;
	}
	return cli_option(cli, option);
}

/* Complains of children that failed; CLI_FAILED when there is one. */
static int failures_report(const json_t *children)
{
	int status = CLI_OK;
	json_t *child;
	size_t i;

	json_array_foreach(children, i, child)
	{
		const char *message = NULL, *code = NULL;

		if (json_unpack(child, "{s:{s:s, s:s}}", "error", "message", &message, "code",
				&code) == 0)
			status = cli_fail("child %zu failed: %s (%s)", i, message, code);
	}
	return status;
}

static void result_print(const struct cli *cli, const json_t *reply)
{
	json_t *child;
	size_t i;

	if (cli->json) {
		print_json(reply);
		return;
	}
	json_array_foreach(json_object_get(reply, "children"), i, child)
	{
		const char *id = json_string_value(json_object_get(child, "id"));

		if (!id)
			continue;
		print_safe(stdout, id);
		(void)putchar('\n');
	}
	(void)fflush(stdout);
	print_timings("forked", reply);
}

/* The trace's file is opened first: who wants one does not want a fork without. */
static int fork_run(const struct cli *cli, const char *id, json_t *body, const char *trace)
{
	cleanup_file FILE *out = trace ? fopen(trace, "we") : NULL;
	struct reply reply = { 0 };
	int status, traced = CLI_OK;

	if (trace && !out)
		return cli_fail("cannot write %s: %s", trace, strerror(errno));
	status = client_call_sandbox(cli, "POST", id, "/fork", body, &reply);
	if (status)
		return status;
	result_print(cli, reply.json);
	status = failures_report(json_object_get(reply.json, "children"));
	if (out)
		traced = fork_trace_write(out, trace, reply.json);
	reply_clear(&reply);
	if (cli_finish())
		return CLI_FAILED;
	return status ? status : traced;
}

int verb_fork(struct cli *cli, int argc, char **argv)
{
	json_t *body = json_object();
	const char *trace = NULL;
	int option, status = -1;

	while (status < 0 && (option = getopt_long(argc, argv, "n:", options, NULL)) != -1)
		status = option_take(cli, option, body, &trace);
	if (status < 0 && argc - optind != 1)
		status = cli_usage(cli, "fork wants one id");
	if (status < 0)
		status = fork_run(cli, argv[optind], body, trace);
	json_decref(body);
	return status;
}
