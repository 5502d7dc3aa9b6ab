"""The Python interpreter of a sandbox: accidents, deaths and timeouts."""

import os
import sys
import textwrap
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from test_repl import ReplCase
from wire import INTERRUPTED, LOST, TIMED_OUT, Agent, wait_gone


class Robustness(ReplCase):
    """Accidents of the code that must not reach the driver."""

    def setUp(self):
        self.run_ok("survivor = 'alive'")

    def check(self):
        r = self.run_ok("print('out'); survivor")
        self.assertEqual((r.stdout, r.result), ("out\n", "'alive'"))

    def test_closed_descriptors(self):
        self.agent.run("import os\nfor fd in (0, 1, 2): os.close(fd)")
        self.check()
        r = self.agent.run("import sys; print('err', file=sys.stderr)")
        self.assertEqual(r.stderr, "err\n")
        self.assertIn("EOFError", self.agent.run("input()").stderr)

    def test_closed_low_descriptor_range(self):
        self.agent.run("import os; os.closerange(0, 256)")
        self.check()

    def test_redirected_descriptor(self):
        self.agent.run("import os\nfd = os.open('/dev/null', os.O_WRONLY)\nos.dup2(fd, 1)")
        self.check()

    def test_closed_stdout_object(self):
        self.agent.run("import sys\nsys.stdout.close()")
        self.check()

    def test_deleted_stdout(self):
        self.agent.run("import sys\ndel sys.stdout, sys.stderr")
        self.check()

    def test_replaced_stdout_stays_replaced(self):
        self.run_ok("import io, sys\nsys.stdout = io.StringIO()\nprint('captured')")
        r = self.run_ok("text = sys.stdout.getvalue()\nsys.stdout = sys.__stdout__\ntext")
        self.assertEqual((r.stdout, r.result), ("", "'captured\\n'"))
        self.check()

    def test_traceback_in_spite_of_replaced_stderr(self):
        self.run_ok("import io, sys\nsys.stderr = io.StringIO()")
        self.assertIn("ZeroDivisionError", self.agent.run("1/0").stderr)
        self.run_ok("sys.stderr = sys.__stderr__")

    def test_deleted_builtins(self):
        self.agent.run("del globals()['__builtins__']")
        self.check()

    def test_cleared_globals(self):
        self.agent.run("globals().clear()")
        r = self.run_ok("print('x'); __name__")
        self.assertEqual((r.stdout, r.result), ("x\n", "'__main__'"))

    def test_damaged_builtins_module(self):
        self.agent.run("import builtins as b\nkept = {n: getattr(b, n) for n in "
                       "('len', 'repr', 'isinstance', 'getattr', 'compile', 'eval')}\n"
                       "for n in kept: setattr(b, n, None)")
        self.assertEqual(self.run_ok("1 + 1").result, "2")
        self.run_ok("for n, v in kept.items(): b.__dict__[n] = v")
        self.check()

    def test_damaged_os_module(self):
        self.run_ok("import os\nsaved = os.read, os.write\nos.read = os.write = None")
        self.check()
        self.run_ok("os.read, os.write = saved")

    def test_fork_that_falls_off_the_end(self):
        r = self.run_ok("import os\npid = os.fork()\nif pid:\n    status = os.waitpid(pid, 0)[1]\n"
                        "else:\n    print('child')\n")
        self.assertEqual(r.stdout, "child\n")
        self.assertEqual(self.run_ok("status").result, "0")
        self.check()

    def test_fork_with_a_trailing_expression_in_the_child(self):
        r = self.run_ok("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\npid > 0")
        self.assertEqual(r.result, "True")
        self.check()

    def test_fork_that_raises_and_exits(self):
        r = self.agent.run("import os, sys\npid = os.fork()\nif not pid: sys.exit(9)\n"
                           "a = os.waitpid(pid, 0)[1] >> 8\npid = os.fork()\n"
                           "if not pid: 1/0\nb = os.waitpid(pid, 0)[1] >> 8\n(a, b)")
        self.assertEqual((r.exit_code, r.result), (0, "(9, 1)"))
        self.assertIn("ZeroDivisionError", r.stderr)
        self.check()

    def test_fork_by_c_code(self):
        self.run_ok("import ctypes, os\npid = ctypes.CDLL(None).fork()\n"
                    "if pid: os.waitpid(pid, 0)")
        self.check()

    def test_multiprocessing(self):
        self.run_ok("import multiprocessing as mp\ndef square(v): return v * v")
        r = self.run_ok("with mp.get_context('fork').Pool(2) as p: r = p.map(square, [1, 2, 3])\nr")
        self.assertEqual(r.result, "[1, 4, 9]")
        self.check()

    def test_concurrent_futures(self):
        r = self.run_ok("import concurrent.futures as cf\n"
                        "with cf.ThreadPoolExecutor(3) as e: r = list(e.map(len, ['a', 'bb']))\nr")
        self.assertEqual(r.result, "[1, 2]")

    def test_child_that_outlives_the_call(self):
        ident = self.agent.start("import subprocess\np = subprocess.Popen(['sleep', '300'])")
        r = self.agent.finish(ident, 20)
        self.assertEqual(r.exit_code, 0)
        self.run_ok("p.kill(); _ = p.wait()")
        self.check()

    def test_ignored_interrupt_handler_is_the_codes_own(self):
        self.run_ok("import signal\nold = signal.signal(signal.SIGINT, signal.default_int_handler)")
        r = self.agent.run("while True: pass", timeout_ms=100)
        self.assertEqual((r.exit_code, r.flags), (124, TIMED_OUT | INTERRUPTED))
        self.run_ok("signal.signal(signal.SIGINT, old) and None")
        self.check()


class Death(unittest.TestCase):
    def setUp(self):
        self.agent = Agent()
        self.addCleanup(self.agent.close)

    def check_restarted(self, r, code):
        self.assertEqual((r.exit_code, r.flags), (code, LOST), r)
        after = self.agent.run("'x' in globals()")
        self.assertEqual((after.result, after.flags), ("False", 0))

    def test_os_exit(self):
        self.agent.run("x = 1")
        r = self.agent.run("print('last words', flush=True)\nimport os; os._exit(9)")
        self.assertEqual(r.stdout, "last words\n")
        self.check_restarted(r, 9)

    def test_killed(self):
        self.agent.run("x = 1")
        self.check_restarted(self.agent.run("import os; os.kill(os.getpid(), 9)"), 137)

    def test_crash(self):
        self.agent.run("x = 1")
        r = self.agent.run("import ctypes; ctypes.string_at(0)")
        self.check_restarted(r, 139)

    def test_output_before_death_is_complete(self):
        r = self.agent.run("import os, sys\nsys.stdout.write('y' * 300000); sys.stdout.flush()\n"
                           "os._exit(3)")
        self.assertEqual((len(r.stdout), r.exit_code), (300000, 3))

    def test_death_between_calls_is_told_to_the_next(self):
        pid = int(self.agent.run("import os, threading\nx = 1\ngo = threading.Event()\n"
                                 "threading.Thread(target=lambda: (go.wait(0.05), os._exit(1)))"
                                 ".start()\nos.getpid()").result)
        wait_gone(pid)
        r = self.agent.run("1")
        self.assertEqual((r.result, r.flags), ("1", LOST))
        self.assertEqual(self.agent.run("1").flags, 0)

    def test_children_of_a_dead_interpreter_are_killed(self):
        r = self.agent.run("import os, subprocess\nprint(subprocess.Popen(['sleep', '300']).pid)\n"
                           "os._exit(1)")
        wait_gone(int(r.stdout))

    def test_closing_the_drivers_descriptors_costs_the_state_only(self):
        r = self.agent.run("x = 1\nimport os\nos.closerange(3, 4096)\nprint('ran')")
        self.assertEqual(r.stdout, "ran\n")
        self.assertEqual(r.flags, LOST)
        self.assertEqual(self.agent.run("2 + 2").result, "4")

    def test_writing_to_the_drivers_socket_costs_the_state_only(self):
        r = self.agent.run("import os, time\nos.write(1021, b'garbage ' * 4)\ntime.sleep(60)")
        self.assertEqual((r.exit_code, r.flags), (137, LOST))
        self.assertEqual(self.agent.run("2 + 2").result, "4")

    def test_many_deaths(self):
        for _ in range(10):
            self.assertEqual(self.agent.run("import os; os._exit(0)").flags, LOST)
        self.assertEqual(self.agent.run("3").result, "3")


class Timeouts(ReplCase):
    def test_endless_loop_is_interrupted_and_state_kept(self):
        self.run_ok("x = 'kept'")
        r = self.agent.run("while True: pass", timeout_ms=150)
        self.assertEqual((r.exit_code, r.flags), (124, TIMED_OUT | INTERRUPTED))
        self.assertIn("KeyboardInterrupt", r.stderr)
        self.assertNotIn("<ramet>", r.stderr)
        self.assertEqual(self.run_ok("x").result, "'kept'")

    def test_sleep_is_interrupted(self):
        begin = time.monotonic()
        r = self.agent.run("import time; time.sleep(60)", timeout_ms=150)
        self.assertEqual((r.exit_code, r.flags), (124, TIMED_OUT | INTERRUPTED))
        self.assertLess(time.monotonic() - begin, 20)

    def test_code_that_cleans_up_after_the_interrupt(self):
        r = self.agent.run(textwrap.dedent("""
            import time
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                print('cleaned up')
        """), timeout_ms=150)
        self.assertEqual(r.stdout, "cleaned up\n")
        self.assertEqual((r.exit_code, r.flags), (124, TIMED_OUT | INTERRUPTED))

    def test_await_is_interrupted(self):
        r = self.agent.run("import asyncio\nawait asyncio.sleep(60)", timeout_ms=300)
        self.assertEqual((r.exit_code, r.flags), (124, TIMED_OUT | INTERRUPTED))
        self.assertEqual(self.run_ok("await asyncio.sleep(0, 5)").result, "5")

    def test_waiting_for_a_child_is_interrupted(self):
        r = self.agent.run("import subprocess; subprocess.run(['sleep', '60'])", timeout_ms=150)
        self.assertEqual((r.exit_code, r.flags), (124, TIMED_OUT | INTERRUPTED))

    def test_os_system_is_interrupted(self):
        r = self.agent.run("import os; os.system('sleep 60')", timeout_ms=150)
        self.assertEqual((r.exit_code, r.flags), (124, TIMED_OUT | INTERRUPTED))

    def test_code_that_ignores_the_interrupt_loses_the_interpreter(self):
        with Agent() as agent:
            agent.run("x = 1")
            r = agent.run("import time\nwhile True:\n    try:\n        time.sleep(60)\n"
                          "    except KeyboardInterrupt: pass", timeout_ms=100)
            self.assertEqual((r.exit_code, r.flags), (124, TIMED_OUT | LOST))
            self.assertGreaterEqual(r.run_ns, 2 * 10**9)
            self.assertEqual(agent.run("'x' in globals()").result, "False")

    def test_blocked_signal_loses_the_interpreter(self):
        with Agent() as agent:
            r = agent.run("import signal, time\n"
                          "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
                          "time.sleep(60)", timeout_ms=100)
            self.assertEqual((r.exit_code, r.flags), (124, TIMED_OUT | LOST))

    def test_no_timeout_for_code_in_time(self):
        self.assertEqual(self.run_ok("1", timeout_ms=20000).result, "1")

    def test_interrupts_do_not_leak_into_later_calls(self):
        """Timeouts that fall on the very end of calls hurt nobody."""
        for i in range(40):
            self.agent.run("import time; time.sleep(0.0%02d)" % (18 + i % 5), timeout_ms=20)
            r = self.agent.run("'fine'")
            self.assertEqual((r.result, r.exit_code, r.flags, r.stderr), ("'fine'", 0, 0, ""))


if __name__ == "__main__":
    unittest.main()
