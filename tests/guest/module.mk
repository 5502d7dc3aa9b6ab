# Guest test programs: one static multiplexer with a link per test, the
# bring-up init, and a cpio archive of both that a kernel can boot from.
# Sanitizers cannot be linked statically, so these have flags of their own.
#
# GUEST_KMODULES may list kernel module files that the init loads, in order, for
# example xen-privcmd.ko for hypercall_fuzz.
GUEST_TEST_OUT := $(BUILD)/guest-tests
GUEST_TEST_CPIO := $(BUILD)/guest-tests.cpio
GUEST_TEST_CFLAGS := -std=gnu11 -O2 -g $(WARN) -fstack-protector-strong -static
GUEST_TEST_SRC := $(filter-out tests/guest/init.c,$(wildcard tests/guest/*.c))
GUEST_TEST_OBJ := $(GUEST_TEST_SRC:%.c=$(BUILD)/guest-obj/%.o)
GUEST_KMODULES ?=

.PHONY: guest-tests
guest-tests: $(GUEST_TEST_OUT)/.done $(GUEST_TEST_CPIO)

$(BUILD)/guest-obj/tests/guest/%.o: tests/guest/%.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(GUEST_TEST_CFLAGS) $(DEPFLAGS) -c -o $@ $<

$(BUILD)/guest-obj/guest-suite: $(GUEST_TEST_OBJ)
	$(CC) $(GUEST_TEST_CFLAGS) -o $@ $^

$(BUILD)/guest-obj/init: $(BUILD)/guest-obj/tests/guest/init.o
	$(CC) $(GUEST_TEST_CFLAGS) -o $@ $^

# Not one of the suite: it needs root's /dev/xen/privcmd and may end its guest.
$(BUILD)/guest-obj/hypercall_fuzz: $(BUILD)/guest-obj/tests/guest/hostile_kernel/hypercall_fuzz.o \
		$(BUILD)/guest-obj/tests/guest/check.o
	$(CC) $(GUEST_TEST_CFLAGS) -o $@ $^

# guest_bench is built by perf/module.mk.
$(GUEST_TEST_OUT)/.done: $(addprefix $(BUILD)/guest-obj/,guest-suite init hypercall_fuzz guest_bench)
	@rm -rf $(GUEST_TEST_OUT)
	@mkdir -p $(GUEST_TEST_OUT)
	install -s $^ $(GUEST_TEST_OUT)
	cd $(GUEST_TEST_OUT) && ./guest-suite | while read -r name rest; do \
		ln -s guest-suite $$name; done
	@touch $@

$(GUEST_TEST_CPIO): $(GUEST_TEST_OUT)/.done $(GUEST_KMODULES)
	sh tests/guest/cpio.sh $(GUEST_TEST_OUT) $@ $(GUEST_KMODULES)

-include $(GUEST_TEST_OBJ:.o=.d) $(BUILD)/guest-obj/tests/guest/init.d \
	$(BUILD)/guest-obj/tests/guest/hostile_kernel/hypercall_fuzz.d
