"""The ramet program, as a person or a script uses it."""

import hashlib
import json
import os
import stat
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import harness
from harness import RAMET, SandboxCase, needs_guest

VERBS = ("create", "exec", "cp", "ls", "rm", "fork", "merge", "diff", "pause", "resume", "tree", "info",
         "console", "doctor", "version")


def ramet(*arguments, socket="/nonexistent/ramet.sock", stdin=b"", **options):
    environment = {**os.environ, "RAMET_SOCKET": socket}
    return subprocess.run([str(RAMET), *arguments], input=stdin, capture_output=True,
                          timeout=harness.DEADLINE, env=environment, check=False, **options)


class UsageTest(unittest.TestCase):
    """What needs no daemon."""

    def test_no_verb_is_a_usage_error(self):
        process = ramet()
        self.assertEqual((process.returncode, process.stdout), (2, b""))
        self.assertIn(b"usage: ramet VERB", process.stderr)

    def test_unknown_verb(self):
        process = ramet("frobnicate")
        self.assertEqual(process.returncode, 2)
        self.assertIn(b'no verb "frobnicate"', process.stderr)

    def test_help_lists_every_verb(self):
        for arguments in (("help",), ("--help",)):
            process = ramet(*arguments)
            self.assertEqual(process.returncode, 0)
            for verb in VERBS:
                self.assertIn(f"  {verb} ".encode(), process.stdout)

    def test_help_of_each_verb(self):
        for verb in VERBS:
            for arguments in ((verb, "--help"), ("help", verb)):
                process = ramet(*arguments)
                self.assertEqual(process.returncode, 0, arguments)
                self.assertTrue(process.stdout.startswith(b"usage: ramet " + verb.encode()))

    def test_bad_arguments_are_usage_errors(self):
        for arguments in (("create", "x"), ("create", "--memory", "much"), ("create", "--bogus"),
                          ("create", "--metadata", "x"), ("exec",),
                          ("exec", "--timeout", "-1", "i"), ("exec", "--timeout", "nan", "i"),
                          ("exec", "--output-limit", "0", "i"),
                          ("exec", "-f", "x", "i", "code"), ("cp", "a"), ("cp", "a", "b"),
                          ("cp", "sbx_a:/x", "sbx_b:/y"), ("cp", "sbx_a:rel", "x"),
                          ("cp", "--mode", "9", "a", "sbx_b:/x"), ("ls", "a"), ("ls", "sbx_a:rel"),
                          ("rm",), ("rm", "--all", "x"), ("fork",), ("fork", "a", "b"),
                          ("fork", "-n", "0", "a"), ("fork", "-n", "x", "a"),
                          ("fork", "--metadata", "x", "a"), ("fork", "--trace"), ("merge", "a"),
                          ("merge", "a", "b", "c"), ("diff", "a"),
                          ("diff", "a", "b", "relative"), ("pause",), ("resume", "a", "b"), ("tree", "a"),
                          ("info",), ("console", "a", "b"),
                          ("version", "x"), ("doctor", "x")):
            with self.subTest(arguments=arguments):
                process = ramet(*arguments)
                self.assertEqual(process.returncode, 2, process.stderr)
                self.assertIn(b"usage:", process.stderr)

    def test_unreachable_daemon_says_what_to_look_for(self):
        process = ramet("ls")
        self.assertEqual(process.returncode, 1)
        self.assertIn(b"cannot reach the daemon on /nonexistent/ramet.sock; is rametd running?",
                      process.stderr)

    def test_exec_without_daemon_is_125(self):
        self.assertEqual(ramet("exec", "sbx_a", "1").returncode, 125)

    def test_default_socket_follows_the_environment(self):
        environment = {key: value for key, value in os.environ.items() if key != "RAMET_SOCKET"}
        environment["XDG_RUNTIME_DIR"] = "/nonexistent/runtime"
        process = subprocess.run([str(RAMET), "ls"], capture_output=True, env=environment,
                                 timeout=harness.DEADLINE, check=False)
        self.assertIn(b"/nonexistent/runtime/ramet.sock", process.stderr)

    def test_version_without_daemon(self):
        process = ramet("version", "--json")
        self.assertEqual(process.returncode, 0)
        self.assertIsNone(json.loads(process.stdout)["rametd"])


class CliCase(SandboxCase):
    def setUp(self):
        self.directory = harness.guest_directory()
        self.local = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="ramet-cli-")))

    def remote(self, name):
        return f"{self.sandbox}:{self.directory}/{name}"

    def ramet(self, *arguments, **options):
        return ramet(*arguments, socket=self.daemon.socket, **options)

    def assert_runs(self, *arguments, **options):
        process = self.ramet(*arguments, **options)
        self.assertEqual(process.returncode, 0, process.stderr)
        return process


class ExecTest(CliCase):
    def test_output_result_and_success(self):
        process = self.assert_runs("exec", self.sandbox, "print('a'); 1 + 1")
        self.assertEqual((process.stdout, process.stderr), (b"a\n2\n", b""))

    def test_exit_code_is_the_codes(self):
        self.assertEqual(self.ramet("exec", "--bash", self.sandbox, "exit 7").returncode, 7)
        self.assertEqual(self.ramet("exec", self.sandbox, "import sys; sys.exit(9)").returncode, 9)

    def test_streams_are_kept_apart(self):
        process = self.ramet("exec", "--bash", self.sandbox, "echo out; echo err >&2")
        self.assertEqual((process.stdout, process.stderr), (b"out\n", b"err\n"))

    def test_options_after_the_id_and_words_of_code(self):
        process = self.assert_runs("exec", self.sandbox, "--bash", "echo", "-n", "x   y")
        self.assertEqual(process.stdout, b"x y")

    def test_code_from_a_file(self):
        (self.local / "code.py").write_text("print('from file')\n")
        process = self.assert_runs("exec", "-f", str(self.local / "code.py"), self.sandbox)
        self.assertEqual(process.stdout, b"from file\n")

    def test_code_from_standard_input(self):
        for arguments in ((self.sandbox,), (self.sandbox, "-"), ("-f", "-", self.sandbox)):
            process = self.assert_runs("exec", *arguments, stdin=b"print('in')")
            self.assertEqual(process.stdout, b"in\n")

    def test_state_survives_between_calls(self):
        self.assert_runs("exec", self.sandbox, "cli_state = 5")
        self.assertEqual(self.assert_runs("exec", self.sandbox, "cli_state").stdout, b"5\n")

    def test_timeout(self):
        process = self.ramet("exec", "--timeout", "0.3", self.sandbox, "while True: pass")
        self.assertEqual(process.returncode, 124)
        self.assertIn(b"the timeout struck", process.stderr)

    def test_raw_bytes_pass_unchanged(self):
        process = self.assert_runs("exec", "--python", self.sandbox,
                                   "import os; _ = os.write(1, bytes(range(256)))")
        self.assertEqual(process.stdout, bytes(range(256)))

    def test_json_prints_the_events(self):
        process = self.assert_runs("exec", "--json", self.sandbox, "print(1)")
        events = [json.loads(line) for line in process.stdout.splitlines()]
        self.assertEqual([event["type"] for event in events], ["stdout", "exit"])

    def test_output_arrives_while_the_code_runs(self):
        begin = time.monotonic()
        process = subprocess.Popen(
            [str(RAMET), "--socket", self.daemon.socket, "exec", self.sandbox,
             "import time\nprint('early', flush=True)\ntime.sleep(2)"], stdout=subprocess.PIPE)
        self.assertEqual(process.stdout.readline(), b"early\n")
        self.assertLess(time.monotonic() - begin, 1.5)
        self.assertEqual(process.wait(harness.DEADLINE), 0)
        process.stdout.close()

    def test_killed_client_interrupts_the_code(self):
        process = subprocess.Popen(
            [str(RAMET), "--socket", self.daemon.socket, "exec", self.sandbox,
             "import time\nprint(1, flush=True)\ntime.sleep(600)"], stdout=subprocess.PIPE)
        process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
        harness.eventually(lambda: self.api.get(self.base).json["execs"]["running"] == 0,
                           "the code was interrupted")

    def test_cut_output_is_said_on_stderr(self):
        process = self.assert_runs("exec", "--output-limit", "5", self.sandbox, "print('x' * 100)")
        self.assertEqual(process.stdout, b"xxxxx")
        self.assertTrue(process.stderr.startswith(b"ramet: "))

    def test_unknown_sandbox_is_125(self):
        process = self.ramet("exec", "sbx_aaaaaaaaaaaaaaaaaaaa", "1")
        self.assertEqual(process.returncode, 125)
        self.assertIn(b"there is no sandbox", process.stderr)

    def test_closed_output_is_125(self):
        reading, writing = os.pipe()
        os.close(reading)
        process = subprocess.run(
            [str(RAMET), "--socket", self.daemon.socket, "exec", self.sandbox, "print(1)"],
            stdout=writing, stderr=subprocess.PIPE, timeout=harness.DEADLINE, check=False,
            restore_signals=False)
        os.close(writing)
        self.assertEqual(process.returncode, 125)


class CopyTest(CliCase):
    def test_100_mb_in_and_out(self):
        data = os.urandom(1 << 20) * 100
        (self.local / "big").write_bytes(data)
        self.assert_runs("cp", str(self.local / "big"), self.remote("big"))
        self.assert_runs("cp", self.remote("big"), str(self.local / "back"))
        self.assertEqual(hashlib.sha256((self.local / "back").read_bytes()).digest(),
                         hashlib.sha256(data).digest())
        self.run_code(f"rm -r {self.directory}", language="bash")

    def test_mode_is_kept_both_ways(self):
        source = self.local / "script"
        source.write_text("#!/bin/sh\necho ran\n")
        source.chmod(0o750)
        self.assert_runs("cp", str(source), self.remote(""))
        reply = self.run_code(f"cd {self.directory}; stat -c %a script; ./script", language="bash")
        self.assertEqual(reply["stdout"], "750\nran\n")
        self.assert_runs("cp", self.remote("script"), str(self.local / "copy"))
        self.assertEqual(stat.S_IMODE((self.local / "copy").stat().st_mode), 0o750)

    def test_mode_option(self):
        (self.local / "f").write_text("x")
        self.assert_runs("cp", "--mode", "0600", str(self.local / "f"), self.remote("f"))
        self.assertEqual(self.run_code(f"stat -c %a {self.directory}/f", language="bash")["stdout"],
                         "600\n")

    def test_standard_input_and_output(self):
        self.assert_runs("cp", "-", self.remote("piped"), stdin=b"through a pipe")
        self.assertEqual(self.assert_runs("cp", self.remote("piped"), "-").stdout,
                         b"through a pipe")

    def test_into_a_local_directory(self):
        self.assert_runs("cp", "-", self.remote("name"), stdin=b"x")
        self.assert_runs("cp", self.remote("name"), str(self.local))
        self.assertEqual((self.local / "name").read_bytes(), b"x")

    def test_failed_download_leaves_the_target_alone(self):
        (self.local / "f").write_text("precious")
        process = self.ramet("cp", self.remote("none"), str(self.local / "f"))
        self.assertEqual(process.returncode, 1)
        self.assertIn(b"No such file or directory", process.stderr)
        self.assertEqual(os.listdir(self.local), ["f"])
        self.assertEqual((self.local / "f").read_text(), "precious")

    def test_missing_local_file(self):
        process = self.ramet("cp", str(self.local / "none"), f"{self.sandbox}:/tmp/x")
        self.assertEqual(process.returncode, 1)
        self.assertIn(b"No such file", process.stderr)

    def test_directories_are_refused(self):
        process = self.ramet("cp", str(self.local), f"{self.sandbox}:/tmp/x")
        self.assertEqual(process.returncode, 1)
        self.assertIn(b"is a directory", process.stderr)

    def test_json_tells_size_and_hash(self):
        reply = json.loads(self.assert_runs("cp", "--json", "-", self.remote("j")).stdout)
        self.assertEqual((reply["size"], reply["xxh3"]), (0, "2d06800538d394c2"))


class SandboxTest(CliCase):
    def test_create_prints_the_id_and_rm_closes_it(self):
        process = self.assert_runs("create", "--isolation", harness.ISOLATION, "--memory", "256",
                                   "--metadata", "k=v=w")
        self.assertRegex(process.stdout, rb"^sbx_[a-z0-9]{20}\n$")
        self.assertIn(b"ready in", process.stderr)
        sandbox = process.stdout.decode().strip()
        info = json.loads(self.assert_runs("info", "--json", sandbox).stdout)
        self.assertEqual((info["memory_mb"], info["metadata"]), (256, {"k": "v=w"}))
        self.assert_runs("rm", sandbox)
        self.assertEqual(self.ramet("info", sandbox).returncode, 1)

    def test_rm_of_several_goes_on_after_a_failure(self):
        sandbox = self.api.create()
        process = self.ramet("rm", "sbx_aaaaaaaaaaaaaaaaaaaa", sandbox)
        self.assertEqual(process.returncode, 1)
        self.assertEqual(self.api.get(f"/v1/sandboxes/{sandbox}").status, 404)

    def test_ls_lists_sandboxes(self):
        lines = self.assert_runs("ls").stdout.decode().splitlines()
        self.assertTrue(lines[0].startswith("ID "))
        self.assertTrue(any(line.startswith(self.sandbox + " ") and " ready " in line
                            for line in lines))

    def test_ls_json(self):
        listed = json.loads(self.assert_runs("ls", "--json").stdout)["sandboxes"]
        self.assertIn(self.sandbox, [item["id"] for item in listed])

    def test_ls_of_a_directory(self):
        self.assert_runs("cp", "-", self.remote("f"), stdin=b"123")
        line = self.assert_runs("ls", f"{self.sandbox}:{self.directory}").stdout.decode()
        self.assertRegex(line, r"^file +0644 +3 \S+Z f\n$")

    def test_ls_does_not_obey_file_names(self):
        self.run_code(f"import os; os.makedirs('{self.directory}'); "
                      f"open('{self.directory}/\\x1b[2J', 'w').close()")
        output = self.assert_runs("ls", f"{self.sandbox}:{self.directory}").stdout
        self.assertNotIn(b"\x1b", output)
        self.assertIn(rb"\x1b[2J", output)

    def test_info_for_people(self):
        self.assertIn(f"id: {self.sandbox}\nstate: ready\n",
                      self.assert_runs("info", self.sandbox).stdout.decode())

    def test_version_of_both(self):
        versions = json.loads(self.assert_runs("version", "--json").stdout)
        self.assertEqual(versions["ramet"], versions["rametd"])

    @needs_guest
    def test_console(self):
        self.run_code("echo 'to the console' > /dev/console", language="bash")
        harness.eventually(
            lambda: b"to the console" in self.assert_runs("console", self.sandbox).stdout,
            "it is there")


class DoctorTest(CliCase):
    def findings(self, *arguments):
        process = self.ramet("doctor", "--json", "--images", str(self.daemon.images), *arguments)
        return process, {item["check"]: item for item in json.loads(process.stdout)}

    def test_every_check_has_a_finding(self):
        _, found = self.findings()
        self.assertEqual(set(found), {"kvm", "userfaultfd", "io_uring", "bpf", "cgroups", "memfd",
                                      "namespaces", "open files", "memory maps", "memory", "images",
                                      "daemon"})
        for item in found.values():
            self.assertTrue(item["found"])
            self.assertEqual(item["remedy"] is None, item["state"] == "ok", item)

    def test_exit_status_says_whether_anything_failed(self):
        process, found = self.findings()
        failed = any(item["state"] == "fail" for item in found.values())
        self.assertEqual(process.returncode, 1 if failed else 0)

    def test_running_daemon_is_found(self):
        _, found = self.findings()
        self.assertEqual(found["daemon"]["state"], "ok")

    def test_missing_images_are_a_failure_with_a_remedy(self):
        process = self.ramet("doctor", "--images", "/nonexistent")
        self.assertEqual(process.returncode, 1)
        self.assertIn(b"FAIL  images", process.stdout)
        self.assertIn(b"make image", process.stdout)

    def test_unprivileged_user_is_told_what_is_missing(self):
        program = self.local / "ramet"
        program.write_bytes(RAMET.read_bytes())
        program.chmod(0o755)
        self.local.chmod(0o755)
        process = subprocess.run([str(program), "doctor", "--json"], capture_output=True,
                                 user=65534, group=65534, extra_groups=[], cwd="/",
                                 timeout=harness.DEADLINE, check=False)
        found = {item["check"]: item for item in json.loads(process.stdout)}
        self.assertEqual(process.returncode, 1)
        for check in ("kvm", "bpf", "namespaces", "cgroups"):
            self.assertEqual(found[check]["state"], "fail", found[check])
            self.assertIn("root", found[check]["remedy"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
