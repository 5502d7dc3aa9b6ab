"""A running guest is moved from machine to machine by its encoded state alone,
every few milliseconds, until its self-checking programs end (test_state_live)."""

import re

from guest import KERNEL, POWEROFF, STATE_LIVE, TESTS_CPIO, GuestTest, need, run


class StateLive(GuestTest):
    def moves(self, programs, *options, at_least=15, interval=50, allowed=()):
        need(STATE_LIVE, KERNEL, TESTS_CPIO)
        result = run([STATE_LIVE, KERNEL, TESTS_CPIO, "ramet.run=" + ";".join(programs),
                      f"interval_ms={interval}", *options])
        self.assertEqual(result.status, POWEROFF, result.tell())
        wrong = [line for line in result.console.splitlines() if line.startswith("not ok")
                 and not line.startswith(tuple("not ok " + name for name in allowed))]
        self.assertEqual(wrong, [], result.tell())
        names = [p.split(",")[0] for p in programs]
        self.assertEqual([name for name, _ in result.programs], names, result.tell())
        if not allowed:
            self.assertEqual([code for _, code in result.programs], [0] * len(names))
        restores = int(re.search(r"restores=(\d+)", result.errors).group(1))
        self.assertGreaterEqual(restores, at_least, result.tell())

    def test_signals_and_vectors_with_full_isolation(self):
        self.moves(["stress_signals", "stress_avx"], "isolation=full", "path=fast")

    def test_signals_and_vectors_with_fast_isolation(self):
        self.moves(["stress_signals", "stress_avx"], "isolation=fast", "path=fast")

    def test_signals_and_system_calls_on_the_plain_path(self):
        self.moves(["stress_signals", "stress_int80"], "isolation=full", "path=plain")

    def test_between_plain_and_fast_path(self):
        self.moves(["stress_signals", "stress_threads"], "isolation=full", "path=both")

    def test_segments_and_breakpoints(self):
        self.moves(["hostile_segments", "stress_int3,seconds=2"], "isolation=full", "path=both",
                   interval=20)

    def test_boot(self):
        # Moves begin with the kernel's first instructions.
        self.moves(["hello"], "isolation=full", "path=both", interval=10, at_least=10)

    def test_a_waiting_guest(self):
        self.moves(["idle,seconds=2"], "isolation=full", "path=fast", at_least=20)

    def test_shadows_that_were_dropped_with_full_isolation(self):
        self.moves(["stress_signals", "stress_threads"], "isolation=full", "path=fast", "drop=1",
                   interval=10)

    def test_shadows_that_were_dropped_with_fast_isolation(self):
        self.moves(["stress_signals", "stress_threads"], "isolation=fast", "path=fast", "drop=1",
                   interval=10)

    def test_shadows_that_were_dropped_on_the_plain_path(self):
        self.moves(["stress_signals"], "isolation=full", "path=plain", "drop=1", interval=10)

    def test_guest_time_goes_on(self):
        # Guest time stands still while the guest is moved, the processor's
        # counter does not; everything else about clocks and timers must hold.
        self.moves(["stress_time,late_us=400000"], "isolation=full", "path=fast",
                   allowed=("tsc-rate-steady",))
