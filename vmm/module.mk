# The in-guest fast path: freestanding code, linked at a fixed address of the
# hypervisor area and embedded into the worker as raw bytes.

SHIM_OUT := $(BUILD)/shim
SHIM_CFLAGS := -std=gnu11 -O2 $(WARN) -ffreestanding -fno-pic -mcmodel=large -mno-red-zone \
	-mgeneral-regs-only -fno-stack-protector -fcf-protection=none -fno-jump-tables \
	-fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns
SHIM_SRC := vmm/shim/hypercalls.c vmm/shim/faults.c

# One set of objects per kind of KVM: $(1) is software or hardware.
define shim-kind
$(SHIM_OUT)/$(1)/%.o: vmm/shim/%.c
	@mkdir -p $$(@D)
	$$(call say,CC)
	$$(Q)$$(CC) $$(CPPFLAGS) -DSHIM_$(2) $$(SHIM_CFLAGS) $$(DEPFLAGS) -c -o $$@ $$<

$(SHIM_OUT)/$(1)/%.o: vmm/shim/%.S
	@mkdir -p $$(@D)
	$$(call say,CC)
	$$(Q)$$(CC) $$(CPPFLAGS) -DSHIM_$(2) $$(DEPFLAGS) -c -o $$@ $$<

$(SHIM_OUT)/$(1).elf: vmm/shim/shim.lds $(SHIM_OUT)/$(1)/entry_$(1).o \
		$(patsubst vmm/shim/%.c,$(SHIM_OUT)/$(1)/%.o,$(SHIM_SRC))
	$$(call say,LD)
	$$(Q)ld -nostdlib -T $$< -o $$@ $$(filter %.o,$$^)
endef
$(eval $(call shim-kind,software,SOFTWARE))
$(eval $(call shim-kind,hardware,HARDWARE))

$(SHIM_OUT)/%.bin: $(SHIM_OUT)/%.elf
	$(Q)objcopy -O binary $< $@

SHIM_OBJ := $(BUILD)/obj/vmm/shim/blob.o

$(SHIM_OBJ): vmm/shim/blob.S $(SHIM_OUT)/software.bin $(SHIM_OUT)/hardware.bin
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) -Wa,-I$(SHIM_OUT) -c -o $@ $<

-include $(wildcard $(SHIM_OUT)/*/*.d)

# The system call filter of workers: compiled from its rules by a program that
# runs at build time, so that workers only load it.
FILTER_OUT := $(BUILD)/filter
FILTER_OBJ := $(BUILD)/obj/vmm/filter/blob.o

$(FILTER_OUT)/generate: $(call objs,vmm/filter/generate.c lib/err.c)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lseccomp

$(FILTER_OUT)/filter.bpf: $(FILTER_OUT)/generate
	$(Q)$< > $@.new && mv $@.new $@

$(FILTER_OBJ): vmm/filter/blob.S $(FILTER_OUT)/filter.bpf
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) -Wa,-I$(FILTER_OUT) -c -o $@ $<

# What is not compiled from vmm/*.c but belongs to it.
VMM_BLOBS := $(SHIM_OBJ) $(FILTER_OBJ)
