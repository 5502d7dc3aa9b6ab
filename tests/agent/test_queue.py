"""One exec at a time: order, cancel, limits of the queue, credit."""

import os
import struct
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from wire import (BASH, CANCEL, CANCELLED, CODE_MAX, CREDIT, CREDIT_INITIAL, EXEC, EXEC_DATA,
                  INTERRUPTED, LOST, OUTPUT, PYTHON, QUEUE_MAX, STDERR, STDOUT, TIMED_OUT,
                  Agent, AgentError)


class QueueCase(unittest.TestCase):
    def setUp(self):
        self.agent = Agent()
        self.addCleanup(self.agent.close)

    def blocker(self):
        """An exec that runs until it is cancelled."""
        ident = self.agent.start("print('running'); import time; time.sleep(600)")
        self.assertEqual(self.agent.output(ident), (STDOUT, b"running\n"))
        return ident

    def release(self, ident):
        self.agent.send(CANCEL, ident)
        return self.agent.finish(ident)


class Order(QueueCase):
    def test_execs_run_one_after_the_other(self):
        ids = [self.agent.start("order = []" if i == 0 else "order.append(%d)" % i)
               for i in range(20)]
        for ident in ids:
            self.assertEqual(self.agent.finish(ident).exit_code, 0)
        self.assertEqual(self.agent.run("order").result, str(list(range(1, 20))))

    def test_python_and_bash_share_the_queue(self):
        blocker = self.blocker()
        a = self.agent.start("echo bash > step", BASH)
        b = self.agent.start("import os; open(os.path.expanduser('~/step')).read()")
        c = self.agent.start("rm step", BASH)
        self.release(blocker)
        self.assertEqual(self.agent.finish(a).exit_code, 0)
        self.assertEqual(self.agent.finish(b).result, "'bash\\n'")
        self.assertEqual(self.agent.finish(c).exit_code, 0)

    def test_waiting_time_is_reported(self):
        first = self.agent.start("import time; time.sleep(0.3)")
        second = self.agent.start("1")
        self.agent.finish(first)
        r = self.agent.finish(second)
        self.assertGreaterEqual(r.queue_ns, 2 * 10**8)
        self.assertLess(r.run_ns, r.queue_ns)

    def test_timeout_counts_from_the_start_of_running(self):
        first = self.agent.start("import time; time.sleep(0.5)")
        second = self.agent.start("2", timeout_ms=300)
        self.agent.finish(first)
        r = self.agent.finish(second)
        self.assertEqual((r.result, r.flags), ("2", 0))

    def test_incomplete_code_waits_for_its_end(self):
        ident = self.agent.request(EXEC, struct.pack("<IIQII", PYTHON, 0, 1 << 30, 5, 0))
        later = self.agent.start("'later'")
        self.agent.send(EXEC_DATA, ident, b"1 +")
        self.agent.ping()
        self.assertEqual(self.agent.stash, [])
        self.agent.send(EXEC_DATA, ident, b" 2")
        self.assertEqual(self.agent.finish(ident).result, "3")
        self.assertEqual(self.agent.finish(later).result, "'later'")


class Refusals(QueueCase):
    def test_too_many_waiting(self):
        blocker = self.blocker()
        ids = [self.agent.start("%d" % i) for i in range(QUEUE_MAX)]
        extra = self.agent.start("'too many'")
        with self.assertRaises(AgentError) as e:
            self.agent.finish(extra)
        self.assertEqual(e.exception.errno, 16)
        self.release(blocker)
        for i, ident in enumerate(ids):
            self.assertEqual(self.agent.finish(ident).result, str(i))
        self.assertEqual(self.agent.run("'again'").result, "'again'")

    def test_too_much_code_waiting(self):
        blocker = self.blocker()
        ids = [self.agent.start("#" * CODE_MAX) for _ in range(6)]
        for ident in ids[3:]:  # 16 MiB in all, and the running one counts
            with self.assertRaises(AgentError) as e:
                self.agent.finish(ident)
            self.assertEqual(e.exception.errno, 16)
        self.release(blocker)
        for ident in ids[:3]:
            self.assertEqual(self.agent.finish(ident).exit_code, 0)
        self.assertEqual(self.agent.run("1").result, "1")

    def test_code_too_long(self):
        ident = self.agent.request(EXEC, struct.pack("<IIQII", PYTHON, 0, 0, CODE_MAX + 1, 0))
        with self.assertRaises(AgentError) as e:
            self.agent.finish(ident)
        self.assertEqual(e.exception.errno, 22)

    def test_unknown_language(self):
        with self.assertRaises(AgentError):
            self.agent.run("1", language=3)


class Cancel(QueueCase):
    def test_running_python(self):
        self.agent.run("x = 'kept'")
        blocker = self.blocker()
        r = self.release(blocker)
        self.assertEqual((r.exit_code, r.flags), (130, CANCELLED | INTERRUPTED))
        self.assertEqual(self.agent.run("x").result, "'kept'")

    def test_python_that_does_not_stop(self):
        ident = self.agent.start("import signal, time\n"
                                 "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
                                 "print('deaf')\ntime.sleep(600)")
        self.agent.output(ident)
        r = self.release(ident)
        self.assertEqual((r.exit_code, r.flags), (137, CANCELLED | LOST))

    def test_waiting(self):
        blocker = self.blocker()
        waiting = self.agent.start("ran = 1")
        last = self.agent.start("'ran' in globals()")
        r = self.release(waiting)
        self.assertEqual((r.exit_code, r.flags, r.run_ns), (130, CANCELLED, 0))
        self.release(blocker)
        self.assertEqual(self.agent.finish(last).result, "False")

    def test_waiting_with_incomplete_code(self):
        blocker = self.blocker()
        ident = self.agent.request(EXEC, struct.pack("<IIQII", PYTHON, 0, 0, 100, 0))
        self.assertEqual(self.release(ident).flags, CANCELLED)
        self.agent.send(EXEC_DATA, ident, b"late piece")
        self.release(blocker)
        self.agent.ping()

    def test_finished_or_unknown(self):
        ident = self.agent.start("1")
        self.agent.finish(ident)
        self.agent.send(CANCEL, ident)
        self.agent.send(CANCEL, 99999)
        self.assertEqual(self.agent.run("2").result, "2")

    def test_twice(self):
        blocker = self.blocker()
        self.agent.send(CANCEL, blocker)
        self.assertEqual(self.release(blocker).exit_code, 130)
        self.assertEqual(self.agent.run("2").result, "2")

    def test_bash_group(self):
        ident = self.agent.start("sleep 600 & echo x; wait", BASH)
        self.agent.output(ident)
        r = self.release(ident)
        self.assertEqual((r.exit_code, r.flags), (143, CANCELLED))


class Credit(QueueCase):
    def collect_without_credit(self, ident):
        """Output that comes before the agent goes quiet."""
        self.agent.ping()  # whatever it was about to send came before
        data = b""
        while len(data) < CREDIT_INITIAL:
            payload = self.agent.reply(ident, OUTPUT)
            data += payload[16:]
        return data

    def check(self, code, language):
        ident = self.agent.start(code, language)
        data = self.collect_without_credit(ident)
        self.assertEqual(len(data), CREDIT_INITIAL)
        for _ in range(20):
            self.agent.ping()
        self.assertEqual(self.agent.stash, [])
        self.agent.send(CREDIT, ident, struct.pack("<I", 1000))
        self.assertEqual(len(self.agent.reply(ident, OUTPUT)) - 16, 1000)
        self.agent.send(CREDIT, ident, struct.pack("<I", 1 << 30))
        r = self.agent.finish(ident)
        self.assertEqual(len(r.stdout + r.result), 1000000 - CREDIT_INITIAL - 1000)
        self.assertEqual(r.exit_code, 0)

    def test_output_stops_without_credit(self):
        self.check("head -c 1000000 /dev/zero | tr '\\0' x", BASH)

    def test_python_output_stops_without_credit(self):
        self.check("import sys\nsys.stdout.write('x' * 1000000) and None", PYTHON)

    def test_result_stops_without_credit(self):
        self.check("'x' * (1000000 - 2)", PYTHON)

    def test_result_without_credit_does_not_time_out(self):
        ident = self.agent.start("'x' * 999998", timeout_ms=1000)
        self.collect_without_credit(ident)
        self.assertRaises(TimeoutError, self.agent.answer, ident, 1.5)
        self.agent.send(CREDIT, ident, struct.pack("<I", 1 << 30))
        r = self.agent.finish(ident)
        self.assertEqual((r.exit_code, r.flags), (0, 0))

    def test_timeout_while_blocked_on_credit(self):
        ident = self.agent.start("yes", BASH, timeout_ms=300)
        self.collect_without_credit(ident)
        self.agent.send(CREDIT, ident, struct.pack("<I", 1 << 30))
        r = self.agent.finish(ident)
        self.assertEqual((r.exit_code, r.flags), (124, TIMED_OUT))

    def test_other_requests_go_on_while_blocked(self):
        ident = self.agent.start("yes", BASH)
        self.collect_without_credit(ident)
        self.agent.upload("file", b"abc")
        self.assertEqual(self.agent.download("file")[0], b"abc")
        self.agent.send(CANCEL, ident)
        self.agent.send(CREDIT, ident, struct.pack("<I", 1 << 30))
        self.assertEqual(self.agent.finish(ident).exit_code, 143)

    def test_host_that_reads_late(self):
        """The agent waits for a host that does not read its socket."""
        ident = self.agent.start("import sys; sys.stderr.write('e' * 900000) and None")
        self.agent.send(CREDIT, ident, struct.pack("<I", 1 << 30))
        ids = [self.agent.request(26) for _ in range(50)]
        r = self.agent.finish(ident, credit=False)
        self.assertEqual(len(r.stderr), 900000)
        for i in ids:
            self.agent.reply(i, 64)


if __name__ == "__main__":
    unittest.main()
