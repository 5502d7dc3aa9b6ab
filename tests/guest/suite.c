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
	{ "bench_getpid", bench_getpid_main, "system call cost; n=" },
	{ "idle", idle_main, "sleeps; seconds=" },
	{ "stress_avx", stress_avx_main, "vector and x87 state; rounds= yields= seconds= seed=" },
	{ "stress_cow", stress_cow_main, "fork and copy-on-write; rounds= kib=" },
	{ "stress_int3", stress_int3_main, "breakpoints; n= seconds= timer_us=" },
	{ "stress_int80", stress_int80_main, "software interrupts; rounds=" },
	{ "stress_memory", stress_memory_main, "fills memory; percent= max_mib= seconds=" },
	{ "stress_pipelines", stress_pipelines_main, "pipelines= stages= kib= seed=" },
	{ "stress_ptrace", stress_ptrace_main, "debugging; turns=" },
	{ "stress_signals", stress_signals_main, "signals; rounds= ms= emulated=" },
	{ "stress_stale", stress_stale_main, "mapping fuzz; ops= fork_every= seconds= seed=" },
	{ "stress_threads", stress_threads_main, "threads and TLS; rounds= turns=" },
	{ "stress_time", stress_time_main, "clocks and timers; n= late_us=" },
	{ "hostile_entry", hostile_entry_main, "kernel entry attacks; verbose=" },
	{ "hostile_insn", hostile_insn_main, "privileged instructions; port_seconds= verbose=" },
	{ "hostile_reach", hostile_reach_main, "reaching for the kernel; addr= max_pages= jump=" },
	{ "hostile_segments", hostile_segments_main, "segments and bases; verbose=" },
	{ "hostile_sigreturn", hostile_sigreturn_main, "forged contexts; random_flags= seed=" },
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
