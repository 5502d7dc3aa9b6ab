"""The Python interpreter of a sandbox: what survives, what is reported."""

import os
import sys
import textwrap
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from wire import (CUT, INTERRUPTED, LOST, RESULT, STDOUT, TIMED_OUT, Agent, alive,
                  wait_gone)


class ReplCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.agent = Agent()
        cls.addClassCleanup(cls.agent.close)

    def run_ok(self, code, **options):
        r = self.agent.run(code, **options)
        self.assertEqual((r.exit_code, r.flags, r.stderr), (0, 0, ""), r)
        return r


class State(ReplCase):
    def test_variables_survive(self):
        self.run_ok("kept = [1, 2]")
        self.assertEqual(self.run_ok("kept").result, "[1, 2]")

    def test_imports_and_functions_survive(self):
        self.run_ok("import json\ndef twice(v): return json.dumps(v) * 2")
        self.assertEqual(self.run_ok("twice([1])").result, "'[1][1]'")

    def test_open_files_survive(self):
        self.run_ok("import tempfile\nf = tempfile.TemporaryFile('w+')\nf.write('abc') and None")
        self.assertEqual(self.run_ok("f.seek(0); f.read()").result, "'abc'")

    def test_working_directory_survives(self):
        self.run_ok("import os; os.chdir('/usr')")
        self.assertEqual(self.run_ok("os.getcwd()").result, "'/usr'")

    def test_future_import_survives(self):
        self.run_ok("from __future__ import annotations")
        self.assertEqual(self.run_ok("def g(a: no_such): pass\ng.__annotations__").result,
                         "{'a': 'no_such'}")

    def test_main_module_is_the_namespace(self):
        self.run_ok("import sys, pickle\nclass Point: pass")
        self.assertEqual(self.run_ok("sys.modules['__main__'].Point is Point").result, "True")
        self.run_ok("pickle.loads(pickle.dumps(Point())) and None")

    def test_environment(self):
        r = self.run_ok("import os; [os.environ[k] for k in ('LANG', 'TERM', 'RAMET')]")
        self.assertEqual(r.result, "['C.UTF-8', 'dumb', '1']")
        self.assertEqual(self.run_ok("os.environ['HOME']").result, repr(self.agent.home.name))

    def test_starts_at_home(self):
        with Agent() as agent:
            self.assertEqual(agent.run("import os; os.getcwd()").result, repr(agent.home.name))


class Results(ReplCase):
    def test_trailing_expression(self):
        self.assertEqual(self.run_ok("x = 20\nx + 1").result, "21")

    def test_inner_expressions_are_not_shown(self):
        self.assertEqual(self.run_ok("1\n2\ny = 3").result, "")

    def test_none_is_not_shown(self):
        self.assertEqual(self.run_ok("None").result, "")

    def test_underscore_holds_the_last_value(self):
        self.run_ok("6 * 7")
        self.assertEqual(self.run_ok("_ + 1").result, "43")

    def test_result_follows_the_output(self):
        ident = self.agent.start("print('a'); 1")
        self.assertEqual(self.agent.output(ident), (STDOUT, b"a\n"))
        self.assertEqual(self.agent.output(ident), (RESULT, b"1"))
        self.agent.finish(ident)

    def test_displayhook_of_the_code_is_used(self):
        self.run_ok("import sys\nold = sys.displayhook\n"
                    "sys.displayhook = lambda v: print('shown', v)")
        self.assertEqual(self.run_ok("5").stdout, "shown 5\n")
        self.run_ok("sys.displayhook = old")
        self.assertEqual(self.run_ok("5").result, "5")

    def test_failing_repr(self):
        self.run_ok("class Bad:\n    def __repr__(self): raise ValueError('no repr')")
        r = self.agent.run("Bad()")
        self.assertEqual(r.exit_code, 1)
        self.assertIn("ValueError: no repr", r.stderr)
        self.assertNotIn("<ramet>", r.stderr)

    def test_large_result(self):
        self.assertEqual(self.run_ok("'ab' * 1000000").result, repr("ab" * 1000000))

    def test_surrogates_do_not_break_the_answer(self):
        self.assertEqual(self.run_ok("'\\udc80'").result, "'\\udc80'")

    def test_empty_code(self):
        for code in ("", "\n", "# only a comment\n", "   \n"):
            self.assertEqual(self.run_ok(code).result, "")

    def test_indented_block(self):
        code = """
            # a comment
            total = 0
            for i in range(4):
                total += i
            total
        """
        self.assertEqual(self.run_ok(code).result, "6")

    def test_inner_strings_of_unindented_code_are_kept(self):
        self.assertEqual(self.run_ok("s = '''\n    x\n  y'''\ns").result, repr("\n    x\n  y"))

    def test_top_level_await(self):
        self.run_ok("import asyncio\nasync def f(v):\n    await asyncio.sleep(0)\n    return v")
        self.assertEqual(self.run_ok("z = await f(2)\nawait f(z + 1)").result, "3")

    def test_asyncio_run_after_await(self):
        self.run_ok("import asyncio\nawait asyncio.sleep(0)")
        self.assertEqual(self.run_ok("asyncio.run(asyncio.sleep(0, 'v'))").result, "'v'")

    def test_code_in_pieces(self):
        code = "big = '" + "x" * 3_000_000 + "'\nlen(big)"
        self.assertEqual(self.run_ok(code).result, "3000000")


class Failures(ReplCase):
    def test_exception(self):
        self.run_ok("alive = 1")
        r = self.agent.run("def f():\n    return 1 / 0\n\nf()")
        self.assertEqual((r.exit_code, r.flags, r.stdout), (1, 0, ""))
        lines = r.stderr.splitlines()
        self.assertEqual(lines[0], "Traceback (most recent call last):")
        self.assertEqual(lines[-1], "ZeroDivisionError: division by zero")
        self.assertIn("    return 1 / 0", lines)
        self.assertEqual(r.stderr.count("  File "), 2)
        self.assertNotIn("<ramet>", r.stderr)
        self.assertEqual(self.run_ok("alive").result, "1")

    def test_traceback_shows_lines_of_earlier_snippets(self):
        self.run_ok("def thrower():\n    raise KeyError('here')  # marker")
        self.assertIn("# marker", self.agent.run("thrower()").stderr)

    def test_chained_exceptions(self):
        r = self.agent.run("try:\n    1/0\nexcept ZeroDivisionError as e:\n"
                           "    raise RuntimeError('outer') from e")
        self.assertIn("direct cause", r.stderr)
        self.assertNotIn("<ramet>", r.stderr)

    def test_syntax_error(self):
        r = self.agent.run("x = 1\ny = = 2")
        self.assertEqual(r.exit_code, 1)
        self.assertIn("line 2", r.stderr)
        self.assertIn("SyntaxError: invalid syntax", r.stderr)
        self.assertNotIn("Traceback", r.stderr)

    def test_nothing_runs_after_a_syntax_error(self):
        self.agent.run("ran = True\n)")
        self.assertEqual(self.run_ok("'ran' in globals()").result, "False")

    def test_code_that_is_not_utf8(self):
        r = self.agent.run(b"x = '\xff'")
        self.assertEqual(r.exit_code, 1)
        self.assertIn("UnicodeDecodeError", r.stderr)

    def test_nul_byte(self):
        self.assertEqual(self.agent.run("x = 1\0").exit_code, 1)

    def test_exit_codes(self):
        for code, expected in (("sys.exit()", 0), ("sys.exit(0)", 0), ("sys.exit(7)", 7),
                               ("sys.exit(256 + 3)", 3), ("sys.exit(-1)", 255),
                               ("raise SystemExit(2)", 2), ("exit(5)", 5), ("quit()", 0)):
            r = self.agent.run("import sys\n" + code)
            self.assertEqual((r.exit_code, r.flags, r.stderr), (expected, 0, ""), code)

    def test_exit_with_a_message(self):
        r = self.agent.run("import sys; sys.exit('goodbye')")
        self.assertEqual((r.exit_code, r.stderr), (1, "goodbye\n"))

    def test_interpreter_lives_after_exit(self):
        self.run_ok("v = 'still here'")
        self.agent.run("exit()")
        self.assertEqual(self.run_ok("v").result, "'still here'")

    def test_input_sees_end_of_file(self):
        self.assertIn("EOFError", self.agent.run("input()").stderr)

    def test_input_after_exit_closed_stdin(self):
        self.agent.run("exit()")
        self.assertIn("EOFError", self.agent.run("input()").stderr)

    def test_recursion_error(self):
        r = self.agent.run("def f(): f()\nf()")
        self.assertEqual(r.exit_code, 1)
        self.assertIn("RecursionError", r.stderr)

    def test_exception_that_cannot_be_printed(self):
        r = self.agent.run("class E(Exception):\n    def __str__(self): raise E()\nraise E()")
        self.assertEqual(r.exit_code, 1)
        self.assertIn("E", r.stderr)

    def test_keyboard_interrupt_raised_by_the_code(self):
        r = self.agent.run("raise KeyboardInterrupt")
        self.assertEqual((r.exit_code, r.flags), (130, INTERRUPTED))


class Output(ReplCase):
    def test_streams_are_kept_apart(self):
        r = self.run_ok_with_stderr("import sys\nprint('o')\nprint('e', file=sys.stderr)")
        self.assertEqual((r.stdout, r.stderr), ("o\n", "e\n"))

    def run_ok_with_stderr(self, code):
        r = self.agent.run(code)
        self.assertEqual((r.exit_code, r.flags), (0, 0), r)
        return r

    def test_streams_as_it_is_written(self):
        ident = self.agent.start("import time\nprint('first')\ntime.sleep(60)")
        self.assertEqual(self.agent.output(ident, 20), (STDOUT, b"first\n"))
        self.agent.send(19, ident)
        self.agent.finish(ident)

    def test_partial_line_at_the_end(self):
        self.assertEqual(self.run_ok("print('no newline', end='')").stdout, "no newline")
        self.assertEqual(self.run_ok("(lambda: print('x', end=''))()").stdout, "x")

    def test_raw_writes_and_children_in_order(self):
        r = self.run_ok("import os, subprocess\nprint('1')\nos.write(1, b'2\\n')\n"
                        "subprocess.run(['echo', '3'])\nos.system('echo 4')\nprint('5')")
        self.assertEqual(r.stdout, "1\n2\n3\n4\n5\n")

    def test_large_output_is_complete(self):
        r = self.run_ok("import sys\nfor i in range(100000): sys.stdout.write('%06d\\n' % i)")
        self.assertEqual(r.stdout, "".join("%06d\n" % i for i in range(100000)))

    def test_output_is_cut_at_the_limit(self):
        r = self.agent.run("done = 0\nfor i in range(3000): print('x' * 99)\ndone = 1",
                           limit=1000)
        self.assertEqual(len(r.stdout), 1000)
        self.assertEqual((r.exit_code, r.flags, r.dropped), (0, CUT, 299000))
        self.assertEqual(r.notice.count("output cut"), 1)
        self.assertEqual(self.run_ok("done").result, "1")

    def test_output_of_exactly_the_limit_is_not_cut(self):
        r = self.run_ok("print('x' * 99)", limit=100)
        self.assertEqual((len(r.stdout), r.notice), (100, ""))

    def test_limit_zero(self):
        r = self.agent.run("print('x'); 5", limit=0)
        self.assertEqual((r.stdout, r.result, r.flags, r.dropped), ("", "", CUT, 3))

    def test_result_is_cut_at_the_limit(self):
        r = self.agent.run("'x' * 1000000", limit=500)
        self.assertEqual((len(r.result), r.flags, r.dropped), (500, CUT, 999502))

    def test_times_do_not_go_back(self):
        r = self.run_ok("for i in range(50): print(i)")
        self.assertEqual(r.times, sorted(r.times))
        self.assertLessEqual(r.times[-1], r.run_ns + 10**9)

    def test_output_of_threads_goes_to_the_next_call(self):
        self.run_ok("import threading\ngo = threading.Event()\n"
                    "def late():\n    go.wait()\n    print('from the thread')\n"
                    "t = threading.Thread(target=late); t.start()")
        self.assertEqual(self.run_ok("go.set(); t.join()").stdout, "from the thread\n")

    def test_output_between_calls_is_kept_up_to_a_bound(self):
        with Agent() as agent:
            agent.run("import subprocess\n"
                      "p = subprocess.Popen('head -c 200000 /dev/zero | tr \"\\\\0\" y; "
                      "echo done >&2', shell=True)")
            # The child ends only when the agent has taken all of it.
            pid = int(agent.run("p.pid").result)
            wait_gone(pid) if alive(pid) else None
            deadline = time.monotonic() + 20
            out, notice, err = "", "", ""
            while "done" not in err and time.monotonic() < deadline:
                r = agent.run("_ = p.poll()")
                out, notice, err = out + r.stdout, notice + r.notice, err + r.stderr
            self.assertEqual(err, "done\n")
            self.assertEqual(set(out), {"y"})
            if len(out) < 200000:
                self.assertIn("dropped", notice)


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
