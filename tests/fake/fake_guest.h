/* The guest of the fake worker: memory in real layers, and the messages of
 * vmm/control.h that stop, copy and donate it. Its state is that of the scripted
 * agent. Children wait for layers with eventfds in the place of userfaultfds.
 *
 * The file "<its own path>.mode" may say:
 *     shell-refused, restore-refused, pause-refused
 *     shell-dies-once FILE              SIGILL at CONTROL_SHELL, if FILE can be removed
 *     die-in-restore, die-in-run        SIGILL
 *     die-once-in-run FILE              the same, if FILE can be removed
 *     pause-lies                        wrong byte counts
 *     pause-hangs                       no answer
 *     bad-ranges, bad-bundle            in CONTROL_PAUSED
 *     uffd-missing                      no descriptors in CONTROL_RESTORED
 *     donor-dies                        at CONTROL_DONATE
 *     donor-hangs-up                    closes its connection, and dies a little later
 *     donor-dies-filling                when it has been told of two children
 *     donor-waits FILE                  fills only when FILE exists
 *     donor-refuses                     CONTROL_FAILED
 *     stats-die, stats-twice, stats-cut at CONTROL_STATS: SIGILL, a second answer,
 *                                       a file that became shorter */
#ifndef RAMET_TESTS_FAKE_GUEST_H
#define RAMET_TESTS_FAKE_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/fake/fake_agent.h"
#include "uffd/ranges.h"
#include "vmm/control.h"

#define FAKE_DIRTY_MAX    256
#define FAKE_CHILDREN_MAX 2048

struct fake_guest {
	int control_fd, channel_fd;
	uint64_t ram_bytes, size;
	uint8_t *memory;
	uint64_t dirty[FAKE_DIRTY_MAX]; /* pages */
	unsigned int dirty_count;
	struct extent_map *map;             /* of restored memory */
	int filled_fds[CONTROL_LAYERS_MAX]; /* readable when the layer is filled; -1 */
	struct fake_host host;
	struct range ranges[FAKE_DIRTY_MAX]; /* of the last pause */
	unsigned int range_count;
	uint64_t written[FAKE_DIRTY_MAX]; /* before it gathered what layers hold */
	unsigned int written_count;
};

/* Serves a guest that has booted. */
_Noreturn void fake_guest_boot(int control_fd, int channel_fd, uint64_t ram_bytes,
			       const char *script);
/* Is a shell until it is restored, and then a guest. */
_Noreturn void fake_guest_shell(int control_fd, int channel_fd, uint64_t ram_bytes);

/* The first byte of a page, once it is there. `stopped`: after a pause. */
uint8_t fake_guest_read(struct fake_guest *guest, uint64_t page, bool stopped);

/* Fills a layer and stays until the daemon closes the socket. fake_donor.c */
_Noreturn void fake_donor_run(struct fake_guest *guest, int layer_fd);

void fake_say(const struct fake_guest *guest, const void *message, size_t length, const int *fds,
	      size_t nfds);
void fake_refuse(const struct fake_guest *guest, uint32_t request, const char *text);
/* Whether the mode file begins with `word`; what follows a blank goes to `rest`
 * (room for 128, may be NULL). */
bool fake_mode(const char *word, char *rest);

#endif
