/* Passes over free memory: see reclaim.h. Page flags: Linux
 * Documentation/admin-guide/mm/pagemap.rst, <linux/kernel-page-flags.h>. */
#include "guest/agent/reclaim.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kernel-page-flags.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "guest/agent/agent.h"
#include "guest/agent/hypercall.h"
#include "guest/agent/util.h"

#define LOOK_AFTER_NS  (500 * NS_PER_MS)
#define PAGE_BYTES     4096u
#define GAIN_PAGES_MIN 4096u /* 16 MiB */
#define GAIN_FRACTION  64u   /* of all memory: a pass takes time with its size */

_Static_assert(FREE_PAGES_MAX % RECLAIM_READ_PAGES == 0, "whole reads");
_Static_assert(RECLAIM_READ_PAGES % 64 == 0, "whole words");

void reclaim_init(struct agent *agent)
{
	struct reclaim *r = &agent->reclaim;

	r->flags_fd = r->hypercall_fd = -1;
	r->due_ns = UINT64_MAX;
	if (!agent->is_init)
		return;
	r->flags_fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	r->hypercall_fd = hypercall_open();
	if (r->flags_fd < 0 || r->hypercall_fd < 0)
		agent_log("free memory cannot be given back: no page flags or no hypercalls");
}

static bool reclaim_possible(const struct reclaim *r)
{
	return r->flags_fd >= 0 && r->hypercall_fd >= 0;
}

/* ---- a pass ---- */

/* Adds the free pages of [first, first + RECLAIM_READ_PAGES) to the bitmap.
 * A page in the allocator's hands has this flag and no other. Returns how many
 * there are, or -errno. */
static ssize_t flags_add(struct reclaim *r, uint64_t first)
{
	ssize_t n = pread(r->flags_fd, r->flags, sizeof(r->flags),
			  (off_t)(first * sizeof(r->flags[0])));
	size_t base = first % FREE_PAGES_MAX;

	if (n < 0)
		return -errno;
	n /= (ssize_t)sizeof(r->flags[0]);
	for (size_t i = 0; i < (size_t)n; i++)
		if (r->flags[i] == 1ull << KPF_BUDDY)
			r->bitmap[(base + i) / 64] |= 1ull << ((base + i) % 64);
	return n;
}

/* Finds what is free in the chunk that begins at r->next. Returns the number
 * of frames in it, fewer than FREE_PAGES_MAX only at the end of memory. */
static ssize_t chunk_look(struct reclaim *r)
{
	size_t count = 0;

	memset(r->bitmap, 0, sizeof(r->bitmap));
	while (count < FREE_PAGES_MAX) {
		ssize_t n = flags_add(r, r->next + count);

		if (n < 0)
			return n;
		count += (size_t)n;
		if (n < (ssize_t)RECLAIM_READ_PAGES)
			break;
	}
	return (ssize_t)(count & ~(size_t)63);
}

/* Returns the number of frames of the chunk, or -errno. */
static ssize_t chunk_pass(struct reclaim *r)
{
	ssize_t count = 0;

	for (int round = 0; round < 2; round++) {
		int dropped;

		count = chunk_look(r);
		if (count <= 0)
			return count;
		dropped = hypercall_make(r->hypercall_fd, RAMET_OP_FREE_PAGES, r->next,
					 (uint64_t)count, (uint64_t)(uintptr_t)r->bitmap);
		if (dropped < 0)
			return dropped;
		r->pages += (uint64_t)dropped;
	}
	return count;
}

static void kept_note(struct reclaim *r)
{
	int changed = hypercall_make(r->hypercall_fd, RAMET_OP_CHANGED_PAGES, 0, 0, 0);

	if (changed >= 0)
		r->kept = (uint64_t)changed;
}

static void pass_begin(struct reclaim *r)
{
	r->active = true;
	r->next = 0;
	r->pages = 0;
	r->started_ns = now_ns();
}

static void pass_end(struct agent *agent, int err)
{
	struct reclaim *r = &agent->reclaim;
	struct msg_reclaimed msg = { .pages = r->pages, .run_ns = now_ns() - r->started_ns };
	bool asked = r->asked;

	r->active = r->asked = false;
	kept_note(r);
	if (!asked)
		return;
	if (err)
		outbox_error(&agent->out, r->id, -err, "reclaim: %s", strerror(-err));
	else
		outbox_frame(&agent->out, MSG_RECLAIMED, r->id, &msg, sizeof(msg));
}

/* One chunk. The answer waits for room in the outbox. */
static void pass_step(struct agent *agent)
{
	struct reclaim *r = &agent->reclaim;
	ssize_t count = chunk_pass(r);

	if (count > 0)
		r->next += (uint64_t)count;
	if (count < (ssize_t)FREE_PAGES_MAX)
		pass_end(agent, count < 0 ? (int)count : 0);
}

/* ---- when ---- */

void reclaim_request(struct agent *agent, const struct frame *frame)
{
	struct reclaim *r = &agent->reclaim;

	if (!reclaim_possible(r)) {
		outbox_error(&agent->out, frame->id, EOPNOTSUPP,
			     "reclaim: this guest cannot give memory back");
		return;
	}
	if (r->asked) {
		outbox_error(&agent->out, frame->id, EBUSY, "reclaim: another one is under way");
		return;
	}
	r->asked = true;
	r->id = frame->id;
	pass_begin(r);
}

void reclaim_exec_ended(struct agent *agent)
{
	struct reclaim *r = &agent->reclaim;

	if (reclaim_possible(r) && r->due_ns == UINT64_MAX)
		r->due_ns = now_ns() + LOOK_AFTER_NS;
}

void reclaim_copied(struct agent *agent)
{
	struct reclaim *r = &agent->reclaim;

	r->due_ns = UINT64_MAX;
	r->kept = 0;
	if (!r->asked)
		r->active = false;
}

void reclaim_abandon(struct agent *agent)
{
	agent->reclaim.active = agent->reclaim.asked = false;
	agent->reclaim.due_ns = UINT64_MAX;
}

/* Whether there is enough to be had: pages that became the guest's own since
 * the last pass, and as many that are free. */
static bool pass_is_worth_it(struct reclaim *r)
{
	struct sysinfo info;
	uint64_t gain, changed;
	int answer;

	if (sysinfo(&info) < 0)
		return false;
	gain = info.totalram * info.mem_unit / PAGE_BYTES / GAIN_FRACTION;
	if (gain < GAIN_PAGES_MIN)
		gain = GAIN_PAGES_MIN;
	if (info.freeram * info.mem_unit / PAGE_BYTES < gain)
		return false;
	answer = hypercall_make(r->hypercall_fd, RAMET_OP_CHANGED_PAGES, 0, 0, 0);
	if (answer < 0)
		return false;
	changed = (uint64_t)answer;
	if (changed < r->kept)
		r->kept = changed;
	return changed - r->kept >= gain;
}

static bool exec_busy(const struct agent *agent)
{
	return agent->execs.running || agent->execs.first;
}

uint64_t reclaim_deadline(const struct agent *agent)
{
	const struct reclaim *r = &agent->reclaim;

	if (r->active && outbox_room(&agent->out) >= OUTBOX_REPLY_ROOM)
		return 0;
	return exec_busy(agent) ? UINT64_MAX : r->due_ns;
}

/* A pass of the agent's own makes way for an exec and begins anew after it. */
void reclaim_expire(struct agent *agent, uint64_t now)
{
	struct reclaim *r = &agent->reclaim;

	if (r->active && !r->asked && exec_busy(agent))
		r->active = false;
	if (r->active && outbox_room(&agent->out) >= OUTBOX_REPLY_ROOM)
		pass_step(agent);
	if (exec_busy(agent) || now < r->due_ns)
		return;
	r->due_ns = UINT64_MAX;
	if (!r->active && pass_is_worth_it(r))
		pass_begin(r);
}
