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

static bool reclaim_possible(const struct reclaim *r)
{
	return r->flags_fd >= 0 && r->frames;
}

void reclaim_init(struct agent *agent)
{
	struct reclaim *r = &agent->reclaim;
	int frames = 0;

	r->flags_fd = r->hypercall_fd = -1;
	r->due_ns = UINT64_MAX;
	if (!agent->is_init)
		return;
	r->flags_fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	r->hypercall_fd = hypercall_open();
	if (r->hypercall_fd >= 0)
		frames = hypercall_frames(r->hypercall_fd);
	r->frames = frames > 0 ? (uint64_t)frames : 0;
	if (!reclaim_possible(r))
		agent_log("free memory cannot be given back: no page flags or no hypercalls");
}

/* ---- a pass ---- */

/* Adds the free pages of [first, first + count), all read at once, to the bitmap.
 * A page in the allocator's hands has this flag and no other. 0 or -errno. */
static int flags_add(struct reclaim *r, uint64_t first, size_t count)
{
	size_t size = count * sizeof(r->flags[0]);
	ssize_t n = pread(r->flags_fd, r->flags, size, (off_t)(first * sizeof(r->flags[0])));
	size_t base = first % FREE_PAGES_MAX;

	if (n < 0)
		return -errno;
	if ((size_t)n != size)
		return -EIO;
	for (size_t i = 0; i < count; i++)
		if (r->flags[i] == 1ull << KPF_BUDDY)
			r->bitmap[(base + i) / 64] |= 1ull << ((base + i) % 64);
	return 0;
}

/* Finds what is free in the chunk of `count` frames that begins at r->next. */
static int chunk_look(struct reclaim *r, size_t count)
{
	int err = 0;

	memset(r->bitmap, 0, sizeof(r->bitmap));
	for (size_t at = 0; at < count && !err; at += RECLAIM_READ_PAGES)
		err = flags_add(r, r->next + at, min_size(count - at, RECLAIM_READ_PAGES));
	return err;
}

static int chunk_pass(struct reclaim *r, size_t count)
{
	for (int round = 0; round < 2; round++) {
		int answer = chunk_look(r, count);

		if (!answer)
			answer = hypercall_make(r->hypercall_fd, RAMET_OP_FREE_PAGES, r->next,
						count, (uint64_t)(uintptr_t)r->bitmap);
		if (answer < 0)
			return answer;
		r->pages += (uint64_t)answer;
	}
	return 0;
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
	size_t count = min_size(r->frames - r->next, FREE_PAGES_MAX);
	int err = chunk_pass(r, count);

	r->next += count;
	if (err || r->next == r->frames)
		pass_end(agent, err);
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
