/* Machine state: everything of a guest that is not in its memory.
 *
 * Registers and PV state in one explicit structure with a versioned encoding.
 * Fork, freeze and resume are all "memory + these bytes". It holds logical
 * state only: the hypervisor area, page-table shadows and TLBs are rebuilt, so
 * a guest may go on in a worker on the plain or the fast path, and on another
 * kind of KVM where the exposed processor is the same.
 *
 * Encoding, all integers little-endian: a header (magic, version, total length,
 * XXH3-64 of what follows it), then sections of fixed order, each with a tag
 * and its length. There is one encoding of each state. The checksum finds
 * accidents; against forgery every value is checked by itself. */
#ifndef RAMET_VMM_STATE_H
#define RAMET_VMM_STATE_H

#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "vmm/machine.h"

#define STATE_MAGIC        "RAMETMST"
#define STATE_VERSION      1u
#define STATE_HEADER_BYTES 32u
#define STATE_BYTES_MAX    32768u
#define STATE_XSAVE_BYTES  4096u

enum state_selector { STATE_DS, STATE_ES, STATE_FS, STATE_GS, STATE_SELECTORS };

struct machine_state {
	/* What the machine must be like. */
	uint64_t ram_bytes;
	enum isolation_mode isolation;
	uint64_t tsc_khz;
	uint64_t exposed_xcr0;
	uint64_t cpuid_hash;

	struct vcpu vcpu;
	bool blocked; /* the guest waits for an event */
	uint64_t base_fs, base_gs_kernel, base_gs_user;
	uint16_t selectors[STATE_SELECTORS];
	uint64_t xcr0;                    /* as the guest set it */
	uint8_t xsave[STATE_XSAVE_BYTES]; /* standard form */

	uint64_t system_time_ns; /* guest time at the capture */
	uint64_t wall_time_ns;   /* the host's clock at the capture */
	struct pv_state pv;      /* but for tsc_base and time_base, which are the host's */
};

/* An encoded state; `data` is malloc'ed. */
struct state_buffer {
	uint8_t *data;
	size_t len;
};

void state_buffer_free(struct state_buffer *buffer);

/* Encodes the state of a paused machine (m->paused) into *out, which the caller
 * frees. The machine can go on afterwards. -EBUSY when it is not paused,
 * -EINVAL when the guest brought itself into a state that cannot be restored. */
int state_capture(struct machine *m, struct state_buffer *out, struct ramet_err *err);

/* Gives the state to a machine that has been created but not set up, with the
 * guest's memory (all of m->mem) in place, and sets it up: machine_run() goes
 * on. Guest time continues from its value at the capture. On -EINVAL (malformed
 * bytes) and -EXDEV (a state of another kind of machine) the machine is
 * untouched; after another -errno it can only be destroyed. */
int state_apply(struct machine *m, const void *data, size_t len, struct ramet_err *err);

/* Decodes and checks. *state is untouched on error: -EINVAL with a sentence. */
int state_decode(struct machine_state *state, const void *data, size_t len, struct ramet_err *err);

/* Encodes without checks. -ENOMEM. */
int state_encode(const struct machine_state *state, struct state_buffer *out,
		 struct ramet_err *err);

/* Whether all values are possible and fit together. -EINVAL with a sentence. */
int state_check(const struct machine_state *state, struct ramet_err *err);

/* The part of both directions that asks KVM: segment bases and selectors, XCR0
 * and the XSAVE area. Restoring needs a machine that is set up. -errno. */
int state_registers_save(struct machine *m, struct machine_state *state, struct ramet_err *err);
int state_registers_restore(struct machine *m, const struct machine_state *state,
			    struct ramet_err *err);

#endif
