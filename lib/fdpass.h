/* Datagrams with file descriptors over AF_UNIX SOCK_SEQPACKET (unix(7)). */
#ifndef RAMET_LIB_FDPASS_H
#define RAMET_LIB_FDPASS_H

#include <stddef.h>
#include <sys/types.h>

#define FDPASS_MAX 64

/* Sends one datagram with `nfds` (<= FDPASS_MAX) descriptors, which stay the
 * caller's. Never blocks. Returns 0, -EAGAIN when the socket is full, -errno. */
int fdpass_send(int sock, const void *data, size_t len, const int *fds, size_t nfds);

/* Receives one datagram into `data`. On success *nfds is the number of
 * descriptors stored in `fds` (room for FDPASS_MAX; close-on-exec; the
 * caller's to close). Returns its length, 0 at end of stream, -EAGAIN when none waits, -EMSGSIZE
 * when it did not fit (nothing is kept), -errno. */
ssize_t fdpass_recv(int sock, void *data, size_t len, int *fds, size_t *nfds);

#endif
