/* Many pipelines of processes at once: every block is numbered, checksummed at
 * every hop and changed by every middle process, so a lost, doubled, reordered
 * or corrupted byte is found where it happens. */
#include "check.h"
#include "suite.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK_MAX 4096u

struct block {
	uint32_t len, seq;
	uint64_t sum; /* of the payload */
	uint8_t data[BLOCK_MAX];
};

#define BLOCK_HEADER offsetof(struct block, data)

struct pipeline {
	uint64_t seed;
	unsigned stages; /* processes, source and sink included */
	uint64_t bytes;  /* payload in all */
};

/* Exit codes of the processes, so that a failure says what broke. */
enum { STAGE_OK, STAGE_READ, STAGE_WRITE, STAGE_ORDER, STAGE_SUM, STAGE_DATA, STAGE_SHORT };

static const char *const stage_errors[] = {
	"ok",
	"read failed",
	"write failed",
	"block lost or reordered",
	"checksum differs",
	"data differ",
	"too little data",
};

static void block_key(struct block *b, uint64_t key)
{
	uint64_t word;

	for (uint32_t i = 0; i < b->len; i += (uint32_t)sizeof(word)) {
		uint32_t n = b->len - i < sizeof(word) ? b->len - i : (uint32_t)sizeof(word);

		word = 0;
		memcpy(&word, b->data + i, n);
		word ^= rng_next(&key);
		memcpy(b->data + i, &word, n);
	}
}

/* The block that the source sends as number `seq`; zero length at the end. */
static void block_make(struct block *b, const struct pipeline *p, uint32_t seq, uint64_t sent)
{
	uint64_t state = p->seed + seq * 0x10001u;
	uint64_t left = p->bytes - sent;

	b->len = (uint32_t)(rng_next(&state) % BLOCK_MAX) + 1;
	if (b->len > left)
		b->len = (uint32_t)left;
	b->seq = seq;
	memset(b->data, 0, b->len);
	block_key(b, state);
}

static int block_send(int fd, struct block *b)
{
	b->sum = sum_bytes(b->seq, b->data, b->len);
	return fd_write_all(fd, b, BLOCK_HEADER + b->len) ? STAGE_WRITE : STAGE_OK;
}

static int block_receive(int fd, struct block *b, uint32_t seq)
{
	if (fd_read_all(fd, b, BLOCK_HEADER) || b->len > BLOCK_MAX ||
	    fd_read_all(fd, b->data, b->len))
		return STAGE_READ;
	if (b->seq != seq)
		return STAGE_ORDER;
	return b->sum == sum_bytes(seq, b->data, b->len) ? STAGE_OK : STAGE_SUM;
}

static int source_run(const struct pipeline *p, int out)
{
	static struct block b;
	uint64_t sent = 0;
	int err = STAGE_OK;

	for (uint32_t seq = 0; !err; seq++) {
		block_make(&b, p, seq, sent);
		sent += b.len;
		err = block_send(out, &b);
		if (!b.len)
			break;
	}
	return err;
}

static int middle_run(const struct pipeline *p, unsigned stage, int in, int out)
{
	static struct block b;
	int err = STAGE_OK;

	for (uint32_t seq = 0; !err; seq++) {
		err = block_receive(in, &b, seq);
		if (err)
			break;
		block_key(&b, p->seed * (stage + 1) + seq);
		err = block_send(out, &b);
		if (!b.len)
			break;
	}
	return err;
}

static int sink_run(const struct pipeline *p, int in)
{
	static struct block b, want;
	uint64_t got = 0;

	for (uint32_t seq = 0;; seq++) {
		int err = block_receive(in, &b, seq);

		if (err)
			return err;
		block_make(&want, p, seq, got);
		for (unsigned s = 1; s + 1 < p->stages; s++)
			block_key(&want, p->seed * (s + 1) + seq);
		if (b.len != want.len || memcmp(b.data, want.data, b.len))
			return STAGE_DATA;
		got += b.len;
		if (!b.len)
			return got == p->bytes ? STAGE_OK : STAGE_SHORT;
	}
}

/* Forks the processes of one pipeline; each waits for the end of file on
 * `gate` first, so that all pipelines run at the same time. */
static int pipeline_start(const struct pipeline *p, const int gate[2], pid_t *pids)
{
	int in = -1;

	for (unsigned s = 0; s < p->stages; s++) {
		int fds[2] = { -1, -1 };
		char byte;

		if (s + 1 < p->stages && pipe(fds) < 0)
			return -errno;
		pids[s] = fork();
		if (pids[s] < 0)
			return -errno;
		if (pids[s] == 0) {
			close(gate[1]);
			if (fds[0] >= 0)
				close(fds[0]);
			if (read(gate[0], &byte, 1) != 0)
				_exit(STAGE_READ);
			if (s == 0)
				_exit(source_run(p, fds[1]));
			_exit(s + 1 < p->stages ? middle_run(p, s, in, fds[1]) : sink_run(p, in));
		}
		if (in >= 0)
			close(in);
		if (fds[1] >= 0)
			close(fds[1]);
		in = fds[0];
	}
	return 0;
}

static unsigned pipelines_wait(const pid_t *pids, size_t n, char *why, size_t size)
{
	unsigned bad = 0;

	for (size_t i = 0; i < n; i++) {
		struct outcome o = child_wait(pids[i], 300000);
		char text[64];

		if (o.kind == OUTCOME_EXIT && o.value == STAGE_OK)
			continue;
		if (!bad++)
			snprintf(why, size, "process %zu: %s (%s)", i,
				 outcome_text(o, text, sizeof(text)),
				 o.kind == OUTCOME_EXIT && o.value <= STAGE_SHORT
					 ? stage_errors[o.value]
					 : "?");
	}
	return bad;
}

int stress_pipelines_main(int argc, char **argv)
{
	size_t count = (size_t)param_get(argc, argv, "pipelines", 80, 1, 1000);
	unsigned stages = (unsigned)param_get(argc, argv, "stages", 4, 2, 16);
	uint64_t kib = (uint64_t)param_get(argc, argv, "kib", 256, 1, 1 << 20);
	uint64_t seed = (uint64_t)param_get(argc, argv, "seed", 1, 0, 1 << 30);
	pid_t *pids = calloc(count * stages, sizeof(*pids));
	struct check c = { 0 };
	char why[160] = "";
	int gate[2];
	int err = pids && pipe(gate) == 0 ? 0 : -ENOMEM;
	size_t started = 0;

	if (err)
		return 1;
	for (size_t i = 0; i < count && !err; i++) {
		struct pipeline p = { .seed = rng_next(&seed),
				      .stages = stages,
				      .bytes = kib << 10 };

		err = pipeline_start(&p, gate, pids + i * stages);
		started += err ? 0 : stages;
	}
	close(gate[0]);
	close(gate[1]);
	check_that(&c, !err, "pipelines-start", "%s after %zu processes", strerror(-err), started);
	unsigned bad = pipelines_wait(pids, started, why, sizeof(why));

	check_that(&c, bad == 0, "pipelines-data", "%u of %zu processes failed; %s", bad, started,
		   why);
	free(pids);
	return check_finish(&c);
}
