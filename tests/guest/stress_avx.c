/* Vector, x87 and MXCSR state across system calls, context switches and
 * signals: every process holds its own values in every register, and the
 * signal handler overwrites them all. */
#include "check.h"
#include "suite.h"

#include <cpuid.h>
#include <fenv.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define TIMEOUT_MS   120000
#define WORKERS      6
#define TICKS_WANTED 20u

enum level { LEVEL_SSE, LEVEL_AVX, LEVEL_AVX512, LEVEL_COUNT };

static const char *const level_names[] = { "sse", "avx", "avx512" };
static const size_t level_bytes[] = { 16 * 16, 16 * 32, 32 * 64 + 7 * 8 };

/* All of the state a worker compares; 64-byte rows also for narrow levels. */
struct state {
	uint8_t vector[32 * 64 + 7 * 8];
	uint8_t x87[8][16]; /* 10 bytes used of each */
	uint32_t mxcsr;
	uint16_t x87_cw;
};

static uint64_t xcr0_read(void)
{
	uint32_t lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (uint64_t)hi << 32 | lo;
}

static bool level_available(enum level level)
{
	unsigned a, b, c, d;

	if (level == LEVEL_SSE)
		return true;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX) ||
	    (xcr0_read() & 6) != 6)
		return false;
	if (level == LEVEL_AVX)
		return true;
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
		return false;
	return (b & bit_AVX512F) && (b & bit_AVX512BW) && (xcr0_read() & 0xe6) == 0xe6;
}

#define ROW16(OP, SIZE)                                                                            \
	OP(0, SIZE)                                                                                \
	OP(1, SIZE)                                                                                \
	OP(2, SIZE)                                                                                \
	OP(3, SIZE)                                                                                \
	OP(4, SIZE)                                                                                \
	OP(5, SIZE) OP(6, SIZE) OP(7, SIZE) OP(8, SIZE) OP(9, SIZE) OP(10, SIZE) OP(11, SIZE)      \
		OP(12, SIZE) OP(13, SIZE) OP(14, SIZE) OP(15, SIZE)
#define ROW32(OP, SIZE)                                                                            \
	ROW16(OP, SIZE)                                                                            \
	OP(16, SIZE)                                                                               \
	OP(17, SIZE)                                                                               \
	OP(18, SIZE)                                                                               \
	OP(19, SIZE)                                                                               \
	OP(20, SIZE)                                                                               \
	OP(21, SIZE) OP(22, SIZE) OP(23, SIZE) OP(24, SIZE) OP(25, SIZE) OP(26, SIZE) OP(27, SIZE) \
		OP(28, SIZE) OP(29, SIZE) OP(30, SIZE) OP(31, SIZE)
#define LOAD_XMM(N, S)  "movdqu " #N "*" #S "(%[in]), %%xmm" #N "\n\t"
#define STORE_XMM(N, S) "movdqu %%xmm" #N ", " #N "*" #S "(%[out])\n\t"
#define LOAD_YMM(N, S)  "vmovdqu " #N "*" #S "(%[in]), %%ymm" #N "\n\t"
#define STORE_YMM(N, S) "vmovdqu %%ymm" #N ", " #N "*" #S "(%[out])\n\t"
#define LOAD_ZMM(N, S)  "vmovdqu64 " #N "*" #S "(%[in]), %%zmm" #N "\n\t"
#define STORE_ZMM(N, S) "vmovdqu64 %%zmm" #N ", " #N "*" #S "(%[out])\n\t"
#define MASK_AT(N)      "2048+(" #N "-1)*8"
#define LOAD_K(N)       "kmovq " MASK_AT(N) "(%[in]), %%k" #N "\n\t"
#define STORE_K(N)      "kmovq %%k" #N ", " MASK_AT(N) "(%[out])\n\t"
#define MASKS(OP)       OP(1) OP(2) OP(3) OP(4) OP(5) OP(6) OP(7)

/* Between load and store: sched_yield and a spin, `n` times; r12 counts since
 * syscall uses rcx and r11. */
#define DWELL                                                                                      \
	"movl %[n], %%r12d\n\t"                                                                    \
	"1: movl $24, %%eax\n\t"                                                                   \
	"syscall\n\t"                                                                              \
	"movl $3000, %%ecx\n\t"                                                                    \
	"2: decl %%ecx\n\t"                                                                        \
	"jnz 2b\n\t"                                                                               \
	"decl %%r12d\n\t"                                                                          \
	"jnz 1b\n\t"
#define VECTOR_CLOBBERS                                                                            \
	"rax", "rcx", "r11", "r12", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4",        \
		"xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",        \
		"xmm14", "xmm15"
#define VECTOR_ASM(LOADS, STORES)                                                                  \
	__asm__ volatile(LOADS DWELL STORES                                                        \
			 :                                                                         \
			 : [in] "r"(in), [out] "r"(out), [n] "r"(n)                                \
			 : VECTOR_CLOBBERS)

/* Loads every vector register from `in`, lets `n` context switches pass, and
 * stores them to `out`. zmm16-31 and k1-7 are never the compiler's here. */
static void vector_hold(enum level level, const uint8_t *in, uint8_t *out, unsigned n)
{
	switch (level) {
	case LEVEL_SSE:
		VECTOR_ASM(ROW16(LOAD_XMM, 16), ROW16(STORE_XMM, 16));
		break;
	case LEVEL_AVX:
		VECTOR_ASM(ROW16(LOAD_YMM, 32), ROW16(STORE_YMM, 32) "vzeroupper\n\t");
		break;
	default:
		VECTOR_ASM(ROW32(LOAD_ZMM, 64) MASKS(LOAD_K),
			   ROW32(STORE_ZMM, 64) MASKS(STORE_K) "vzeroupper\n\t");
		break;
	}
}

/* The same with the x87 stack and both control words around it. */
static void x87_hold(const struct state *in, struct state *out, unsigned n)
{
	uint32_t mxcsr_was;
	uint16_t cw_was;

	__asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr_was), "=m"(cw_was));
	__asm__ volatile(
		"fninit\n\t"
		"fldcw %[cw]\n\t"
		"ldmxcsr %[mxcsr]\n\t"
		"fldt 0(%[in])\n\tfldt 16(%[in])\n\tfldt 32(%[in])\n\tfldt 48(%[in])\n\t"
		"fldt 64(%[in])\n\tfldt 80(%[in])\n\tfldt 96(%[in])\n\tfldt 112(%[in])\n\t" DWELL
		"fstpt 112(%[out])\n\tfstpt 96(%[out])\n\tfstpt 80(%[out])\n\t"
		"fstpt 64(%[out])\n\tfstpt 48(%[out])\n\tfstpt 32(%[out])\n\t"
		"fstpt 16(%[out])\n\tfstpt 0(%[out])\n\t"
		:
		: [in] "r"(in->x87), [out] "r"(out->x87), [n] "r"(n), [cw] "m"(in->x87_cw),
		  [mxcsr] "m"(in->mxcsr)
		: "rax", "rcx", "r11", "r12", "memory", "cc");
	__asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(out->mxcsr), "=m"(out->x87_cw));
	__asm__ volatile("ldmxcsr %0; fldcw %1" : : "m"(mxcsr_was), "m"(cw_was));
}

/* What the handler knows: signals bring no argument with them. */
static struct {
	enum level level;
	volatile unsigned ticks;
} handler_state;

static void handler_clobber(int sig)
{
	static const uint8_t junk[sizeof(((struct state *)0)->vector)] = { 0x66, 0x77, 0x88 };
	static uint8_t sink[sizeof(junk)];

	(void)sig;
	handler_state.ticks++;
	vector_hold(handler_state.level, junk, sink, 1);
	__asm__ volatile("fninit; fldpi; fldl2e; fldz" ::: "memory");
	uint32_t mxcsr = 0x1f80;

	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
}

static void state_make(struct state *s, uint64_t seed)
{
	memset(s, 0, sizeof(*s));
	for (size_t i = 0; i < sizeof(s->vector); i += 8) {
		uint64_t word = rng_next(&seed);

		memcpy(s->vector + i, &word, 8);
	}
	for (unsigned i = 0; i < 8; i++) {
		long double value = (long double)(rng_next(&seed) >> 11) / 3.0L;

		memcpy(s->x87[i], &value, 10);
	}
	/* Rounding mode, flush-to-zero; all exceptions masked. */
	s->mxcsr = 0x1f80u | (uint32_t)(rng_next(&seed) & 3) << 13 | (uint32_t)(seed & 1) << 15;
	s->x87_cw = (uint16_t)(0x037fu | (rng_next(&seed) & 3) << 10);
}

struct worker {
	enum level level;
	uint64_t seed;
	unsigned rounds, yields;
	bool signals;
	int64_t until; /* microseconds of the clock */
};

/* One round at least; then until the time is up or the rounds are done. A fast
 * machine is through them before the timer fires and goes on until some signals
 * came. */
static bool another_round(const struct worker *w, unsigned round)
{
	if (round == 0)
		return true;
	if (now_us() > w->until)
		return false;
	return round < w->rounds || (w->signals && handler_state.ticks < TICKS_WANTED);
}

/* Exit code: 0, or 1 vector, 2 x87, 3 control words, 4 no signal came. */
static int worker_run(void *arg)
{
	const struct worker *w = arg;
	struct itimerval storm = { { 0, 1500 }, { 0, 1500 } }, quiet = { { 0, 0 }, { 0, 0 } };
	static struct state in, out;

	handler_state.level = w->level;
	if (w->signals) {
		signal(SIGALRM, handler_clobber);
		setitimer(ITIMER_REAL, &storm, NULL);
	}
	for (unsigned r = 0; another_round(w, r); r++) {
		state_make(&in, w->seed + r);
		memset(&out, 0, sizeof(out));
		vector_hold(w->level, in.vector, out.vector, w->yields);
		if (memcmp(in.vector, out.vector, level_bytes[w->level]))
			return 1;
		x87_hold(&in, &out, w->yields);
		if (memcmp(in.x87, out.x87, sizeof(in.x87)))
			return 2;
		/* Exceptions flags in the low six bits may be set by use. */
		if ((in.mxcsr ^ out.mxcsr) & ~0x3fu || in.x87_cw != out.x87_cw)
			return 3;
	}
	setitimer(ITIMER_REAL, &quiet, NULL);
	return w->signals && !handler_state.ticks ? 4 : 0;
}

static void level_check(struct check *c, enum level level, struct worker base, int64_t seconds)
{
	static const char *const errors[] = { "ok", "vector registers", "x87 stack",
					      "control words", "no signal came" };
	struct worker workers[WORKERS];
	pid_t pids[WORKERS];
	char name[48], why[160] = "";
	unsigned bad = 0;

	snprintf(name, sizeof(name), "%s-state%s", level_names[level],
		 base.signals ? "-and-signals" : "");
	if (!level_available(level)) {
		check_skip(c, name, "this CPU does not have it");
		return;
	}
	fflush(NULL);
	base.until = now_us() + seconds * 1000000;
	for (unsigned i = 0; i < WORKERS; i++) {
		workers[i] = base;
		workers[i].level = level;
		workers[i].seed = base.seed + i * 1000003u;
		pids[i] = fork();
		if (pids[i] == 0)
			_exit(worker_run(&workers[i]));
	}
	for (unsigned i = 0; i < WORKERS; i++) {
		struct outcome o = child_wait(pids[i], TIMEOUT_MS);
		char text[64];

		if (o.kind == OUTCOME_EXIT && o.value == 0)
			continue;
		bad++;
		snprintf(why, sizeof(why), "%s: %s", outcome_text(o, text, sizeof(text)),
			 o.kind == OUTCOME_EXIT && o.value < 5 ? errors[o.value] : "?");
	}
	check_that(c, bad == 0, name, "%u workers failed; %s", bad, why);
}

int stress_avx_main(int argc, char **argv)
{
	struct worker base = {
		.seed = (uint64_t)param_get(argc, argv, "seed", 1, 0, 1L << 62),
		.rounds = (unsigned)param_get(argc, argv, "rounds", 40, 1, 1000000),
		.yields = (unsigned)param_get(argc, argv, "yields", 8, 1, 100000),
	};
	int64_t seconds = param_get(argc, argv, "seconds", 2, 1, 86400); /* per kind */
	struct check c = { 0 };

	for (enum level level = LEVEL_SSE; level < LEVEL_COUNT; level++) {
		base.signals = false;
		level_check(&c, level, base, seconds);
		base.signals = true;
		level_check(&c, level, base, seconds);
	}
	return check_finish(&c);
}
