"""Running code through the HTTP API."""

import base64
import json
import select
import socket
import threading
import time
import unittest

import harness
from harness import SandboxCase


class ReplTest(SandboxCase):
    """Python keeps its state; what code does to itself is an answer, not an end."""

    def test_variables_survive_between_execs(self):
        self.run_code("x = 20 + 1")
        self.assertEqual(self.run_code("print(x * 2)")["stdout"], "42\n")

    def test_imports_survive_between_execs(self):
        self.run_code("import json as j")
        self.assertEqual(self.run_code("print(j.dumps([1]))")["stdout"], "[1]\n")

    def test_open_files_survive_between_execs(self):
        self.run_code("import tempfile; f = tempfile.TemporaryFile('w+'); _ = f.write('kept')")
        self.assertEqual(self.run_code("f.seek(0); print(f.read())")["stdout"], "kept\n")

    def test_trailing_expression_is_result_and_in_stdout(self):
        reply = self.run_code("print('a')\n6 * 7")
        self.assertEqual((reply["stdout"], reply["result"]), ("a\n42\n", "42"))

    def test_no_trailing_expression_has_null_result(self):
        reply = self.run_code("y = 1")
        self.assertEqual((reply["stdout"], reply["result"], reply["exit_code"]), ("", None, 0))

    def test_none_is_not_printed(self):
        self.assertEqual(self.run_code("None")["stdout"], "")

    def test_empty_code_succeeds(self):
        self.assertEqual(self.run_code("")["exit_code"], 0)

    def test_exception_gives_traceback_and_keeps_state(self):
        self.run_code("kept = 'yes'")
        reply = self.run_code("1 / 0")
        self.assertEqual(reply["exit_code"], 1)
        self.assertIn("ZeroDivisionError: division by zero", reply["stderr"])
        self.assertEqual(self.run_code("kept")["result"], "'yes'")

    def test_syntax_error_is_reported_and_keeps_state(self):
        self.run_code("kept = 'still'")
        reply = self.run_code("def (:")
        self.assertEqual(reply["exit_code"], 1)
        self.assertIn("SyntaxError", reply["stderr"])
        self.assertEqual(self.run_code("kept")["result"], "'still'")

    def test_sys_exit_gives_its_code_and_keeps_state(self):
        self.run_code("kept = 7")
        self.assertEqual(self.run_code("import sys; sys.exit(3)")["exit_code"], 3)
        self.assertEqual(self.run_code("kept")["result"], "7")

    def test_crashed_interpreter_is_restarted_and_says_so(self):
        self.run_code("lost = 1")
        reply = self.run_code("import os; os._exit(9)")
        self.assertTrue(reply["state_lost"])
        reply = self.run_code("'lost' in globals()")
        self.assertEqual(reply["result"], "False")

    def test_killed_interpreter_is_restarted_and_says_so(self):
        reply = self.run_code("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        self.assertTrue(reply["state_lost"])
        self.assertEqual(self.run_code("1 + 1")["result"], "2")

    def test_indented_code_is_dedented(self):
        self.assertEqual(self.run_code("\n    a = 1\n    print(a)\n")["stdout"], "1\n")

    def test_unicode_code_and_output(self):
        self.assertEqual(self.run_code("print('h\u00e9llo \u2713 \U0001f600')")["stdout"],
                         "h\u00e9llo \u2713 \U0001f600\n")

    def test_timings_are_plausible(self):
        reply = self.run_code("import time; time.sleep(0.05)")
        self.assertGreaterEqual(reply["timings"]["run_ms"], 50)
        self.assertGreaterEqual(reply["timings"]["total_ms"], reply["timings"]["run_ms"])


class BashTest(SandboxCase):
    def bash(self, code, **fields):
        return self.run_code(code, language="bash", **fields)

    def test_output_and_exit_code(self):
        reply = self.bash("echo out; echo err >&2; exit 3")
        self.assertEqual((reply["stdout"], reply["stderr"], reply["exit_code"]),
                         ("out\n", "err\n", 3))

    def test_each_exec_is_a_fresh_shell(self):
        self.bash("variable=1")
        self.assertEqual(self.bash("echo \"<$variable>\"")["stdout"], "<>\n")

    def test_failing_command_gives_its_code(self):
        self.assertEqual(self.bash("false")["exit_code"], 1)

    def test_unknown_command_gives_127(self):
        self.assertEqual(self.bash("no-such-command-here")["exit_code"], 127)

    def test_killed_by_signal_gives_128_plus_number(self):
        self.assertEqual(self.bash("kill -TERM $$")["exit_code"], 143)

    def test_pipelines_work(self):
        self.assertEqual(self.bash("seq 1 1000 | sort -rn | head -1")["stdout"], "1000\n")

    def test_bash_does_not_disturb_python(self):
        self.run_code("value = 5")
        self.bash("exit 9")
        self.assertEqual(self.run_code("value")["result"], "5")


class TimeoutTest(SandboxCase):
    def test_timeout_interrupts_python_and_keeps_state(self):
        self.run_code("kept = 11")
        begin = time.monotonic()
        reply = self.run_code("while True: pass", timeout_ms=300)
        self.assertLess(time.monotonic() - begin, 20)
        self.assertTrue(reply["timed_out"])
        self.assertTrue(reply["interrupted"])
        self.assertEqual(reply["exit_code"], 124)
        self.assertFalse(reply["state_lost"])
        self.assertEqual(self.run_code("kept")["result"], "11")

    def test_code_that_catches_the_interrupt_is_restarted(self):
        code = ("import time\n"
                "while True:\n"
                "    try:\n"
                "        time.sleep(60)\n"
                "    except KeyboardInterrupt:\n"
                "        pass\n")
        reply = self.run_code(code, timeout_ms=300)
        self.assertTrue(reply["timed_out"])
        self.assertTrue(reply["repl_restarted"])
        self.assertTrue(reply["state_lost"])
        self.assertEqual(self.run_code("1 + 1")["result"], "2")

    def test_timeout_ends_bash_with_its_children(self):
        reply = self.run_code("sleep 600 & sleep 600", language="bash", timeout_ms=300)
        self.assertTrue(reply["timed_out"])
        self.assertEqual(reply["exit_code"], 124)

    def test_fast_code_is_not_touched(self):
        reply = self.run_code("1", timeout_ms=60000)
        self.assertFalse(reply["timed_out"])


class StreamTest(SandboxCase):
    def test_events_arrive_while_the_code_runs(self):
        code = "import time\nprint('first', flush=True)\ntime.sleep(1)\nprint('second')"
        events = list(self.api.stream(self.sandbox, code))
        first = next(when for when, event in events if "first" in str(event["data"]))
        end = events[-1][0]
        self.assertGreater(end - first, 0.8)

    def test_order_sequence_numbers_and_times(self):
        code = ("import sys\n"
                "for i in range(20):\n"
                "    print('o', i, flush=True)\n"
                "    print('e', i, file=sys.stderr, flush=True)\n")
        events = [event for _, event in self.api.stream(self.sandbox, code)]
        self.assertEqual([event["seq"] for event in events], list(range(len(events))))
        times = [event["ts"] for event in events[:-1]]
        self.assertEqual(times, sorted(times))
        for name, letter in (("stdout", "o"), ("stderr", "e")):
            text = "".join(event["data"] for event in events if event["type"] == name)
            self.assertEqual(text, "".join(f"{letter} {i}\n" for i in range(20)))

    def test_result_is_an_event_of_its_own_before_exit(self):
        events = [event for _, event in self.api.stream(self.sandbox, "print(1)\n'two'")]
        self.assertEqual([(event["type"], event["data"]) for event in events],
                         [("stdout", "1\n"), ("result", "'two'"), ("exit", 0)])

    def test_silent_code_gives_only_exit(self):
        events = [event for _, event in self.api.stream(self.sandbox, "pass")]
        self.assertEqual([event["type"] for event in events], ["exit"])

    def test_accept_header_chooses_one_object(self):
        reply = self.api.post(f"{self.base}/exec", {"code": "1"}, {"Accept": "application/json"})
        self.assertEqual(reply.json["result"], "1")

    def test_without_accept_header_it_is_a_stream(self):
        reply = self.api.post(f"{self.base}/exec", {"code": "1"})
        self.assertEqual(reply.headers["Content-Type"], "application/x-ndjson")

    def test_sequences_split_by_the_writer_are_joined(self):
        code = ("import os, time\n"
                "for byte in '\u20ac\U0001f600'.encode():\n"
                "    os.write(1, bytes([byte])); time.sleep(0.02)\n")
        events = [event for _, event in self.api.stream(self.sandbox, code)][:-1]
        self.assertTrue(all("encoding" not in event for event in events), events)
        self.assertEqual("".join(event["data"] for event in events), "\u20ac\U0001f600")

    def test_bytes_that_are_not_utf8_survive(self):
        code = "import os; _ = os.write(1, bytes(range(256)))"
        got = b""
        for _, event in self.api.stream(self.sandbox, code):
            if event["type"] != "stdout":
                continue
            got += (base64.b64decode(event["data"]) if event.get("encoding")
                    else event["data"].encode())
        self.assertEqual(got, bytes(range(256)))

    def test_unfinished_sequence_at_the_end_survives(self):
        reply = self.run_code("import os; _ = os.write(1, b'ok\\xe2\\x82')")
        self.assertEqual(base64.b64decode(reply["stdout"]), b"ok\xe2\x82")
        self.assertEqual(reply["stdout_encoding"], "base64")
        events = [event for _, event in
                  self.api.stream(self.sandbox, "import os; _ = os.write(1, b'ok\\xe2\\x82')")]
        self.assertEqual(events[-2].get("encoding"), "base64")

    def test_nul_bytes_survive(self):
        self.assertEqual(self.run_code("print('a\\0b')")["stdout"], "a\0b\n")

    def test_large_output_arrives_whole(self):
        size = 3_000_000
        code = f"import sys; _ = sys.stdout.write('0123456789' * {size // 10})"
        text = "".join(event["data"] for _, event in self.api.stream(self.sandbox, code)
                       if event["type"] == "stdout")
        self.assertEqual(len(text), size)
        self.assertEqual(text, "0123456789" * (size // 10))


class LimitTest(SandboxCase):
    def test_output_beyond_the_limit_is_cut_with_a_notice(self):
        reply = self.run_code("print('x' * 100000)", output_limit=1000)
        self.assertEqual(len(reply["stdout"]), 1000)
        self.assertTrue(reply["output_cut"])
        self.assertEqual(reply["output_dropped"], 100001 - 1000)
        self.assertEqual(reply["exit_code"], 0)
        self.assertTrue(reply["notices"])

    def test_cut_output_has_a_notice_event(self):
        kinds = [event["type"] for _, event in
                 self.api.stream(self.sandbox, "print('x' * 100000)", output_limit=10)]
        self.assertIn("notice", kinds)

    def test_code_of_the_largest_size_runs(self):
        code = "#" * (4 * 1024 * 1024 - 2) + "\n1"
        self.assertEqual(self.run_code(code)["result"], "1")

    def test_code_that_is_too_long_is_refused(self):
        reply = self.api.post(f"{self.base}/exec", {"code": "#" * (4 * 1024 * 1024 + 1)})
        self.assertEqual((reply.status, reply.error), (400, "invalid_request"))
        self.assertIn("code", reply.message)

    def test_more_waiting_execs_than_allowed_are_refused(self):
        streams = []
        try:
            running = self.api.stream(self.sandbox,
                                      "import time\nprint('go', flush=True)\ntime.sleep(600)")
            streams.append(running)
            next(running)
            streams += [self._start("1") for _ in range(64)]
            harness.eventually(
                lambda: self.api.get(self.base).json["execs"] == {"running": 1, "waiting": 64},
                "64 execs wait")
            reply = self.api.post(f"{self.base}/exec", {"code": "1"})
            self.assertEqual((reply.status, reply.error), (429, "limit_reached"))
        finally:
            for stream in streams:
                stream.close()
        harness.eventually(
            lambda: self.api.get(self.base).json["execs"] == {"running": 0, "waiting": 0},
            "the abandoned execs ended")
        self.assertEqual(self.run_code("2")["result"], "2")

    def _start(self, code):
        """Sends an exec without waiting for its reply."""
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(self.daemon.socket)
        body = json.dumps({"code": code}).encode()
        stream.sendall(b"POST %s/exec HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                       b"Content-Length: %d\r\n\r\n%s" % (self.base.encode(), len(body), body))
        return stream


class QueueTest(SandboxCase):
    def test_two_execs_at_once_run_in_order(self):
        replies = {}

        def run(name, code):
            replies[name] = self.run_code(code)

        first = threading.Thread(target=run,
                                 args=("first", "import time; time.sleep(1); a = 'set'"))
        first.start()
        harness.eventually(lambda: self.api.get(self.base).json["execs"]["running"] == 1,
                           "the first exec runs")
        second = threading.Thread(target=run, args=("second", "a"))
        second.start()
        first.join(harness.DEADLINE)
        second.join(harness.DEADLINE)
        self.assertEqual(replies["first"]["exit_code"], 0)
        self.assertEqual(replies["second"]["result"], "'set'")
        self.assertGreater(replies["second"]["timings"]["queue_ms"], 300)

    def test_files_move_while_code_runs(self):
        path = harness.guest_directory() + "/beside"
        stream = self.api.stream(self.sandbox,
                                 "import time\nprint('go', flush=True)\ntime.sleep(2)")
        next(stream)
        begin = time.monotonic()
        self.assertEqual(self.api.put(f"{self.base}/files?path={path}", b"x").status, 200)
        self.assertEqual(self.api.get(f"{self.base}/files?path={path}").body, b"x")
        self.assertLess(time.monotonic() - begin, 1.5)
        self.assertEqual([event["type"] for _, event in stream][-1], "exit")


class DisconnectTest(SandboxCase):
    def idle(self):
        return self.api.get(self.base).json["execs"] == {"running": 0, "waiting": 0}

    def test_client_that_leaves_a_stream_interrupts_the_code(self):
        stream = self.api.stream(self.sandbox,
                                 "import time\nprint('go', flush=True)\ntime.sleep(600)")
        next(stream)
        stream.close()
        harness.eventually(self.idle, "the abandoned code ended")
        self.assertEqual(self.run_code("1 + 1")["result"], "2")

    def test_client_that_leaves_before_any_output_interrupts_the_code(self):
        connection = harness.UnixConnection(self.daemon.socket)
        connection.request("POST", f"{self.base}/exec",
                           json.dumps({"code": "import time; time.sleep(600)"}),
                           {"Content-Type": "application/json"})
        harness.eventually(lambda: self.api.get(self.base).json["execs"]["running"] == 1,
                           "the code runs")
        connection.close()
        harness.eventually(self.idle, "the abandoned code ended")

    def test_client_that_only_ends_its_sending_is_still_served(self):
        body = b'{"code": "import time; time.sleep(0.3); 5"}'
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(harness.DEADLINE)
            client.connect(self.daemon.socket)
            client.sendall(b"POST %s/exec HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                           b"Connection: close\r\nContent-Length: %d\r\n\r\n%s"
                           % (self.base.encode(), len(body), body))
            client.shutdown(socket.SHUT_WR)
            reply = b""
            while True:
                data = client.recv(65536)
                if not data:
                    break
                reply += data
        self.assertIn(b'"result"', reply)

    def test_slow_client_slows_the_guest_and_costs_no_memory(self):
        size = 50_000_000
        code = (f"import os\nleft = {size}\n"
                "while left:\n    left -= os.write(1, b'y' * min(left, 65536))\n")
        pid = self.daemon.process.pid
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.daemon.socket)
            body = json.dumps({"code": code, "output_limit": 64 * 1024 * 1024}).encode()
            harness.reset_peak_memory(pid)
            before = harness.peak_memory(pid)
            client.sendall(b"POST %s/exec HTTP/1.1\r\nHost: x\r\n"
                           b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                           % (self.base.encode(), len(body), body))
            ready, _, _ = select.select([client], [], [], harness.DEADLINE)
            self.assertTrue(ready)
            # The code is far from its end although nothing is read for a while.
            select.select([], [], [], 1.0)
            self.assertEqual(self.api.get(self.base).json["execs"]["running"], 1)
            self.assertLess(harness.peak_memory(pid) - before, 8)
            got = 0
            client.settimeout(harness.DEADLINE)
            while got < size:
                data = client.recv(1 << 20)
                self.assertTrue(data)
                got += len(data)
            self.assertLess(harness.peak_memory(pid) - before, 8)
        harness.eventually(self.idle, "the code ended")


if __name__ == "__main__":
    unittest.main(verbosity=2)
