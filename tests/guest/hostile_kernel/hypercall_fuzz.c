/* A hostile guest kernel, in the hands of the guest's root: hypercalls 0 to 63
 * with arguments between plausible and absurd, through /dev/xen/privcmd.
 *
 * What must hold is seen from outside: the worker goes on or ends with a clear
 * reason, and nothing but this machine is harmed. Here only the damage to
 * oneself shows: the program reports what came back and whether it still runs.
 *
 * Parameters: seed=N count=N (default 1 and 20000); only=N fuzzes one number;
 * careful=1 (default) leaves out what would take this guest's own footing away
 * (trap and page tables, stacks, timers, sleeping), so that the run should reach
 * its end; careful=0 leaves out nothing, and the guest will end early; print=1
 * prints every call before it is made. Exit 77 when the kernel offers no unrestricted privcmd
 * device. */
#include "tests/guest/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* The types that privcmd.h needs come from xen.h. */
#include <xen/xen.h>

#include <xen/sys/privcmd.h>

#define NUMBERS     64u
#define ARGS        5u
#define BUFFER_SIZE (64u << 10)
#define PAGE        4096u
#define EXIT_SKIP   77

/* One letter per argument: m command, p pointer, c count, d domain, f frame,
 * v virtual address, e page table entry, s small number, r anything. */
struct shape {
	uint8_t number;
	const char *args;
};

static const struct shape shapes[] = {
	{ 0, "p" },     { 1, "pcpd" },   { 2, "pc" },   { 3, "sv" },     { 4, "vvv" },
	{ 5, "s" },     { 6, "mr" },     { 7, "p" },    { 8, "sv" },     { 9, "s" },
	{ 10, "er" },   { 12, "mp" },    { 13, "pc" },  { 14, "ves" },   { 15, "r" },
	{ 16, "p" },    { 17, "mp" },    { 18, "mcp" }, { 19, "p" },     { 20, "mpc" },
	{ 21, "ms" },   { 22, "vesd" },  { 23, "r" },   { 24, "msp" },   { 25, "sv" },
	{ 26, "pcpd" }, { 27, "p" },     { 28, "mp" },  { 29, "mp" },    { 30, "mp" },
	{ 31, "mp" },   { 32, "mp" },    { 33, "mp" },  { 34, "mp" },    { 35, "p" },
	{ 36, "p" },    { 37, "mp" },    { 38, "p" },   { 39, "mppcc" }, { 40, "mp" },
	{ 41, "dcp" },  { 42, "mpcpc" }, { 48, "mp" },  { 55, "mccp" },
};

struct fuzz {
	int fd;
	uint64_t rng;
	uint8_t *buffer;
	uint64_t ram_frames;
	bool careful, print;
	unsigned long made;
	unsigned long good[NUMBERS], refused[NUMBERS];
	unsigned long errors[134]; /* by errno */
};

static uint64_t pick(struct fuzz *f, const uint64_t *values, size_t n)
{
	return values[rng_next(&f->rng) % n];
}

static uint64_t pointer_make(struct fuzz *f)
{
	static const uint64_t edges[] = {
		0,
		1,
		0xfff,
		0x7ffffffff000u,
		0x7fffffffffffu,
		0x800000000000u,
		0x8000000000000000u,
		0xffff7fffffffffffu,
		0xffff800000000000u,
		0xffff808000000000u,
		0xffff808000080000u,
		0xffff808040080000u,
		0xffff810000000000u,
		0xffff888000000000u,
		0xffff888000001ffcu,
		0xffffffff81000000u,
		0xffffffff82000000u,
		0xffffffffff5fd000u,
		0xfffffffffffffff8u,
		~0ull,
	};
	uint64_t r = rng_next(&f->rng);
	uint64_t own = (uintptr_t)f->buffer;

	if (r % 8 == 0)
		return pick(f, edges, ARRAY_SIZE(edges));
	if (r % 8 == 1) /* runs over the end into a page that is not there */
		return own + BUFFER_SIZE - (r >> 8) % 64;
	if (r % 8 == 2) /* misaligned */
		return own + (r >> 8) % BUFFER_SIZE;
	return own + ((r >> 8) % BUFFER_SIZE & ~7ull);
}

static uint64_t frame_make(struct fuzz *f)
{
	const uint64_t edges[] = {
		0,          1,          f->ram_frames - 1, f->ram_frames,    f->ram_frames + 1,
		1ull << 20, 1ull << 24, 1ull << 40,        (1ull << 52) - 1, ~0ull
	};
	uint64_t r = rng_next(&f->rng);

	return r % 3 ? (r >> 8) % (f->ram_frames + 16) : pick(f, edges, ARRAY_SIZE(edges));
}

static uint64_t value_make(struct fuzz *f, char kind)
{
	static const uint64_t counts[] = { 0,          1,          2,        3,          8,
					   64,         511,        512,      513,        4096,
					   65535,      65536,      1u << 20, 0x7fffffff, 0x80000000,
					   0xffffffff, 1ull << 32, ~0ull };
	static const uint64_t domains[] = { 0x7ff0, 0x7ff0, 0,      1,    0x7ff1,
					    0x7ff2, 0x7ff4, 0xffff, ~0ull };
	uint64_t r = rng_next(&f->rng);

	if (r % 16 == 0)
		kind = "mpcdfversr"[r >> 8 & 7];
	switch (kind) {
	case 'm':
		return r % 8 ? (r >> 8) % 32 : pick(f, counts, ARRAY_SIZE(counts));
	case 'p':
		return pointer_make(f);
	case 'c':
		return r % 4 ? (r >> 8) % 16 : pick(f, counts, ARRAY_SIZE(counts));
	case 'd':
		return pick(f, domains, ARRAY_SIZE(domains));
	case 'f':
		return frame_make(f);
	case 'v':
		return r % 2 ? pointer_make(f) & ~0xfffull : pointer_make(f);
	case 'e':
		return frame_make(f) << 12 | (r >> 8 & 0xfff) | (r >> 63 << 63);
	case 's':
		return (r >> 8) % 20;
	default:
		return r;
	}
}

/* Fills the start of the buffer with words of every kind: structures there
 * look like lists of updates, operations, frames, nested calls. */
static void buffer_fill(struct fuzz *f)
{
	static const char kinds[] = "mpcdfvesr";
	uint64_t words[512];

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		words[i] = value_make(f, kinds[rng_next(&f->rng) % (sizeof(kinds) - 1)]);
	memcpy(f->buffer, words, sizeof(words));
	memcpy(f->buffer + BUFFER_SIZE - sizeof(words), words, sizeof(words));
}

static const char *shape_of(unsigned number)
{
	for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
		if (shapes[i].number == number)
			return shapes[i].args;
	}
	return "rrrrr";
}

/* What takes this guest's own footing away, so that it would end or sleep for
 * ever: a whole hypercall, or those of its commands whose bit is set. */
struct fatal {
	uint8_t number;
	uint32_t commands; /* bit 31: every command from 31 on as well */
};

#define EVERY 0xffffffffu

static const struct fatal fatal_calls[] = {
	{ 0, EVERY },    /* set_trap_table */
	{ 1, EVERY },    /* mmu_update */
	{ 2, EVERY },    /* set_gdt */
	{ 3, EVERY },    /* stack_switch */
	{ 4, EVERY },    /* set_callbacks */
	{ 5, EVERY },    /* fpu_taskswitch */
	{ 6, ~1u },      /* sched_op_compat: all but yield */
	{ 10, EVERY },   /* update_descriptor */
	{ 13, EVERY },   /* multicall: may contain any of the others */
	{ 14, EVERY },   /* update_va_mapping */
	{ 16, EVERY },   /* event_channel_op_compat */
	{ 21, EVERY },   /* vm_assist */
	{ 22, EVERY },   /* update_va_mapping_otherdomain */
	{ 23, EVERY },   /* iret */
	{ 24, 0x3f87u }, /* vcpu_op: up, down, timers and shared areas */
	{ 25, EVERY },   /* set_segment_base */
	{ 26, EVERY },   /* mmuext_op */
	{ 29, ~1u },     /* sched_op: all but yield */
	{ 30, EVERY },   /* callback_op */
	{ 32, 0xd0cu },  /* event_channel_op: closing, moving and resetting ports */
	{ 55, 0x4u },    /* free pages: takes away what is in use */
};

static bool call_is_fatal(const privcmd_hypercall_t *call)
{
	uint32_t command = (uint32_t)call->arg[0];

	for (size_t i = 0; i < ARRAY_SIZE(fatal_calls); i++) {
		if (fatal_calls[i].number == call->op)
			return fatal_calls[i].commands >> (command < 31 ? command : 31) & 1;
	}
	return false;
}

static void call_make(struct fuzz *f, privcmd_hypercall_t *call, unsigned number)
{
	const char *args = shape_of(number);

	memset(call, 0, sizeof(*call));
	call->op = number;
	for (unsigned i = 0; i < ARGS; i++)
		call->arg[i] = value_make(f, i < strlen(args) ? args[i] : 'r');
}

static void call_print(const struct fuzz *f, const privcmd_hypercall_t *call)
{
	printf("FUZZ %lu: %llu(%#llx, %#llx, %#llx, %#llx, %#llx)\n", f->made,
	       (unsigned long long)call->op, (unsigned long long)call->arg[0],
	       (unsigned long long)call->arg[1], (unsigned long long)call->arg[2],
	       (unsigned long long)call->arg[3], (unsigned long long)call->arg[4]);
	fflush(stdout);
}

static void fuzz_once(struct fuzz *f, int only)
{
	privcmd_hypercall_t call;
	uint64_t r = rng_next(&f->rng);
	unsigned number = (unsigned)(r >> 8) % NUMBERS;

	if (r % 4) /* mostly those that do something */
		number = shapes[(r >> 8) % ARRAY_SIZE(shapes)].number;
	if (only >= 0)
		number = (unsigned)only;
	buffer_fill(f);
	call_make(f, &call, number);
	if (f->careful && call_is_fatal(&call))
		return;
	if (f->print)
		call_print(f, &call);
	long result = ioctl(f->fd, IOCTL_PRIVCMD_HYPERCALL, &call);

	f->made++;
	if (result >= 0) {
		f->good[number]++;
		return;
	}
	f->refused[number]++;
	f->errors[(size_t)errno < ARRAY_SIZE(f->errors) ? (size_t)errno : 0]++;
}

static int fuzz_open(struct fuzz *f)
{
	privcmd_hypercall_t version = { .op = 17 }; /* xen_version, command 0 */
	long pages = sysconf(_SC_PHYS_PAGES);

	f->fd = open("/dev/xen/privcmd", O_RDWR | O_CLOEXEC);
	if (f->fd < 0) {
		printf("FUZZ skip: /dev/xen/privcmd: %s\n", strerror(errno));
		return EXIT_SKIP;
	}
	if (ioctl(f->fd, IOCTL_PRIVCMD_HYPERCALL, &version) < 0 && errno == EPERM) {
		printf("FUZZ skip: the driver is restricted; load xen_privcmd with "
		       "unrestricted=1\n");
		return EXIT_SKIP;
	}
	f->ram_frames = pages > 0 ? (uint64_t)pages : 65536;
	/* A page that is not there follows the buffer. */
	f->buffer = mmap(NULL, BUFFER_SIZE + PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (f->buffer == MAP_FAILED || munmap(f->buffer + BUFFER_SIZE, PAGE))
		return 1;
	return mlock(f->buffer, BUFFER_SIZE) ? 1 : 0;
}

static void fuzz_report(const struct fuzz *f)
{
	for (unsigned n = 0; n < NUMBERS; n++) {
		if (f->good[n] || f->refused[n])
			printf("FUZZ hypercall %u: %lu accepted, %lu refused\n", n, f->good[n],
			       f->refused[n]);
	}
	for (size_t e = 0; e < ARRAY_SIZE(f->errors); e++) {
		if (f->errors[e])
			printf("FUZZ errno %zu (%s): %lu\n", e, strerror((int)e), f->errors[e]);
	}
}

int main(int argc, char **argv)
{
	static struct fuzz f;
	struct check c = { 0 };
	struct sanity s;

	setvbuf(stdout, NULL, _IOLBF, 0);
	unsigned long count = (unsigned long)param_get(argc, argv, "count", 20000, 1, 1000000000);
	long seed = param_get(argc, argv, "seed", 1, 0, __LONG_MAX__);
	int only = (int)param_get(argc, argv, "only", -1, -1, NUMBERS - 1);

	f.rng = (uint64_t)seed;
	f.careful = param_get(argc, argv, "careful", 1, 0, 1);
	f.print = param_get(argc, argv, "print", 0, 0, 1);
	int err = fuzz_open(&f);

	if (err || sanity_init(&s))
		return err ? err : 1;
	printf("FUZZ seed %ld count %lu%s\n", seed, count, f.careful ? " careful" : "");
	for (unsigned long i = 0; i < count; i++) {
		fuzz_once(&f, only);
		if (i % 2048 == 2047)
			printf("FUZZ at %lu\n", i + 1);
	}
	fuzz_report(&f);
	const char *insane = sanity_check(&s);

	check_that(&c, !insane, "machine-sane-after-fuzz", "%s", insane ? insane : "");
	return check_finish(&c);
}
