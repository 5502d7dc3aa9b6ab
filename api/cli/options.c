/* Options and output that all verbs share: see cli.h. */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
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

int cli_finish(void)
{
	if (fflush(stdout) || ferror(stdout))
		return cli_fail("cannot write the output: %s", strerror(errno));
	return CLI_OK;
}
