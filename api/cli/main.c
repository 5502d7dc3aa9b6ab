/* ramet: the command line client. Finds the verb and runs it. */
#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#include "api/cli/cli.h"

static const struct verb {
	const char *name;
	verb_fn run;
	const char *summary;
	const char *usage;
} verbs[] = {
	{ "create", verb_create, "create a sandbox and print its id",
	  "usage: ramet create [options]\n"
	  "\n"
	  "  --template NAME        what to boot (default python)\n"
	  "  --memory MB            guest memory in MiB, even (default 512)\n"
	  "  --isolation full|fast  how guest user space is kept from the guest kernel (default "
	  "full)\n"
	  "  --metadata NAME=VALUE  a label; may be repeated\n"
	  "  --plain                the slow reference path, for tests\n" },
	{ "exec", verb_exec, "run code in a sandbox",
	  "usage: ramet exec [options] ID [CODE...]\n"
	  "\n"
	  "  --python, --bash       the language of the code (default python)\n"
	  "  -f, --file FILE        read the code from FILE; \"-\" is standard input\n"
	  "  --timeout SECONDS      interrupt the code after this time\n"
	  "  --output-limit BYTES   cut output beyond this size\n"
	  "\n"
	  "CODE is the code itself, its words joined by spaces; \"-\" or none at all reads it\n"
	  "from standard input. The exit status is the code's, 125 when ramet itself failed.\n"
	  "With --json the events are printed as they come, one JSON object per line.\n" },
	{ "cp", verb_cp, "copy a file into or out of a sandbox",
	  "usage: ramet cp [options] SOURCE TARGET\n"
	  "\n"
	  "One of both is ID:PATH, PATH absolute, the other a local file; \"-\" is standard\n"
	  "input or output. A TARGET that is a directory or ends with \"/\" gets the file's name.\n"
	  "\n"
	  "  --mode MODE            permission bits of the copy, octal (default: as the "
	  "source)\n" },
	{ "ls", verb_ls, "list sandboxes, or files in one",
	  "usage: ramet ls [options] [ID:PATH]\n" },
	{ "rm", verb_rm, "close sandboxes",
	  "usage: ramet rm [options] ID...\n"
	  "\n"
	  "  --all                  close every sandbox\n" },
	{ "fork", verb_fork, "copy a running sandbox as it is now",
	  "usage: ramet fork [options] ID\n"
	  "\n"
	  "  -n, --children N       how many copies (default 1)\n"
	  "  --keep-random          Python's random modules go on alike in all of them\n"
	  "  --metadata NAME=VALUE  a label of the copies (default: the parent's); may be "
	  "repeated\n"
	  "  --trace FILE           write where the time went, for chrome://tracing or Perfetto\n"
	  "\n"
	  "Prints the ids of the copies, one per line. The exit status is 1 when one failed;\n"
	  "the others exist nevertheless.\n" },
	{ "merge", verb_merge, "let a sandbox go on as one of its forks",
	  "usage: ramet merge [options] PARENT WINNER\n"
	  "\n"
	  "The id PARENT is WINNER's machine from then on; what PARENT was before ends.\n" },
	{ "diff", verb_diff, "show what differs between two sandboxes",
	  "usage: ramet diff [options] A B [PATH...]\n"
	  "\n"
	  "  --text                 also show how small text files differ, as \"diff -u\" does\n"
	  "\n"
	  "Lists what B has and A has not (added), what A has and B has not (removed) and what\n"
	  "both have but not alike (modified, by content), below the PATHs or everywhere.\n" },
	{ "pause", verb_pause, "stop a sandbox where it is", "usage: ramet pause [options] ID\n" },
	{ "resume", verb_resume, "let a paused sandbox go on",
	  "usage: ramet resume [options] ID\n" },
	{ "reclaim", verb_reclaim, "have a sandbox give back memory that it does not use",
	  "usage: ramet reclaim [options] ID\n"
	  "\n"
	  "Prints how much the host has got back. Sandboxes also do that by themselves.\n" },
	{ "tree", verb_tree, "draw the sandboxes as the tree of their forks",
	  "usage: ramet tree [options]\n" },
	{ "info", verb_info, "show one sandbox", "usage: ramet info [options] ID\n" },
	{ "console", verb_console, "show the last console output of a sandbox",
	  "usage: ramet console [options] ID\n" },
	{ "doctor", verb_doctor, "check whether this host can run ramet",
	  "usage: ramet doctor [options]\n"
	  "\n"
	  "  --images DIR           where the kernel and templates are\n"
	  "                         (default /var/lib/ramet/images)\n" },
	{ "version", verb_version, "show the versions of ramet and the daemon",
	  "usage: ramet version [options]\n" },
};

static void help_print(FILE *out)
{
	(void)fputs("usage: ramet VERB [options] [arguments]\n\nverbs:\n", out);
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		(void)fprintf(out, "  %-10s %s\n", verbs[i].name, verbs[i].summary);
	(void)fputs("  help       show this, or the options of a verb\n"
		    "\noptions of every verb:\n"
		    "  --socket PATH          the daemon's socket (default $RAMET_SOCKET, else\n"
		    "                         ramet.sock in $XDG_RUNTIME_DIR or /run)\n"
		    "  --json                 machine-readable output\n"
		    "  --help                 show the verb's options\n",
		    out);
}

static const struct verb *verb_find(const char *name)
{
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (!strcmp(verbs[i].name, name))
			return &verbs[i];
	return NULL;
}

static int help_run(int argc, char **argv)
{
	const struct verb *verb = argc > 1 ? verb_find(argv[1]) : NULL;

	if (argc > 1 && !verb)
		return cli_fail("there is no verb \"%s\"; see \"ramet help\"", argv[1]);
	if (verb)
		(void)fputs(verb->usage, stdout);
	else
		help_print(stdout);
	return cli_finish();
}

static const char *socket_default(char *path, size_t size)
{
	const char *given = getenv("RAMET_SOCKET");
	const char *directory = getenv("XDG_RUNTIME_DIR");

	if (given && *given)
		return given;
	(void)snprintf(path, size, "%s/ramet.sock", directory && *directory ? directory : "/run");
	return path;
}

/* Common options may stand before the verb too. Returns -1 to go on. */
static int leading_options(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = { { "version", no_argument, NULL, 'V' },
						 CLI_COMMON_OPTIONS };
	int option;

	while ((option = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		if (option == 'S') {
			cli->socket = optarg;
		} else if (option == 'J') {
			cli->json = true;
		} else if (option == 'V') {
			(void)printf("ramet %s\n", RAMET_VERSION);
			return cli_finish();
		} else {
			help_print(option == 'H' ? stdout : stderr);
			return option == 'H' ? cli_finish() : CLI_USAGE;
		}
	}
	return -1;
}

int main(int argc, char **argv)
{
	char path[4096];
	struct cli cli = { .socket = socket_default(path, sizeof(path)) };
	const struct verb *verb;
	int status = leading_options(&cli, argc, argv);

	if (status >= 0)
		return status;
	argc -= optind;
	argv += optind;
	if (!argc) {
		help_print(stderr);
		return CLI_USAGE;
	}
	if (!strcmp(argv[0], "help"))
		return help_run(argc, argv);
	verb = verb_find(argv[0]);
	if (!verb) {
		(void)cli_fail("there is no verb \"%s\"; see \"ramet help\"", argv[0]);
		return CLI_USAGE;
	}
	if (curl_global_init(CURL_GLOBAL_NOTHING))
		return cli_fail("libcurl did not start");
	cli.usage = verb->usage;
	optind = 0; /* a new argument vector; see getopt(3) */
	status = verb->run(&cli, argc, argv);
	curl_global_cleanup();
	return status;
}
