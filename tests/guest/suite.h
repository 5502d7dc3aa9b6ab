/* The programs of the guest suite; each takes name=value parameters and
 * returns an exit status (0 = every check passed, 2 = bad parameters). */
#ifndef RAMET_TESTS_GUEST_SUITE_H
#define RAMET_TESTS_GUEST_SUITE_H

int hello_main(int argc, char **argv);
int bench_getpid_main(int argc, char **argv);
int idle_main(int argc, char **argv);
int stress_avx_main(int argc, char **argv);
int stress_cow_main(int argc, char **argv);
int stress_int3_main(int argc, char **argv);
int stress_int80_main(int argc, char **argv);
int stress_memory_main(int argc, char **argv);
int stress_pipelines_main(int argc, char **argv);
int stress_ptrace_main(int argc, char **argv);
int stress_signals_main(int argc, char **argv);
int stress_stale_main(int argc, char **argv);
int stress_threads_main(int argc, char **argv);
int stress_time_main(int argc, char **argv);
int hostile_entry_main(int argc, char **argv);
int hostile_insn_main(int argc, char **argv);
int hostile_reach_main(int argc, char **argv);
int hostile_segments_main(int argc, char **argv);
int hostile_sigreturn_main(int argc, char **argv);

#endif
