"""The Python SDK, as a program uses it."""

import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
import unittest
from datetime import datetime, timezone

import harness
from harness import needs_root

import ramet
from ramet import ExecResult, Sandbox


@needs_root
class SdkCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = harness.shared_daemon()
        cls.sandbox = Sandbox(isolation=harness.ISOLATION, socket=cls.daemon.socket)
        cls.addClassCleanup(cls.sandbox.close)

    def setUp(self):
        self.directory = harness.guest_directory()


class RunCodeTest(SdkCase):
    def test_the_first_example(self):
        with Sandbox(socket=self.daemon.socket) as sb:
            r = sb.run_code("1+1")
            self.assertEqual((r.stdout, r.stderr, r.exit_code), ("2\n", "", 0))

    def test_stdout_is_what_print_gave(self):
        self.assertEqual(self.sandbox.run_code("print('hello')").stdout, "hello\n")

    def test_result_is_the_repr_alone(self):
        r = self.sandbox.run_code("print('a')\n{'k': [1]}")
        self.assertEqual((r.result, r.stdout), ("{'k': [1]}", "a\n{'k': [1]}\n"))

    def test_result_is_none_without_expression(self):
        self.assertIsNone(self.sandbox.run_code("x = 1").result)

    def test_state_survives(self):
        self.sandbox.run_code("import math; tau = math.tau")
        self.assertEqual(self.sandbox.run_code("round(tau, 2)").result, "6.28")

    def test_indented_triple_quoted_code(self):
        out = self.sandbox.run_code("""
            total = 0
            for i in range(4):
                total += i
            print("total:", total)
        """)
        self.assertEqual(out.stdout, "total: 6\n")

    def test_exception_is_not_raised_here(self):
        r = self.sandbox.run_code("1 / 0")
        self.assertEqual(r.exit_code, 1)
        self.assertFalse(r.ok)
        self.assertIn("ZeroDivisionError", r.stderr)

    def test_bash(self):
        r = self.sandbox.run_code("uname -s; exit 4", language="bash")
        self.assertEqual((r.stdout, r.exit_code), ("Linux\n", 4))

    def test_timeout_in_seconds(self):
        r = self.sandbox.run_code("while True: pass", timeout=0.3)
        self.assertTrue(r.timed_out)
        self.assertEqual(r.exit_code, 124)

    def test_crash_says_that_state_was_lost(self):
        self.assertTrue(self.sandbox.run_code("import os; os._exit(1)").state_lost)

    def test_output_limit(self):
        r = self.sandbox.run_code("print('x' * 1000)", output_limit=10)
        self.assertEqual((r.stdout, r.output_cut, r.output_dropped), ("x" * 10, True, 991))

    def test_bytes_that_are_not_text(self):
        r = self.sandbox.run_code("import os; _ = os.write(1, b'a\\xff')")
        self.assertEqual((r.stdout, r.stdout_bytes), ("a\ufffd", b"a\xff"))

    def test_timings_are_milliseconds(self):
        r = self.sandbox.run_code("import time; time.sleep(0.05)")
        self.assertGreaterEqual(r.timings["run_ms"], 50)
        self.assertGreater(self.sandbox.timings["total_ms"], 0)

    def test_bad_parameters_are_invalid_requests(self):
        for options in ({"language": "ruby"}, {"timeout": 0}, {"timeout": -1},
                        {"timeout": 1e9}, {"output_limit": 0}):
            with self.subTest(options=options), self.assertRaises(ramet.InvalidRequestError) as got:
                self.sandbox.run_code("1", **options)
            self.assertEqual(got.exception.status, 400)


class StreamTest(SdkCase):
    def test_events_arrive_while_the_code_runs(self):
        begin = time.monotonic()
        events = self.sandbox.run_code_stream("import time\nprint('early', flush=True)\n"
                                              "time.sleep(1)\n'late'")
        first = next(events)
        self.assertEqual((first.type, first.data), ("stdout", "early\n"))
        self.assertLess(time.monotonic() - begin, 0.9)
        rest = list(events)
        self.assertEqual([event.type for event in rest], ["result", "exit"])
        self.assertEqual(rest[-1].exit_code, 0)
        self.assertGreaterEqual(rest[-1].timings["run_ms"], 1000)

    def test_leaving_the_loop_interrupts_the_code(self):
        for event in self.sandbox.run_code_stream(
                "import time\nprint(1, flush=True)\ntime.sleep(600)"):
            self.assertEqual(event.data, "1\n")
            break
        gc.collect()
        harness.eventually(lambda: self.sandbox.info().execs_running == 0, "the code ended")

    def test_closing_the_sandbox_raises_in_the_stream(self):
        sandbox = Sandbox(isolation=harness.ISOLATION, socket=self.daemon.socket)
        events = sandbox.run_code_stream("import time\nprint(1, flush=True)\ntime.sleep(600)")
        next(events)
        sandbox.close()
        with self.assertRaises(ramet.RametError) as got:
            list(events)
        self.assertEqual(got.exception.code, "cancelled")


class FileTest(SdkCase):
    def test_upload_and_download(self):
        receipt = self.sandbox.upload(b"hello from outside\n", f"{self.directory}/greeting.txt")
        self.assertEqual((receipt.size, receipt.path), (19, f"{self.directory}/greeting.txt"))
        self.assertEqual(self.sandbox.download(f"{self.directory}/greeting.txt"),
                         b"hello from outside\n")
        self.assertEqual(self.sandbox.run_code(f"cat {self.directory}/greeting.txt",
                                               language="bash").stdout, "hello from outside\n")

    def test_file_objects_of_100_mb(self):
        data = os.urandom(1 << 20) * 100
        self.sandbox.upload(io.BytesIO(data), f"{self.directory}/big")
        target = io.BytesIO()
        self.assertEqual(self.sandbox.download_to(f"{self.directory}/big", target), len(data))
        self.assertTrue(target.getvalue() == data)
        self.sandbox.run_code(f"rm -r {self.directory}", language="bash")

    def test_mode(self):
        self.sandbox.upload(b"", f"{self.directory}/f", mode=0o700)
        self.assertEqual(self.sandbox.list_files(self.directory)[0].mode, 0o700)

    def test_text_is_refused_before_anything_is_sent(self):
        with self.assertRaises(TypeError):
            self.sandbox.upload("text", "/tmp/x")

    def test_list_files(self):
        self.sandbox.upload(b"123", f"{self.directory}/a \u2713")
        entry, = self.sandbox.list_files(self.directory)
        self.assertEqual((entry.name, entry.kind, entry.size), ("a \u2713", "file", 3))
        self.assertLess(abs((datetime.now(timezone.utc) - entry.mtime).total_seconds()), 300)

    def test_missing_file(self):
        with self.assertRaises(ramet.NotFoundError) as got:
            self.sandbox.download(f"{self.directory}/none")
        self.assertEqual((got.exception.code, got.exception.status), ("path_not_found", 404))

    def test_refused_large_upload_raises_the_reason(self):
        with self.assertRaises(ramet.InvalidRequestError) as got:
            self.sandbox.upload(bytes(64 << 20), "relative")
        self.assertEqual(got.exception.code, "invalid_path")


class SandboxTest(SdkCase):
    def test_connect_by_id(self):
        self.sandbox.run_code("shared = 'seen'")
        other = Sandbox.connect(self.sandbox.id, socket=self.daemon.socket)
        self.assertEqual(other.run_code("shared").result, "'seen'")

    def test_connect_to_unknown_id(self):
        with self.assertRaises(ramet.NotFoundError):
            Sandbox.connect("sbx_aaaaaaaaaaaaaaaaaaaa", socket=self.daemon.socket)

    def test_list_and_info(self):
        ids = [info.id for info in Sandbox.list(socket=self.daemon.socket)]
        self.assertIn(self.sandbox.id, ids)
        info = self.sandbox.info()
        self.assertEqual((info.state, info.isolation), ("ready", harness.ISOLATION))

    def test_metadata_and_memory(self):
        with Sandbox(memory_mb=256, isolation=harness.ISOLATION, metadata={"a": "b"},
                     socket=self.daemon.socket) as sandbox:
            info = sandbox.info()
        self.assertEqual((info.memory_mb, info.metadata), (256, {"a": "b"}))

    def test_unknown_template(self):
        with self.assertRaises(ramet.NotFoundError) as got:
            Sandbox(template="none", socket=self.daemon.socket)
        self.assertEqual(got.exception.code, "template_not_found")

    def test_close_twice_and_use_after_close(self):
        sandbox = Sandbox(isolation=harness.ISOLATION, socket=self.daemon.socket)
        sandbox.close()
        sandbox.close()
        with self.assertRaises(ramet.SandboxClosedError):
            sandbox.run_code("1")

    def test_with_block_closes_also_after_an_exception(self):
        with self.assertRaises(KeyError):
            with Sandbox(isolation=harness.ISOLATION, socket=self.daemon.socket) as sandbox:
                raise KeyError
        with self.assertRaises(ramet.NotFoundError):
            Sandbox.connect(sandbox.id, socket=self.daemon.socket)

    def test_socket_from_the_environment(self):
        code = ("from ramet import Sandbox\n"
                "print(len(Sandbox.list()))\n")
        output = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            timeout=harness.DEADLINE,
            env={**os.environ, "RAMET_SOCKET": self.daemon.socket,
                 "PYTHONPATH": str(harness.ROOT / "api" / "python")}).stdout
        self.assertGreaterEqual(int(output), 1)

    def test_many_threads_share_one_sandbox(self):
        wrong = []

        def use(number):
            for turn in range(10):
                value = number * 100 + turn
                if self.sandbox.run_code(f"{value}").result != str(value):
                    wrong.append(value)

        threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(harness.DEADLINE)
        self.assertEqual(wrong, [])

    def test_connections_are_reused(self):
        def connections():
            return sum(count for name, count in
                       harness.descriptors_of(self.daemon.process.pid).items()
                       if name.startswith("socket:"))

        self.sandbox.run_code("1")
        before = connections()
        for _ in range(30):
            self.sandbox.run_code("1")
            self.sandbox.info()
        self.assertEqual(connections(), before)


@needs_root
class DaemonEndTest(unittest.TestCase):
    def test_unreachable_daemon(self):
        with self.assertRaises(ramet.DaemonUnreachableError) as got:
            Sandbox(socket="/nonexistent/sock")
        self.assertIn("is it running?", str(got.exception))

    def test_killed_daemon_raises_in_calls_and_streams(self):
        daemon = harness.Daemon().start()
        self.addCleanup(daemon.destroy)
        sandbox = Sandbox(isolation=harness.ISOLATION, socket=daemon.socket)
        events = sandbox.run_code_stream("import time\nprint(1, flush=True)\ntime.sleep(600)")
        next(events)
        daemon.signal(signal.SIGKILL)
        with self.assertRaises(ramet.DaemonUnreachableError):
            list(events)
        with self.assertRaises(ramet.DaemonUnreachableError):
            sandbox.run_code("1")

    def test_restarted_daemon_is_reached_again(self):
        daemon = harness.Daemon().start()
        self.addCleanup(daemon.destroy)
        self.addCleanup(daemon.stop)
        Sandbox.list(socket=daemon.socket)
        daemon.stop()
        daemon.start()
        self.assertEqual(Sandbox.list(socket=daemon.socket), [])


class PackageTest(unittest.TestCase):
    def test_only_the_standard_library_is_needed(self):
        code = ("import sys\n"
                "before = set(sys.modules)\n"
                "import ramet\n"
                "names = {name.split('.')[0] for name in set(sys.modules) - before}\n"
                "print(sorted(names - set(sys.stdlib_module_names) - {'ramet'}))\n")
        path = str(harness.ROOT / "api" / "python")
        code = f"import sys; sys.path.insert(0, {path!r})\n{code}"
        output = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True,
                                check=True, timeout=harness.DEADLINE).stdout
        self.assertEqual(output, "[]\n")

    def test_every_public_name_is_documented(self):
        for name in ramet.__all__:
            self.assertTrue(getattr(ramet, name).__doc__, name)
        for name, member in vars(Sandbox).items():
            if not name.startswith("_") and callable(getattr(Sandbox, name)):
                self.assertTrue(getattr(Sandbox, name).__doc__, name)

    def test_all_errors_are_ramet_errors(self):
        for name in ramet.__all__:
            if name.endswith("Error"):
                self.assertTrue(issubclass(getattr(ramet, name), ramet.RametError))

    def test_results_are_immutable(self):
        result = ExecResult(stdout="", stderr="", exit_code=0)
        with self.assertRaises(AttributeError):
            result.exit_code = 1


if __name__ == "__main__":
    unittest.main(verbosity=2)
