/* Registers that only KVM knows: see state.h. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/state.h"

/* FPU of a state is what KVM_GET_XSAVE gives; exposed features fit into it. */
_Static_assert(sizeof(struct kvm_xsave) == STATE_XSAVE_BYTES, "KVM ABI");

static int nothing_in_flight(struct machine *m, struct ramet_err *err)
{
	struct kvm_vcpu_events events;

	if (ioctl(m->vcpu_fd, KVM_GET_VCPU_EVENTS, &events))
		return err_errno(err, errno, "KVM_GET_VCPU_EVENTS");
	if (events.exception.injected || events.exception.pending || events.interrupt.injected ||
	    events.nmi.injected || events.nmi.pending)
		return err_set(err, EBUSY, "the vCPU is in the middle of delivering an event");
	return 0;
}

static int fpu_save(struct machine *m, struct machine_state *s, struct ramet_err *err)
{
	struct kvm_xsave xsave;
	struct kvm_xcrs xcrs;

	if (ioctl(m->vcpu_fd, KVM_GET_XSAVE, &xsave))
		return err_errno(err, errno, "KVM_GET_XSAVE");
	memcpy(s->xsave, &xsave, sizeof(xsave));
	if (ioctl(m->vcpu_fd, KVM_GET_XCRS, &xcrs))
		return err_errno(err, errno, "KVM_GET_XCRS");
	if (xcrs.nr_xcrs != 1 || xcrs.xcrs[0].xcr != 0)
		return err_set(err, EIO, "KVM_GET_XCRS gave %u registers", xcrs.nr_xcrs);
	s->xcr0 = xcrs.xcrs[0].value;
	return 0;
}

static int fpu_restore(struct machine *m, const struct machine_state *s, struct ramet_err *err)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = s->xcr0 } } };
	struct kvm_xsave xsave;

	if (ioctl(m->vcpu_fd, KVM_SET_XCRS, &xcrs))
		return err_errno(err, errno, "KVM_SET_XCRS %#llx", (unsigned long long)s->xcr0);
	memcpy(&xsave, s->xsave, sizeof(xsave));
	if (ioctl(m->vcpu_fd, KVM_SET_XSAVE, &xsave))
		return err_errno(err, errno, "KVM_SET_XSAVE");
	return 0;
}

int state_registers_save(struct machine *m, struct machine_state *s, struct ramet_err *err)
{
	struct kvm_sregs sregs;
	int rc = nothing_in_flight(m, err);

	if (rc)
		return rc;
	if (ioctl(m->vcpu_fd, KVM_GET_SREGS, &sregs))
		return err_errno(err, errno, "KVM_GET_SREGS");
	/* The guest loads these natively; nobody else does. */
	s->selectors[STATE_DS] = sregs.ds.selector;
	s->selectors[STATE_ES] = sregs.es.selector;
	s->selectors[STATE_FS] = sregs.fs.selector;
	s->selectors[STATE_GS] = sregs.gs.selector;
	rc = m->ops->base_get(m, BASE_FS, &s->base_fs);
	if (!rc)
		rc = m->ops->base_get(m, BASE_GS_KERNEL, &s->base_gs_kernel);
	if (!rc)
		rc = m->ops->base_get(m, BASE_GS_USER, &s->base_gs_user);
	return rc ? err_errno(err, -rc, "cannot read the segment bases") : fpu_save(m, s, err);
}

/* What the processor would have after loading `selector` at CPL 3. */
static struct kvm_segment data_segment(uint16_t selector, uint64_t base)
{
	unsigned int index = selector & ~3u;
	bool code = index == (SEL_USER_CS & ~3u) || index == (SEL_USER32_CS & ~3u);

	if (!index)
		return (struct kvm_segment){ .base = base, .selector = selector, .unusable = 1 };
	return (struct kvm_segment){ .base = base,
				     .limit = 0xffffffff,
				     .selector = selector,
				     .type = code ? 11 : 3,
				     .present = 1,
				     .dpl = 3,
				     .db = index != (SEL_USER_CS & ~3u),
				     .l = index == (SEL_USER_CS & ~3u),
				     .s = 1,
				     .g = 1 };
}

static int selectors_restore(struct machine *m, const struct machine_state *s,
			     struct ramet_err *err)
{
	/* setup() leaves the processor's state there, and enter() writes it back. */
	struct kvm_sregs *sregs = &m->run->s.regs.sregs;

	sregs->ds = data_segment(s->selectors[STATE_DS], 0);
	sregs->es = data_segment(s->selectors[STATE_ES], 0);
	sregs->fs = data_segment(s->selectors[STATE_FS], sregs->fs.base);
	sregs->gs = data_segment(s->selectors[STATE_GS], sregs->gs.base);
	if (ioctl(m->vcpu_fd, KVM_SET_SREGS, sregs))
		return err_errno(err, errno, "KVM_SET_SREGS");
	return 0;
}

int state_registers_restore(struct machine *m, const struct machine_state *s, struct ramet_err *err)
{
	int rc = selectors_restore(m, s, err);

	if (rc)
		return rc;
	rc = m->ops->base_set(m, BASE_FS, s->base_fs);
	if (!rc)
		rc = m->ops->base_set(m, BASE_GS_KERNEL, s->base_gs_kernel);
	if (!rc)
		rc = m->ops->base_set(m, BASE_GS_USER, s->base_gs_user);
	return rc ? err_errno(err, -rc, "cannot set the segment bases") : fpu_restore(m, s, err);
}
