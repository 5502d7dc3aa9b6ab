/* ramet-vmm: the worker. Started by the daemon's spawner with its sockets, or
 * by hand with --run (vmm/standalone.h). */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "lib/log.h"
#include "vmm/jail.h"
#include "vmm/standalone.h"
#include "vmm/worker.h"

enum option_id {
	OPT_CONTROL_FD = 256,
	OPT_CHANNEL_FD,
	OPT_KVM_FD,
	OPT_UID,
	OPT_GID,
	OPT_RUN,
	OPT_KERNEL,
	OPT_INITRD,
	OPT_CMDLINE,
	OPT_MEMORY,
	OPT_ISOLATION,
	OPT_PLAIN,
	OPT_STATS,
};

static const struct option options[] = {
	{ "control-fd", required_argument, NULL, OPT_CONTROL_FD },
	{ "channel-fd", required_argument, NULL, OPT_CHANNEL_FD },
	{ "kvm-fd", required_argument, NULL, OPT_KVM_FD },
	{ "uid", required_argument, NULL, OPT_UID },
	{ "gid", required_argument, NULL, OPT_GID },
	{ "run", no_argument, NULL, OPT_RUN },
	{ "kernel", required_argument, NULL, OPT_KERNEL },
	{ "initrd", required_argument, NULL, OPT_INITRD },
	{ "cmdline", required_argument, NULL, OPT_CMDLINE },
	{ "mem", required_argument, NULL, OPT_MEMORY },
	{ "isolation", required_argument, NULL, OPT_ISOLATION },
	{ "plain", no_argument, NULL, OPT_PLAIN },
	{ "stats", no_argument, NULL, OPT_STATS },
	{ NULL, 0, NULL, 0 },
};

struct arguments {
	bool run;
	struct worker_fds fds;
	long uid, gid;
	struct standalone_options standalone;
};

static int usage(void)
{
	fputs("usage: ramet-vmm --control-fd N --channel-fd N --kvm-fd N --uid N --gid N\n"
	      "       ramet-vmm --run --kernel VMLINUX [--initrd FILE]... [--cmdline TEXT]\n"
	      "                 [--mem MIB] [--isolation full|fast] [--plain] [--stats]\n",
	      stderr);
	return EX_USAGE;
}

static int number(const char *text, long max, long *value)
{
	char *end;

	errno = 0;
	*value = strtol(text, &end, 10);
	if (errno || *end || end == text || *value < 0 || *value > max) {
		fprintf(stderr, "ramet-vmm: '%s' is not a number from 0 to %ld\n", text, max);
		return -EINVAL;
	}
	return 0;
}

static int number_fd(const char *text, int *fd)
{
	long value;

	if (number(text, INT_MAX, &value))
		return -EINVAL;
	*fd = (int)value;
	return 0;
}

static int isolation_parse(const char *text, enum isolation_mode *mode)
{
	if (!strcmp(text, "full"))
		*mode = ISOLATION_FULL;
	else if (!strcmp(text, "fast"))
		*mode = ISOLATION_FAST;
	else
		return fprintf(stderr, "ramet-vmm: isolation '%s' is neither full nor fast\n",
			       text),
		       -EINVAL;
	return 0;
}

static int memory_parse(const char *text, uint64_t *bytes)
{
	long mib;

	if (number(text, 1L << 20, &mib))
		return -EINVAL;
	*bytes = (uint64_t)mib << 20;
	return 0;
}

static int initrd_add(struct standalone_options *o, const char *path)
{
	if (o->initrd_count == STANDALONE_INITRDS_MAX) {
		fprintf(stderr, "ramet-vmm: more than %u initrds\n", STANDALONE_INITRDS_MAX);
		return -E2BIG;
	}
	o->initrds[o->initrd_count++] = path;
	return 0;
}

static int option_apply(struct arguments *a, int id, const char *value)
{
	switch (id) {
	case OPT_CONTROL_FD:
		return number_fd(value, &a->fds.control);
	case OPT_CHANNEL_FD:
		return number_fd(value, &a->fds.channel);
	case OPT_KVM_FD:
		return number_fd(value, &a->fds.kvm);
	case OPT_UID:
		return number(value, INT_MAX, &a->uid);
	case OPT_GID:
		return number(value, INT_MAX, &a->gid);
	case OPT_RUN:
		a->run = true;
		return 0;
	case OPT_KERNEL:
		a->standalone.kernel = value;
		return 0;
	case OPT_INITRD:
		return initrd_add(&a->standalone, value);
	case OPT_CMDLINE:
		a->standalone.cmdline = value;
		return 0;
	case OPT_MEMORY:
		return memory_parse(value, &a->standalone.ram_bytes);
	case OPT_ISOLATION:
		return isolation_parse(value, &a->standalone.isolation);
	case OPT_PLAIN:
		a->standalone.plain = true;
		return 0;
	case OPT_STATS:
		a->standalone.stats = true;
		return 0;
	default:
		return -EINVAL;
	}
}

static int jailed_run(const struct arguments *a)
{
	const int keep[] = { a->fds.control, a->fds.channel, a->fds.kvm };
	struct jail_config jail = { .uid = (uid_t)a->uid,
				    .gid = (gid_t)a->gid,
				    .keep_fds = keep,
				    .keep_count = sizeof(keep) / sizeof(keep[0]) };
	struct ramet_err err = { 0 };

	if (jail_enter(&jail, &err) || jail_seal(&err)) {
		log_error("%s", err.msg);
		return EXIT_FAILURE;
	}
	return worker_main(&a->fds);
}

int main(int argc, char **argv)
{
	struct arguments a = { .fds = { -1, -1, -1 },
			       .uid = -1,
			       .gid = -1,
			       .standalone = { .ram_bytes = 512ull << 20,
					       .isolation = ISOLATION_FULL,
					       .cmdline = "" } };
	int id;

	log_init("ramet-vmm");
	while ((id = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (option_apply(&a, id, optarg))
			return usage();
	if (optind != argc)
		return usage();
	if (a.run)
		return a.standalone.kernel ? standalone_run(&a.standalone) : usage();
	if (a.fds.control < 0 || a.fds.channel < 0 || a.fds.kvm < 0 || a.uid <= 0 || a.gid <= 0)
		return usage();
	return jailed_run(&a);
}
