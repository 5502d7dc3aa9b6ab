# The in-guest benchmarks: one static program, also run on the host for
# comparison. It is packed with the guest tests.
GUEST_BENCH := $(BUILD)/guest-obj/guest_bench

$(GUEST_BENCH): perf/guest_bench.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -std=gnu11 -O2 -g $(WARN) -fstack-protector-strong -static $(DEPFLAGS) \
		-o $@ $<

.PHONY: guest-bench
guest-bench: $(GUEST_BENCH)

-include $(GUEST_BENCH).d
