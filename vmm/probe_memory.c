/* What the probe's guest memory holds: code, descriptor tables, page tables.
 *
 * Sources: AMD64 APM vol. 2, 4.7-4.8 (descriptors), 5.3 (long-mode paging), 8.9
 * (interrupt stacks), 12.2 (TSS). */
#include <string.h>

#include "vmm/probe_guest.h"
#include "vmm/probe_vm.h"

#define PTE_USER_RW       7u
#define PTE_SUPERVISOR_RW 3u

uint64_t probe_va(unsigned int slot, unsigned int page)
{
	uint64_t base = (uint64_t)slot << 39;

	if (slot >= 256)
		base |= 0xffff000000000000u;
	return base + (uint64_t)page * PROBE_PAGE;
}

uint64_t probe_code(unsigned int slot, const uint8_t *label)
{
	return probe_va(slot, PROBE_PAGE_IMAGE) + PROBE_OFFSET(label);
}

uint64_t probe_root(enum probe_root root)
{
	return (root == PROBE_ROOT_A ? PROBE_PAGE_ROOT_A : PROBE_PAGE_ROOT_B) *
	       (uint64_t)PROBE_PAGE;
}

static volatile uint64_t *table_at(struct probe_vm *vm, enum probe_root root, unsigned int level)
{
	return (volatile uint64_t *)(void *)(vm->memory + probe_root(root) +
					     (size_t)(4 - level) * PROBE_PAGE);
}

volatile uint64_t *probe_pte(struct probe_vm *vm, enum probe_root root, unsigned int page)
{
	return &table_at(vm, root, 1)[page];
}

void probe_slot_map(struct probe_vm *vm, unsigned int slot)
{
	for (enum probe_root root = PROBE_ROOT_A; root <= PROBE_ROOT_B; root++)
		table_at(vm, root, 4)[slot] = (probe_root(root) + PROBE_PAGE) | PTE_USER_RW;
}

static void tables_build(struct probe_vm *vm)
{
	for (enum probe_root root = PROBE_ROOT_A; root <= PROBE_ROOT_B; root++) {
		for (unsigned int level = 3; level >= 2; level--)
			table_at(vm, root, level)[0] =
				(probe_root(root) + (uint64_t)(5 - level) * PROBE_PAGE) |
				PTE_USER_RW;
		for (unsigned int page = 0; page < PROBE_PAGE_COUNT; page++)
			*probe_pte(vm, root, page) = (uint64_t)page * PROBE_PAGE | PTE_USER_RW;
		*probe_pte(vm, root, PROBE_PAGE_IMAGE + PROBE_IMAGE_STUBS) =
			(PROBE_PAGE_IMAGE + PROBE_IMAGE_STUBS) * (uint64_t)PROBE_PAGE |
			PTE_SUPERVISOR_RW;
	}
	*probe_pte(vm, PROBE_ROOT_B, PROBE_PAGE_IST) =
		PROBE_PAGE_IST_B * (uint64_t)PROBE_PAGE | PTE_USER_RW;
	*probe_pte(vm, PROBE_ROOT_B, PROBE_PAGE_WINDOW) =
		PROBE_PAGE_MARK_B * (uint64_t)PROBE_PAGE | PTE_USER_RW;
	probe_slot_map(vm, PROBE_HOME_SLOT);
}

static void store64(struct probe_vm *vm, size_t offset, uint64_t value)
{
	memcpy(vm->memory + offset, &value, sizeof(value));
}

void probe_gate(struct probe_vm *vm, unsigned int vector, uint64_t address, uint16_t selector,
		unsigned int ist)
{
	const uint64_t interrupt_gate_dpl3 = 0xee;
	size_t at = (size_t)PROBE_PAGE_IDT * PROBE_PAGE + vector * 16u;

	store64(vm, at,
		(address & 0xffff) | (uint64_t)selector << 16 | (uint64_t)ist << 32 |
			interrupt_gate_dpl3 << 40 | ((address >> 16) & 0xffff) << 48);
	store64(vm, at + 8, address >> 32);
}

void probe_gate_default(struct probe_vm *vm, unsigned int vector)
{
	probe_gate(vm, vector,
		   probe_code(PROBE_HOME_SLOT, probe_image) + vector * PROBE_VECTOR_BYTES,
		   PROBE_SEL_CS0, 0);
}

static void segments_build(struct probe_vm *vm)
{
	static const uint64_t flat[] = {
		[PROBE_SEL_CS0 / 8] = 0x00af9b000000ffff,
		[PROBE_SEL_SS0 / 8] = 0x00cf93000000ffff,
		[PROBE_SEL_CS3_32 / 8] = 0x00cffb000000ffff,
		[PROBE_SEL_SS3 / 8] = 0x00cff3000000ffff,
		[PROBE_SEL_CS3 / 8] = 0x00affb000000ffff,
	};
	uint64_t tss = probe_va(PROBE_HOME_SLOT, PROBE_PAGE_TSS);
	size_t gdt = (size_t)PROBE_PAGE_GDT * PROBE_PAGE, at = (size_t)PROBE_PAGE_TSS * PROBE_PAGE;
	uint16_t bitmap = 0x68; /* the bitmap follows the fixed part of the TSS */

	memcpy(vm->memory + gdt, flat, sizeof(flat));
	store64(vm, gdt + PROBE_SEL_TSS,
		PROBE_TSS_LIMIT | (tss & 0xffffff) << 16 | (uint64_t)0x89 << 40 |
			((tss >> 24) & 0xff) << 56);
	store64(vm, gdt + PROBE_SEL_TSS + 8, tss >> 32);

	store64(vm, at + 0x04, probe_va(PROBE_HOME_SLOT, PROBE_PAGE_STACK + 1)); /* RSP0 */
	store64(vm, at + 0x24, probe_va(PROBE_HOME_SLOT, PROBE_PAGE_IST + 1));   /* IST1 */
	memcpy(vm->memory + at + 0x66, &bitmap, sizeof(bitmap));
	memset(vm->memory + at + bitmap, 0xff, PROBE_TSS_LIMIT + 1u - bitmap);
	vm->memory[at + bitmap + PROBE_PORT_FIRST / 8] = 0;

	for (unsigned int vector = 0; vector < PROBE_VECTORS; vector++)
		probe_gate_default(vm, vector);
}

void probe_memory_build(struct probe_vm *vm)
{
	memcpy(vm->memory + (size_t)PROBE_PAGE_IMAGE * PROBE_PAGE, probe_image,
	       (size_t)PROBE_IMAGE_PAGES * PROBE_PAGE);
	vm->memory[PROBE_PAGE_MARK_A * PROBE_PAGE] = PROBE_MARK_A;
	vm->memory[PROBE_PAGE_MARK_B * PROBE_PAGE] = PROBE_MARK_B;
	segments_build(vm);
	tables_build(vm);
}
