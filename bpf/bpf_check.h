/* Whether this process may load BPF programs of the kinds that the network needs. */
#ifndef RAMET_BPF_CHECK_H
#define RAMET_BPF_CHECK_H

#include <stdbool.h>

#include "lib/err.h"

struct bpf_support {
	bool jit; /* programs run as native code */
	bool btf; /* the kernel describes its types in /sys/kernel/btf/vmlinux */
};

/* Loads the smallest traffic-control program, runs it once on a packet of
 * zeroes, and unloads it. -EPERM: not for this user; -errno.
 * See bpf(2), BPF_PROG_LOAD and BPF_PROG_TEST_RUN. */
int bpf_check(struct bpf_support *support, struct ramet_err *err);

#endif
