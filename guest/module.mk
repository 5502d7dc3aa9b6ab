# The guest: its agent, kernel and images.
#
# The agent is one static program. A sanitized build (SANITIZE=1) makes a
# dynamic one for tests on the host; what goes into images is always the plain
# static one, as a guest has no sanitizer libraries.
AGENT_SRC := $(wildcard guest/agent/*.c)
GUEST_OUT := $(BUILD)/guest
GUEST_CFLAGS := $(filter-out $(SAN),$(CFLAGS)) -static
GUEST_OBJ := $(AGENT_SRC:%.c=$(GUEST_OUT)/obj/%.o)
GUEST_AGENT := $(GUEST_OUT)/ramet-agent
IMAGE_DIR := $(BUILD)/images
PROGRAMS += $(BIN)/ramet-agent

# The driver is embedded with .incbin, which make cannot see.
$(GUEST_OUT)/obj/guest/agent/repl.o $(BUILD)/obj/guest/agent/repl.o: $(wildcard guest/agent/*.py)

$(GUEST_OUT)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) $(GUEST_CFLAGS) $(DEPFLAGS) -c -o $@ $<

$(GUEST_AGENT): $(GUEST_OBJ)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(GUEST_CFLAGS) -o $@ $^

ifdef SANITIZE
$(BIN)/ramet-agent: $(call objs,$(AGENT_SRC))
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^
else
$(BIN)/ramet-agent: $(GUEST_AGENT)
	@mkdir -p $(@D)
	$(Q)cp --remove-destination $< $@ # it may be running
endif

$(GUEST_OUT)/ramet-agent.stripped: $(GUEST_AGENT)
	$(Q)strip -o $@ $<

# Kernels and images come from the cache (see docs/images.md) and are made when
# they are not there: that needs the network and takes two minutes.
.PHONY: image check-agent
image: $(GUEST_OUT)/ramet-agent.stripped
	$(Q)RAMET_KERNEL_FALLBACK=$${RAMET_KERNEL_FALLBACK-1} guest/image-dir $(IMAGE_DIR) \
		--agent $< --kernels cloud generic --templates python test

check-agent: $(BIN)/ramet-agent
	RAMET_AGENT=$(abspath $(BIN)/ramet-agent) \
		/usr/bin/python3 -B -m unittest discover -s tests/agent -p 'test_*.py'

# Their rule is the Makefile's; this is what they test.
$(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_agent_*.c)): \
	$(call objs,guest/agent/frame.c guest/agent/outbox.c guest/agent/ring.c)

-include $(GUEST_OBJ:.o=.d)
