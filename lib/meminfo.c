/* The host's memory: see meminfo.h. */
#include "lib/meminfo.h"

#include <errno.h>
#include <stdbool.h>

#include "lib/cleanup.h"

int meminfo_parse(FILE *file, struct meminfo *info)
{
	bool total = false, available = false;
	struct meminfo found = { 0 };
	unsigned long long kib;
	char line[128];

	while (!(total && available) && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "MemTotal: %llu kB", &kib) == 1) {
			found.total = kib * 1024;
			total = true;
		} else if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) {
			found.available = kib * 1024;
			available = true;
		}
	}
	if (!total || !available)
		return -EIO;
	*info = found;
	return 0;
}

int meminfo_read(struct meminfo *info)
{
	cleanup_file FILE *file = fopen("/proc/meminfo", "re");

	return file ? meminfo_parse(file, info) : -errno;
}
