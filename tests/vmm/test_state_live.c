/* Machine state under a running guest: boots a guest, and every few
 * milliseconds takes its state, builds a second machine with a copy of its
 * memory, gives that the state, destroys the first and goes on with the second.
 * The guest's own test programs say whether anything was lost.
 *
 *   test_state_live KERNEL INITRD CMDLINE [name=value...]
 *     mib=128 isolation=full|fast interval_ms=100 seconds=120
 *     path=fast|plain|both   in-guest fast path, plain path, or changing between
 *                            them with every restore
 *     drop=1                 the machine stays, what KVM has shadowed goes
 *
 * The console goes to stdout, one line "state-live: restores=N ..." to stderr.
 * Exit status: 0 when the guest powered off, 3 when it ended otherwise, 1 when
 * a capture or restore failed or the time was up. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/clock.h"
#include "vmm/domain.h"
#include "vmm/machine.h"
#include "vmm/run.h"
#include "vmm/state.h"

#define MS 1000000ull

enum path { PATH_FAST, PATH_PLAIN, PATH_BOTH };

struct options {
	const char *kernel, *initrd, *cmdline;
	uint64_t ram_bytes, interval_ns, limit_ns;
	enum isolation_mode isolation;
	enum path path;
	bool drop;
};

struct live {
	struct options o;
	int kvm_fd;
	struct host_facts host;
	struct machine *m;
	uint64_t start, due;
	unsigned int restores;
	size_t state_bytes;
	uint64_t restore_ns;
};

static void console_print(void *arg, const char *data, size_t len)
{
	(void)arg;
	(void)fwrite(data, 1, len, stdout);
	(void)fflush(stdout);
}

static void on_signal(void *arg)
{
	struct live *live = arg;
	uint64_t now = clock_monotonic_ns();

	if (now - live->start > live->o.limit_ns)
		machine_end(live->m, END_ERROR, "the time is up");
	if (now >= live->due)
		live->m->want_pause = true;
}

static struct machine *machine_new(struct live *live, struct ramet_err *err)
{
	struct machine *m = calloc(1, sizeof(*m));
	bool plain =
		live->o.path == PATH_PLAIN || (live->o.path == PATH_BOTH && live->restores % 2);

	const struct machine_config config = { .kvm_fd = live->kvm_fd,
					       .m2p_fd = -1,
					       .ram_bytes = live->o.ram_bytes,
					       .isolation = live->o.isolation,
					       .plain = plain };

	if (!m || machine_create(m, &config, &live->host, err)) {
		free(m);
		return NULL;
	}
	m->sink = (struct machine_sink){ .arg = live,
					 .console = console_print,
					 .service = on_signal };
	return m;
}

static void machine_free(struct machine *m)
{
	if (m)
		machine_destroy(m);
	free(m);
}

static int boot(struct live *live, struct ramet_err *err)
{
	cleanup_close int kernel = open(live->o.kernel, O_RDONLY | O_CLOEXEC);
	cleanup_close int initrd = open(live->o.initrd, O_RDONLY | O_CLOEXEC);
	struct domain_config config = { .kernel_fd = kernel,
					.initrd_fds = &initrd,
					.initrd_count = 1,
					.cmdline = live->o.cmdline };
	int rc;

	if (kernel < 0 || initrd < 0)
		return err_errno(err, ENOENT, "%s or %s", live->o.kernel, live->o.initrd);
	live->m = machine_new(live, err);
	if (!live->m)
		return -err->code;
	rc = domain_build(live->m, &config, err);
	return rc ? rc : live->m->ops->setup(live->m, err);
}

static void memory_copy(const struct guest_memory *to, const struct guest_memory *from)
{
	static const uint8_t zero[PAGE_SIZE];

	for (uint64_t at = 0; at < from->size; at += PAGE_SIZE)
		if (memcmp(from->base + at, zero, PAGE_SIZE))
			memcpy(to->base + at, from->base + at, PAGE_SIZE);
}

/* The machine is paused: replaces it. */
static int move(struct live *live, struct ramet_err *err)
{
	uint64_t start = clock_monotonic_ns();
	struct state_buffer state;
	struct machine *next;
	int rc = state_capture(live->m, &state, err);

	if (rc)
		return rc;
	live->restores++;
	live->state_bytes = state.len;
	next = machine_new(live, err);
	rc = next ? 0 : -err->code;
	if (!rc) {
		memory_copy(&next->mem, &live->m->mem);
		machine_free(live->m);
		live->m = next;
		rc = state_apply(next, state.data, state.len, err);
	}
	state_buffer_free(&state);
	live->restore_ns += clock_monotonic_ns() - start;
	live->due = clock_monotonic_ns() + live->o.interval_ns;
	return rc;
}

/* The machine is paused: KVM forgets what it knows of the guest's page tables. */
static int drop(struct live *live, struct ramet_err *err)
{
	live->restores++;
	live->due = clock_monotonic_ns() + live->o.interval_ns;
	return machine_shadow_drop(live->m, err);
}

/* Signals that make the run loop look at the clock. */
static int ticks_start(uint64_t interval_ns, timer_t *timer, struct ramet_err *err)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGIO };
	struct timespec interval = { .tv_sec = (time_t)(interval_ns / 1000000000),
				     .tv_nsec = (long)(interval_ns % 1000000000) };
	struct itimerspec spec = { .it_value = interval, .it_interval = interval };

	if (timer_create(CLOCK_MONOTONIC, &event, timer) || timer_settime(*timer, 0, &spec, NULL))
		return err_errno(err, errno, "timer");
	return 0;
}

static int run(struct live *live, struct ramet_err *err)
{
	timer_t timer;
	int rc = boot(live, err);

	if (!rc)
		rc = ticks_start(live->o.interval_ns, &timer, err);
	if (rc)
		return rc;
	while (!rc) {
		rc = machine_run(live->m, err);
		if (rc || live->m->ended)
			break;
		rc = live->o.drop ? drop(live, err) : move(live, err);
	}
	(void)timer_delete(timer);
	return rc;
}

static int option_parse(struct options *o, const char *text)
{
	unsigned long n = strtoul(strchr(text, '=') ? strchr(text, '=') + 1 : "", NULL, 10);

	if (!strncmp(text, "mib=", 4))
		o->ram_bytes = (uint64_t)n << 20;
	else if (!strncmp(text, "interval_ms=", 12))
		o->interval_ns = n * MS;
	else if (!strncmp(text, "seconds=", 8))
		o->limit_ns = n * 1000 * MS;
	else if (!strcmp(text, "drop=1"))
		o->drop = true;
	else if (!strcmp(text, "isolation=full"))
		o->isolation = ISOLATION_FULL;
	else if (!strcmp(text, "isolation=fast"))
		o->isolation = ISOLATION_FAST;
	else if (!strcmp(text, "path=fast"))
		o->path = PATH_FAST;
	else if (!strcmp(text, "path=plain"))
		o->path = PATH_PLAIN;
	else if (!strcmp(text, "path=both"))
		o->path = PATH_BOTH;
	else
		return fprintf(stderr, "state-live: unknown option %s\n", text), -EINVAL;
	return 0;
}

int main(int argc, char **argv)
{
	struct live live = { .o = { .ram_bytes = 128ull << 20,
				    .isolation = ISOLATION_FULL,
				    .interval_ns = 100 * MS,
				    .limit_ns = 120000 * MS },
			     .start = clock_monotonic_ns() };
	struct ramet_err err = { 0 };
	int rc = argc < 4 ? -EINVAL : 0;

	for (int i = 4; i < argc && !rc; i++)
		rc = option_parse(&live.o, argv[i]);
	if (rc)
		return fputs("usage: test_state_live KERNEL INITRD CMDLINE [name=value...]\n",
			     stderr),
		       2;
	live.o.kernel = argv[1];
	live.o.initrd = argv[2];
	live.o.cmdline = argv[3];
	live.kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	rc = live.kvm_fd < 0 ? err_errno(&err, errno, "/dev/kvm") : 0;
	if (!rc)
		rc = run(&live, &err);
	fprintf(stderr, "state-live: restores=%u bytes=%zu mean_ms=%.2f %s\n", live.restores,
		live.state_bytes,
		live.restores ? (double)live.restore_ns / 1e6 / live.restores : 0.0,
		rc ? err.msg : live.m->end_text);
	if (!rc)
		rc = live.m->end_reason == END_POWEROFF ? 0
		     : live.m->end_reason == END_ERROR  ? 1
							: 3;
	else
		rc = 1;
	machine_free(live.m);
	close_fd(&live.kvm_fd);
	return rc;
}
