/* The fake worker's guest: see fake_guest.h. */
#include "tests/fake/fake_guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/fdpass.h"
#include "tests/fake/fake_agent_state.h"
#include "uffd/stitch.h"
#include "vmm/layout.h"

void fake_say(const struct fake_guest *guest, const void *message, size_t length, const int *fds,
	      size_t nfds)
{
	struct pollfd wait = { .fd = guest->control_fd, .events = POLLOUT };
	int r;

	while ((r = fdpass_send(guest->control_fd, message, length, fds, nfds)) == -EAGAIN)
		(void)poll(&wait, 1, -1);
	if (r < 0)
		_exit(0); /* the daemon is gone */
}

void fake_refuse(const struct fake_guest *guest, uint32_t request, const char *text)
{
	struct control_failed failed = { { CONTROL_VERSION, CONTROL_FAILED }, request, 5, "" };

	(void)snprintf(failed.text, sizeof(failed.text), "%s", text);
	fake_say(guest, &failed, sizeof(failed), NULL, 0);
}

bool fake_mode(const char *word, char *rest)
{
	char path[4096] = "", text[192] = "";
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 8);
	size_t length = strlen(word);
	cleanup_close int fd = -1;

	(void)memcpy(path + (n > 0 ? n : 0), ".mode", 6);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) < (ssize_t)length ||
	    strncmp(text, word, length) != 0 || (text[length] && text[length] != ' '))
		return false;
	if (rest)
		(void)snprintf(rest, 128, "%.127s", text + length + (text[length] == ' '));
	return true;
}

_Noreturn static void crash(void)
{
	(void)signal(SIGILL, SIG_DFL);
	__builtin_trap();
}

#define HOT_PAGE 9u

/* ---- memory ---- */

static void guest_mark(struct fake_guest *guest, uint64_t page)
{
	for (unsigned int i = 0; i < guest->dirty_count; i++)
		if (guest->dirty[i] == page)
			return;
	if (guest->dirty_count == FAKE_DIRTY_MAX)
		_exit(84);
	guest->dirty[guest->dirty_count++] = page;
}

static void guest_poke(void *arg, uint64_t page, uint8_t value)
{
	struct fake_guest *guest = arg;

	guest->memory[page * RANGE_PAGE] = value;
	guest_mark(guest, page);
}

static bool is_one_of(const uint64_t *pages, unsigned int count, uint64_t page)
{
	for (unsigned int i = 0; i < count; i++)
		if (pages[i] == page)
			return true;
	return false;
}

uint8_t fake_guest_read(struct fake_guest *guest, uint64_t page, bool stopped)
{
	bool own = stopped ? is_one_of(guest->written, guest->written_count, page)
			   : is_one_of(guest->dirty, guest->dirty_count, page);

	if (guest->map && !own) {
		uint32_t layer = extent_map_find(guest->map, page * RANGE_PAGE)->layer;

		if (layer != EXTENT_ZERO && guest->filled_fds[layer] >= 0) {
			struct pollfd wait[2] = {
				{ .fd = guest->filled_fds[layer], .events = POLLIN },
				{ .fd = guest->control_fd, .events = POLLRDHUP },
			};

			(void)poll(wait, 2, -1); /* a page that is missing */
			if (wait[1].revents & (POLLHUP | POLLRDHUP))
				_exit(0);
		}
	}
	return guest->memory[page * RANGE_PAGE];
}

static uint8_t guest_peek(void *arg, uint64_t page)
{
	return fake_guest_read(arg, page, false);
}

static struct fake_guest *guest_make(int control_fd, int channel_fd, uint64_t ram_bytes)
{
	struct fake_guest *guest = calloc(1, sizeof(*guest));

	guest->control_fd = control_fd;
	guest->channel_fd = channel_fd;
	guest->ram_bytes = ram_bytes;
	guest->size = guest_memory_bytes(ram_bytes);
	for (size_t i = 0; i < CONTROL_LAYERS_MAX; i++)
		guest->filled_fds[i] = -1;
	return guest;
}

/* ---- pause ---- */

static int page_compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static void guest_ranges(struct fake_guest *guest)
{
	qsort(guest->dirty, guest->dirty_count, sizeof(guest->dirty[0]), page_compare);
	guest->range_count = 0;
	for (unsigned int i = 0; i < guest->dirty_count; i++) {
		uint64_t start = guest->dirty[i] * RANGE_PAGE;
		struct range *last = guest->ranges + guest->range_count - 1;

		if (guest->range_count && last->end == start)
			last->end += RANGE_PAGE;
		else
			guest->ranges[guest->range_count++] =
				(struct range){ start, start + RANGE_PAGE };
	}
	if (fake_mode("bad-ranges", NULL))
		guest->ranges[0].end = guest->ranges[0].start;
}

/* What layers from `keep` on hold counts as changed. */
static void guest_gather(struct fake_guest *guest, uint32_t keep)
{
	for (size_t i = 0; guest->map && keep && i < guest->map->count; i++) {
		const struct extent *e = &guest->map->extents[i];

		if (e->layer == EXTENT_ZERO || e->layer < keep)
			continue;
		for (uint64_t page = e->start / RANGE_PAGE; page < e->end / RANGE_PAGE; page++)
			guest_mark(guest, page);
	}
}

/* Whether the guest is stopped now. */
static bool guest_pause(struct fake_guest *guest, const struct fake_agent *agent, int bundle_fd,
			uint32_t keep)
{
	static char state[128 * 1024];
	struct control_paused paused = { .header = { CONTROL_VERSION, CONTROL_PAUSED } };
	size_t bytes;

	if (fake_mode("pause-refused", NULL)) {
		fake_refuse(guest, CONTROL_PAUSE, "not now");
		return false;
	}
	if (fake_mode("pause-hangs", NULL))
		return true;
	memcpy(guest->written, guest->dirty, sizeof(guest->written));
	guest->written_count = guest->dirty_count;
	guest_gather(guest, keep);
	guest_ranges(guest);
	bytes = guest->range_count * sizeof(struct range);
	paused.state_bytes = fake_agent_save(agent, state, sizeof(state));
	paused.range_count = guest->range_count;
	paused.dirty_pages = guest->dirty_count;
	paused.channel_to_host = agent->sent + fake_mode("pause-lies", NULL);
	paused.channel_to_guest = agent->received;
	if (pwrite(bundle_fd, state, paused.state_bytes, 0) != (ssize_t)paused.state_bytes ||
	    pwrite(bundle_fd, guest->ranges, bytes, (off_t)paused.state_bytes) != (ssize_t)bytes)
		_exit(85);
	if (fake_mode("bad-bundle", NULL))
		paused.state_bytes = CONTROL_BUNDLE_MAX;
	fake_say(guest, &paused, sizeof(paused), NULL, 0);
	return true;
}

/* ---- messages ---- */

union guest_message {
	struct control_header header;
	struct control_restore restore;
	struct control_pause pause;
	struct control_donate donate;
	char bytes[CONTROL_MESSAGE_MAX];
};

/* Answers CONTROL_STATS, and marks the pages in the file. */
static void guest_stats(struct fake_guest *guest, const int *fds, size_t nfds)
{
	struct control_stats stats = { .header = { CONTROL_VERSION, CONTROL_STATS_REPLY } };
	char path[128];

	if (fake_mode("hot-page", path))
		guest_mark(guest, HOT_PAGE);
	stats.dirty_pages = guest->dirty_count;

	if (fake_mode("stats-die", NULL))
		crash();
	if (!guest->map) /* it was booted */
		stats.dirty_pages = UINT64_MAX;
	for (unsigned int i = 0; nfds && i < guest->dirty_count; i++) {
		off_t at = (off_t)(guest->dirty[i] / 64 * sizeof(uint64_t));
		uint64_t word = 0;

		if (pread(fds[0], &word, sizeof(word), at) != sizeof(word))
			_exit(89);
		word |= (uint64_t)1 << (guest->dirty[i] % 64);
		if (pwrite(fds[0], &word, sizeof(word), at) != sizeof(word))
			_exit(89);
	}
	if (nfds && fake_mode("stats-cut", NULL) && ftruncate(fds[0], 8) < 0)
		_exit(89);
	if (fake_mode("stats-twice", NULL))
		fake_say(guest, &stats, sizeof(stats), NULL, 0);
	fake_say(guest, &stats, sizeof(stats), NULL, 0);
}

static void guest_control(void *arg, struct fake_agent *agent)
{
	struct fake_guest *guest = arg;
	static bool paused;
	union guest_message message;
	int fds[FDPASS_MAX];
	struct pollfd wait = { .fd = guest->control_fd, .events = POLLIN };
	size_t nfds = 0;
	ssize_t n;

	(void)poll(&wait, 1, -1);
	n = fdpass_recv(guest->control_fd, &message, sizeof(message), fds, &nfds);
	if (n <= 0)
		_exit(0);
	if (message.header.type == CONTROL_PAUSE && nfds == 1 && !paused) {
		paused = guest_pause(guest, agent, fds[0], message.pause.keep_layers);
		(void)close(fds[0]);
	} else if (message.header.type == CONTROL_STATS && nfds <= 1) {
		guest_stats(guest, fds, nfds);
		if (nfds)
			(void)close(fds[0]);
	} else if (message.header.type == CONTROL_RESUME && paused) {
		paused = false;
	} else if (message.header.type == CONTROL_DONATE && paused &&
		   nfds == 2 + message.donate.source_layers) {
		if (fake_mode("donor-refuses", NULL)) {
			fake_refuse(guest, CONTROL_DONATE, "no memory to donate");
			return;
		}
		fake_donor_run(guest, fds[0]);
	} else {
		_exit(86); /* the engine is wrong; tests see the status */
	}
	/* A guest that is paused does nothing. */
	while (paused)
		guest_control(guest, agent);
}

_Noreturn void fake_guest_boot(int control_fd, int channel_fd, uint64_t ram_bytes,
			       const char *script)
{
	struct fake_guest *guest = guest_make(control_fd, channel_fd, ram_bytes);
	struct ramet_err err;

	if (stitch_reserve(&guest->memory, guest->size, &err) < 0 ||
	    mprotect(guest->memory, guest->size, PROT_READ | PROT_WRITE) < 0)
		_exit(87);
	guest->host = (struct fake_host){ guest, guest_control, guest_poke, guest_peek, 0 };
	guest_poke(guest, 0, 1);
	fake_agent_run(channel_fd, control_fd, script, &guest->host);
	_exit(0);
}

/* Leaves a file when it is told of the page that guest_stats() made up. */
static void guest_heat(const struct control_restore *restore)
{
	char path[128];

	if (!fake_mode("hot-page", path))
		return;
	for (uint32_t i = 0; i < restore->hot_count; i++)
		if (restore->hot[i].first <= HOT_PAGE &&
		    HOT_PAGE - restore->hot[i].first < restore->hot[i].count)
			(void)close(open(path, O_WRONLY | O_CREAT, 0600));
}

/* Maps the memory, and answers with an eventfd for each filling layer. */
static void guest_stitch(struct fake_guest *guest, const struct control_restore *restore,
			 const uint8_t *map_bytes, const int *fds)
{
	struct control_restored restored = { .header = { CONTROL_VERSION, CONTROL_RESTORED } };
	struct ramet_err err = { 0 };
	int waits[CONTROL_LAYERS_MAX];
	size_t count = 0;

	if (extent_map_decode(&guest->map, map_bytes, restore->map_bytes, restore->layer_count,
			      &err) < 0 ||
	    guest->map->size != guest->size ||
	    stitch(guest->memory, guest->map, false, fds + 1, restore->layer_count, &err) < 0) {
		fake_refuse(guest, CONTROL_RESTORE, err.msg[0] ? err.msg : "wrong size");
		return;
	}
	for (uint32_t i = 0; i < restore->layer_count; i++)
		if (restore->filling >> i & 1)
			waits[count++] = guest->filled_fds[i] = eventfd(0, EFD_CLOEXEC);
	guest_heat(restore);
	if (fake_mode("uffd-missing", NULL))
		count = 0;
	restored.base = (uint64_t)(uintptr_t)guest->memory;
	fake_say(guest, &restored, sizeof(restored), waits, count);
}

_Noreturn void fake_guest_shell(int control_fd, int channel_fd, uint64_t ram_bytes)
{
	struct fake_guest *guest = guest_make(control_fd, channel_fd, ram_bytes);
	struct control_header ready = { CONTROL_VERSION, CONTROL_SHELL_READY };
	struct control_booted booted = { { CONTROL_VERSION, CONTROL_BOOTED }, 0 };
	uint8_t *bundle = malloc(CONTROL_BUNDLE_MAX);
	struct pollfd wait = { .fd = control_fd, .events = POLLIN };
	union guest_message message;
	uint64_t state_bytes = 0;
	int fds[FDPASS_MAX];
	struct ramet_err err;
	char once[128];

	if (fake_mode("shell-dies-once", once) && unlink(once) == 0)
		crash();
	if (fake_mode("shell-refused", NULL))
		fake_refuse(guest, CONTROL_SHELL, "no virtual machine");
	else if (stitch_reserve(&guest->memory, guest->size, &err) == 0)
		fake_say(guest, &ready, sizeof(ready), NULL, 0);
	for (;;) {
		size_t nfds = 0;
		ssize_t n;

		(void)poll(&wait, 1, -1);
		n = fdpass_recv(control_fd, &message, sizeof(message), fds, &nfds);
		if (n <= 0)
			_exit(0);
		if (message.header.type == CONTROL_RESTORE &&
		    nfds == message.restore.layer_count + 1u) {
			if (fake_mode("die-in-restore", NULL))
				crash();
			if (fake_mode("restore-refused", NULL)) {
				fake_refuse(guest, CONTROL_RESTORE, "these registers cannot be");
				continue;
			}
			state_bytes = message.restore.state_bytes;
			if (pread(fds[0], bundle, CONTROL_BUNDLE_MAX, 0) != CONTROL_BUNDLE_MAX)
				_exit(88);
			guest_stitch(guest, &message.restore, bundle + state_bytes, fds);
			for (size_t i = 0; i < nfds; i++)
				(void)close(fds[i]);
		} else if (message.header.type == CONTROL_BASE && nfds == 2) {
			(void)close(fds[0]);
			(void)close(fds[1]);
			fake_say(guest, &ready, sizeof(ready), NULL, 0);
		} else if (message.header.type == CONTROL_RUN && state_bytes) {
			break;
		} else {
			_exit(89);
		}
	}
	if (fake_mode("die-in-run", NULL) ||
	    (fake_mode("die-once-in-run", once) && unlink(once) == 0))
		crash();
	fake_say(guest, &booted, sizeof(booted), NULL, 0);
	(void)fcntl(channel_fd, F_SETFL, fcntl(channel_fd, F_GETFL) & ~O_NONBLOCK);
	guest->host = (struct fake_host){ guest, guest_control, guest_poke, guest_peek, 0 };
	fake_agent_continue(channel_fd, control_fd, bundle, state_bytes, &guest->host);
	_exit(0);
}
