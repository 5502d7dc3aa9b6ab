# Forks at random against an oracle, for ten minutes; arguments in SOAK, for
# example SOAK="--seconds 60 --isolation fast". A short one is part of the tests.
.PHONY: soak
soak: programs image
	$(Q)RAMET_BUILD=$(abspath $(BUILD)) RAMET_IMAGES=$(abspath $(BUILD))/images \
		/usr/bin/python3 -B tests/soak/soak_fork.py $(SOAK)
