# Stand-ins for the real programs, used by tests/unit, and what those tests
# share: test_engine_* are linked with the harness and start the fake worker.
FAKE_WORKER := $(BUILD)/tests/fake-worker
FAKE_WORKER_SRC := tests/fake/fake_worker.c tests/fake/fake_agent.c tests/fake/fake_agent_files.c \
	tests/fake/fake_agent_tree.c \
	tests/fake/fake_guest.c tests/fake/fake_donor.c engine/frame.c uffd/extent_map.c \
	uffd/extent_codec.c uffd/ranges.c uffd/stitch.c uffd/userfault.c uffd/layer.c $(LIB_SRC)
ENGINE_TESTS := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_engine_*.c))

.PHONY: fake-programs
fake-programs: $(FAKE_WORKER)

$(FAKE_WORKER): $(call objs,$(FAKE_WORKER_SRC))
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lxxhash

# The rule itself is the Makefile's.
$(ENGINE_TESTS): $(call objs,tests/fake/engine_harness.c) | $(FAKE_WORKER)
