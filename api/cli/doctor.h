/* The checks of `ramet doctor`. */
#ifndef RAMET_CLI_DOCTOR_H
#define RAMET_CLI_DOCTOR_H

#include "api/cli/cli.h"

enum finding_state { FINDING_OK, FINDING_WARN, FINDING_FAIL };

struct finding {
	enum finding_state state;
	char text[400];   /* what was found */
	char remedy[400]; /* what to do about it; "" when FINDING_OK */
};

struct doctor {
	const struct cli *cli;
	const char *images;
};

/* Each sets the whole of *finding. */
typedef void (*check_fn)(const struct doctor *doctor, struct finding *finding);

void check_kvm(const struct doctor *doctor, struct finding *finding);
void check_userfaultfd(const struct doctor *doctor, struct finding *finding);
void check_io_uring(const struct doctor *doctor, struct finding *finding);
void check_bpf(const struct doctor *doctor, struct finding *finding);
void check_cgroups(const struct doctor *doctor, struct finding *finding);
void check_memfd(const struct doctor *doctor, struct finding *finding);
void check_namespaces(const struct doctor *doctor, struct finding *finding);
void check_files(const struct doctor *doctor, struct finding *finding);
void check_maps(const struct doctor *doctor, struct finding *finding);
void check_memory(const struct doctor *doctor, struct finding *finding);
void check_images(const struct doctor *doctor, struct finding *finding);
void check_daemon(const struct doctor *doctor, struct finding *finding);

void finding_ok(struct finding *finding, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* `remedy` is a plain sentence. */
void finding_bad(struct finding *finding, enum finding_state state, const char *remedy,
		 const char *fmt, ...) __attribute__((format(printf, 4, 5)));

#endif
