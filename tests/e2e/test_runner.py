"""tests/run itself: that what fails is said to fail."""

import subprocess
import tempfile
import unittest
from pathlib import Path

import harness


class RunnerTest(unittest.TestCase):
    def setUp(self):
        self.home = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="ramet-run-")))

    def run_it(self, *arguments):
        program = harness.ROOT / "tests" / "run"
        return subprocess.run([str(program), "--logs", str(self.home / "logs"),
                               *map(str, arguments)], capture_output=True, text=True, check=False,
                              timeout=harness.DEADLINE)

    def script(self, name, text):
        path = self.home / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def assert_totals(self, process, passed, failed, skipped):
        self.assertEqual(process.stdout.splitlines()[-1],
                         f"{passed} passed, {failed} failed, {skipped} skipped")
        self.assertEqual(process.returncode, 0 if passed and not failed else 1)

    def test_unittest_results_of_every_kind(self):
        path = self.script("test_kinds.py", """
import unittest
class T(unittest.TestCase):
    def test_good(self): print("noise on standard output")
    def test_bad(self): self.fail("because")
    def test_error(self): 1 / 0
    def test_sub(self):
        for i in range(3):
            with self.subTest(i=i): self.assertNotEqual(i, 1)
    @unittest.skip("no such thing here")
    def test_skip(self): pass
class Broken(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise RuntimeError("set-up")
    def test_never(self): pass
""")
        process = self.run_it(path)
        self.assert_totals(process, 1, 4, 1)
        self.assertIn("  test_kinds: T.test_skip: no such thing here", process.stdout)
        self.assertIn("FAIL test_kinds: T.test_bad", process.stdout)
        log = (self.home / "logs" / "test_kinds.log").read_text()
        for text in ("because", "ZeroDivisionError", "set-up", "noise on standard output"):
            self.assertIn(text, log)

    def test_file_that_cannot_be_imported_fails(self):
        self.assert_totals(self.run_it(self.script("test_x.py", "import no_such_module")), 0, 1, 0)

    def test_tap_programs(self):
        path = self.script("tap", "#!/bin/sh\necho 1..3\necho ok 1 - one\necho not ok 2 - two\n"
                                  "echo 'ok 3 - three # SKIP not here'\nexit 1\n")
        self.assert_totals(self.run_it(path), 1, 1, 1)

    def test_program_that_ends_early_fails(self):
        path = self.script("early", "#!/bin/sh\necho 1..3\necho ok 1 - one\n")
        self.assert_totals(self.run_it(path), 1, 1, 0)

    def test_program_that_crashes_after_its_tests_fails(self):
        path = self.script("crash", "#!/bin/sh\necho 1..1\necho ok 1 - one\nkill -SEGV $$\n")
        process = self.run_it(path)
        self.assert_totals(process, 1, 1, 0)
        self.assertIn("killed by signal 11", process.stdout)

    def test_exit_status_alone_decides_without_tap(self):
        self.assert_totals(self.run_it(self.script("good", "#!/bin/sh\n"),
                                       self.script("bad", "#!/bin/sh\nexit 3\n"),
                                       self.script("skip", "#!/bin/sh\necho why >&2\nexit 77\n")),
                           1, 1, 1)

    def test_program_that_hangs_is_killed(self):
        path = self.script("hang", "#!/bin/sh\nsleep 600 &\nsleep 600\n")
        process = self.run_it("--timeout", "0.5", path)
        self.assert_totals(process, 0, 1, 0)
        self.assertIn("took too long", process.stdout)

    def test_missing_program_fails(self):
        self.assert_totals(self.run_it(self.home / "none"), 0, 1, 0)

    def test_directory_stands_for_its_python_tests(self):
        self.script("test_a.py", "import unittest\nclass A(unittest.TestCase):\n"
                                 "    def test(self): pass\n")
        self.assert_totals(self.run_it(self.home), 1, 0, 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
