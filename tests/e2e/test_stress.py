"""stress-ng, which checks its own results, in a sandbox of template `test`."""

import unittest

import harness
from harness import Daemon, needs_guest, needs_root

# Each with what it exercises here. None needs a network or a block device.
STRESSORS = {
    "switch": "context switches",
    "fork": "page tables come and go",
    "vm": "patterns in memory, mapped and unmapped",
    "mmap": "mappings, protections, faults",
    "pipe": "data between processes",
    "sigsegv": "faults as signals",
    "sigfpe": "arithmetic exceptions",
    "futex": "blocking and waking",
    "matrix": "floating point across switches",
    "vecmath": "vector registers across switches",
    "timer": "the clock's interrupts",
    "clone": "threads and their stacks",
}
SECONDS = 2


@needs_root
@needs_guest
@unittest.skipUnless((harness.IMAGES / "templates" / "test").exists(), "no template `test`")
class StressNgTest(unittest.TestCase):
    def check(self, isolation):
        daemon = Daemon().start()
        self.addCleanup(daemon.destroy)
        self.addCleanup(daemon.stop)
        api = daemon.api()
        sandbox = api.create(template="test", isolation=isolation, memory_mb=512)
        for stressor, what in STRESSORS.items():
            with self.subTest(stressor=stressor, exercises=what):
                reply = api.run(
                    sandbox, language="bash",
                    code=f"cd /tmp && stress-ng --{stressor} 2 --vm-bytes 64m --mmap-bytes 32m "
                         f"--verify --timeout {SECONDS}s 2>&1")
                self.assertEqual(reply["exit_code"], 0, reply["stdout"])
                self.assertIn("successful run completed", reply["stdout"])

    def test_full_isolation(self):
        self.check("full")

    def test_fast_isolation(self):
        self.check("fast")
