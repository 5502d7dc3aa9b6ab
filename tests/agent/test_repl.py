"""The Python interpreter of a sandbox: what survives, what is reported."""

import os
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cases import AgentCase
from wire import CUT, INTERRUPTED, RESULT, STDOUT, Agent, alive, wait_gone


class ReplCase(AgentCase):
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


if __name__ == "__main__":
    unittest.main()
