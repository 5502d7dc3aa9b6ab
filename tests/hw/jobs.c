/* Runs a list of programs inside the test bed's Linux and reports each one's
 * output and exit status on the console. The shared bring-up init starts it.
 *
 * The list is a file (argv[1]) of strings that each end in NUL:
 *   "token" T                  the word that marks this run's report lines
 *   "module" PATH PARAMETERS   a kernel module to load
 *   "job" NAME SECONDS ARGC ARG...
 * Report lines, each at the start of a line:
 *   @@T module PATH ERRNO
 *   @@T begin NAME
 *   @@T end NAME EXIT MILLISECONDS
 * EXIT is 128 + n after signal n, 124 after the time was up, 127 when the
 * program could not be started. The token keeps output from passing for one. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/clock.h"

#define ARGS_MAX       64
#define SECONDS_MAX    3600
#define EXIT_TIMEOUT   124
#define EXIT_NOT_FOUND 127

struct list {
	char *at, *end;
	const char *token;
};

/* The next string of the list, or NULL at its end. */
static char *list_next(struct list *list)
{
	char *word = list->at;
	size_t len;

	if (word >= list->end)
		return NULL;
	len = strnlen(word, (size_t)(list->end - word));
	if (word + len >= list->end)
		return NULL; /* not terminated */
	list->at = word + len + 1;
	return word;
}

static long list_number(struct list *list, long max)
{
	char *word = list_next(list), *rest;
	long value;

	if (!word)
		return -1;
	errno = 0;
	value = strtol(word, &rest, 10);
	return errno || rest == word || *rest || value < 0 || value > max ? -1 : value;
}

static bool module_load(struct list *list)
{
	char *path = list_next(list), *parameters = list_next(list);
	cleanup_close int fd = -1;
	int code = 0;

	if (!path || !parameters)
		return false;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || syscall(SYS_finit_module, fd, parameters, 0) < 0)
		code = errno;
	printf("@@%s module %s %d\n", list->token, path, code);
	return true;
}

static void job_exec(char **argv)
{
	int input = open("/dev/null", O_RDONLY);

	(void)setpgid(0, 0);
	if (input >= 0)
		(void)dup2(input, STDIN_FILENO);
	(void)execv(argv[0], argv);
	(void)fprintf(stderr, "cannot run %s: %s\n", argv[0], strerror(errno));
	_exit(EXIT_NOT_FOUND);
}

/* Waits for the job, and kills its process group when the time is up. SIGCHLD
 * is blocked. Returns the code to report. */
static int job_wait(pid_t pid, long seconds)
{
	uint64_t deadline = clock_monotonic_ns() + (uint64_t)seconds * 1000000000u;
	bool late = false;
	sigset_t child;
	int status;

	(void)sigemptyset(&child);
	(void)sigaddset(&child, SIGCHLD);
	while (waitpid(pid, &status, WNOHANG) != pid) {
		uint64_t now = clock_monotonic_ns();
		uint64_t left = now < deadline ? deadline - now : 1000000000u;
		struct timespec wait = { .tv_sec = (time_t)(left / 1000000000u),
					 .tv_nsec = (long)(left % 1000000000u) };

		if (now >= deadline && !late) {
			late = true;
			(void)kill(-pid, SIGKILL);
			(void)kill(pid, SIGKILL);
		}
		(void)sigtimedwait(&child, NULL, &wait);
	}
	if (late)
		return EXIT_TIMEOUT;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static bool job_run(struct list *list)
{
	char *name = list_next(list), *argv[ARGS_MAX + 1] = { NULL };
	long seconds = list_number(list, SECONDS_MAX), argc = list_number(list, ARGS_MAX);
	uint64_t start = clock_monotonic_ns();
	int code = EXIT_NOT_FOUND;
	pid_t pid;

	if (!name || seconds < 1 || argc < 1)
		return false;
	for (long i = 0; i < argc; i++) {
		argv[i] = list_next(list);
		if (!argv[i])
			return false;
	}
	printf("@@%s begin %s\n", list->token, name);
	(void)fflush(NULL);
	pid = fork();
	if (pid == 0)
		job_exec(argv);
	if (pid > 0)
		code = job_wait(pid, seconds);
	/* The output may have ended anywhere in a line. */
	printf("\n@@%s end %s %d %llu\n", list->token, name, code,
	       (unsigned long long)((clock_monotonic_ns() - start) / 1000000u));
	(void)fflush(NULL);
	return true;
}

static bool list_run(struct list *list)
{
	for (char *word; (word = list_next(list));) {
		bool good = false;

		if (!strcmp(word, "token"))
			good = (list->token = list_next(list)) != NULL;
		else if (list->token && !strcmp(word, "module"))
			good = module_load(list);
		else if (list->token && !strcmp(word, "job"))
			good = job_run(list);
		if (!good)
			return false;
	}
	return list->at == list->end;
}

int main(int argc, char **argv)
{
	cleanup_close int fd = argc == 2 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;
	struct list list = { 0 };
	struct stat st;
	sigset_t child;
	void *text;

	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size < 1) {
		(void)fputs("usage: hw-jobs LIST\n", stderr);
		return 2;
	}
	text = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (text == MAP_FAILED) {
		perror(argv[1]);
		return 2;
	}
	(void)sigemptyset(&child);
	(void)sigaddset(&child, SIGCHLD);
	(void)sigprocmask(SIG_BLOCK, &child, NULL);
	list.at = text;
	list.end = list.at + st.st_size;
	if (!list_run(&list)) {
		printf("\n@@%s broken list\n", list.token ? list.token : "");
		return 2;
	}
	return 0;
}
