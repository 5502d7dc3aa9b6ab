/* Memory that the guest does not use goes back to the host.
 *
 * The guest's agent names pages that were free at some moment after its
 * previous call (guest/channel.h, RAMET_OP_FREE_PAGES). A list is out of date
 * when it arrives: the kernel may have handed a page out and written to it. So
 * a page is only *armed* when it is named: its bit in the dirty log is cleared.
 * When it is named again and has not been written since, what it holds was of no
 * use to anybody at a moment after it was armed, and is the same still: it is
 * dropped. The guest sets nothing aside for that, and cannot run out of memory.
 *
 * A dropped page shows what the layer below it has (uffd/stitch.h), or zeros in
 * a guest that was booted here, and does not count as changed. A guest that
 * names pages it uses loses what they hold; nothing outside of it depends on
 * them. Pages outside of its RAM are refused. */
#ifndef RAMET_VMM_RECLAIM_H
#define RAMET_VMM_RECLAIM_H

#include <stdint.h>

#include "guest/channel.h"
#include "vmm/machine.h"

/* `free`: a bit for each of the frames [first, first + count), both multiples
 * of 64. Returns how many pages were dropped; -EINVAL for frames that are not
 * RAM, or more than FREE_PAGES_MAX of them; -ENOMEM, -EIO. */
int64_t reclaim_pages(struct machine *m, uint64_t first, uint64_t count, const uint64_t *free);

/* How many pages of RAM are the guest's own: written since it was restored, and
 * not dropped. -errno. All of them in a guest that was booted here. */
int64_t reclaim_changed_count(struct machine *m);

/* Adds what is changed, but not in the dirty log any more, to `bitmap`. */
void reclaim_changed_add(const struct machine *m, uint64_t *bitmap);

void reclaim_destroy(struct machine *m);

#endif
