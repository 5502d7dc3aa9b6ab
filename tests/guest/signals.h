/* The part of stress_signals about signals from outside the running code. */
#ifndef RAMET_TESTS_GUEST_SIGNALS_H
#define RAMET_TESTS_GUEST_SIGNALS_H

struct check;

/* Timer storms, nesting, queueing, jumping out, interrupted system calls; the
 * storm lasts `ms` milliseconds. */
void signals_async_check(struct check *c, unsigned ms);

#endif
