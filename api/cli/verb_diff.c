/* ramet diff: what differs between two sandboxes. */
#include <stdlib.h>
#include <string.h>

#include "api/cli/cli.h"
#include "lib/cleanup.h"

static const struct option options[] = {
	{ "text", no_argument, NULL, 't' },
	CLI_COMMON_OPTIONS,
};

struct change {
	const char *name; /* added, removed, modified */
	const json_t *json;
	const char *path;
};

static const char *text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static int changes_compare(const void *a, const void *b)
{
	const struct change *x = a, *y = b;

	return strcmp(x->path, y->path);
}

/* The three lists as one, by path; the caller's to free. */
static struct change *changes_collect(const json_t *reply, size_t *count)
{
	static const char *const lists[] = { "added", "removed", "modified" };
	struct change *changes;
	size_t total = 0, i;
	json_t *json;

	for (size_t k = 0; k < 3; k++)
		total += json_array_size(json_object_get(reply, lists[k]));
	changes = calloc(total + 1, sizeof(*changes));
	*count = 0;
	for (size_t k = 0; changes && k < 3; k++) {
		json_array_foreach(json_object_get(reply, lists[k]), i, json)
		{
			const char *path = text_of(json, "path");

			changes[(*count)++] = (struct change){ lists[k], json, path ? path : "" };
		}
	}
	if (changes)
		qsort(changes, *count, sizeof(*changes), changes_compare);
	return changes;
}

/* "modified /etc/hosts (content, mode)" */
static void change_print(const struct change *change)
{
	const json_t *side =
		json_object_get(change->json, !strcmp(change->name, "removed") ? "old" : "new");
	const char *kind = text_of(side, "kind");
	const json_t *word;
	size_t i;

	(void)printf("%-8s ", change->name);
	print_safe(stdout, change->path);
	if (json_object_get(change->json, "path_encoding"))
		(void)fputs(" (base64)", stdout);
	if (kind && strcmp(kind, "file") != 0)
		(void)printf(" (%s)", kind);
	json_array_foreach(json_object_get(change->json, "changed"), i, word)(void)
		printf("%s%s", i ? ", " : " (", json_string_value(word));
	(void)puts(json_array_size(json_object_get(change->json, "changed")) ? ")" : "");
}

static int text_print(const struct change *change)
{
	const json_t *text = json_object_get(change->json, "text");
	const char *omitted = text_of(change->json, "text_omitted");

	if (omitted)
		(void)printf("  no text: %s\n", omitted);
	if (!text)
		return CLI_OK;
	(void)fflush(stdout);
	return diff_patch_print(change->path, text_of(text, "old"), text_of(text, "new"),
				!json_is_null(json_object_get(change->json, "old")),
				!json_is_null(json_object_get(change->json, "new")));
}

static void summary_print(const json_t *reply)
{
	const json_t *pages = json_object_get(json_object_get(reply, "memory"), "pages");
	char text[160], memory[64] = "";

	if (pages)
		(void)snprintf(memory, sizeof(memory),
			       ", %" JSON_INTEGER_FORMAT " pages of memory not shared",
			       json_integer_value(pages));
	(void)snprintf(text, sizeof(text), "%zu added, %zu removed, %zu modified%s",
		       json_array_size(json_object_get(reply, "added")),
		       json_array_size(json_object_get(reply, "removed")),
		       json_array_size(json_object_get(reply, "modified")), memory);
	print_timings(text, reply);
}

static int result_print(const struct cli *cli, const json_t *reply)
{
	cleanup_free struct change *changes = NULL;
	int status = CLI_OK;
	size_t count;

	if (cli->json) {
		print_json(reply);
		return CLI_OK;
	}
	changes = changes_collect(reply, &count);
	if (!changes)
		return cli_fail("out of memory");
	for (size_t i = 0; i < count && status == CLI_OK; i++) {
		change_print(&changes[i]);
		status = text_print(&changes[i]);
	}
	summary_print(reply);
	return status;
}

/* Returns NULL when out of memory. */
static json_t *body_make(char **operands, int count, bool text)
{
	json_t *body = json_pack("{s:s, s:b}", "other", operands[1], "text", text);
	json_t *paths = count > 2 ? json_array() : NULL;

	for (int i = 2; i < count; i++)
		(void)json_array_append_new(paths, json_string(operands[i]));
	if (paths)
		(void)json_object_set_new(body, "paths", paths);
	return body;
}

int verb_diff(struct cli *cli, int argc, char **argv)
{
	struct reply reply = { 0 };
	bool text = false;
	int option, status;
	json_t *body;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 't') {
			text = true;
			continue;
		}
		status = cli_option(cli, option);
		if (status >= 0)
			return status;
	}
	if (argc - optind < 2)
		return cli_usage(cli, "diff wants the ids of two sandboxes");
	for (int i = optind + 2; i < argc; i++)
		if (argv[i][0] != '/')
			return cli_usage(cli, "\"%s\" is not an absolute path", argv[i]);
	body = body_make(argv + optind, argc - optind, text);
	status = body ? client_call_sandbox(cli, "POST", argv[optind], "/diff", body, &reply)
		      : cli_fail("out of memory, or a path is not UTF-8");
	json_decref(body);
	if (status)
		return status;
	status = result_print(cli, reply.json);
	reply_clear(&reply);
	return status ? status : cli_finish();
}
