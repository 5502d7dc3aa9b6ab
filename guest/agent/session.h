/* The conversation with the host: frames in, dispatch, frames out.
 *
 * When the host breaks the protocol the connection ends: open files are
 * closed, unfinished uploads removed, what runs is killed. With --fd the agent
 * then exits with status 1. In a guest there is no other connection to wait
 * for: the agent says so on the console, makes the ring impossible, which is
 * how channel.h tells the host that the channel has ended, and stays as init
 * until the host takes the machine away. */
#ifndef RAMET_GUEST_SESSION_H
#define RAMET_GUEST_SESSION_H

#include <stdbool.h>
#include <stdint.h>

struct agent;

/* Sends MSG_HELLO. */
void session_hello(struct agent *agent);

/* One round: takes up requests, lets everything progress, sends. Called after
 * events were handled and until there is nothing to do; returns false when
 * the agent may sleep. */
bool session_run(struct agent *agent);

/* The earliest of all deadlines, and what to do when it has passed. */
uint64_t session_deadline(const struct agent *agent);
void session_expire(struct agent *agent);

#endif
