# ramet: build, demo and checks. `make demo` and `make check` do all of their
# own set-up; `make` alone only compiles what the installed packages allow.
#
#   make demo      the main job on real input
#   make check     all tests; ends with "N passed, N failed, N skipped"
#   make setup     install the packages that building and testing need (root)
#   make image     fetch the guest kernel and build the guest images (cached)
#   make SANITIZE=1 ...   the same with ASan and UBSan, in build-asan/

CC ?= gcc
BUILD := $(if $(SANITIZE),build-asan,build)
BIN := $(BUILD)/bin

comma := ,
WARN := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes \
	-Wpointer-arith -Wcast-align -Wwrite-strings -Wundef -Wvla -Werror
SAN := $(if $(SANITIZE),-fsanitize=address$(comma)undefined -fno-sanitize-recover=all \
	-fno-omit-frame-pointer)
CPPFLAGS := -D_GNU_SOURCE -I.
CFLAGS := -std=gnu11 -O2 -g $(WARN) -fstack-protector-strong $(SAN)
LDFLAGS := $(SAN)
DEPFLAGS = -MMD -MP

objs = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))

LIB_SRC := $(wildcard lib/*.c)
UFFD_SRC := $(wildcard uffd/*.c)
BPF_SRC := $(filter-out %.bpf.c,$(wildcard bpf/*.c))
VMM_SRC := $(filter-out vmm/main.c,$(wildcard vmm/*.c))
ENGINE_SRC := $(wildcard engine/*.c)
API_SRC := $(wildcard api/server/*.c)
CLI_SRC := $(wildcard api/cli/*.c)
UNIT_SRC := $(wildcard tests/unit/test_*.c)

DAEMON_LIBS := -lsystemd -lmicrohttpd -ljansson -lxxhash -lcap-ng
WORKER_LIBS := -lcap-ng
# Static: a worker is started for every sandbox, and nothing is left for a dynamic
# linker to find in its jail. libcap-ng has a function for user names, which glibc
# warns of; workers do not call it. Sanitizers cannot be linked statically.
WORKER_LDFLAGS := $(if $(SANITIZE),,-static-pie -Wl,--no-warnings)
CLI_LIBS := -ljansson -luring -lbpf

PROGRAMS := $(BIN)/ramet-vmm $(BIN)/rametd $(BIN)/ramet

# One short line per step; V=1 shows the commands.
Q := $(if $(V),,@)
say = $(if $(V),,@echo "  $(1)	$@")

.PHONY: all programs demo check setup image clean format tidy
all: programs
programs:

-include $(wildcard */module.mk tests/*/module.mk)

programs: $(PROGRAMS)

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(DEPFLAGS) -c -o $@ $<

$(BIN)/ramet-vmm: $(call objs,vmm/main.c $(VMM_SRC) $(UFFD_SRC) $(LIB_SRC)) $(VMM_BLOBS)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) $(WORKER_LDFLAGS) -o $@ $^ $(WORKER_LIBS)

$(BIN)/rametd: $(call objs,$(API_SRC) $(ENGINE_SRC) $(UFFD_SRC) $(LIB_SRC))
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(DAEMON_LIBS)

$(BIN)/ramet: $(call objs,$(CLI_SRC) $(CLI_EXTRA_SRC) $(LIB_SRC))
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(CLI_LIBS)

demo:
	$(Q)tests/setup
	$(Q)$(MAKE) --no-print-directory programs image
	$(Q)/usr/bin/python3 docs/examples/demo.py $(BUILD)

# ---- tests ----

UNIT := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(UNIT_SRC))
UNIT_LIBS := -lcmocka -lsystemd -lxxhash -lcap-ng
# Unit tests link with everything below the API; the linker takes what it needs.
UNIT_ARCHIVE := $(BUILD)/tests/ramet.a

$(UNIT_ARCHIVE): $(call objs,$(ENGINE_SRC) $(VMM_SRC) $(UFFD_SRC) $(LIB_SRC)) $(VMM_BLOBS)
	@mkdir -p $(@D)
	$(call say,AR)
	$(Q)rm -f $@ && ar rcs $@ $^

$(UNIT): $(BUILD)/tests/%: $(BUILD)/obj/tests/unit/%.o $(UNIT_ARCHIVE)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(UNIT_LIBS)

.PHONY: unit-tests test-programs run-tests
unit-tests: $(UNIT)
test-programs: programs unit-tests fake-programs guest-tests

# What is built is tested: `make check` sets up first, so that its parts see
# the packages that it installed.
check:
	$(Q)tests/setup
	$(Q)$(MAKE) --no-print-directory test-programs image hw-programs
	$(Q)$(MAKE) --no-print-directory run-tests

run-tests:
	$(Q)RAMET_BUILD=$(abspath $(BUILD)) RAMET_IMAGES=$(abspath $(BUILD))/images \
		RAMET_AGENT=$(abspath $(BIN))/ramet-agent tests/run --logs $(BUILD)/test-logs $(UNIT) \
		tests/agent tests/vmm tests/e2e tests/hw

setup:
	$(Q)tests/setup

C_FILES := $(wildcard lib/*.[ch] uffd/*.[ch] bpf/*.[ch] vmm/*.[ch] vmm/*/*.[ch] engine/*.[ch] \
	api/*/*.[ch] guest/*.h guest/agent/*.[ch] tests/*/*.[ch] tests/guest/*/*.[ch] perf/*.[ch])

format:
	clang-format -i $(C_FILES)

tidy:
	clang-tidy --quiet $(LIB_SRC) $(UFFD_SRC) $(BPF_SRC) vmm/main.c vmm/filter/generate.c $(VMM_SRC) \
		$(ENGINE_SRC) $(API_SRC) $(CLI_SRC) $(AGENT_SRC) -- $(CPPFLAGS) -std=gnu11

clean:
	rm -rf build build-asan

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
