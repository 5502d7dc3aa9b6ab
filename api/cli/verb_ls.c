/* ramet ls: sandboxes, or the entries of a directory in one. */
#include <stdlib.h>
#include <string.h>

#include "api/cli/cli.h"
#include "lib/cleanup.h"

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static void sandboxes_print(const json_t *reply)
{
	const json_t *list = json_object_get(reply, "sandboxes");
	size_t i;
	json_t *sandbox;

	(void)printf("%-26s %-9s %-12s %9s  %-9s %s\n", "ID", "STATE", "TEMPLATE", "MEMORY",
		     "ISOLATION", "CREATED");
	json_array_foreach(list, i, sandbox)
	{
		json_int_t mb = json_integer_value(json_object_get(sandbox, "memory_mb"));

		(void)printf("%-26s %-9s %-12s %5" JSON_INTEGER_FORMAT " MiB  %-9s %s\n",
			     text_of(sandbox, "id"), text_of(sandbox, "state"),
			     text_of(sandbox, "template"), mb, text_of(sandbox, "isolation"),
			     text_of(sandbox, "created_at"));
	}
}

static void files_print(const json_t *reply)
{
	const json_t *list = json_object_get(reply, "entries");
	size_t i;
	json_t *entry;

	json_array_foreach(list, i, entry)
	{
		const char *kind = text_of(entry, "kind");
		json_int_t size = json_integer_value(json_object_get(entry, "size"));

		(void)printf("%-9s %s %12" JSON_INTEGER_FORMAT " %s ", kind, text_of(entry, "mode"),
			     size, text_of(entry, "mtime"));
		print_safe(stdout, text_of(entry, "name"));
		(void)fputs(json_object_get(entry, "name_encoding") ? " (base64)\n" : "\n", stdout);
	}
}

int verb_ls(struct cli *cli, int argc, char **argv)
{
	cleanup_free char *id = NULL, *path = NULL;
	struct reply reply = { 0 };
	int status = cli_options(cli, argc, argv);
	char *colon;

	if (status >= 0)
		return status;
	if (argc - optind > 1)
		return cli_usage(cli, "ls wants at most one ID:PATH");
	if (optind < argc) {
		id = strdup(argv[optind]);
		colon = id ? strchr(id, ':') : NULL;
		if (!colon || colon[1] != '/')
			return cli_usage(cli, "\"%s\" is not ID:PATH with an absolute path",
					 argv[optind]);
		*colon = '\0';
		path = client_path(id, "/files/list", colon + 1);
	} else {
		path = strdup("/v1/sandboxes");
	}
	if (!path)
		return cli_fail("out of memory");
	status = client_call(cli, "GET", path, NULL, &reply);
	if (status)
		return status;
	if (cli->json) {
		print_json(reply.json);
	} else if (id) {
		files_print(reply.json);
	} else {
		sandboxes_print(reply.json);
	}
	reply_clear(&reply);
	return cli_finish();
}
