/* ramet create */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/cli/cli.h"

static const struct option options[] = {
	{ "template", required_argument, NULL, 't' },  { "memory", required_argument, NULL, 'm' },
	{ "isolation", required_argument, NULL, 'i' }, { "metadata", required_argument, NULL, 'l' },
	{ "plain", no_argument, NULL, 'p' },           CLI_COMMON_OPTIONS,
};

static int metadata_add(struct cli *cli, json_t *metadata, const char *pair)
{
	const char *equals = strchr(pair, '=');
	char *name;
	int ret;

	if (!equals || equals == pair)
		return cli_usage(cli, "--metadata wants NAME=VALUE, not \"%s\"", pair);
	name = strndup(pair, (size_t)(equals - pair));
	ret = name ? json_object_set_new(metadata, name, json_string(equals + 1)) : -1;
	free(name);
	if (ret)
		return cli_usage(cli, "--metadata \"%s\" is not UTF-8", pair);
	return -1;
}

static int memory_set(struct cli *cli, json_t *body, const char *text)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || end == text || *end || value < 1)
		return cli_usage(cli, "--memory wants a number of MiB, not \"%s\"", text);
	(void)json_object_set_new(body, "memory_mb", json_integer(value));
	return -1;
}

/* Returns -1 to go on. */
static int option_take(struct cli *cli, int option, json_t *body)
{
	json_t *metadata;

	switch (option) {
	case 't':
		(void)json_object_set_new(body, "template", json_string(optarg));
		return -1;
	case 'i':
		(void)json_object_set_new(body, "isolation", json_string(optarg));
		return -1;
	case 'p':
		(void)json_object_set_new(body, "plain", json_true());
		return -1;
	case 'm':
		return memory_set(cli, body, optarg);
	case 'l':
		metadata = json_object_get(body, "metadata");
		if (!metadata) {
			metadata = json_object();
			(void)json_object_set_new(body, "metadata", metadata);
		}
		return metadata_add(cli, metadata, optarg);
	}
	return cli_option(cli, option);
}

static void result_print(const struct cli *cli, const json_t *reply)
{
	double total = 0, spawn = 0, setup = 0, boot = 0;
	const char *id = "";

	if (cli->json) {
		(void)json_dumpf(reply, stdout, JSON_COMPACT | JSON_REAL_PRECISION(15));
		(void)putchar('\n');
		return;
	}
	(void)json_unpack((json_t *)(uintptr_t)reply, "{s:s, s:{s:F, s:F, s:F, s:F}}", "id", &id,
			  "timings", "total_ms", &total, "spawn_ms", &spawn, "setup_ms", &setup,
			  "boot_ms", &boot);
	print_safe(stdout, id);
	(void)putchar('\n');
	(void)fflush(stdout);
	(void)fprintf(stderr, "ready in %.1f ms (worker %.1f, setup %.1f, boot %.1f)\n", total,
		      spawn, setup, boot);
}

int verb_create(struct cli *cli, int argc, char **argv)
{
	json_t *body = json_object();
	struct reply reply = { 0 };
	int option, status = -1;

	while (status < 0 && (option = getopt_long(argc, argv, "", options, NULL)) != -1)
		status = option_take(cli, option, body);
	if (status < 0 && optind < argc)
		status = cli_usage(cli, "unexpected argument \"%s\"", argv[optind]);
	if (status < 0) {
		status = client_call(cli, "POST", "/v1/sandboxes", body, &reply);
		if (!status) {
			result_print(cli, reply.json);
			status = cli_finish();
		}
	}
	reply_clear(&reply);
	json_decref(body);
	return status;
}
