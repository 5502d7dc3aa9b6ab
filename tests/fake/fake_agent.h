/* A scripted stand-in for the guest agent, for tests of the engine. It speaks
 * guest/protocol.h on a stream socket and does what the code of an exec or the
 * path of a file tells it, right or wrong.
 *
 * Code, one exec at a time, the others wait:
 *     echo TEXT       TEXT on stdout, exit 0
 *     exit N          exit N
 *     flood N         N bytes on stdout as credit allows, exit 0
 *     length          "<bytes of code>" on stdout (with anything after a blank)
 *     hang            until cancelled: EXIT_CANCELLED
 *     stubborn        for ever, also when cancelled
 *     refuse          MSG_ERROR EBUSY
 *     silence         closes the channel; the process stays
 *     die             crashes the worker
 *     deaf            reads no more from the channel
 *     poke N B        writes byte B to page N of the guest's memory
 *     peek N          that byte on stdout, in decimal; the bytes in pages
 *                     FAKE_PAGE_... say which child of a fork is not made unique
 *     count           how many times it was forked or restored, on stdout
 *     identity        fork number and whether Python was reseeded, on stdout
 *     empty N         N frames of output without a byte, exit 0
 *     overcredit, overlimit, badstream, badexit, badid, badtype, garbage,
 *     hugeframe, hello   break the protocol in that way
 *
 * Paths:
 *     /size/N         N bytes of the test pattern
 *     /unknown/N      the same without a size in FILE_OPENED
 *     /shrink/N       N announced, half of it there
 *     /missing        ENOENT
 *     /badhash        a wrong hash at the close (both directions)
 *     /overread       more data than asked
 *     /reorder        answers two reads in the wrong order
 *     /stall          never answers a read
 *     /full           ENOSPC at the third write
 *     /entries/N      a listing of N files
 *     /badname        a listing with a '/' in a name
 *     anything else   takes any upload
 *
 * Paths of walks; a guest is the variant that page 7 of its memory begins with:
 *     /same/N, /other/N      a directory of N files; others differ in variants
 *     /mixed                 something of every kind
 *     /only/V                a file that only variant V has
 *     /never                 no answer, except from variant 0
 *     /refuse                EINVAL
 *     /die                   crashes the worker
 *     /bad/...               breaks the protocol in that way */
#ifndef RAMET_TESTS_FAKE_AGENT_H
#define RAMET_TESTS_FAKE_AGENT_H

#include <stddef.h>
#include <stdint.h>

/* The number of the child (from 1) that refuses its MSG_RESEED, or never
 * answers it. */
#define FAKE_PAGE_REFUSES 90
#define FAKE_PAGE_SILENT  91

/* Byte `offset` of the test pattern. */
static inline uint8_t fake_pattern(uint64_t offset)
{
	return (uint8_t)((offset * 2654435761u) >> 13);
}

struct fake_agent;

/* What a guest is beside its agent; members may be NULL. */
struct fake_host {
	void *arg;
	/* The control socket is readable. */
	void (*control)(void *arg, struct fake_agent *agent);
	void (*poke)(void *arg, uint64_t page, uint8_t value);
	uint8_t (*peek)(void *arg, uint64_t page);
	unsigned int lives; /* answers `count` */
};

/* The agent as bytes, and back; the same host serves it. */
size_t fake_agent_save(const struct fake_agent *agent, void *buf, size_t room);

/* Goes on where fake_agent_save() was called. */
void fake_agent_continue(int channel_fd, int control_fd, const void *saved, size_t size,
			 struct fake_host *host);

/* Serves the channel until either socket closes. `script` is "agent", or
 *     no-hello        says nothing
 *     old-protocol    HELLO of protocol 99
 *     late-hello      a MSG_OK first
 *     hello-garbage   random bytes instead of HELLO
 *     refuse-reseed   MSG_ERROR to MSG_RESEED
 *     close-channel   closes the channel at once and stays */
void fake_agent_run(int channel_fd, int control_fd, const char *script, struct fake_host *host);

#endif
