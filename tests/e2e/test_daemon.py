"""rametd as a process: its options, its socket, its end, and what it leaves."""

import os
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import unittest
from pathlib import Path

import harness
from harness import Daemon, eventually, needs_root, processes_of
from workers import Workers


def mount_count():
    return len(Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines())


def rametd(*arguments, **options):
    return subprocess.run([str(harness.BIN / "rametd"), *arguments], capture_output=True, text=True,
                          timeout=harness.DEADLINE, check=False, **options)


class OptionTest(unittest.TestCase):
    def assert_usage_error(self, process, text):
        self.assertEqual(process.returncode, 2)
        self.assertIn(text, process.stderr)
        self.assertEqual(process.stdout, "")

    def test_help_names_every_option(self):
        process = rametd("--help")
        self.assertEqual(process.returncode, 0)
        for option in ("--socket", "--socket-mode", "--state", "--images", "--worker",
                       "--max-sandboxes", "--pool", "--boot-each"):
            self.assertIn(option, process.stdout)

    def test_version(self):
        self.assertRegex(rametd("--version").stdout, r"^rametd \d+\.\d+\.\d+\n$")

    def test_socket_and_state_are_required(self):
        self.assert_usage_error(rametd(), "--socket and --state are required")
        self.assert_usage_error(rametd("--socket", "/tmp/x"), "--socket and --state are required")

    def test_unknown_option(self):
        self.assert_usage_error(rametd("--frobnicate"), "frobnicate")

    def test_bad_numbers(self):
        for value in ("0", "-1", "x", "1x", "100001", ""):
            self.assert_usage_error(rametd("--max-sandboxes", value), "--max-sandboxes wants")
        for value in ("8", "rw", "1000", "-1"):
            self.assert_usage_error(rametd("--socket-mode", value), "--socket-mode wants")

    def test_operand(self):
        self.assert_usage_error(rametd("--socket", "/tmp/x", "--state", "/tmp/y", "z"),
                                "unexpected argument")


@needs_root
class SocketTest(unittest.TestCase):
    def start(self, *options):
        daemon = Daemon(*options)
        self.addCleanup(daemon.destroy)
        return daemon.start()

    def test_socket_is_for_its_owner_alone(self):
        daemon = self.start()
        self.assertEqual(stat.S_IMODE(os.stat(daemon.socket).st_mode), 0o600)

    def test_socket_mode_option(self):
        daemon = self.start("--socket-mode", "0660")
        self.assertEqual(stat.S_IMODE(os.stat(daemon.socket).st_mode), 0o660)

    def test_socket_is_removed_at_the_end(self):
        daemon = self.start()
        self.assertEqual(daemon.stop(), 0)
        self.assertFalse(os.path.exists(daemon.socket))

    def test_stale_socket_is_replaced(self):
        daemon = Daemon()
        self.addCleanup(daemon.destroy)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(daemon.socket)
        daemon.start()
        self.assertEqual(daemon.api().get("/v1/healthz").status, 200)

    def test_socket_in_use_is_refused(self):
        daemon = self.start()
        second = rametd("--socket", daemon.socket, "--state", str(daemon.home / "other"))
        self.assertEqual(second.returncode, 1)
        self.assertIn("another daemon listens", second.stderr)
        self.assertEqual(daemon.api().get("/v1/healthz").status, 200)

    def test_other_file_is_not_replaced(self):
        daemon = Daemon()
        self.addCleanup(daemon.destroy)
        Path(daemon.socket).write_text("precious", encoding="ascii")
        daemon.start(expect_ready=False)
        self.assertEqual(daemon.process.returncode, 1)
        self.assertEqual(Path(daemon.socket).read_text(encoding="ascii"), "precious")

    def test_socket_of_a_successor_is_not_removed(self):
        daemon = self.start()
        os.unlink(daemon.socket)
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(daemon.socket)
            daemon.stop()
            self.assertTrue(os.path.exists(daemon.socket))

    def directory(self):
        return self.enterContext(tempfile.TemporaryDirectory(prefix="ramet-e2e-"))

    def test_socket_path_that_is_too_long(self):
        process = rametd("--socket", "/tmp/" + "x" * 120, "--state", self.directory())
        self.assertEqual(process.returncode, 1)
        self.assertIn("107 bytes", process.stderr)

    def test_missing_directory_of_the_socket(self):
        process = rametd("--socket", "/tmp/ramet-no-such-dir/s", "--state", self.directory())
        self.assertEqual(process.returncode, 1)
        self.assertIn("/tmp/ramet-no-such-dir", process.stderr)


@needs_root
class EndTest(unittest.TestCase):
    def setUp(self):
        self.mounts = mount_count()
        self.daemon = Daemon()
        self.addCleanup(self.daemon.destroy)
        self.daemon.start()
        self.api = self.daemon.api()

    def assert_nothing_left(self):
        eventually(lambda: not processes_of(self.daemon.home), "no process is left")
        self.assertEqual(self.daemon.cgroups(), [])
        self.assertEqual(mount_count(), self.mounts)

    def test_sigterm_and_sigint_end_idle_daemon_with_success(self):
        self.assertEqual(self.daemon.stop(), 0)
        self.assert_nothing_left()
        self.daemon.start()
        self.assertEqual(self.daemon.signal(signal.SIGINT), 0)
        self.assert_nothing_left()

    def test_sigterm_with_busy_sandboxes_leaves_nothing(self):
        ids = [self.api.create() for _ in range(2)]
        streams = [self.api.stream(i, "import time\nprint(1, flush=True)\ntime.sleep(600)")
                   for i in ids]
        for stream in streams:
            next(stream)
        self.daemon.learn_cgroup()
        self.assertGreater(len(processes_of(self.daemon.home)), 2)
        self.assertEqual(self.daemon.stop(), 0)
        for stream in streams:
            last = list(stream)[-1][1]
            self.assertEqual((last["type"], last["error"]["code"]), ("error", "stopping"))
        self.assert_nothing_left()
        self.assertEqual(list(self.daemon.state.rglob("*.*")), [])

    def test_sigterm_answers_waiting_requests(self):
        sandbox = self.api.create()
        reply = []
        thread = threading.Thread(target=lambda: reply.append(self.api.post(
            f"/v1/sandboxes/{sandbox}/exec?stream=false",
            {"code": "import time; time.sleep(600)"})))
        thread.start()
        eventually(lambda: self.api.get(f"/v1/sandboxes/{sandbox}").json["execs"]["running"] == 1,
                   "the exec runs")
        self.daemon.stop()
        thread.join(harness.DEADLINE)
        self.assertEqual((reply[0].status, reply[0].error), (503, "stopping"))

    def test_sigkill_ends_the_workers_and_the_next_start_cleans(self):
        killed = [self.api.create() for _ in range(2)]
        self.daemon.learn_cgroup()
        self.assertEqual(self.daemon.signal(signal.SIGKILL), -signal.SIGKILL)
        eventually(lambda: not processes_of(self.daemon.home), "the workers died with the daemon")
        self.assertTrue(os.path.exists(self.daemon.socket))
        self.daemon.start()
        self.assertEqual(self.api.get("/v1/sandboxes").json["sandboxes"], [])
        for sandbox in killed:
            self.assertEqual(harness.cgroup_directories(sandbox), [])
        self.api.close(self.api.create())
        self.daemon.stop()
        self.assert_nothing_left()
        self.assertFalse(os.path.exists(self.daemon.socket))

    def test_killed_worker_fails_only_its_sandbox(self):
        one, two = self.api.create(), self.api.create()
        workers = Workers(self.daemon)
        pid, = (pid for pid, vm in workers.processes().items() if vm == workers.current(one))
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: self.api.get(f"/v1/sandboxes/{one}").json["state"] == "failed",
                   "the sandbox is known to have failed")
        self.assertTrue(self.api.get(f"/v1/sandboxes/{one}").json["reason"])
        self.assertEqual(self.api.run(two, "1")["result"], "1")
        self.api.close(one)
        self.api.close(two)

    def test_state_directory_in_use_is_refused(self):
        second = rametd("--socket", str(self.daemon.home / "sock2"), "--state",
                        str(self.daemon.state), "--images", str(self.daemon.images), "--worker",
                        str(self.daemon.home / "bin" / "ramet-vmm"))
        self.assertEqual(second.returncode, 1)
        self.assertIn(str(self.daemon.state), second.stderr)
        self.assertEqual(self.api.get("/v1/healthz").status, 200)


if __name__ == "__main__":
    unittest.main(verbosity=2)
