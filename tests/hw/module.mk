# The emulated-SVM test bed: static programs that run inside it, and its tests.
# HW_PROGRAMS is what the tests in tests/hw need; another client adds its own.
# The bed's kernel is fetched into the cache, unless RAMET_HW_KERNEL and
# RAMET_HW_MODULES name one (see bed.py); where that fails the tests that need
# it are skipped and say so.
HW_OUT := $(BUILD)/hw
HW_CFLAGS := -std=gnu11 -O2 -g $(WARN) -fstack-protector-strong -static
HW_PROBE_SRC := tests/hw/probe_main.c $(wildcard vmm/probe*.c) lib/err.c
HW_JOBS_SRC := tests/hw/jobs.c
HW_VMM_SRC := vmm/main.c $(VMM_SRC) $(UFFD_SRC) $(LIB_SRC)
HW_STATE_SRC := tests/vmm/test_state_live.c $(VMM_SRC) $(UFFD_SRC) $(LIB_SRC)
HW_PROGRAMS += $(HW_OUT)/probe $(HW_OUT)/hw-jobs $(HW_OUT)/init $(HW_OUT)/ramet-vmm \
	$(HW_OUT)/state-live

hw-obj = $(patsubst %.c,$(BUILD)/hw-obj/%.o,$(1))

.PHONY: hw-programs hw-kernel check-hw
hw-programs: $(HW_PROGRAMS) hw-kernel

hw-kernel:
	$(Q)$(if $(RAMET_HW_KERNEL),true,/usr/bin/python3 -B tests/hw/fetch.py >/dev/null || \
		echo "the kernel of the test bed cannot be had: its tests will be skipped")

check-hw: export RAMET_HW_KERNEL := $(RAMET_HW_KERNEL)
check-hw: export RAMET_HW_MODULES := $(RAMET_HW_MODULES)
check-hw: hw-programs guest-tests
	$(Q)BUILD=$(BUILD) /usr/bin/python3 -B -m unittest discover -v -s tests/hw -p 'test_*.py'

$(BUILD)/hw-obj/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) $(HW_CFLAGS) $(DEPFLAGS) -c -o $@ $<

$(HW_OUT)/probe: $(call hw-obj,$(HW_PROBE_SRC))
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(HW_CFLAGS) -o $@ $^

$(HW_OUT)/hw-jobs: $(call hw-obj,$(HW_JOBS_SRC))
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(HW_CFLAGS) -o $@ $^

$(HW_OUT)/init: $(call hw-obj,tests/guest/init.c)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(HW_CFLAGS) -o $@ $^

# The worker itself, for its --run.
$(HW_OUT)/ramet-vmm: $(call hw-obj,$(HW_VMM_SRC)) $(VMM_BLOBS)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(HW_CFLAGS) -Wl,--no-warnings -o $@ $^ $(WORKER_LIBS)

# Moves a running guest from machine to machine.
$(HW_OUT)/state-live: $(call hw-obj,$(HW_STATE_SRC)) $(VMM_BLOBS)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(HW_CFLAGS) -Wl,--no-warnings -o $@ $^ $(WORKER_LIBS)

-include $(patsubst %.o,%.d,$(call hw-obj,$(HW_PROBE_SRC) $(HW_JOBS_SRC) $(HW_VMM_SRC) $(HW_STATE_SRC) \
	tests/guest/init.c))
