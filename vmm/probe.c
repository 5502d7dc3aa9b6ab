/* The start-up probe: the questions. */
#include "vmm/probe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "lib/clock.h"
#include "vmm/probe_guest.h"
#include "vmm/probe_vm.h"

#define LOOP_SHORT   400u    /* iterations: half a millisecond when emulated */
#define LOOP_LONG    200000u /* for a speed that means something when native */
#define LOOP_INSNS   2.0
#define LOOP_TRIES   8 /* on a busy host most are interrupted */
#define EXIT_SAMPLES 32u

/* Slot 0 is user space; 257 and 258 are the hypervisor area; the others hold
 * Linux's direct map, vmalloc, vmemmap, entry area, espfix and kernel text
 * (Documentation/arch/x86/x86_64/mm.rst; the direct map of a PV guest starts
 * at 0xffff888000000000). */
static const uint16_t slots_wanted[] = { 0, 255, 257, 258, 273, 402, 468, 508, 510, 511 };

static uint64_t code_at(const uint8_t *label)
{
	return probe_code(PROBE_HOME_SLOT, label);
}

static bool stopped_at(const struct probe_stop *stop, unsigned int port, unsigned int cpl)
{
	return stop->kind == PROBE_STOP_PORT && stop->port == port && stop->cpl == cpl;
}

static struct kvm_regs *registers(struct probe_vm *vm)
{
	return &vm->run->s.regs.regs;
}

/* A stop in words, for errors. */
static const char *stop_text(const struct probe_stop *stop, char *text, size_t size)
{
	switch (stop->kind) {
	case PROBE_STOP_PORT:
		(void)snprintf(text, size, "it reported %#x at CPL %u", stop->port, stop->cpl);
		break;
	case PROBE_STOP_WINDOW:
		(void)snprintf(text, size, "an interrupt window opened");
		break;
	case PROBE_STOP_LATE:
		(void)snprintf(text, size, "it did not answer in time");
		break;
	case PROBE_STOP_FAILED:
		if (stop->error)
			(void)snprintf(text, size, "KVM_RUN failed: %s", strerror(stop->error));
		else
			(void)snprintf(text, size, "KVM exit reason %u", stop->exit_reason);
		break;
	}
	return text;
}

static void ask_io_bitmap(struct probe_vm *vm, struct probe_result *r)
{
	struct probe_stop open, closed;

	probe_vm_start(vm, code_at(probe_u_open), 3);
	registers(vm)->rflags = 2; /* IOPL 0: only the bitmap can allow it */
	probe_vm_run(vm, &open);
	probe_vm_start(vm, code_at(probe_u_closed), 3);
	registers(vm)->rflags = 2;
	probe_vm_run(vm, &closed);
	r->io_bitmap = stopped_at(&open, PROBE_PORT_OPEN, 3) && stopped_at(&closed, 13, 0);
}

static int ask_syscall(struct probe_vm *vm, struct probe_result *r, struct ramet_err *err)
{
	struct probe_stop stop;
	char text[80];

	probe_vm_start(vm, code_at(probe_u_syscall), 3);
	probe_vm_run(vm, &stop);
	if (stop.kind != PROBE_STOP_PORT || stop.port != PROBE_PORT_SYSCALL)
		return err_set(err, ENOTSUP, "this KVM does not bring `syscall` to its handler: %s",
			       stop_text(&stop, text, sizeof(text)));
	r->syscall_cpl = (uint8_t)stop.cpl;
	r->kind = stop.cpl == 3 ? KVM_KIND_SOFTWARE : KVM_KIND_HARDWARE;
	return 0;
}

static void ask_gates(struct probe_vm *vm, struct probe_result *r)
{
	struct probe_stop stop;
	uint64_t top = probe_va(PROBE_HOME_SLOT, PROBE_PAGE_IST + 1);

	probe_gate(vm, 3, code_at(probe_u_gate), PROBE_SEL_CS3, 1);
	probe_vm_start(vm, code_at(probe_u_int3), 3);
	probe_vm_run(vm, &stop);
	probe_gate_default(vm, 3);
	r->native_gates = stopped_at(&stop, PROBE_PORT_GATE, 3) &&
			  registers(vm)->rsp == top - 5 * sizeof(uint64_t);
}

/* Time of a CPL-0 loop in ns, the best of some tries: the first ones fault
 * pages in, and the host may be busy. 0 when it does not run at all. */
static double loop_ns(struct probe_vm *vm, uint32_t iterations, unsigned int tries)
{
	struct probe_stop stop;
	uint64_t start, took, best = 0;

	for (unsigned int i = 0; i < tries; i++) {
		probe_vm_start(vm, code_at(probe_c0_loop), 0);
		registers(vm)->rcx = iterations;
		start = clock_monotonic_ns();
		probe_vm_run(vm, &stop);
		took = clock_monotonic_ns() - start;
		if (!stopped_at(&stop, PROBE_PORT_DONE, 0))
			return 0;
		if (!best || took < best)
			best = took;
	}
	return (double)best;
}

/* Speed of CPL-0 code, from what a longer loop takes beyond a loop of one. */
static void ask_speed(struct probe_vm *vm, struct probe_result *r)
{
	double one = loop_ns(vm, 1, 3), many = loop_ns(vm, LOOP_SHORT, LOOP_TRIES / 2);
	uint32_t iterations = LOOP_SHORT;

	if (many > 0 && LOOP_INSNS * LOOP_SHORT * 1e3 / many > PROBE_NATIVE_MIPS / 4) {
		iterations = LOOP_LONG;
		many = loop_ns(vm, LOOP_LONG, LOOP_TRIES);
	}
	if (many > one)
		r->cpl0_mips = LOOP_INSNS * iterations * 1e3 / (many - one);
}

static int read_window(struct probe_vm *vm)
{
	struct probe_stop stop;

	probe_vm_start(vm, code_at(probe_u_read), 3);
	registers(vm)->rsi = probe_va(PROBE_HOME_SLOT, PROBE_PAGE_WINDOW);
	probe_vm_run(vm, &stop);
	if (!stopped_at(&stop, PROBE_PORT_DONE, 3))
		return -1;
	return (int)(registers(vm)->rax & 0xff);
}

static bool run_cpl0(struct probe_vm *vm, const uint8_t *label)
{
	struct probe_stop stop;

	probe_vm_start(vm, code_at(label), 0);
	/* The linear address of an L1 entry: page tables are mapped like the rest. */
	registers(vm)->rsi = probe_va(PROBE_HOME_SLOT, PROBE_PAGE_ROOT_A + 3) +
			     PROBE_PAGE_WINDOW * sizeof(uint64_t);
	registers(vm)->rbx = probe_va(PROBE_HOME_SLOT, PROBE_PAGE_WINDOW);
	probe_vm_run(vm, &stop);
	return stopped_at(&stop, PROBE_PORT_DONE, 0);
}

/* Which writes to page tables reach the processor. Reads are at CPL 3: that is
 * what a shadowing KVM serves from its own tables. */
static void ask_page_tables(struct probe_vm *vm, struct probe_result *r)
{
	volatile uint64_t *pte = probe_pte(vm, PROBE_ROOT_A, PROBE_PAGE_WINDOW);
	const uint64_t a = PROBE_PAGE_MARK_A * (uint64_t)PROBE_PAGE | 7,
		       b = PROBE_PAGE_MARK_B * (uint64_t)PROBE_PAGE | 7;

	*pte = 0;
	if (read_window(vm) != -1)
		return; /* a page that is not there must fault */
	*pte = a;
	r->host_pte_add = read_window(vm) == (int)PROBE_MARK_A;
	*pte = b;
	r->host_pte_change = run_cpl0(vm, probe_c0_cr3) && read_window(vm) == (int)PROBE_MARK_B;
	*pte = a;
	(void)run_cpl0(vm, probe_c0_touch);
	(void)read_window(vm);
	*pte = b;
	r->guest_pte_change = run_cpl0(vm, probe_c0_touch) && read_window(vm) == (int)PROBE_MARK_B;
}

/* int3 at CPL 3 enters a CPL-0 stub that loads the other root and returns: the
 * frame popped must be the one in the other root's interrupt stack, and it must
 * lead to where the window shows the other root's page. */
static void ask_root_switch(struct probe_vm *vm, struct probe_result *r)
{
	const uint64_t frame[5] = { code_at(probe_u_read), PROBE_SEL_CS3, PROBE_FLAGS,
				    probe_va(PROBE_HOME_SLOT, PROBE_PAGE_STACK + 1) - 256,
				    PROBE_SEL_SS3 };
	struct probe_stop stop;

	memcpy(vm->memory + (PROBE_PAGE_IST_B + 1) * PROBE_PAGE - sizeof(frame), frame,
	       sizeof(frame));
	*probe_pte(vm, PROBE_ROOT_A, PROBE_PAGE_WINDOW) =
		PROBE_PAGE_MARK_A * (uint64_t)PROBE_PAGE | 7;
	probe_gate(vm, 3, code_at(probe_c0_switch), PROBE_SEL_CS0, 1);
	probe_vm_start(vm, code_at(probe_u_int3), 3);
	registers(vm)->rbx = probe_root(PROBE_ROOT_B);
	registers(vm)->rsi = probe_va(PROBE_HOME_SLOT, PROBE_PAGE_WINDOW);
	probe_vm_run(vm, &stop);
	probe_gate_default(vm, 3);
	r->root_switch = stopped_at(&stop, PROBE_PORT_DONE, 3) &&
			 (registers(vm)->rax & 0xff) == PROBE_MARK_B &&
			 vm->run->s.regs.sregs.cr3 == probe_root(PROBE_ROOT_B);
}

static void ask_sysret(struct probe_vm *vm, struct probe_result *r)
{
	struct probe_stop stop;

	probe_vm_start(vm, code_at(probe_c0_sysret), 0);
	registers(vm)->rcx = code_at(probe_u_tick);
	registers(vm)->r11 = PROBE_FLAGS;
	probe_vm_run(vm, &stop);
	r->sysret = stopped_at(&stop, PROBE_PORT_TICK, 3);
}

static void ask_bases(struct probe_vm *vm, struct probe_result *r)
{
	const uint64_t value = 0x123456789000;
	struct probe_stop stop;

	probe_vm_start(vm, code_at(probe_u_bases), 3);
	registers(vm)->rbx = value;
	probe_vm_run(vm, &stop);
	r->fsgsbase = stopped_at(&stop, PROBE_PORT_DONE, 3) && registers(vm)->rcx == value &&
		      vm->run->s.regs.sregs.gs.base == value &&
		      registers(vm)->rdx == vm->run->s.regs.sregs.fs.base;
}

static void ask_cpuid(struct probe_vm *vm, struct probe_result *r)
{
	struct probe_stop stop;

	probe_vm_start(vm, code_at(probe_u_cpuid), 3);
	registers(vm)->rax = 0x40000000;
	probe_vm_run(vm, &stop);
	r->cpuid_native = stopped_at(&stop, PROBE_PORT_DONE, 3) &&
			  (uint32_t)registers(vm)->rbx != PROBE_SLOT_MARK;
}

/* The window is asked for at CPL 0 with IF clear; it must open right after the
 * iretq to CPL 3 with IF set, before anything else runs. */
static void ask_irq_window(struct probe_vm *vm, struct probe_result *r)
{
	const uint64_t stack = probe_va(PROBE_HOME_SLOT, PROBE_PAGE_STACK + 1) - 256;
	const uint64_t frame[5] = { code_at(probe_u_spin), PROBE_SEL_CS3,
				    PROBE_FLAGS | PROBE_FLAG_IF, stack, PROBE_SEL_SS3 };
	struct probe_stop stop;

	memcpy(vm->memory + (PROBE_PAGE_STACK + 1) * PROBE_PAGE - 256, frame, sizeof(frame));
	probe_vm_start(vm, code_at(probe_c0_iret), 0);
	vm->run->request_interrupt_window = 1;
	probe_vm_run(vm, &stop);
	r->irq_window = stop.kind == PROBE_STOP_WINDOW && stop.cpl == 3 &&
			registers(vm)->rip == code_at(probe_u_spin);
}

static void ask_tsc_offset(struct probe_vm *vm, struct probe_result *r)
{
	uint64_t offset = 0;
	struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL,
					.attr = KVM_VCPU_TSC_OFFSET,
					.addr = (uintptr_t)&offset };

	r->tsc_offset = ioctl(vm->vcpu_fd, KVM_GET_DEVICE_ATTR, &attr) == 0;
}

static int compare_ns(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void ask_exit_cost(struct probe_vm *vm, struct probe_result *r)
{
	uint64_t samples[EXIT_SAMPLES], start;
	struct probe_stop stop;

	probe_vm_start(vm, code_at(probe_u_tick), 3);
	probe_vm_run(vm, &stop);
	for (unsigned int i = 0; i < EXIT_SAMPLES; i++) {
		start = clock_monotonic_ns();
		if (!stopped_at(&stop, PROBE_PORT_TICK, 3))
			return;
		probe_vm_run(vm, &stop);
		samples[i] = clock_monotonic_ns() - start;
	}
	qsort(samples, EXIT_SAMPLES, sizeof(samples[0]), compare_ns);
	r->exit_us = (double)samples[EXIT_SAMPLES / 2] / 1000.0;
}

static void ask_slots(struct probe_vm *vm, struct probe_result *r)
{
	struct probe_stop stop;

	for (unsigned int i = 0; i < sizeof(slots_wanted) / sizeof(slots_wanted[0]); i++) {
		struct probe_slot *slot = &r->slots[r->slot_count++];

		slot->pml4_slot = slots_wanted[i];
		probe_slot_map(vm, slot->pml4_slot);
		probe_vm_start(vm, probe_code(slot->pml4_slot, probe_u_slot), 3);
		probe_vm_run(vm, &stop);
		slot->usable = stopped_at(&stop, PROBE_PORT_DONE, 3) &&
			       registers(vm)->rax == PROBE_SLOT_MARK;
	}
}

static int ask_all(struct probe_vm *vm, struct probe_result *r, struct ramet_err *err)
{
	int rc = ask_syscall(vm, r, err);

	if (rc < 0)
		return rc;
	ask_io_bitmap(vm, r);
	ask_gates(vm, r);
	ask_exit_cost(vm, r);
	ask_speed(vm, r);
	ask_page_tables(vm, r);
	ask_root_switch(vm, r);
	ask_sysret(vm, r);
	ask_bases(vm, r);
	ask_cpuid(vm, r);
	ask_irq_window(vm, r);
	ask_tsc_offset(vm, r);
	ask_slots(vm, r);
	for (uint32_t i = 0; i < r->slot_count; i++) {
		if (r->slots[i].usable)
			continue;
		return err_set(err, ENOTSUP,
			       "this KVM cannot run code in PML4 slot %u, which Linux needs",
			       r->slots[i].pml4_slot);
	}
	return 0;
}

int probe_run(int kvm_fd, struct probe_result *result, struct ramet_err *err)
{
	uint64_t start = clock_monotonic_ns();
	struct probe_result r = { 0 };
	struct probe_vm vm;
	int rc = probe_vm_create(&vm, kvm_fd, err);

	if (rc < 0)
		return rc;
	rc = ask_all(&vm, &r, err);
	probe_vm_destroy(&vm);
	if (rc < 0)
		return rc;
	r.duration_us = (uint32_t)((clock_monotonic_ns() - start) / 1000);
	probe_judge(&r);
	*result = r;
	return 0;
}
