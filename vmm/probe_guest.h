/* The code that the probe's throw-away VM runs: one position-independent image
 * of three pages, so that it works in every PML4 slot. Labels are addresses in
 * the host's copy; PROBE_OFFSET() makes them offsets into the image. */
#ifndef RAMET_VMM_PROBE_GUEST_H
#define RAMET_VMM_PROBE_GUEST_H

#include <stdint.h>

/* Ports by which the guest reports. 0..31: exception of that vector. The TSS
 * I/O bitmap opens exactly one byte of the bitmap, PROBE_PORT_FIRST + 0..7. */
#define PROBE_PORT_FIRST   0x70
#define PROBE_PORT_SYSCALL 0x70
#define PROBE_PORT_GATE    0x71
#define PROBE_PORT_DONE    0x72
#define PROBE_PORT_TICK    0x73
#define PROBE_PORT_OPEN    0x74
#define PROBE_PORT_CLOSED  0x90

#define PROBE_VECTORS      32u
#define PROBE_VECTOR_BYTES 16u

enum { PROBE_IMAGE_STUBS, PROBE_IMAGE_LSTAR, PROBE_IMAGE_USER, PROBE_IMAGE_PAGES };

extern const uint8_t probe_image[], probe_image_end[];

/* Page 0, supervisor: CPL 0. The image starts with the vector stubs. */
extern const uint8_t probe_c0_loop[];   /* rcx iterations of two instructions, DONE */
extern const uint8_t probe_c0_cr3[];    /* reload CR3, DONE */
extern const uint8_t probe_c0_touch[];  /* orb $0,(rsi); invlpg (rbx); DONE */
extern const uint8_t probe_c0_iret[];   /* iretq */
extern const uint8_t probe_c0_switch[]; /* CR3 = rbx; iretq */
extern const uint8_t probe_c0_sysret[]; /* sysretq */

/* Page 1: where LSTAR points. */
extern const uint8_t probe_lstar[]; /* SYSCALL */

/* Page 2: CPL 3. */
extern const uint8_t probe_u_open[];    /* out to the open port */
extern const uint8_t probe_u_closed[];  /* out to the closed port */
extern const uint8_t probe_u_syscall[]; /* syscall */
extern const uint8_t probe_u_int3[];    /* int3, then DONE */
extern const uint8_t probe_u_gate[];    /* GATE: handler of a native gate */
extern const uint8_t probe_u_read[];    /* al = (rsi), DONE */
extern const uint8_t probe_u_bases[];   /* gs base = rbx, rcx = gs base, rdx = fs base, DONE */
extern const uint8_t probe_u_cpuid[];   /* cpuid, DONE */
extern const uint8_t probe_u_tick[];    /* TICK for ever */
extern const uint8_t probe_u_spin[];    /* jump to itself */
extern const uint8_t probe_u_slot[];    /* eax = PROBE_SLOT_MARK from beside the code, DONE */

#define PROBE_SLOT_MARK     0x706d6172
#define PROBE_OFFSET(label) ((uint64_t)((label)-probe_image))

#endif
