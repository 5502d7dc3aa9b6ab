/* What the parts of a fork's memory cost: maps, mappings, faults, copies.
 *
 * usage: uffd_bench [MIB [ROUNDS]]
 *
 * One line for each number: name, median, 90th percentile, unit. Needs
 * /dev/userfaultfd. The fault numbers are between two processes, as in a fork.
 * "first" is the first use of fresh memory, "again" later rounds of the same. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "lib/clock.h"
#include "lib/fdpass.h"
#include "uffd/donor.h"
#include "uffd/layer.h"
#include "uffd/stitch.h"
#include "uffd/userfault.h"

#define PAGE       RANGE_PAGE
#define MIB        (1ull << 20)
#define ROUNDS_MAX 1000u

static struct ramet_err err;
static unsigned int rounds = 15;

static _Noreturn void die(const char *what)
{
	(void)fprintf(stderr, "uffd_bench: %s: %s\n", what, err.msg);
	exit(1);
}

static int must(int rc, const char *what)
{
	if (rc < 0)
		die(what);
	return rc;
}

static void *must_map(void *p)
{
	if (p == MAP_FAILED) {
		(void)err_errno(&err, errno, "mmap");
		die("memory");
	}
	return p;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void report(const char *name, double *samples, size_t count, const char *unit)
{
	qsort(samples, count, sizeof(*samples), compare);
	(void)printf("%-44s %12.3f %12.3f %s\n", name, samples[count / 2], samples[count * 9 / 10],
		     unit);
}

static double us_since(uint64_t began)
{
	return (double)(clock_monotonic_ns() - began) / 1000;
}

/* A map of `size` bytes whose extents are in layer 0 and zeros by turns. */
static struct extent_map *map_striped(uint64_t size, size_t extents)
{
	struct extent_map *zeros, *map;
	struct range ranges[RANGES_MAX];
	uint64_t stripe = size / extents / PAGE * PAGE;
	size_t count = 0;

	for (size_t i = 0; i < extents; i += 2)
		ranges[count++] = (struct range){ i * stripe, (i + 1) * stripe };
	must(extent_map_create(&zeros, size, EXTENT_ZERO, &err), "map");
	must(extent_map_overlay(&map, zeros, ranges, count, 0, &err), "overlay");
	free(zeros);
	return map;
}

/* ---- maps ---- */

static void bench_maps(void)
{
	const uint64_t size = 12288 * MIB, words = size / PAGE / 64;
	const struct range_policy policy = { .gap = 16 * PAGE, .max = 128 };
	uint64_t *bitmap = calloc(words, sizeof(*bitmap));
	double scan[ROUNDS_MAX], overlay[ROUNDS_MAX];
	struct extent_map *below = map_striped(size, 128);

	if (!bitmap)
		exit(1);
	for (uint64_t i = 0; i < 4096; i++)
		bitmap[i * 2654435761u % words] |= 0xffull << i % 56;
	for (unsigned int i = 0; i < rounds; i++) {
		struct extent_map *above;
		struct range_list *list;
		uint64_t began = clock_monotonic_ns();

		must(ranges_from_bitmap(&list, bitmap, size, &policy, NULL, &err), "bitmap");
		scan[i] = us_since(began);
		began = clock_monotonic_ns();
		must(extent_map_overlay(&above, below, list->ranges, list->count, 1, &err),
		     "overlay");
		overlay[i] = us_since(began);
		free(list);
		free(above);
	}
	report("scan 12 GiB bitmap, 4096 runs", scan, rounds, "us");
	report("overlay 128 ranges on 128 extents", overlay, rounds, "us");
	free(below);
	free(bitmap);
}

/* ---- stitching ---- */

static void bench_stitch(int device, uint64_t size, size_t extents)
{
	int layer = must(layer_create("bench", size, &err), "layer");
	int readonly = must(layer_open_readonly(layer, &err), "layer");
	struct extent_map *map = map_striped(size, extents);
	double stitched[ROUNDS_MAX], watched[ROUNDS_MAX], released[ROUNDS_MAX];
	double n = (double)map->count, ranges;
	struct range_list *list;
	char name[64];

	must(extent_map_layer_ranges(&list, map, 0, &err), "ranges");
	ranges = (double)list->count;
	for (unsigned int i = 0; i < rounds; i++) {
		uint64_t began;
		uint8_t *base;
		int uffd;

		must(stitch_reserve(&base, size, &err), "reserve");
		began = clock_monotonic_ns();
		must(stitch(base, map, false, &readonly, 1, &err), "stitch");
		stitched[i] = us_since(began) / n;
		began = clock_monotonic_ns();
		uffd = must(stitch_watch(base, map, 0, device, &err), "watch");
		watched[i] = us_since(began) / ranges;
		began = clock_monotonic_ns();
		must(userfault_release(uffd, (uint64_t)base, list->ranges, list->count, &err),
		     "release");
		released[i] = us_since(began) / ranges;
		(void)close(uffd);
		(void)munmap(base, size);
	}
	(void)snprintf(name, sizeof(name), "stitch, each of %zu extents", map->count);
	report(name, stitched, rounds, "us");
	(void)snprintf(name, sizeof(name), "watch, each of %zu extents", list->count);
	report(name, watched, rounds, "us");
	(void)snprintf(name, sizeof(name), "release, each of %zu extents", list->count);
	report(name, released, rounds, "us");
	free(list);
	free(map);
	(void)close(readonly);
	(void)close(layer);
}

/* ---- faults ---- */

static _Noreturn void toucher(const struct extent_map *map, int readonly, int device, int sock,
			      uint64_t step)
{
	static double us[65536];
	double mean = 0;
	size_t count = 0;
	uint8_t *base;
	int uffd;
	char go;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	must(stitch_reserve(&base, map->size, &err), "reserve");
	must(stitch(base, map, false, &readonly, 1, &err), "stitch");
	uffd = must(stitch_watch(base, map, 0, device, &err), "watch");
	if (fdpass_send(sock, &base, sizeof(base), &uffd, 1) || recv(sock, &go, 1, 0) != 1)
		_exit(1);
	for (uint64_t at = 0; at < map->size && count < 65536; at += step) {
		uint64_t began = clock_monotonic_ns();

		(void)*(volatile uint8_t *)(base + at);
		us[count] = us_since(began);
		mean += us[count++];
	}
	mean /= (double)count;
	if (step == PAGE)
		report("read all pages on demand, each page", &mean, 1, "us");
	else
		report("read one page of each cluster on demand", us, count, "us");
	(void)fflush(stdout);
	_exit(0);
}

static struct donor *donor_new(int device, int layer, const uint8_t *source, uint64_t size)
{
	const struct range all = { 0, size };
	const struct donor_params params = { .device = device,
					     .layer = layer,
					     .size = size,
					     .source = source,
					     .ranges = &all,
					     .range_count = 1 };
	struct donor *donor;

	must(donor_create(&donor, &params, &err), "donor");
	return donor;
}

static void bench_faults(int device, const uint8_t *source, uint64_t size, uint64_t step)
{
	const struct range all = { 0, size };
	int layer = must(layer_create("bench", size, &err), "layer"), pair[2], fds[FDPASS_MAX];
	int readonly = must(layer_open_readonly(layer, &err), "layer");
	struct donor *donor = donor_new(device, layer, source, size);
	struct extent_map *map;
	uint64_t base;
	size_t nfds;
	pid_t pid;

	must(extent_map_create(&map, size, 0, &err), "map");
	must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), "socketpair");
	pid = must(fork(), "fork");
	if (pid == 0) {
		(void)close(pair[0]);
		toucher(map, readonly, device, pair[1], step);
	}
	(void)close(pair[1]);
	must(poll(&(struct pollfd){ .fd = pair[0], .events = POLLIN }, 1, -1), "poll");
	if (fdpass_recv(pair[0], &base, sizeof(base), fds, &nfds) != sizeof(base) || nfds != 1)
		die("child");
	must(donor_add_child(donor, 1, fds[0], base, &all, 1, &err), "child");
	must((int)send(pair[0], "g", 1, 0), "go");
	for (;;) {
		struct pollfd p[] = { { .fd = donor_fd(donor), .events = POLLIN },
				      { .fd = pair[0], .events = POLLIN } };

		must(poll(p, 2, -1), "poll");
		if (p[1].revents)
			break;
		must(donor_serve(donor, &err), "serve");
	}
	(void)waitpid(pid, NULL, 0);
	(void)close(pair[0]);
	donor_destroy(donor);
	free(map);
	(void)close(readonly);
	(void)close(layer);
}

/* ---- filling ---- */

static void bench_fill(int device, const uint8_t *source, uint64_t size)
{
	double speed[ROUNDS_MAX], finish[ROUNDS_MAX], seal[ROUNDS_MAX], first = 0;
	static double steps[4096];
	size_t count = 0;

	for (unsigned int i = 0; i < rounds; i++) {
		int layer = must(layer_create("bench", size, &err), "layer");
		struct donor *donor = donor_new(device, layer, source, size);
		uint64_t began = clock_monotonic_ns();

		for (count = 0; !donor_done(donor); count++) {
			uint64_t step = clock_monotonic_ns();

			must(donor_step(donor, &err), "step");
			steps[count] = us_since(step);
		}
		speed[i] = (double)size / us_since(began);
		if (i == 0)
			first = speed[0];
		began = clock_monotonic_ns();
		must(donor_finish(donor, &err), "finish");
		finish[i] = us_since(began) * 1000 * (double)PAGE / (double)size;
		began = clock_monotonic_ns();
		must(layer_seal(layer, &err), "seal");
		seal[i] = us_since(began) * 1000 * (double)PAGE / (double)size;
		donor_destroy(donor);
		(void)close(layer);
	}
	report("fill, first", &first, 1, "MB/s");
	report("fill, again", speed, rounds, "MB/s");
	report("one step of a fill, 1 MiB", steps, count, "us");
	report("finish, each page", finish, rounds, "ns");
	report("seal, each page", seal, rounds, "ns");
}

int main(int argc, char **argv)
{
	uint64_t size = (argc > 1 ? strtoull(argv[1], NULL, 10) : 128) * MIB;
	uint8_t *source;
	int device;

	if (argc > 2)
		rounds = (unsigned int)strtoul(argv[2], NULL, 10);
	if (argc > 3 || size < 2 * MIB || size > 4096 * MIB || !rounds || rounds > ROUNDS_MAX) {
		(void)fprintf(stderr, "usage: uffd_bench [MIB (2-4096) [ROUNDS (1-%u)]]\n",
			      ROUNDS_MAX);
		return 2;
	}
	device = must(userfault_device_open(&err), "userfaultfd");
	source = must_map(mmap(NULL, size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
	memset(source, 0x5a, size);
	(void)printf("%-44s %12s %12s\n", "", "median", "p90");
	bench_fill(device, source, size);
	bench_maps();
	for (size_t extents = 2; extents <= 512; extents *= 4)
		bench_stitch(device, 1024 * MIB, extents);
	(void)fflush(stdout);
	for (uint64_t step = 1; step <= 16; step *= 16)
		bench_faults(device, source, size, step * PAGE);
	(void)munmap(source, size);
	(void)close(device);
	return 0;
}
