# api/: rametd, ramet.

CLI_LIBS += -lcurl -lxxhash
# ramet doctor tries what the lower floors use.
CLI_EXTRA_SRC := uffd/uffd_check.c bpf/bpf_check.c engine/template.c $(wildcard vmm/probe*.c)

# What its unit tests need beside the archive of the lower floors.
API_TEST_OBJ := $(call objs,$(filter-out api/server/main.c,$(API_SRC)))
API_TESTS := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_api_*.c))
$(API_TESTS): $(API_TEST_OBJ)
$(API_TESTS): UNIT_LIBS += -lmicrohttpd -ljansson
