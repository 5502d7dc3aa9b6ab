# The worker under test: a program that moves a running guest from machine to
# machine (test_state_live), and tests/vmm/test_guest.py, which runs guests.
# A unit test program test_vmm_* is linked with VMM_TEST_OBJ.
VMM_TEST_OBJ = $(call objs,tests/fake/fake_machine.c $(VMM_SRC) $(LIB_SRC)) $(SHIM_OBJ)
VMM_TEST_LIBS := -lcmocka -lseccomp -lcap-ng
STATE_LIVE := $(BUILD)/tests/test_state_live

.PHONY: vmm-test-programs check-guest
vmm-test-programs: $(STATE_LIVE)

check-guest: $(BIN)/ramet-vmm $(STATE_LIVE) guest-tests
	RAMET_BUILD=$(BUILD) /usr/bin/python3 -B -m unittest discover -v -s tests/vmm -p 'test_*.py'

$(STATE_LIVE): $(call objs,tests/vmm/test_state_live.c $(VMM_SRC) $(LIB_SRC)) $(SHIM_OBJ)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(WORKER_LIBS)
