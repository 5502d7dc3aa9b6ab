/* The programs of the guest suite; each takes name=value parameters and
 * returns an exit status (0 = every check passed, 2 = bad parameters). */
#ifndef RAMET_TESTS_GUEST_SUITE_H
#define RAMET_TESTS_GUEST_SUITE_H

int hello_main(int argc, char **argv);
int bench_getpid_main(int argc, char **argv);

#endif
