/* ramet create */
#include "api/cli/cli.h"

static const struct option options[] = {
	{ "template", required_argument, NULL, 't' },  { "memory", required_argument, NULL, 'm' },
	{ "isolation", required_argument, NULL, 'i' }, { "metadata", required_argument, NULL, 'l' },
	{ "plain", no_argument, NULL, 'p' },           CLI_COMMON_OPTIONS,
};

/* Returns -1 to go on. */
static int option_take(struct cli *cli, int option, json_t *body)
{
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
		return cli_number(cli, body, "memory_mb", optarg, "--memory", "MiB");
	case 'l':
		return cli_metadata(cli, body, optarg);
	}
	return cli_option(cli, option);
}

static void result_print(const struct cli *cli, const json_t *reply)
{
	const char *id = json_string_value(json_object_get(reply, "id"));

	if (cli->json) {
		print_json(reply);
		return;
	}
	print_safe(stdout, id ? id : "");
	(void)putchar('\n');
	(void)fflush(stdout);
	print_timings("ready", reply);
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
