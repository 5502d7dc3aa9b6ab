/* ramet info, ramet console, ramet version: what the daemon knows. */
#include <string.h>
#include <unistd.h>

#include "api/cli/cli.h"
#include "lib/cleanup.h"

static void value_print(const char *prefix, const char *key, const json_t *value)
{
	char name[160];
	const char *inner;
	json_t *member;

	(void)snprintf(name, sizeof(name), "%s%s%s", prefix, *prefix ? "." : "", key);
	if (json_is_object(value)) {
		json_object_foreach((json_t *)(uintptr_t)value, inner, member)
			value_print(name, inner, member);
		return;
	}
	print_safe(stdout, name);
	(void)printf(": ");
	if (json_is_string(value))
		print_safe(stdout, json_string_value(value));
	else
		(void)json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
	(void)putchar('\n');
}

int verb_info(struct cli *cli, int argc, char **argv)
{
	struct reply reply = { 0 };
	int status = cli_one_id(cli, argc, argv, "info");
	const char *key;
	json_t *value;

	if (status >= 0)
		return status;
	status = client_call_sandbox(cli, "GET", argv[optind], "", NULL, &reply);
	if (status)
		return status;
	if (cli->json) {
		print_json(reply.json);
	} else {
		json_object_foreach(
			reply.json, key,
			value) if (strcmp(key, "timings")) /* of this request, not of the sandbox */
			value_print("", key, value);
	}
	reply_clear(&reply);
	return cli_finish();
}

/* To a terminal goes only what it will not obey. */
static bool console_write(void *arg, const char *data, size_t len)
{
	bool terminal = *(bool *)arg;

	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)data[i];

		if (terminal && c != '\n' && c != '\t' && (c < 0x20 || c == 0x7f)) {
			if (c != '\r')
				(void)printf("\\x%02x", c);
		} else {
			(void)putchar(c);
		}
	}
	return !ferror(stdout);
}

int verb_console(struct cli *cli, int argc, char **argv)
{
	bool terminal = isatty(STDOUT_FILENO);
	struct transfer transfer = { .data = console_write, .arg = &terminal };
	cleanup_free char *path = NULL;
	int status = cli_one_id(cli, argc, argv, "console");

	if (status >= 0)
		return status;
	path = client_path(argv[optind], "/console", NULL);
	status = path ? client_transfer(cli, "GET", path, &transfer) : cli_fail("out of memory");
	return status ? status : cli_finish();
}

int verb_version(struct cli *cli, int argc, char **argv)
{
	int status = cli_options(cli, argc, argv);
	char daemon[160];
	bool reached;

	if (status >= 0)
		return status;
	if (optind < argc)
		return cli_usage(cli, "unexpected argument \"%s\"", argv[optind]);
	reached = client_probe(cli, daemon, sizeof(daemon));
	if (cli->json) {
		json_t *object = json_pack("{s:s, s:s?}", "ramet", RAMET_VERSION, "rametd",
					   reached ? daemon : NULL);

		(void)json_dumpf(object, stdout, JSON_COMPACT);
		(void)putchar('\n');
		json_decref(object);
	} else {
		(void)printf("ramet %s\n", RAMET_VERSION);
		if (reached)
			(void)printf("rametd %s\n", daemon);
		else
			(void)printf("rametd not reachable on %s: %s\n", cli->socket, daemon);
	}
	return cli_finish();
}
