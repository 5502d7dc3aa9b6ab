"""The soak of tests/soak, short: forks at random, and kills, against its oracle."""

import contextlib
import io
import sys
import unittest

import harness

sys.path.insert(0, str(harness.ROOT / "tests" / "soak"))

import soak_fork  # noqa: E402

SECONDS = 20


@harness.needs_root
@harness.needs_guest
class SoakForkTest(unittest.TestCase):
    def soak(self, isolation, seed):
        options = soak_fork.parse(["--seconds", str(SECONDS), "--seed", str(seed),
                                   "--isolation", isolation, "--max-live", "24"])
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            mismatches, leaks = soak_fork.soak(options, memory_mb=(320,))
        print(output.getvalue())
        self.assertEqual((mismatches, leaks), ([], []))

    def test_fast_isolation(self):
        self.soak("fast", 1)

    def test_full_isolation(self):
        self.soak("full", 2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
