/* Options and output that all verbs share: see cli.h. */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "api/cli/cli.h"

int cli_option(struct cli *cli, int option)
{
	switch (option) {
	case 'S':
		cli->socket = optarg;
		return -1;
	case 'J':
		cli->json = true;
		return -1;
	case 'H':
		(void)fputs(cli->usage, stdout);
		return CLI_OK;
	}
	(void)fputs(cli->usage, stderr); /* getopt_long() has complained */
	return CLI_USAGE;
}

int cli_usage(const struct cli *cli, const char *fmt, ...)
{
	va_list ap;

	(void)fputs("ramet: ", stderr);
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fprintf(stderr, "\n%s", cli->usage);
	return CLI_USAGE;
}

int cli_fail(const char *fmt, ...)
{
	char line[1200];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	(void)fputs("ramet: ", stderr);
	print_safe(stderr, line);
	(void)fputc('\n', stderr);
	return CLI_FAILED;
}

int cli_options(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = { CLI_COMMON_OPTIONS };
	int option, status;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		status = cli_option(cli, option);
		if (status >= 0)
			return status;
	}
	return -1;
}

int cli_one_id(struct cli *cli, int argc, char **argv, const char *verb)
{
	int status = cli_options(cli, argc, argv);

	if (status < 0 && argc - optind != 1)
		status = cli_usage(cli, "%s wants one id", verb);
	return status;
}

void print_safe(FILE *out, const char *text)
{
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c < 0x20 || c == 0x7f)
			(void)fprintf(out, "\\x%02x", c);
		else
			(void)fputc(c, out);
	}
}

int cli_metadata(struct cli *cli, json_t *body, const char *pair)
{
	json_t *metadata = json_object_get(body, "metadata");
	const char *equals = strchr(pair, '=');
	char *name;
	int ret;

	if (!equals || equals == pair)
		return cli_usage(cli, "--metadata wants NAME=VALUE, not \"%s\"", pair);
	if (!metadata) {
		metadata = json_object();
		(void)json_object_set_new(body, "metadata", metadata);
	}
	name = strndup(pair, (size_t)(equals - pair));
	ret = name ? json_object_set_new(metadata, name, json_string(equals + 1)) : -1;
	free(name);
	if (ret)
		return cli_usage(cli, "--metadata \"%s\" is not UTF-8", pair);
	return -1;
}

int cli_number(const struct cli *cli, json_t *body, const char *key, const char *text,
	       const char *option, const char *what)
{
	long long value;
	char *end;

	errno = 0;
	value = strtoll(text, &end, 10);
	if (errno || end == text || *end || value < 1)
		return cli_usage(cli, "%s wants a number of %s, not \"%s\"", option, what, text);
	(void)json_object_set_new(body, key, json_integer(value));
	return -1;
}

void print_json(const json_t *reply)
{
	(void)json_dumpf(reply, stdout, JSON_COMPACT | JSON_REAL_PRECISION(15));
	(void)putchar('\n');
}

void print_timings(const char *what, const json_t *reply)
{
	json_t *timings = json_object_get(reply, "timings");
	const char *key, *gap = " (";
	json_t *value;

	(void)fprintf(stderr, "%s in %.1f ms", what,
		      json_number_value(json_object_get(timings, "total_ms")));
	json_object_foreach(timings, key, value)
	{
		if (!strcmp(key, "total_ms"))
			continue;
		(void)fputs(gap, stderr);
		for (const char *c = key; *c && strcmp(c, "_ms") != 0; c++)
			(void)fputc(*c == '_' ? ' ' : *c, stderr);
		(void)fprintf(stderr, " %.1f", json_number_value(value));
		gap = ", ";
	}
	(void)fputs(*gap == ',' ? ")\n" : "\n", stderr);
}

int cli_finish(void)
{
	if (fflush(stdout) || ferror(stdout))
		return cli_fail("cannot write the output: %s", strerror(errno));
	return CLI_OK;
}
