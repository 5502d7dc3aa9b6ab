# The in-guest fast path: freestanding code, linked at a fixed address of the
# hypervisor area and embedded into the worker as raw bytes.

SHIM_OUT := $(BUILD)/shim
SHIM_CFLAGS := -std=gnu11 -O2 $(WARN) -ffreestanding -fno-pic -mcmodel=large -mno-red-zone \
	-mgeneral-regs-only -fno-stack-protector -fcf-protection=none -fno-jump-tables \
	-fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns
SHIM_SRC := vmm/shim/hypercalls.c vmm/shim/faults.c

$(SHIM_OUT)/software/%.o: vmm/shim/%.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) -DSHIM_SOFTWARE $(SHIM_CFLAGS) $(DEPFLAGS) -c -o $@ $<

$(SHIM_OUT)/software/%.o: vmm/shim/%.S
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) -DSHIM_SOFTWARE $(DEPFLAGS) -c -o $@ $<

$(SHIM_OUT)/software.elf: vmm/shim/shim.lds $(SHIM_OUT)/software/entry_software.o \
		$(patsubst vmm/shim/%.c,$(SHIM_OUT)/software/%.o,$(SHIM_SRC))
	$(call say,LD)
	$(Q)ld -nostdlib -T $< -o $@ $(filter %.o,$^)

$(SHIM_OUT)/%.bin: $(SHIM_OUT)/%.elf
	$(Q)objcopy -O binary $< $@

SHIM_OBJ := $(BUILD)/obj/vmm/shim/blob.o

$(SHIM_OBJ): vmm/shim/blob.S $(SHIM_OUT)/software.bin
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) -Wa,-I$(SHIM_OUT) -c -o $@ $<

-include $(wildcard $(SHIM_OUT)/*/*.d)
