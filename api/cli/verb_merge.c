/* ramet merge, pause, resume, reclaim: what changes a sandbox as a whole. */
#include <string.h>

#include "api/cli/cli.h"
#include "lib/cleanup.h"

static int change_run(const struct cli *cli, const char *id, const char *rest, const char *what)
{
	struct reply reply = { 0 };
	int status = client_call_sandbox(cli, "POST", id, rest, NULL, &reply);

	if (status)
		return status;
	if (cli->json)
		print_json(reply.json);
	else
		print_timings(what, reply.json);
	reply_clear(&reply);
	return cli_finish();
}

int verb_merge(struct cli *cli, int argc, char **argv)
{
	cleanup_free char *winner = NULL, *rest = NULL;
	int status = cli_options(cli, argc, argv);

	if (status >= 0)
		return status;
	if (argc - optind != 2)
		return cli_usage(cli, "merge wants two ids");
	winner = client_path(argv[optind + 1], "", NULL);
	if (!winner || asprintf(&rest, "/merge_into%s", strrchr(winner, '/')) < 0)
		return cli_fail("out of memory");
	return change_run(cli, argv[optind], rest, "merged");
}

int verb_pause(struct cli *cli, int argc, char **argv)
{
	int status = cli_one_id(cli, argc, argv, "pause");

	return status >= 0 ? status : change_run(cli, argv[optind], "/pause", "paused");
}

int verb_resume(struct cli *cli, int argc, char **argv)
{
	int status = cli_one_id(cli, argc, argv, "resume");

	return status >= 0 ? status : change_run(cli, argv[optind], "/resume", "resumed");
}

int verb_reclaim(struct cli *cli, int argc, char **argv)
{
	struct reply reply = { 0 };
	int status = cli_one_id(cli, argc, argv, "reclaim");

	if (status >= 0)
		return status;
	status = client_call_sandbox(cli, "POST", argv[optind], "/reclaim", NULL, &reply);
	if (status)
		return status;
	if (cli->json)
		print_json(reply.json);
	else
		(void)printf("%.1f MiB\n",
			     json_number_value(json_object_get(reply.json, "reclaimed_mb")));
	reply_clear(&reply);
	return cli_finish();
}
