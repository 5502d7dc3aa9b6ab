/* Threads: creation storms, mutex, condition variable and futex hand-overs,
 * and the FS and GS bases that make thread-local storage work. */
#include "check.h"
#include "suite.h"

#include <asm/prctl.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STORM_WIDTH 16u
#define STACK_BYTES (64u << 10)

static __thread uint64_t tls_words[32];

/* Fills its own thread-local words, yields, and checks them and FS:0. */
static void *storm_thread(void *arg)
{
	uint64_t seed = (uintptr_t)arg, self;

	for (unsigned i = 0; i < ARRAY_SIZE(tls_words); i++)
		tls_words[i] = seed * 31 + i;
	for (unsigned r = 0; r < 3; r++) {
		sched_yield();
		__asm__ volatile("movq %%fs:0, %0" : "=r"(self));
		if (self != (uint64_t)pthread_self())
			return (void *)1;
		for (unsigned i = 0; i < ARRAY_SIZE(tls_words); i++) {
			if (tls_words[i] != seed * 31 + i)
				return (void *)2;
		}
	}
	return (void *)(seed ^ 0xabcdef);
}

static void storm_check(struct check *c, unsigned rounds)
{
	unsigned long bad = 0, made = 0;

	for (unsigned r = 0; r < rounds; r++) {
		pthread_t threads[STORM_WIDTH];
		void *result;
		unsigned n = 0;

		for (; n < STORM_WIDTH; n++) {
			uintptr_t arg = 100 + r * STORM_WIDTH + n;

			if (pthread_create(&threads[n], NULL, storm_thread, (void *)arg))
				break;
		}
		bad += STORM_WIDTH - n;
		for (unsigned i = 0; i < n; i++) {
			uintptr_t arg = 100 + r * STORM_WIDTH + i;

			pthread_join(threads[i], &result);
			bad += (uintptr_t)result != (arg ^ 0xabcdef);
			made++;
		}
	}
	check_that(c, bad == 0, "thread-storm-and-tls", "%lu of %lu went wrong", bad, made);
}

struct shared {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	unsigned long counter, turn, rounds;
	uint32_t word; /* of the futex hand-over */
};

static void *mutex_thread(void *arg)
{
	struct shared *s = arg;

	for (unsigned long i = 0; i < s->rounds; i++) {
		pthread_mutex_lock(&s->lock);
		unsigned long was = s->counter;

		if (i % 64 == 0)
			sched_yield(); /* gives others a chance to break the lock */
		s->counter = was + 1;
		pthread_mutex_unlock(&s->lock);
	}
	return NULL;
}

static void mutex_check(struct check *c, unsigned long rounds)
{
	struct shared s = { .lock = PTHREAD_MUTEX_INITIALIZER, .rounds = rounds };
	pthread_t threads[4];

	for (unsigned i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, mutex_thread, &s);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	check_that(c, s.counter == 4 * rounds, "mutex-counter", "%lu instead of %lu", s.counter,
		   4 * rounds);
}

static void cond_turns(struct shared *s, unsigned long parity)
{
	pthread_mutex_lock(&s->lock);
	while (s->turn < s->rounds) {
		if (s->turn % 2 != parity) {
			pthread_cond_wait(&s->cond, &s->lock);
			continue;
		}
		s->turn++;
		pthread_cond_signal(&s->cond);
	}
	pthread_mutex_unlock(&s->lock);
}

static void *cond_thread(void *arg)
{
	cond_turns(arg, 1);
	return NULL;
}

static void cond_check(struct check *c, unsigned long rounds)
{
	struct shared s = { .lock = PTHREAD_MUTEX_INITIALIZER,
			    .cond = PTHREAD_COND_INITIALIZER,
			    .rounds = rounds };
	pthread_t other;

	pthread_create(&other, NULL, cond_thread, &s);
	cond_turns(&s, 0);
	pthread_join(other, NULL);
	check_that(c, s.turn == rounds, "condvar-hand-over", "%lu of %lu", s.turn, rounds);
}

/* Waits until the word has the parity, then moves it on by one. */
static void futex_turns(struct shared *s, uint32_t parity)
{
	for (;;) {
		uint32_t v = __atomic_load_n(&s->word, __ATOMIC_ACQUIRE);

		if (v >= s->rounds)
			return;
		if (v % 2 != parity) {
			syscall(SYS_futex, &s->word, FUTEX_WAIT_PRIVATE, v, NULL, NULL, 0);
			continue;
		}
		__atomic_store_n(&s->word, v + 1, __ATOMIC_RELEASE);
		syscall(SYS_futex, &s->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	}
}

static void *futex_thread(void *arg)
{
	futex_turns(arg, 1);
	return NULL;
}

static void futex_check(struct check *c, unsigned long rounds)
{
	struct shared s = { .rounds = rounds };
	pthread_t other;

	pthread_create(&other, NULL, futex_thread, &s);
	futex_turns(&s, 0);
	pthread_join(other, NULL);
	check_that(c, s.word >= rounds, "futex-hand-over", "%u of %lu", s.word, rounds);
}

/* A GS base of one's own per thread; nothing in user space uses GS. */
static void *gs_thread(void *arg)
{
	uint64_t mine[2] = { (uintptr_t)arg, ~(uint64_t)(uintptr_t)arg };
	uint64_t a, b;

	if (syscall(SYS_arch_prctl, ARCH_SET_GS, mine) < 0)
		return (void *)1;
	for (unsigned i = 0; i < 40; i++) {
		sched_yield();
		__asm__ volatile("movq %%gs:0, %0; movq %%gs:8, %1" : "=r"(a), "=r"(b));
		if (a != mine[0] || b != mine[1])
			return (void *)2;
	}
	syscall(SYS_arch_prctl, ARCH_SET_GS, 0);
	return NULL;
}

static void gs_check(struct check *c)
{
	pthread_t threads[8];
	unsigned bad = 0;
	void *result;

	for (uintptr_t i = 0; i < 8; i++)
		pthread_create(&threads[i], NULL, gs_thread, (void *)(i + 0x1000));
	for (unsigned i = 0; i < 8; i++) {
		pthread_join(threads[i], &result);
		bad += result != NULL;
	}
	check_that(c, bad == 0, "gs-base-per-thread", "%u of 8 threads saw another base", bad);
}

/* A thread made by hand, with a TLS block that is not libc's. */
struct raw_thread {
	uint64_t tls[16]; /* FS points here */
	volatile uint32_t ended;
	volatile uint32_t bad;
};

/* No stack protector: its canary lies behind FS, which is not libc's here. */
__attribute__((no_stack_protector)) static int raw_run(void *arg)
{
	struct raw_thread *t = arg;
	uint64_t self, word;
	long result;

	for (unsigned i = 0; i < 50; i++) {
		__asm__ volatile("movq %%fs:0, %0; movq %%fs:16, %1" : "=r"(self), "=r"(word));
		if (self != (uintptr_t)t->tls || word != (self ^ 0x5555))
			t->bad++;
		__asm__ volatile("syscall"
				 : "=a"(result)
				 : "0"(SYS_sched_yield)
				 : "rcx", "r11", "memory");
	}
	__asm__ volatile("syscall" : : "a"(SYS_exit), "D"(0) : "rcx", "r11", "memory");
	__builtin_unreachable();
}

static void settls_check(struct check *c)
{
	static struct raw_thread threads[8];
	unsigned bad = 0;
	int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
		    CLONE_SYSVSEM | CLONE_SETTLS | CLONE_CHILD_CLEARTID;

	for (unsigned i = 0; i < 8; i++) {
		struct raw_thread *t = &threads[i];
		uint8_t *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		t->tls[0] = (uintptr_t)t->tls;
		t->tls[2] = t->tls[0] ^ 0x5555;
		t->ended = 1;
		if (stack == MAP_FAILED ||
		    clone(raw_run, stack + STACK_BYTES, flags, t, NULL, t->tls, &t->ended) < 0) {
			t->ended = 0;
			t->bad = 1;
		}
	}
	for (unsigned i = 0; i < 8; i++) {
		while (threads[i].ended)
			syscall(SYS_futex, &threads[i].ended, FUTEX_WAIT, 1, NULL, NULL, 0);
		bad += threads[i].bad != 0;
	}
	check_that(c, bad == 0, "clone-settls", "%u of 8 threads saw another FS base", bad);
}

int stress_threads_main(int argc, char **argv)
{
	unsigned rounds = (unsigned)param_get(argc, argv, "rounds", 40, 1, 1000000);
	unsigned long turns = (unsigned long)param_get(argc, argv, "turns", 2000, 2, 100000000);
	struct check c = { 0 };

	storm_check(&c, rounds);
	mutex_check(&c, turns);
	cond_check(&c, turns);
	futex_check(&c, turns);
	gs_check(&c);
	settls_check(&c);
	return check_finish(&c);
}
