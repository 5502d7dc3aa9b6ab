/* ramet tree: all sandboxes, each below the one that it was forked from. */
#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/cli/cli.h"

#define INDENT    3  /* columns per level */
#define ID_WIDTH  24 /* of "sbx_" and 20 characters */
#define WIDTH_MAX 78 /* of the first column; what is indented further moves the rest */

struct lines {
	const char *branch, *last, *through;
};

static const struct lines boxes = { "\u251c\u2500 ", "\u2514\u2500 ", "\u2502  " };
static const struct lines ascii = { "|- ", "`- ", "|  " };

struct drawing {
	const json_t *list; /* parents before their children, depth first */
	const struct lines *lines;
	bool *open; /* per level: more siblings follow */
	size_t width;
	time_t now;
};

static size_t depth_of(const json_t *sandbox)
{
	json_int_t depth = json_integer_value(json_object_get(sandbox, "tree_depth"));

	return depth > 0 ? (size_t)depth : 0;
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static long long number_of(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

/* Whether a sibling follows the one at `i`, behind everything below it. */
static bool sibling_follows(const json_t *list, size_t i)
{
	size_t depth = depth_of(json_array_get(list, i));

	while (++i < json_array_size(list)) {
		size_t other = depth_of(json_array_get(list, i));

		if (other <= depth)
			return other == depth;
	}
	return false;
}

/* Since a time of the API, in its largest unit. */
static void age_print(const char *created, time_t now)
{
	struct tm tm = { 0 };
	long long age;

	if (!strptime(created, "%Y-%m-%dT%H:%M:%S", &tm))
		return;
	age = now - timegm(&tm);
	if (age < 0)
		age = 0;
	if (age < 120)
		(void)printf("%llds", age);
	else if (age < 120 * 60)
		(void)printf("%lldm", age / 60);
	else if (age < 48 * 3600)
		(void)printf("%lldh", age / 3600);
	else
		(void)printf("%lldd", age / 86400);
}

static void sandbox_draw(struct drawing *drawing, size_t i)
{
	const json_t *sandbox = json_array_get(drawing->list, i);
	const json_t *memory = json_object_get(sandbox, "memory");
	size_t depth = depth_of(sandbox), column;

	if (depth > i)
		depth = i; /* deeper than anything before it: not a tree */
	column = depth * INDENT + ID_WIDTH;
	drawing->open[depth] = sibling_follows(drawing->list, i);
	for (size_t level = 1; level < depth; level++)
		(void)fputs(drawing->open[level] ? drawing->lines->through : "   ", stdout);
	if (depth)
		(void)fputs(drawing->open[depth] ? drawing->lines->branch : drawing->lines->last,
			    stdout);
	print_safe(stdout, text_of(sandbox, "id"));
	for (; column < drawing->width; column++)
		(void)putchar(' ');
	(void)printf("  %-9s %-12s %5lld MiB %5lld MiB %7lld  ", text_of(sandbox, "state"),
		     text_of(sandbox, "template"), number_of(sandbox, "memory_mb"),
		     number_of(memory, "shared_mb"), number_of(memory, "extents"));
	age_print(text_of(sandbox, "created_at"), drawing->now);
	(void)putchar('\n');
}

static int tree_draw(const json_t *list)
{
	size_t count = json_array_size(list);
	struct drawing drawing = { .list = list, .width = ID_WIDTH, .now = time(NULL) };

	(void)setlocale(LC_CTYPE, "");
	drawing.lines = strcmp(nl_langinfo(CODESET), "UTF-8") ? &ascii : &boxes;
	drawing.open = calloc(count + 1, sizeof(*drawing.open));
	if (!drawing.open)
		return cli_fail("out of memory");
	for (size_t i = 0; i < count; i++) {
		size_t column = depth_of(json_array_get(list, i)) * INDENT + ID_WIDTH;

		if (column > drawing.width && column <= WIDTH_MAX)
			drawing.width = column;
	}
	(void)printf("%-*s  %-9s %-12s %9s %9s %7s  %s\n", (int)drawing.width, "ID", "STATE",
		     "TEMPLATE", "MEMORY", "SHARED", "EXTENTS", "AGE");
	for (size_t i = 0; i < count; i++)
		sandbox_draw(&drawing, i);
	free(drawing.open);
	return CLI_OK;
}

int verb_tree(struct cli *cli, int argc, char **argv)
{
	struct reply reply = { 0 };
	int status = cli_options(cli, argc, argv);

	if (status >= 0)
		return status;
	if (optind < argc)
		return cli_usage(cli, "unexpected argument \"%s\"", argv[optind]);
	status = client_call(cli, "GET", "/v1/tree", NULL, &reply);
	if (status)
		return status;
	if (cli->json)
		print_json(reply.json);
	else
		status = tree_draw(json_object_get(reply.json, "sandboxes"));
	reply_clear(&reply);
	return status ? status : cli_finish();
}
