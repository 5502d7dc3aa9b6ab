/* One static program that is all guest tests: `guest-suite NAME [name=value...]`
 * or a link named after the test. Without a name it lists them. */
#include "suite.h"

#include <stdio.h>
#include <string.h>

struct program {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary;
};

static const struct program programs[] = {
	{ "hello", hello_main, "prints a greeting and the machine's facts" },
	{ "bench_getpid", bench_getpid_main, "system call cost; n=CALLS" },
};

static const struct program *program_find(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;

	for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
		if (!strcmp(name, programs[i].name))
			return &programs[i];
	}
	return NULL;
}

int main(int argc, char **argv)
{
	const struct program *p = argc > 0 ? program_find(argv[0]) : NULL;

	/* Lines must not be torn or doubled by the children that tests fork. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!p && argc > 1) {
		p = program_find(argv[1]);
		argc--;
		argv++;
	}
	if (p)
		return p->run(argc, argv);
	for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++)
		printf("%-20s %s\n", programs[i].name, programs[i].summary);
	return argc > 1 ? 2 : 0;
}
