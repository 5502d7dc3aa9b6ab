/* How much memory the host has: proc_meminfo(5). */
#ifndef RAMET_LIB_MEMINFO_H
#define RAMET_LIB_MEMINFO_H

#include <stdint.h>
#include <stdio.h>

struct meminfo {
	uint64_t total;     /* bytes */
	uint64_t available; /* bytes that new programs can have without swapping */
};

/* Reads /proc/meminfo. Returns 0; -EIO when one of the two is not told; -errno
 * of fopen(3). */
int meminfo_read(struct meminfo *info);

/* The same from `file`, which has lines like those of /proc/meminfo. */
int meminfo_parse(FILE *file, struct meminfo *info);

#endif
