/* Prints what the start-up probe finds, one key=value a line: runs on the host
 * and, being static, as the only program of the test bed. */
#include <fcntl.h>
#include <stdio.h>

#include "lib/cleanup.h"
#include "vmm/probe.h"

static void facts_print(const struct probe_result *r)
{
	printf("kind=%s\n", probe_kind_name(r->kind));
	printf("syscall_cpl=%u\n", r->syscall_cpl);
	printf("native_gates=%d\n", r->native_gates);
	printf("io_bitmap=%d\n", r->io_bitmap);
	printf("fsgsbase=%d\n", r->fsgsbase);
	printf("cpuid_native=%d\n", r->cpuid_native);
	printf("host_pte_add=%d\n", r->host_pte_add);
	printf("host_pte_change=%d\n", r->host_pte_change);
	printf("guest_pte_change=%d\n", r->guest_pte_change);
	printf("root_switch=%d\n", r->root_switch);
	printf("sysret=%d\n", r->sysret);
	printf("irq_window=%d\n", r->irq_window);
	printf("tsc_offset=%d\n", r->tsc_offset);
	printf("cpl0_mips=%.2f\n", r->cpl0_mips);
	printf("exit_us=%.1f\n", r->exit_us);
	printf("duration_us=%u\n", r->duration_us);
	for (uint32_t i = 0; i < r->slot_count; i++)
		printf("slot_%u=%d\n", r->slots[i].pml4_slot, r->slots[i].usable);
	printf("fast_paths_ok=%d\n", r->fast_paths_ok);
	printf("reason=%s\n", r->reason);
}

int main(void)
{
	cleanup_close int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	struct probe_result result;
	struct ramet_err err = { 0 };

	if (kvm_fd < 0) {
		perror("cannot open /dev/kvm");
		return 2;
	}
	if (probe_run(kvm_fd, &result, &err) < 0) {
		(void)fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	facts_print(&result);
	return 0;
}
