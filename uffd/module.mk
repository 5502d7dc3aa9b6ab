# uffd/: its benchmark, perf/uffd_bench.c.
UFFD_BENCH := $(BIN)/uffd_bench

$(UFFD_BENCH): $(call objs,perf/uffd_bench.c $(UFFD_SRC) $(LIB_SRC))
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^

.PHONY: uffd-bench
uffd-bench: $(UFFD_BENCH)
	$(Q)$(UFFD_BENCH)
