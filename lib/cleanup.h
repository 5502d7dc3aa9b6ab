/* Scope-bound cleanup, after the fashion of systemd and crun.
 *
 *   cleanup_close int fd = open(...);
 *   cleanup_free char *name = strdup(...);
 *   return take_fd(&fd);            // hands ownership to the caller
 */
#ifndef RAMET_LIB_CLEANUP_H
#define RAMET_LIB_CLEANUP_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(fn) __attribute__((cleanup(fn)))

static inline void cleanup_freep(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_closep(const int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
}

static inline void cleanup_filep(FILE **f)
{
	if (*f)
		(void)fclose(*f);
}

#define cleanup_free  CLEANUP(cleanup_freep)
#define cleanup_close CLEANUP(cleanup_closep)
#define cleanup_file  CLEANUP(cleanup_filep)

/* Closes *fd when it is open and marks it closed. */
static inline void close_fd(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}

/* Moves an fd out of its variable. */
static inline int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

/* Moves a pointer out of its variable. */
#define take_ptr(p)                                                                                \
	__extension__({                                                                            \
		__typeof__(p) *pp_ = &(p);                                                         \
		__typeof__(p) taken_ = *pp_;                                                       \
		*pp_ = NULL;                                                                       \
		taken_;                                                                            \
	})

#endif
