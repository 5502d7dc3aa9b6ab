# Stand-ins for the real programs, used by tests/unit, and what those tests
# share. Test programs test_engine_* are linked with ENGINE_TEST_OBJ.
FAKE_WORKER := $(BUILD)/tests/fake-worker
FAKE_WORKER_SRC := tests/fake/fake_worker.c tests/fake/fake_agent.c tests/fake/fake_agent_files.c \
	engine/frame.c $(LIB_SRC)
ENGINE_TEST_OBJ := $(call objs,tests/fake/engine_harness.c $(ENGINE_SRC) $(LIB_SRC))
ENGINE_TEST_LIBS := -lcmocka -lsystemd -lxxhash -lcap-ng

.PHONY: fake-programs
fake-programs: $(FAKE_WORKER)

$(FAKE_WORKER): $(call objs,$(FAKE_WORKER_SRC))
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ -lxxhash

ENGINE_TESTS := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_engine_*.c))

.PHONY: engine-tests
engine-tests: $(ENGINE_TESTS)

$(ENGINE_TESTS): $(BUILD)/tests/%: $(BUILD)/obj/tests/unit/%.o $(ENGINE_TEST_OBJ) | $(FAKE_WORKER)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(ENGINE_TEST_LIBS)
