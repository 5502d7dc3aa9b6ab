/* Child processes: start, end, reap. */
#ifndef RAMET_GUEST_PROCESS_H
#define RAMET_GUEST_PROCESS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct agent;
struct identity;

#define SPAWN_FDS_MAX 7

struct spawn {
	char *const *argv;               /* argv[0] is an absolute path */
	const char *home;                /* working directory and HOME */
	const char *run_dir;             /* RAMET_RUN_DIR; NULL: none */
	const struct identity *identity; /* RAMET_GENERATION, RAMET_FORK_INDEX */
	size_t nfds;
	struct {
		int from, to;
	} fds[SPAWN_FDS_MAX]; /* what the child gets; all else is close-on-exec */
};

/* Starts a program as leader of a session of its own, with default signals and
 * the environment every command gets. *pid is untouched on failure.
 * Returns 0 or -errno, also when the program cannot be executed. */
int process_spawn(const struct spawn *spawn, pid_t *pid);

/* A pipe for a command's output: the read end does not block, both are
 * close-on-exec. Returns 0 or -errno. */
int process_pipe(int *read_end, int *write_end);

/* Exit code in the shell's manner from a status of waitpid(2). */
int process_exit_code(int status);

/* Signals a whole process group; a group that is gone is fine. */
void process_group_kill(pid_t leader, int signal);

/* Takes every child that ended: tells repl and shell of theirs, reaps all. */
void process_reap(struct agent *agent);

/* Kills all there is and waits for it (at most `grace_ns` after SIGTERM, then
 * SIGKILL): every process when the agent is init, else its descendants. */
void process_end_all(struct agent *agent, uint64_t grace_ns);

#endif
