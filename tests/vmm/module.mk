# The worker under test: a program that moves a running guest from machine to
# machine (test_state_live), and tests/vmm/test_guest.py, which runs guests.
# Unit tests test_vmm_* are linked with a machine that needs no KVM.
STATE_LIVE := $(BUILD)/tests/test_state_live
STATE_LIVE_SRC := $(filter-out vmm/worker%,$(VMM_SRC)) $(UFFD_SRC) $(LIB_SRC)
VMM_TESTS := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_vmm_*.c))

.PHONY: vmm-test-programs
vmm-test-programs: $(STATE_LIVE)
test-programs: vmm-test-programs

$(STATE_LIVE): $(call objs,tests/vmm/test_state_live.c $(STATE_LIVE_SRC)) $(VMM_BLOBS)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(WORKER_LIBS) -lxxhash

# The rule itself is the Makefile's.
$(VMM_TESTS): $(call objs,tests/fake/fake_machine.c)
