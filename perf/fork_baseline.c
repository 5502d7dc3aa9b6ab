/* What forks cost without ramet, and what KVM costs by itself.
 *
 * usage: fork_baseline exit ROUNDS
 *        fork_baseline vm RAM_MIB ROUNDS
 *        fork_baseline copy DIRTY_MIB ROUNDS
 *        fork_baseline fork RAM_MIB DIRTY_MIB CHILDREN ROUNDS [sparse]
 *
 * exit: one `out` to this program and back. vm: the steps of making a VM. copy:
 * all dirty pages are copied into a memfd, as an engine would do that stops the
 * guest for it. fork: a process with a VM forks itself with fork(2), each child
 * makes a VM over its inherited private memory and runs one instruction; all of
 * the parent's memory is in its page tables or, sparse, only what it changed.
 *
 * Each prints JSON objects, one per line: "name", "unit", "samples" and the
 * parameters. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/clock.h"
#include "perf/baseline_vm.h"

#define MIB          (1ull << 20)
#define ROUNDS_MAX   1000u
#define CHILDREN_MAX 1024u
#define OUTS         1000u /* in one batch */
#define CHUNK        (1u * MIB)
#define ANSWER_MS    60000 /* for the slowest child */

static struct ramet_err err;

static _Noreturn void die(const char *what)
{
	(void)fprintf(stderr, "fork_baseline: %s: %s\n", what, err.msg);
	exit(1);
}

static int must(int ret, const char *what)
{
	if (ret < 0 && !err.code)
		(void)err_errno(&err, errno, "failed");
	if (ret < 0)
		die(what);
	return ret;
}

static void *must_map(uint64_t bytes, int flags, int fd)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, 0);

	if (at == MAP_FAILED)
		must(-1, "mmap");
	return at;
}

static struct baseline_kvm must_kvm(void)
{
	struct baseline_kvm kvm;

	must(baseline_kvm_open(&kvm, &err), "KVM");
	return kvm;
}

static double us_since(uint64_t began)
{
	return (double)(clock_monotonic_ns() - began) / 1e3;
}

static void print_samples(const char *name, const char *parameters, const double *samples,
			  size_t count)
{
	(void)printf("{\"name\":\"%s\",\"unit\":\"us\"%s,\"samples\":[", name, parameters);
	for (size_t i = 0; i < count; i++)
		(void)printf("%s%.3f", i ? "," : "", samples[i]);
	(void)puts("]}");
}

/* ---- KVM itself ---- */

static void bench_exit(unsigned int rounds)
{
	static double samples[ROUNDS_MAX];
	void *memory = must_map(BASELINE_HEAD, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct baseline_vm vm;
	struct baseline_kvm kvm = must_kvm();

	baseline_memory_init(memory);
	must(baseline_vm_create(&vm, &kvm, memory, BASELINE_HEAD, &err), "vm");
	for (unsigned int i = 0; i < rounds; i++) {
		uint64_t began = clock_monotonic_ns();

		for (unsigned int j = 0; j < OUTS; j++)
			must(baseline_vm_out(&vm, &err), "exit");
		samples[i] = us_since(began) / OUTS;
	}
	baseline_vm_destroy(&vm);
	print_samples("exit", "", samples, rounds);
	(void)munmap(memory, BASELINE_HEAD);
	baseline_kvm_close(&kvm);
}

static void bench_vm(uint64_t bytes, unsigned int rounds)
{
	static const char *const names[STEPS] = { "vm create", "vcpu create", "cpuid",
						  "memslot",   "registers",   "first run" };
	static double steps[STEPS][ROUNDS_MAX], total[ROUNDS_MAX], closed[ROUNDS_MAX];
	void *memory = must_map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct baseline_kvm kvm = must_kvm();
	char parameters[64];

	baseline_memory_init(memory);
	for (unsigned int i = 0; i < rounds; i++) {
		struct baseline_vm vm;
		uint64_t began = clock_monotonic_ns();

		must(baseline_vm_create(&vm, &kvm, memory, bytes, &err), "vm");
		total[i] = us_since(began);
		for (int step = 0; step < STEPS; step++)
			steps[step][i] = (double)vm.step_ns[step] / 1e3;
		began = clock_monotonic_ns();
		baseline_vm_destroy(&vm);
		closed[i] = us_since(began);
	}
	(void)snprintf(parameters, sizeof(parameters), ",\"ram_mib\":%llu", bytes / MIB);
	for (int step = 0; step < STEPS; step++)
		print_samples(names[step], parameters, steps[step], rounds);
	print_samples("all", parameters, total, rounds);
	print_samples("close", parameters, closed, rounds);
	(void)munmap(memory, bytes);
	baseline_kvm_close(&kvm);
}

/* ---- copy while paused ---- */

static void copy_to(int fd, const uint8_t *from, uint64_t bytes)
{
	for (uint64_t at = 0; at < bytes;) {
		uint64_t left = bytes - at;
		ssize_t n = pwrite(fd, from + at, left < CHUNK ? left : CHUNK, (off_t)at);

		at += (uint64_t)must((int)n, "pwrite");
	}
}

/* "first": the first copy of this process; "new": every later one into new
 * memory; "again": over an old copy, whose memory is there already. */
static void bench_copy(uint64_t bytes, unsigned int rounds)
{
	static double fresh[ROUNDS_MAX], again[ROUNDS_MAX];
	uint8_t *source = must_map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	char parameters[64];
	double first = 0;

	for (uint64_t at = 0; at < bytes; at += sizeof(at))
		memcpy(source + at, &at, sizeof(at));
	for (unsigned int i = 0; i <= rounds; i++) {
		int fd = must(memfd_create("copy", MFD_CLOEXEC), "memfd");
		uint64_t began = clock_monotonic_ns();
		double us;

		copy_to(fd, source, bytes);
		us = us_since(began);
		if (i == 0)
			first = us;
		else
			fresh[i - 1] = us;
		began = clock_monotonic_ns();
		copy_to(fd, source, bytes);
		if (i)
			again[i - 1] = us_since(began);
		(void)close(fd);
	}
	(void)snprintf(parameters, sizeof(parameters), ",\"dirty_mib\":%llu", bytes / MIB);
	print_samples("first", parameters, &first, 1);
	print_samples("new", parameters, fresh, rounds);
	print_samples("again", parameters, again, rounds);
	(void)munmap(source, bytes);
}

/* ---- fork(2), and a VM for each child ---- */

struct forker {
	struct baseline_kvm kvm;
	bool sparse;
	uint8_t *memory;
	uint64_t bytes, dirty;
	unsigned int children;
	struct baseline_vm vm;
	pid_t pids[CHILDREN_MAX];
};

/* Says when its first instruction was executed, then waits for the end of `end`. */
static _Noreturn void child_main(const struct forker *f, int answers, int end)
{
	struct baseline_vm vm;
	uint64_t now;
	char byte;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (baseline_vm_create(&vm, &f->kvm, f->memory, f->bytes, &err) < 0)
		die("child");
	now = clock_monotonic_ns();
	if (write(answers, &now, sizeof(now)) != sizeof(now))
		_exit(1);
	while (read(end, &byte, 1) < 0 && errno == EINTR)
		;
	_exit(0);
}

/* One round: us until the parent may run on, the first and the last child ran. */
static void fork_round(struct forker *f, double *parent, double *first, double *all)
{
	uint64_t began, answer, earliest = UINT64_MAX, latest = 0;
	int answers[2], end[2];

	must(pipe2(answers, O_CLOEXEC), "pipe");
	must(pipe2(end, O_CLOEXEC), "pipe");
	began = clock_monotonic_ns();
	for (unsigned int i = 0; i < f->children; i++) {
		f->pids[i] = must(fork(), "fork");
		if (f->pids[i] == 0) {
			(void)close(end[1]);
			child_main(f, answers[1], end[0]);
		}
	}
	*parent = us_since(began);
	(void)close(answers[1]);
	for (unsigned int i = 0; i < f->children; i++) {
		struct pollfd ready = { .fd = answers[0], .events = POLLIN };

		if (poll(&ready, 1, ANSWER_MS) != 1 ||
		    read(answers[0], &answer, sizeof(answer)) != sizeof(answer)) {
			(void)err_set(&err, EIO, "no answer");
			die("child");
		}
		earliest = answer < earliest ? answer : earliest;
		latest = answer > latest ? answer : latest;
	}
	*first = (double)(earliest - began) / 1e3;
	*all = (double)(latest - began) / 1e3;
	(void)close(end[1]);
	(void)close(end[0]);
	(void)close(answers[0]);
	for (unsigned int i = 0; i < f->children; i++)
		(void)waitpid(f->pids[i], NULL, 0);
}

/* Memory is an image shared with others, of which the guest has changed a part
 * and, unless sparse, looked at everything. */
static void forker_init(struct forker *f)
{
	int image = must(memfd_create("image", MFD_CLOEXEC), "memfd");
	uint8_t *memory;

	must(ftruncate(image, (off_t)f->bytes), "ftruncate");
	memory = must_map(f->bytes, MAP_SHARED, image);
	baseline_memory_init(memory);
	for (uint64_t at = BASELINE_HEAD; at < f->bytes; at += BASELINE_PAGE)
		memcpy(memory + at, &at, sizeof(at));
	(void)munmap(memory, f->bytes);
	f->memory = must_map(f->bytes, MAP_PRIVATE, image);
	(void)close(image);
	if (!f->sparse)
		must(madvise(f->memory, f->bytes, MADV_POPULATE_READ), "madvise");
	f->kvm = must_kvm();
	must(baseline_vm_create(&f->vm, &f->kvm, f->memory, f->bytes, &err), "vm");
}

static void bench_fork(struct forker *f, unsigned int rounds)
{
	static double parent[ROUNDS_MAX], first[ROUNDS_MAX], all[ROUNDS_MAX];
	char parameters[96];

	forker_init(f);
	for (unsigned int i = 0; i < rounds; i++) {
		must(baseline_vm_write(&f->vm, BASELINE_HEAD, BASELINE_HEAD + f->dirty,
				       (uint8_t)(i + 1), &err),
		     "dirty");
		fork_round(f, &parent[i], &first[i], &all[i]);
	}
	(void)snprintf(parameters, sizeof(parameters),
		       ",\"ram_mib\":%llu,\"dirty_mib\":%llu,\"children\":%u,\"sparse\":%s",
		       f->bytes / MIB, f->dirty / MIB, f->children, f->sparse ? "true" : "false");
	print_samples("parent", parameters, parent, rounds);
	print_samples("first", parameters, first, rounds);
	print_samples("all", parameters, all, rounds);
	baseline_vm_destroy(&f->vm);
	(void)munmap(f->memory, f->bytes);
	baseline_kvm_close(&f->kvm);
}

static int usage(void)
{
	(void)fputs("usage: fork_baseline exit ROUNDS\n"
		    "       fork_baseline vm RAM_MIB ROUNDS\n"
		    "       fork_baseline copy DIRTY_MIB ROUNDS\n"
		    "       fork_baseline fork RAM_MIB DIRTY_MIB CHILDREN ROUNDS [sparse]\n"
		    "RAM_MIB: 4 to 4096; DIRTY_MIB: 1 to RAM_MIB - 2; CHILDREN: 1 to 1024;\n"
		    "ROUNDS: 1 to 1000\n",
		    stderr);
	return 2;
}

static bool number(const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 10);
	return !errno && end != text && !*end && *text != '-' && *value >= min && *value <= max;
}

int main(int argc, char **argv)
{
	static struct forker forker;
	uint64_t rounds, ram, dirty, children;

	forker.sparse = argc == 7 && !strcmp(argv[6], "sparse");
	argc -= forker.sparse;
	if (argc < 3 || !number(argv[argc - 1], 1, ROUNDS_MAX, &rounds))
		return usage();
	if (!strcmp(argv[1], "exit") && argc == 3) {
		bench_exit((unsigned int)rounds);
	} else if (!strcmp(argv[1], "vm") && argc == 4 && number(argv[2], 4, 4096, &ram)) {
		bench_vm(ram * MIB, (unsigned int)rounds);
	} else if (!strcmp(argv[1], "copy") && argc == 4 && number(argv[2], 1, 4096, &dirty)) {
		bench_copy(dirty * MIB, (unsigned int)rounds);
	} else if (!strcmp(argv[1], "fork") && argc == 6 && number(argv[2], 4, 4096, &ram) &&
		   number(argv[3], 1, ram - 2, &dirty) &&
		   number(argv[4], 1, CHILDREN_MAX, &children)) {
		forker.bytes = ram * MIB;
		forker.dirty = dirty * MIB;
		forker.children = (unsigned int)children;
		bench_fork(&forker, (unsigned int)rounds);
	} else {
		return usage();
	}
	return 0;
}
