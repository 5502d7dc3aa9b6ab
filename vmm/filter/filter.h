/* The system call filter as bytes of the worker: a classic BPF program for
 * seccomp(2), made by vmm/filter/generate.c. */
#ifndef RAMET_VMM_FILTER_H
#define RAMET_VMM_FILTER_H

#include <linux/filter.h>

/* Workers of ASan builds do more than others; see generate.c. */
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

/* Stands for the worker's own pid, which is known when the filter is loaded. More
 * than any pid, and no flag or command. */
#define FILTER_OWN_PID 0x5e1f91d5u

extern const struct sock_filter filter_start[], filter_end[];

#endif
