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

# What a sandbox costs, as a table and in $(BUILD)/perf/guest.json. Arguments for
# the program in PERF, for example PERF="--rounds 1 --modes full".
.PHONY: perf-guest
perf-guest: programs image $(GUEST_BENCH) $(BUILD)/guest-tests.cpio
	$(Q)/usr/bin/python3 -B perf/perf_guest.py $(BUILD) $(PERF)

# What forks cost: a client that costs little itself, and forks without ramet.
FORK_BENCH := $(BIN)/fork_bench
FORK_BASELINE := $(BIN)/fork_baseline

$(FORK_BENCH): $(call objs,perf/fork_bench.c perf/bench_http.c $(LIB_SRC))
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -ljansson

$(FORK_BASELINE): $(call objs,perf/fork_baseline.c perf/baseline_vm.c $(LIB_SRC))
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^

# A page with plots, a table and all numbers: $(BUILD)/perf/fork.html, .md and
# .json. Arguments for the program in PERF, for example PERF=--quick.
.PHONY: perf-fork
perf-fork: programs image $(FORK_BENCH) $(FORK_BASELINE)
	$(Q)/usr/bin/python3 -B perf/perf_fork.py $(BUILD) $(PERF)
