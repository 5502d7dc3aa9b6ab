/* Telling the interpreter that its machine is another one now: random modules
 * and OpenSSL get new seeds, the environment gets RAMET_GENERATION and, in a
 * child of a fork, RAMET_FORK_INDEX, functions that code registered are called.
 *
 * What is told lies in a memfd that the driver reads. How it learns of it:
 *   - Waiting for code: a record in the stream that brings the code, so that
 *     no code can run before. When nothing else in the process can run Python
 *     meanwhile (no other thread, no signal handler of the code's own) and no
 *     function is registered, that is all: there is nothing to wait for.
 *   - While code runs: a signal to the main thread, which acts between two
 *     instructions, and a byte to a helper thread of the driver's, which acts
 *     when the main thread is in C code that has let go of the interpreter.
 *     C code that has not keeps every Python thread from running; when it
 *     returns the signal and the helper come first. So the guest is a new one
 *     after a while of waiting even if nobody has confirmed. */
#ifndef RAMET_GUEST_REPL_IDENTITY_H
#define RAMET_GUEST_REPL_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct agent;
struct source;

/* Makes the memfd. */
void repl_identity_init(struct agent *agent);

/* Tells what agent->identity says; `reseed`: Python's random modules too;
 * `fork`: this guest has just become a child of a fork. Returns true when
 * identity_python_done() will be called, false when that is not needed. */
bool repl_identify(struct agent *agent, bool reseed, bool fork);

/* A confirmation of the driver's in a record: 'C' reseeded, and calls what is
 * registered; 'S' all done.
 * Returns false when it is malformed. */
bool repl_identity_record(struct agent *agent, uint8_t kind, const uint8_t *payload, size_t length);

/* The helper thread's confirmations (a source's ready()). */
void repl_helper_ready(struct agent *agent, struct source *source, uint32_t events);

/* Signals the interpreter's main thread. */
void repl_signal(const struct agent *agent, int signal);

#endif
