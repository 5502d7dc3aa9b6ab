/* The seam for KVMs with hardware virtualisation (VMX, SVM). */
#include <errno.h>

#include "vmm/machine.h"

static int hardware_setup(struct machine *m, struct ramet_err *err)
{
	(void)m;
	return err_set(err, ENOTSUP, "this KVM uses hardware virtualisation, which is not supported");
}

static int hardware_enter(struct machine *m, struct vcpu_exit *exit, struct ramet_err *err)
{
	(void)exit;
	return hardware_setup(m, err);
}

static void hardware_mmu_commit(struct machine *m)
{
	(void)m;
}

const struct vcpu_ops vcpu_ops_hardware = {
	.name = "hardware",
	.setup = hardware_setup,
	.enter = hardware_enter,
	.mmu_commit = hardware_mmu_commit,
};
