/* ramet doctor: runs all checks, says what to do about each failure. */
#include <stdarg.h>
#include <string.h>

#include "api/cli/doctor.h"

#define IMAGES_DEFAULT "/var/lib/ramet/images"

static const struct check {
	const char *name;
	check_fn run;
} checks[] = {
	{ "kvm", check_kvm },
	{ "userfaultfd", check_userfaultfd },
	{ "io_uring", check_io_uring },
	{ "bpf", check_bpf },
	{ "cgroups", check_cgroups },
	{ "memfd", check_memfd },
	{ "namespaces", check_namespaces },
	{ "open files", check_files },
	{ "memory maps", check_maps },
	{ "memory", check_memory },
	{ "images", check_images },
	{ "daemon", check_daemon },
};

#define CHECK_COUNT (sizeof(checks) / sizeof(checks[0]))

static const struct option options[] = {
	{ "images", required_argument, NULL, 'i' },
	CLI_COMMON_OPTIONS,
};

void finding_ok(struct finding *finding, const char *fmt, ...)
{
	va_list ap;

	*finding = (struct finding){ .state = FINDING_OK };
	va_start(ap, fmt);
	(void)vsnprintf(finding->text, sizeof(finding->text), fmt, ap);
	va_end(ap);
}

void finding_bad(struct finding *finding, enum finding_state state, const char *remedy,
		 const char *fmt, ...)
{
	va_list ap;

	*finding = (struct finding){ .state = state };
	va_start(ap, fmt);
	(void)vsnprintf(finding->text, sizeof(finding->text), fmt, ap);
	va_end(ap);
	(void)snprintf(finding->remedy, sizeof(finding->remedy), "%s", remedy);
}

static void finding_print(const char *name, const struct finding *finding)
{
	static const char *const marks[] = { "ok", "warn", "FAIL" };

	(void)printf("%-5s %-12s ", marks[finding->state], name);
	print_safe(stdout, finding->text);
	(void)putchar('\n');
	if (*finding->remedy)
		(void)printf("%18s -> %s\n", "", finding->remedy);
}

static json_t *finding_json(const char *name, const struct finding *finding)
{
	static const char *const words[] = { "ok", "warn", "fail" };

	return json_pack("{s:s, s:s, s:s, s:s?}", "check", name, "state", words[finding->state],
			 "found", finding->text, "remedy",
			 *finding->remedy ? finding->remedy : NULL);
}

int verb_doctor(struct cli *cli, int argc, char **argv)
{
	struct doctor doctor = { .cli = cli, .images = IMAGES_DEFAULT };
	int option, status = -1, failed = 0;
	json_t *list;

	while (status < 0 && (option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'i')
			doctor.images = optarg;
		else
			status = cli_option(cli, option);
	}
	if (status < 0 && optind < argc)
		status = cli_usage(cli, "unexpected argument \"%s\"", argv[optind]);
	if (status >= 0)
		return status;
	list = json_array();
	for (size_t i = 0; i < CHECK_COUNT; i++) {
		struct finding finding;

		checks[i].run(&doctor, &finding);
		failed += finding.state == FINDING_FAIL;
		if (cli->json)
			(void)json_array_append_new(list, finding_json(checks[i].name, &finding));
		else
			finding_print(checks[i].name, &finding);
	}
	if (cli->json) {
		(void)json_dumpf(list, stdout, JSON_INDENT(2));
		(void)putchar('\n');
	} else if (failed) {
		(void)printf("%d of %zu checks failed\n", failed, CHECK_COUNT);
	} else {
		(void)printf("this host can run ramet\n");
	}
	json_decref(list);
	status = cli_finish();
	return failed ? CLI_FAILED : status;
}
