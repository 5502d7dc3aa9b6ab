/* The shared machine-to-physical table: see m2p.h. */
#include "engine/m2p.h"

#include <errno.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "uffd/layer.h"

#define PAGE_BYTES    4096u
#define STEP_BYTES    (2u << 20) /* lengths: for whole GiB of RAM */
#define CHUNK_ENTRIES 8192u

static int table_fill(int fd, uint64_t bytes, struct ramet_err *err)
{
	uint64_t chunk[CHUNK_ENTRIES];

	for (uint64_t at = 0; at < bytes; at += sizeof(chunk)) {
		for (uint64_t i = 0; i < CHUNK_ENTRIES; i++)
			chunk[i] = at / sizeof(chunk[0]) + i;
		if (pwrite(fd, chunk, sizeof(chunk), (off_t)at) != (ssize_t)sizeof(chunk))
			return err_errno(err, errno ? errno : EIO,
					 "cannot write the machine-to-physical table");
	}
	return 0;
}

int m2p_fd(struct m2p *m2p, uint64_t ram_bytes, struct ramet_err *err)
{
	uint64_t needed = ram_bytes / PAGE_BYTES * sizeof(uint64_t);
	uint64_t bytes = (needed + STEP_BYTES - 1) / STEP_BYTES * STEP_BYTES;
	cleanup_close int table = -1;
	int fd, rc;

	if (m2p->fd >= 0 && m2p->bytes >= needed)
		return m2p->fd;
	table = layer_create("ramet-m2p", bytes, err);
	if (table < 0)
		return table;
	rc = table_fill(table, bytes, err);
	if (!rc)
		rc = layer_seal(table, err);
	if (rc)
		return rc;
	fd = layer_open_readonly(table, err);
	if (fd < 0)
		return fd;
	m2p_close(m2p);
	*m2p = (struct m2p){ .fd = fd, .bytes = bytes };
	return fd;
}

void m2p_close(struct m2p *m2p)
{
	close_fd(&m2p->fd);
	m2p->bytes = 0;
}
