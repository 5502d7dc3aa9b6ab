/* The fast path on software KVMs: its pages, its CPL-0 stubs and its state.
 *
 * A change of page tables needs CPL 0, which is emulated at about 0.6 us per
 * instruction here, so the stubs are as short as can be. `int3` is the
 * cheapest way into one. In the kernel's view an int3 at one of two addresses
 * of the fast path is a request (load CR3; invalidate an address); in the
 * user's view the system-call entry page holds a single int3. */
#include <string.h>

#include "vmm/backend_common.h"
#include "vmm/backend_software.h"
#include "vmm/evtchn.h"
#include "vmm/mmu.h"
#include "vmm/shim/shim_blob.h"
#include "vmm/trap.h"

_Static_assert(SHIM_DATA_VA == HV_PAGE_VA(HV_PAGE_DATA), "shim address");
_Static_assert(SHIM_ENTRY_VA == HV_PAGE_VA(HV_PAGE_SHIM), "shim address");
_Static_assert(SHIM_STACK_VA == HV_PAGE_VA(HV_PAGE_SHIM_STACK_END), "shim address");
_Static_assert(SHIM_TRAP_STACK_VA == HV_PAGE_VA(HV_PAGE_STACK_END), "shim address");
_Static_assert(SHIM_IST_STACK_VA == HV_PAGE_VA(HV_PAGE_IST_END), "shim address");

/* Places in the page of CPL-0 stubs. */
#define STUB_FAULT_KERNEL  0x000u
#define STUB_FAULT_USER    0x080u
#define STUB_BREAK_KERNEL  0x100u
#define STUB_BREAK_USER    0x180u
/* Frames that enter the fast path, in the data page behind its struct. */
#define FRAME_FAULT_OFFSET 0xf00u
#define FRAME_BREAK_OFFSET 0xf40u

#define DATA_FIELD(field) (SHIM_DATA_VA + offsetof(struct shim_data, field))

static uint8_t *put(uint8_t *at, const void *bytes, size_t len)
{
	memcpy(at, bytes, len);
	return at + len;
}

static uint8_t *put_with_address(uint8_t *at, const uint8_t *opcode, size_t len, uint64_t address)
{
	return put(put(at, opcode, len), &address, sizeof(address));
}

static uint8_t *emit_save_rax(uint8_t *at, uint64_t address) /* movabs %rax, address */
{
	return put_with_address(at, (const uint8_t[]){ 0x48, 0xa3 }, 2, address);
}

static uint8_t *emit_load_rax(uint8_t *at, uint64_t address) /* movabs address, %rax */
{
	return put_with_address(at, (const uint8_t[]){ 0x48, 0xa1 }, 2, address);
}

static uint8_t *emit_iret_from(uint8_t *at, uint64_t frame) /* mov $frame, %rsp; iretq */
{
	at = put_with_address(at, (const uint8_t[]){ 0x48, 0xbc }, 2, frame);
	return put(at, (const uint8_t[]){ 0x48, 0xcf }, 2);
}

static uint8_t *emit_read_cr2(uint8_t *at) /* mov %cr2, %rax */
{
	return put(at, (const uint8_t[]){ 0x0f, 0x20, 0xd0 }, 3);
}

static uint8_t *emit_write_cr3(uint8_t *at) /* mov %rax, %cr3 */
{
	return put(at, (const uint8_t[]){ 0x0f, 0x22, 0xd8 }, 3);
}

static void stub_fault(uint8_t *at, bool user)
{
	at = emit_save_rax(at, DATA_FIELD(fault_rax));
	at = emit_read_cr2(at);
	at = emit_save_rax(at, DATA_FIELD(fault_cr2));
	if (user)
		at = emit_write_cr3(emit_load_rax(at, DATA_FIELD(kernel_cr3)));
	(void)emit_iret_from(at, SHIM_DATA_VA + FRAME_FAULT_OFFSET);
}

static void stub_break_user(uint8_t *at)
{
	at = emit_save_rax(at, DATA_FIELD(fault_rax));
	at = emit_write_cr3(emit_load_rax(at, DATA_FIELD(kernel_cr3)));
	(void)emit_iret_from(at, SHIM_DATA_VA + FRAME_BREAK_OFFSET);
}

/* cmpl $low32(request's return address), (%rsp); jne +skip. The fast path is
 * the only code at such an address that the guest kernel has. */
static uint8_t *emit_unless_request(uint8_t *at, unsigned int offset, uint8_t skip)
{
	uint32_t low = (uint32_t)(SHIM_ENTRY_VA + offset + 1);

	at = put(at, (const uint8_t[]){ 0x81, 0x3c, 0x24 }, 3);
	at = put(at, &low, sizeof(low));
	return put(at, (const uint8_t[]){ 0x75, skip }, 2);
}

static void stub_break_kernel(uint8_t *at)
{
	uint8_t *body;

	/* Load CR3. What follows the load is fetched through the new root, which
	 * maps this page and the data page at the same addresses. */
	body = emit_unless_request(at, SHIM_OFFSET_CR3, 3 + 10 + 12);
	at = emit_iret_from(emit_load_rax(emit_write_cr3(body), DATA_FIELD(scratch)),
			    DATA_FIELD(frame));
	/* Invalidate. */
	body = emit_unless_request(at, SHIM_OFFSET_INVLPG, 3 + 12);
	body = put(body, (const uint8_t[]){ 0x0f, 0x01, 0x38 }, 3); /* invlpg (%rax) */
	at = emit_iret_from(body, DATA_FIELD(frame));
	/* The guest's own breakpoint. */
	(void)put(at, (const uint8_t[]){ 0xe6, VECTOR_BP, 0xeb, 0xfe }, 4);
}

static void stubs_build(struct machine *m)
{
	uint8_t *page = hv_page_ptr(m, HV_PAGE_FAST_STUBS);

	stub_fault(page + STUB_FAULT_KERNEL, false);
	stub_fault(page + STUB_FAULT_USER, true);
	stub_break_kernel(page + STUB_BREAK_KERNEL);
	stub_break_user(page + STUB_BREAK_USER);
}

static void gates_build(struct machine *m)
{
	uint64_t fast = HV_PAGE_VA(HV_PAGE_FAST_STUBS);

	hv_stubs_init(m, HV_PAGE_STUBS);
	for (unsigned int v = 0; v < 256; v++) {
		uint64_t stub = HV_PAGE_VA(HV_PAGE_STUBS) + v * HV_STUB_SIZE;
		unsigned int dpl = v == VECTOR_BP || v == 4 || v == 0x80 ? 3 : 0;

		hv_gate_set(m, HV_PAGE_IDT, (uint8_t)v, stub, SEL_KERNEL_CS, dpl, 0);
		hv_gate_set(m, HV_PAGE_IDT_USER, (uint8_t)v, stub, SEL_KERNEL_CS, dpl, 0);
	}
	hv_gate_set(m, HV_PAGE_IDT, VECTOR_PF, fast + STUB_FAULT_KERNEL, SEL_KERNEL_CS, 0, 0);
	hv_gate_set(m, HV_PAGE_IDT, VECTOR_BP, fast + STUB_BREAK_KERNEL, SEL_KERNEL_CS, 3, 0);
	hv_gate_set(m, HV_PAGE_IDT_USER, VECTOR_PF, fast + STUB_FAULT_USER, SEL_KERNEL_CS, 0, 0);
	hv_gate_set(m, HV_PAGE_IDT_USER, VECTOR_BP, fast + STUB_BREAK_USER, SEL_KERNEL_CS, 3, 0);
	/* A gate to CPL 3 with a stack of its own is delivered natively. */
	hv_gate_set(m, HV_PAGE_IDT, VECTOR_GP, SHIM_ENTRY_VA + SHIM_OFFSET_GP, SEL_USER_CS, 0, 1);
}

static void views_build(struct machine *m)
{
	hv_views_init(m, HV_MAP_WRITE | HV_MAP_USER);
	for (unsigned int view = HV_VIEW_KERNEL; view <= HV_VIEW_USER; view++) {
		bool kernel = view == HV_VIEW_KERNEL;
		unsigned int data = HV_MAP_WRITE | (kernel ? HV_MAP_USER : 0);

		hv_map(m, view, HV_PAGE_GDT, HV_PAGE_GDT, HV_MAP_WRITE);
		hv_map(m, view, HV_PAGE_TSS, kernel ? HV_PAGE_TSS : HV_PAGE_TSS_USER, HV_MAP_WRITE);
		hv_map(m, view, HV_PAGE_IDT, kernel ? HV_PAGE_IDT : HV_PAGE_IDT_USER, 0);
		hv_map(m, view, HV_PAGE_STUBS, HV_PAGE_STUBS, 0);
		hv_map(m, view, HV_PAGE_FAST_STUBS, HV_PAGE_FAST_STUBS, 0);
		hv_map(m, view, HV_PAGE_DATA, HV_PAGE_DATA, data);
		for (unsigned int p = HV_PAGE_STACK; p < HV_PAGE_IST_END; p++)
			hv_map(m, view, p, p, data);
	}
	for (unsigned int p = HV_PAGE_SHIM; p < HV_PAGE_SHIM_END; p++)
		hv_map(m, HV_VIEW_KERNEL, p, p, HV_MAP_USER);
	for (unsigned int p = HV_PAGE_SHIM_STACK; p < HV_PAGE_SHIM_STACK_END; p++)
		hv_map(m, HV_VIEW_KERNEL, p, p, HV_MAP_WRITE | HV_MAP_USER);
	hv_map(m, HV_VIEW_USER, HV_PAGE_SHIM, HV_PAGE_ENTRY_USER, HV_MAP_USER);
}

static void entry_frame(struct machine *m, unsigned int at, unsigned int offset)
{
	const uint64_t frame[5] = { SHIM_ENTRY_VA + offset, SEL_USER_CS, RFLAGS_FIXED,
				    SHIM_STACK_VA, SEL_USER_SS };

	memcpy((uint8_t *)hv_page_ptr(m, HV_PAGE_DATA) + at, frame, sizeof(frame));
}

int software_shim_install(struct machine *m, struct ramet_err *err)
{
	struct shim_data *d = shim_data_get(m);
	uint8_t *entry = hv_page_ptr(m, HV_PAGE_ENTRY_USER);
	bool split = m->isolation != ISOLATION_FAST;
	int rc;

	backend_shim_init(m, split);
	memcpy(hv_page_ptr(m, HV_PAGE_SHIM), shim_software_start,
	       (size_t)(shim_software_end - shim_software_start));
	entry[0] = 0xcc; /* int3 */
	views_build(m);
	hv_tss_init(m, HV_PAGE_TSS,
		    1u << (PORT_SYSCALL - PORT_FIRST) | 1u << (PORT_COMPAT - PORT_FIRST) |
			    1u << (PORT_FAULT - PORT_FIRST) | 1u << (PORT_GP - PORT_FIRST) |
			    1u << (PORT_BP - PORT_FIRST));
	hv_tss_init(m, HV_PAGE_TSS_USER, 0);
	stubs_build(m);
	gates_build(m);
	entry_frame(m, FRAME_FAULT_OFFSET, SHIM_OFFSET_FAULT);
	entry_frame(m, FRAME_BREAK_OFFSET, SHIM_OFFSET_BREAK);
	if (!split)
		return 0;
	/* A store that KVM sees makes it look through the whole table at the next
	 * change of CR3 (5 us per table), and with two roots that is soon. */
	rc = machine_alias_ram(m, err);
	if (!rc) {
		hv_alias_map(m, HV_MAP_WRITE | HV_MAP_USER);
		d->quiet_map = DM_ALIAS_VA;
	}
	return rc;
}

void software_shim_load(struct machine *m)
{
	struct software *sw = m->backend;
	uint64_t gs_other = shim_data_get(m)->gs_other;

	backend_shim_load(m);
	sw->gs_other = trap_canonical(gs_other) ? gs_other : 0;
	sw->hw_kernel = m->vcpu.kernel_mode;
}

void software_shim_store(struct machine *m)
{
	const struct software *sw = m->backend;

	backend_shim_store(m);
	shim_data_get(m)->gs_other = sw->gs_other;
}
