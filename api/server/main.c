/* rametd: the daemon. Options, the event loop, signals, start and end. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "api/server/server.h"
#include "lib/cleanup.h"
#include "lib/log.h"

#define DEFAULT_IMAGES "/var/lib/ramet/images"
#define EXIT_USAGE     2

#define DAEMON_NICE              (-10)
#define DAEMON_TURN_NS           500000u
#define SCHED_FLAG_RESET_ON_FORK 1u /* linux/sched.h, which cannot be mixed with sched.h */

struct options {
	const char *socket;
	const char *state;
	const char *images;
	const char *worker;
	mode_t socket_mode;
	unsigned int max_sandboxes;
	unsigned int pool_size;
	bool boot_each;
};

static const char usage_text[] =
	"usage: rametd --socket PATH --state DIR [options]\n"
	"\n"
	"  --socket PATH        Unix socket to serve the API on\n"
	"  --socket-mode MODE   its permission bits, octal (default 0600)\n"
	"  --state DIR          directory for run-time state; created when missing\n"
	"  --images DIR         kernel and template images (default " DEFAULT_IMAGES ")\n"
	"  --worker PATH        the ramet-vmm program (default: beside rametd)\n"
	"  --max-sandboxes N    refuse to hold more than N sandboxes\n"
	"  --pool N             idle virtual machines to keep for creates and forks\n"
	"  --boot-each          boot every sandbox instead of copying a frozen template\n"
	"  --version            print the version and exit\n"
	"  --help               print this and exit\n";

static const struct option long_options[] = {
	{ "socket", required_argument, NULL, 's' },
	{ "socket-mode", required_argument, NULL, 'm' },
	{ "state", required_argument, NULL, 'd' },
	{ "images", required_argument, NULL, 'i' },
	{ "worker", required_argument, NULL, 'w' },
	{ "max-sandboxes", required_argument, NULL, 'n' },
	{ "pool", required_argument, NULL, 'p' },
	{ "boot-each", no_argument, NULL, 'b' },
	{ "version", no_argument, NULL, 'V' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

/* The whole of `text` as a number in `base` between `min` and `max`. */
static int number_parse(const char *text, int base, unsigned long min, unsigned long max,
			unsigned long *value)
{
	char *end;
	unsigned long parsed;

	errno = 0;
	parsed = strtoul(text, &end, base);
	if (errno || end == text || *end || *text == '-' || parsed < min || parsed > max)
		return -EINVAL;
	*value = parsed;
	return 0;
}

static int usage_error(const char *what)
{
	(void)fprintf(stderr, "rametd: %s\n%s", what, usage_text);
	return EXIT_USAGE;
}

/* Returns -1 to go on, else the exit status. */
static int option_take(struct options *options, int option)
{
	unsigned long number;

	switch (option) {
	case 's':
		options->socket = optarg;
		return -1;
	case 'd':
		options->state = optarg;
		return -1;
	case 'i':
		options->images = optarg;
		return -1;
	case 'w':
		options->worker = optarg;
		return -1;
	case 'm':
		if (number_parse(optarg, 8, 0, 0777, &number))
			return usage_error("--socket-mode wants octal permission bits, 0 to 0777");
		options->socket_mode = (mode_t)number;
		return -1;
	case 'n':
		if (number_parse(optarg, 10, 1, 100000, &number))
			return usage_error("--max-sandboxes wants a number from 1 to 100000");
		options->max_sandboxes = (unsigned int)number;
		return -1;
	case 'p':
		if (number_parse(optarg, 10, 1, 4096, &number))
			return usage_error("--pool wants a number from 1 to 4096");
		options->pool_size = (unsigned int)number;
		return -1;
	case 'b':
		options->boot_each = true;
		return -1;
	case 'V':
		(void)printf("rametd %s\n", RAMET_VERSION);
		return EXIT_SUCCESS;
	case 'h':
		(void)fputs(usage_text, stdout);
		return EXIT_SUCCESS;
	}
	(void)fputs(usage_text, stderr);
	return EXIT_USAGE;
}

static int options_parse(struct options *options, int argc, char **argv)
{
	int option, status;

	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		status = option_take(options, option);
		if (status >= 0)
			return status;
	}
	if (optind < argc)
		return usage_error("unexpected argument");
	if (!options->socket || !options->state)
		return usage_error("--socket and --state are required");
	return -1;
}

/* "<directory of this program>/ramet-vmm". */
static int worker_default(char *path, size_t size)
{
	ssize_t len = readlink("/proc/self/exe", path, size - sizeof("ramet-vmm"));
	char *slash;

	if (len < 0)
		return -errno;
	path[len] = '\0';
	slash = strrchr(path, '/');
	if (!slash)
		return -EINVAL;
	strcpy(slash + 1, "ramet-vmm");
	return 0;
}

/* The engine wants absolute paths; a person may give others. */
static const char *path_absolute(const char *path, char *room, size_t size)
{
	cleanup_free char *directory = NULL;

	if (path[0] == '/')
		return path;
	directory = getcwd(NULL, 0);
	if (!directory || (size_t)snprintf(room, size, "%s/%s", directory, path) >= size)
		return path; /* refused by the engine, by name */
	return room;
}

/* Many connections and workers need many descriptors; the soft limit of 1024
 * is for programs that use select(2). */
static void files_limit_raise(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		log_warn("cannot raise the limit on open files");
}

/* The daemon needs little time, and everybody waits for it: it comes first, in
 * short turns (sched_setattr(2)). What it starts is as usual. */
static void priority_raise(void)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attributes = { .size = sizeof(attributes),
			 .policy = SCHED_OTHER,
			 .flags = SCHED_FLAG_RESET_ON_FORK,
			 .nice = DAEMON_NICE,
			 .runtime = DAEMON_TURN_NS };

	if (syscall(SYS_sched_setattr, 0, &attributes, 0) < 0)
		log_debug("no priority for the daemon: %s", strerrordesc_np(errno));
}

static int stop_seen(sd_event_source *source, const struct signalfd_siginfo *info, void *arg)
{
	(void)arg;
	log_info("stopping on signal %u of process %u", info->ssi_signo, info->ssi_pid);
	return sd_event_exit(sd_event_source_get_event(source), 0);
}

/* Signals stay blocked in this process from here on. */
static int signals_watch(sd_event *loop, struct ramet_err *err)
{
	static const int stop_signals[] = { SIGTERM, SIGINT };
	sigset_t set;
	int ret;

	(void)signal(SIGPIPE, SIG_IGN);
	(void)sigemptyset(&set);
	for (size_t i = 0; i < sizeof(stop_signals) / sizeof(stop_signals[0]); i++)
		(void)sigaddset(&set, stop_signals[i]);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return err_errno(err, errno, "cannot block signals");
	for (size_t i = 0; i < sizeof(stop_signals) / sizeof(stop_signals[0]); i++) {
		ret = sd_event_add_signal(loop, NULL, stop_signals[i], stop_seen, NULL);
		if (ret < 0)
			return err_errno(err, -ret, "cannot watch for signals");
	}
	return 0;
}

static int daemon_serve(struct server *server, struct listener *listener,
			const struct options *options, struct ramet_err *err)
{
	int ret = listener_open(options->socket, options->socket_mode, listener, err);

	if (!ret)
		ret = server_start(server, listener, err);
	if (ret)
		return ret;
	(void)sd_notify(0, "READY=1");
	log_info("serving on %s", options->socket);
	ret = sd_event_loop(server->loop);
	(void)sd_notify(0, "STOPPING=1");
	return ret < 0 ? err_errno(err, -ret, "the event loop failed") : 0;
}

static int daemon_run(const struct options *options, struct ramet_err *err)
{
	struct engine_config config = {
		.state_dir = options->state,
		.image_dir = options->images,
		.worker_path = options->worker,
		.max_sandboxes = options->max_sandboxes,
		.pool_size = options->pool_size,
		.use_templates = !options->boot_each,
	};
	struct server server = { 0 };
	struct listener listener = { .fd = -1 };
	int ret = sd_event_new(&server.loop);

	if (ret < 0)
		return err_errno(err, -ret, "cannot make an event loop");
	ret = signals_watch(server.loop, err);
	if (!ret)
		ret = engine_create(server.loop, &config, &server.engine, err);
	if (!ret)
		ret = daemon_serve(&server, &listener, options, err);
	server_stop(&server);
	engine_destroy(server.engine);
	server_clear(&server);
	listener_close(&listener);
	sd_event_unref(server.loop);
	return ret;
}

int main(int argc, char **argv)
{
	struct options options = { .images = DEFAULT_IMAGES, .socket_mode = 0600 };
	struct ramet_err err = { 0 };
	char worker[PATH_MAX], images[PATH_MAX], state[PATH_MAX];
	int status = options_parse(&options, argc, argv);

	if (status >= 0)
		return status;
	log_init("rametd");
	if (!options.worker && !worker_default(worker, sizeof(worker)))
		options.worker = worker;
	else if (options.worker)
		options.worker = path_absolute(options.worker, worker, sizeof(worker));
	options.images = path_absolute(options.images, images, sizeof(images));
	options.state = path_absolute(options.state, state, sizeof(state));
	files_limit_raise();
	priority_raise();
	if (daemon_run(&options, &err)) {
		log_error("%s", err.msg);
		return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}
