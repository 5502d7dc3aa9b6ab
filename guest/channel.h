/* The agent channel: a byte stream between the agent and the host over guest
 * memory, in the manner of Xen's libvchan.
 *
 * The agent (guest) allocates one control page and the data pages of two rings
 * with /dev/xen/gntalloc, binds an event channel with /dev/xen/evtchn
 * (IOCTL_EVTCHN_BIND_UNBOUND_PORT, remote domain 0) and hands both to the host
 * with one hypercall through /dev/xen/privcmd:
 *
 *     RAMET_HYPERCALL(RAMET_OP_CHANNEL, grant reference of the control page, port)
 *
 * Indices are free-running and wrap at 2^32; a ring holds prod - cons bytes and
 * its size is a power of two. Each side writes only its own fields. The host
 * keeps its own copies of the indices it owns and trusts nothing it reads:
 * prod - cons > size means a broken peer and ends the channel.
 *
 * Notification: before it sleeps, the reader of an empty ring sets
 * reader_waits and looks again; a writer that finds reader_waits set after it
 * advanced prod clears it and notifies. writer_waits works the same way round
 * for a full ring. Notifying is idempotent; spurious ones are harmless. */
#ifndef RAMET_GUEST_CHANNEL_H
#define RAMET_GUEST_CHANNEL_H

#include <stdint.h>

/* Hypercall number 55 is Xen's __HYPERVISOR_arch_7, unused on x86. */
#define RAMET_HYPERCALL  55
#define RAMET_OP_CHANNEL 1 /* (gref of the control page, local port): 0 or -errno */

/* Free memory, back to the host: (first frame, number of frames, linear address
 * of a bitmap with a bit for each). Both numbers are multiples of 64, the second
 * at most FREE_PAGES_MAX. The bits name pages that were free at some moment
 * since the last such call for these frames returned; a page that is named twice
 * and was not written in between loses what it holds. So a pass names the same
 * frames twice, having looked at them anew. Returns how many pages the host has
 * got back, or -errno. */
#define RAMET_OP_FREE_PAGES 2
#define FREE_PAGES_MAX      16384u

/* (): how many pages the guest does not share with what it was copied from. */
#define RAMET_OP_CHANGED_PAGES 3

/* (): the host's CLOCK_REALTIME in microseconds, of which the answer has room
 * for the bits in WALL_CLOCK_MASK. */
#define RAMET_OP_WALL_CLOCK 4
#define WALL_CLOCK_MASK     0x3fffffff

#define CHANNEL_MAGIC          0x31484352u /* "RCH1" */
#define CHANNEL_PAGE_SIZE      4096u
#define CHANNEL_RING_PAGES_MAX 64u /* per ring; a power of two */

struct channel_ring {
	uint32_t prod;         /* written by the writer */
	uint32_t writer_waits; /* set by the writer, cleared by the reader */
	uint8_t pad0[56];
	uint32_t cons;         /* written by the reader */
	uint32_t reader_waits; /* set by the reader, cleared by the writer */
	uint8_t pad1[56];
};

struct channel_control {
	uint32_t magic;
	uint32_t ring_pages; /* of each ring */
	uint8_t pad[56];
	struct channel_ring to_host;
	struct channel_ring to_guest;
	/* Grant references of the data pages: to_host's, then to_guest's. */
	uint32_t refs[2 * CHANNEL_RING_PAGES_MAX];
};

_Static_assert(sizeof(struct channel_ring) == 128, "channel ABI");
_Static_assert(sizeof(struct channel_control) <= CHANNEL_PAGE_SIZE, "channel ABI");

#endif
