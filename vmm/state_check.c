/* What a machine state may hold: see state.h. The values come from a file or
 * from another process; after this nothing in them can make the VMM touch
 * anything but guest memory or give KVM what it refuses. */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "vmm/state.h"
#include "vmm/trap.h"
#include "vmm/xen_abi.h"

#define TSC_KHZ_MAX        100000000u
#define XCR0_FPU           1u
#define XCR0_KNOWN         0xe7u
#define TIME_MAX           (1ull << 62)
/* XSAVE area, Software Developer's Manual volume 1, 13.4. */
#define XSAVE_MXCSR        24
#define XSAVE_BV           512
#define XSAVE_COMPACTION   520
#define XSAVE_RESERVED_END 576
#define MXCSR_DEFINED      0xffffu
#define PORTS_RESERVED     3u /* 0, the store's, the console's */

static int bad(struct ramet_err *err, const char *what, uint64_t value)
{
	return err_set(err, EINVAL, "the machine state is not possible: %s is %#" PRIx64, what,
		       value);
}

static bool frame_ok(const struct guest_memory *mem, uint64_t gpa)
{
	return gpa % PAGE_SIZE == 0 && guest_ram_has(mem, gpa, PAGE_SIZE);
}

/* An aligned structure in one page of RAM. */
static bool structure_ok(const struct guest_memory *mem, uint64_t gpa, size_t size)
{
	return gpa % 8 == 0 && (gpa & ~PAGE_MASK) <= PAGE_SIZE - size &&
	       guest_ram_has(mem, gpa, size);
}

static int check_machine(const struct machine_state *s, struct ramet_err *err)
{
	if (s->isolation != ISOLATION_FULL && s->isolation != ISOLATION_FAST)
		return bad(err, "the isolation mode", s->isolation);
	if (!s->tsc_khz || s->tsc_khz > TSC_KHZ_MAX)
		return bad(err, "the TSC frequency", s->tsc_khz);
	if (!(s->exposed_xcr0 & XCR0_FPU) || (s->exposed_xcr0 & ~(uint64_t)XCR0_KNOWN))
		return bad(err, "the exposed XCR0", s->exposed_xcr0);
	return 0;
}

/* Null, or a flat CPL-3 segment of the GDT. */
static bool selector_ok(uint16_t selector)
{
	uint16_t index = selector & 0xfffcu;

	return index == 0 || index == (SEL_USER_SS & 0xfffcu) || index == (SEL_USER_CS & 0xfffcu) ||
	       index == (SEL_USER32_CS & 0xfffcu);
}

static int check_addresses(const struct machine_state *s, const struct guest_memory *mem,
			   struct ramet_err *err)
{
	const struct vcpu *v = &s->vcpu;
	uint64_t rip_max = v->cs == SEL_USER32_CS ? UINT32_MAX : UINT64_MAX;

	if (!trap_canonical(v->regs.rip) || v->regs.rip > rip_max)
		return bad(err, "the instruction pointer", v->regs.rip);
	if (!frame_ok(mem, v->kernel_cr3))
		return bad(err, "the kernel's root table", v->kernel_cr3);
	if (v->user_cr3 && !frame_ok(mem, v->user_cr3))
		return bad(err, "the user's root table", v->user_cr3);
	if (!trap_canonical(s->base_fs))
		return bad(err, "the FS base", s->base_fs);
	if (!trap_canonical(s->base_gs_kernel))
		return bad(err, "the kernel's GS base", s->base_gs_kernel);
	if (!trap_canonical(s->base_gs_user))
		return bad(err, "the user's GS base", s->base_gs_user);
	return 0;
}

static int check_vcpu(const struct machine_state *s, const struct guest_memory *mem,
		      struct ramet_err *err)
{
	const struct vcpu *v = &s->vcpu;

	if (v->cs != SEL_USER_CS && (v->cs != SEL_USER32_CS || v->kernel_mode))
		return bad(err, "the code segment", v->cs);
	if (v->regs.rflags != ((v->regs.rflags & RFLAGS_GUEST) | RFLAGS_FIXED))
		return bad(err, "the flags register", v->regs.rflags);
	if (s->blocked && !v->kernel_mode)
		return bad(err, "waiting outside of the kernel", s->blocked);
	for (unsigned int i = 0; i < STATE_SELECTORS; i++)
		if (!selector_ok(s->selectors[i]))
			return bad(err, "a data segment", s->selectors[i]);
	for (unsigned int i = 0; i < 6; i++)
		if (s->pv.debugreg[i])
			return bad(err, "a breakpoint register", s->pv.debugreg[i]);
	return check_addresses(s, mem, err);
}

static int check_fpu(const struct machine_state *s, struct ramet_err *err)
{
	uint64_t components, compaction;
	uint32_t mxcsr;

	memcpy(&mxcsr, s->xsave + XSAVE_MXCSR, sizeof(mxcsr));
	memcpy(&components, s->xsave + XSAVE_BV, sizeof(components));
	memcpy(&compaction, s->xsave + XSAVE_COMPACTION, sizeof(compaction));
	if (!(s->xcr0 & XCR0_FPU) || (s->xcr0 & ~s->exposed_xcr0))
		return bad(err, "XCR0", s->xcr0);
	if (mxcsr & ~MXCSR_DEFINED)
		return bad(err, "MXCSR", mxcsr);
	if (components & ~s->exposed_xcr0)
		return bad(err, "the FPU area's component mask", components);
	if (compaction)
		return bad(err, "the FPU area's format", compaction);
	for (unsigned int i = XSAVE_COMPACTION + 8; i < XSAVE_RESERVED_END; i++)
		if (s->xsave[i])
			return bad(err, "a reserved byte of the FPU area", s->xsave[i]);
	return 0;
}

static int check_time(const struct machine_state *s, const struct guest_memory *mem,
		      struct ramet_err *err)
{
	if (s->system_time_ns > TIME_MAX)
		return bad(err, "guest time", s->system_time_ns);
	if (s->wall_time_ns > TIME_MAX)
		return bad(err, "wall time", s->wall_time_ns);
	if (s->pv.time_info_gpa &&
	    !structure_ok(mem, s->pv.time_info_gpa, sizeof(struct vcpu_time_info)))
		return bad(err, "the clock's address", s->pv.time_info_gpa);
	return 0;
}

static int check_traps(const struct pv_state *pv, struct ramet_err *err)
{
	if (!trap_canonical(pv->event_callback))
		return bad(err, "the event callback", pv->event_callback);
	if (!trap_canonical(pv->failsafe_callback))
		return bad(err, "the failsafe callback", pv->failsafe_callback);
	if (!trap_canonical(pv->syscall_callback))
		return bad(err, "the system call entry", pv->syscall_callback);
	for (unsigned int i = 0; i < TRAP_VECTORS; i++) {
		if (!trap_canonical(pv->traps[i].address))
			return bad(err, "a trap handler", pv->traps[i].address);
		if (pv->traps[i].dpl > 3)
			return bad(err, "a trap's privilege level", pv->traps[i].dpl);
	}
	return 0;
}

static bool port_ok(const struct pv_state *pv, unsigned int port)
{
	const struct evtchn_port *p = &pv->ports[port];

	if ((p->kind == EVTCHN_RESERVED) != (port < PORTS_RESERVED))
		return false;
	if (p->kind > EVTCHN_LOCAL || (p->kind != EVTCHN_VIRQ && p->virq) ||
	    (p->kind != EVTCHN_LOCAL && p->peer))
		return false;
	if (p->kind == EVTCHN_VIRQ)
		return p->virq < EVTCHN_VIRQS && pv->virq_port[p->virq] == port;
	if (p->kind == EVTCHN_LOCAL)
		return p->peer != port && p->peer < EVTCHN_PORTS &&
		       pv->ports[p->peer].kind == EVTCHN_LOCAL && pv->ports[p->peer].peer == port;
	return true;
}

static int check_events(const struct pv_state *pv, const struct guest_memory *mem,
			struct ramet_err *err)
{
	/* In RAM, or where it is at first: at the start of the shared page. */
	if (!structure_ok(mem, pv->vcpu_info_gpa, sizeof(struct vcpu_info)) &&
	    pv->vcpu_info_gpa != guest_pv_page_gpa(mem, PV_PAGE_SHARED_INFO))
		return bad(err, "the address of vcpu_info", pv->vcpu_info_gpa);
	if (!frame_ok(mem, pv->console_gpa))
		return bad(err, "the console ring", pv->console_gpa);
	if (pv->console_port != PORTS_RESERVED - 1)
		return bad(err, "the console's port", pv->console_port);
	for (unsigned int i = 0; i < EVTCHN_PORTS; i++)
		if (!port_ok(pv, i))
			return bad(err, "an inconsistent event channel port", i);
	for (unsigned int i = 0; i < EVTCHN_VIRQS; i++)
		if (pv->virq_port[i] && (pv->virq_port[i] >= EVTCHN_PORTS ||
					 pv->ports[pv->virq_port[i]].kind != EVTCHN_VIRQ))
			return bad(err, "an inconsistent virtual interrupt", i);
	return 0;
}

static int check_channel(const struct pv_state *pv, const struct guest_memory *mem,
			 struct ramet_err *err)
{
	const struct channel_state *c = &pv->channel;

	if (pv->grant_frames > GRANT_FRAMES_MAX)
		return bad(err, "the number of grant frames", pv->grant_frames);
	if (!c->connected)
		return 0;
	if (c->port >= EVTCHN_PORTS ||
	    (pv->ports[c->port].kind != EVTCHN_UNBOUND && pv->ports[c->port].kind != EVTCHN_LOCAL))
		return bad(err, "the channel's port", c->port);
	if (!c->ring_pages || c->ring_pages > CHANNEL_RING_PAGES_MAX ||
	    (c->ring_pages & (c->ring_pages - 1)))
		return bad(err, "the channel's ring size", c->ring_pages);
	if (!frame_ok(mem, c->control_gpa))
		return bad(err, "the channel's control page", c->control_gpa);
	for (uint32_t i = 0; i < 2 * c->ring_pages; i++)
		if (!frame_ok(mem, c->data_gpa[i]))
			return bad(err, "a page of the channel", c->data_gpa[i]);
	return 0;
}

int state_check(const struct machine_state *s, struct ramet_err *err)
{
	struct guest_memory mem;
	int rc = guest_memory_layout(&mem, s->ram_bytes, err);

	if (!rc)
		rc = check_machine(s, err);
	if (!rc)
		rc = check_vcpu(s, &mem, err);
	if (!rc)
		rc = check_fpu(s, err);
	if (!rc)
		rc = check_time(s, &mem, err);
	if (!rc)
		rc = check_traps(&s->pv, err);
	if (!rc)
		rc = check_events(&s->pv, &mem, err);
	if (!rc)
		rc = check_channel(&s->pv, &mem, err);
	return rc;
}
