/* ramet rm: closes sandboxes; goes on after a failure and says so at the end. */
#include "api/cli/cli.h"

static const struct option options[] = {
	{ "all", no_argument, NULL, 'a' },
	CLI_COMMON_OPTIONS,
};

static int sandbox_remove(const struct cli *cli, const char *id)
{
	struct reply reply = { 0 };
	int status = client_call_sandbox(cli, "DELETE", id, "", NULL, &reply);

	if (!status && cli->json)
		print_json(reply.json);
	reply_clear(&reply);
	return status;
}

static int all_remove(const struct cli *cli)
{
	struct reply reply = { 0 };
	int status = client_call(cli, "GET", "/v1/sandboxes", NULL, &reply);
	json_t *sandbox;
	size_t i;

	if (status)
		return status;
	json_array_foreach(json_object_get(reply.json, "sandboxes"), i, sandbox)
	{
		const char *id = json_string_value(json_object_get(sandbox, "id"));

		if (id && sandbox_remove(cli, id))
			status = CLI_FAILED;
	}
	reply_clear(&reply);
	return status;
}

int verb_rm(struct cli *cli, int argc, char **argv)
{
	bool all = false;
	int option, status = -1;

	while (status < 0 && (option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'a')
			all = true;
		else
			status = cli_option(cli, option);
	}
	if (status >= 0)
		return status;
	if (all != (optind == argc))
		return cli_usage(cli, "rm wants either ids or --all");
	status = all ? all_remove(cli) : CLI_OK;
	for (int i = optind; i < argc; i++)
		if (sandbox_remove(cli, argv[i]))
			status = CLI_FAILED;
	return status ? status : cli_finish();
}
