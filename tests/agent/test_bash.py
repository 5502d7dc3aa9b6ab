"""bash execs: fresh processes, exit codes, signals, background processes."""

import os
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cases import AgentCase
from wire import BASH, CANCEL, CANCELLED, CUT, STDOUT, TIMED_OUT, AgentError, alive, wait_gone


class BashCase(AgentCase):
    def bash(self, code, **options):
        return self.agent.bash(code, **options)

    def test_output_and_exit_code(self):
        r = self.bash("echo out; echo err >&2; exit 5")
        self.assertEqual((r.stdout, r.stderr, r.exit_code, r.flags), ("out\n", "err\n", 5, 0))

    def test_exit_code_of_the_last_command(self):
        self.assertEqual(self.bash("true\nfalse").exit_code, 1)
        self.assertEqual(self.bash("").exit_code, 0)

    def test_each_call_is_a_fresh_process(self):
        self.bash("x=1; cd /usr")
        self.assertEqual(self.bash("echo \"[$x] $PWD\"").stdout,
                         "[] %s\n" % self.agent.home.name)

    def test_files_survive(self):
        self.bash("echo kept > file")
        self.assertEqual(self.bash("cat ~/file").stdout, "kept\n")

    def test_death_by_signal(self):
        self.assertEqual(self.bash("kill -9 $$").exit_code, 137)
        self.assertEqual(self.bash("kill -TERM $$").exit_code, 143)

    def test_signal_of_a_replaced_shell(self):
        self.assertEqual(self.bash("exec sh -c 'kill -SEGV $$'").exit_code, 139)

    def test_unknown_command(self):
        r = self.bash("no-such-command-here")
        self.assertEqual(r.exit_code, 127)
        self.assertIn("bash: line 1: no-such-command-here: command not found", r.stderr)

    def test_syntax_error(self):
        r = self.bash("echo before\nif then")
        self.assertEqual((r.exit_code, r.stdout), (2, "before\n"))
        self.assertIn("syntax error", r.stderr)

    def test_stdin_is_empty(self):
        r = self.bash("read x; echo $?; cat | wc -c")
        self.assertEqual(r.stdout, "1\n0\n")

    def test_environment(self):
        r = self.bash('echo $RAMET $LANG $TERM $HOME $0; env | grep ^RAMET_')
        self.assertEqual(r.stdout, "1 C.UTF-8 dumb %s bash\nRAMET_RUN_DIR=%s\n"
                         % (self.agent.home.name, self.agent.run_dir))

    def test_no_descriptors_leak_in(self):
        r = self.bash("ls /proc/self/fd | wc -l")
        self.assertEqual(r.stdout, "4\n")  # 0, 1, 2 and the directory itself

    def test_signals_are_default(self):
        r = self.bash("grep -E 'Sig(Blk|Ign)' /proc/self/status; :")
        internal = 3 << 31  # two signals of the C library, which nobody may touch
        blocked, ignored = (int(v, 16) & ~internal for v in r.stdout.split()[1::2])
        self.assertEqual((blocked, ignored), (0, 0))

    def test_own_session(self):
        r = self.bash("ps -o pid=,pgid=,sid= -p $$; :")
        self.assertEqual(len(set(r.stdout.split())), 1, r.stdout)

    def test_long_code(self):
        r = self.bash("".join("x=%d\n" % i for i in range(200000)) + "echo $x $0; exit 3")
        self.assertEqual((r.stdout, r.exit_code), ("199999 bash\n", 3))

    def test_code_with_a_nul_byte_is_refused(self):
        with self.assertRaises(AgentError) as e:
            self.bash(b"echo a\0b")
        self.assertIn("NUL", str(e.exception))
        self.assertEqual(self.bash("echo fine").stdout, "fine\n")

    def test_streams_as_it_is_written(self):
        ident = self.agent.start("echo first; sleep 300", BASH)
        self.assertEqual(self.agent.output(ident, 20), (STDOUT, b"first\n"))
        self.agent.send(CANCEL, ident)
        r = self.agent.finish(ident)
        self.assertEqual((r.exit_code, r.flags), (143, CANCELLED))

    def test_large_output_is_complete(self):
        r = self.bash("seq 1 200000")
        self.assertEqual(r.stdout, "".join("%d\n" % i for i in range(1, 200001)))

    def test_output_is_cut_at_the_limit(self):
        r = self.bash("yes | head -c 5000000; echo end >&2; exit 6", limit=10000)
        self.assertEqual((len(r.stdout), r.stderr, r.exit_code), (10000, "", 6))
        self.assertEqual((r.flags, r.dropped), (CUT, 4990004))
        self.assertEqual(r.notice.count("\n"), 1)

    def test_background_process_survives_and_does_not_hold_the_call(self):
        begin = time.monotonic()
        r = self.bash("sleep 300 & echo $!")
        self.assertLess(time.monotonic() - begin, 60)
        pid = int(r.stdout)
        self.assertTrue(alive(pid))
        self.bash("kill -9 %d" % pid)
        wait_gone(pid)

    def test_output_after_the_call_is_discarded_not_refused(self):
        self.bash("rm -f go went; (until [ -e go ]; do sleep 0.01; done; "
                  "echo late || exit; echo late >&2 || exit; echo yes > went) & :")
        r = self.bash("touch go; until [ -s went ]; do sleep 0.01; done; cat went",
                      timeout_ms=20000)
        self.assertEqual((r.stdout, r.exit_code), ("yes\n", 0))

    def test_background_process_that_floods_does_not_hold_the_call(self):
        r = self.bash("yes & echo $! >&2")
        self.assertEqual(r.exit_code, 0)
        self.agent.ping()
        self.bash("kill -9 %d" % int(r.stderr))

    def test_many_background_processes(self):
        pids = [int(self.bash("sleep 300 & echo $!").stdout) for _ in range(80)]
        self.assertTrue(all(alive(pid) for pid in pids))
        self.assertEqual(self.bash("kill -9 %s" % " ".join(map(str, pids))).exit_code, 0)
        for pid in pids:
            wait_gone(pid)

    def test_timeout(self):
        r = self.bash("echo begun; sleep 300", timeout_ms=200)
        self.assertEqual((r.stdout, r.exit_code, r.flags), ("begun\n", 124, TIMED_OUT))
        self.assertLess(r.run_ns, 2 * 10**9)

    def test_timeout_kills_the_whole_group(self):
        r = self.bash("sleep 300 & echo $!; (trap '' TERM; echo $BASHPID; "
                      "while :; do sleep 1; done) & wait", timeout_ms=300)
        self.assertEqual(r.exit_code, 124)
        for pid in r.stdout.split():
            wait_gone(int(pid))

    def test_timeout_of_a_shell_that_ignores_sigterm(self):
        r = self.bash("trap '' TERM INT; while :; do sleep 0.1; done", timeout_ms=100)
        self.assertEqual((r.exit_code, r.flags), (124, TIMED_OUT))
        self.assertGreaterEqual(r.run_ns, 2 * 10**9)

    def test_output_at_a_timeout_is_complete(self):
        r = self.bash("trap 'echo bye; exit 0' TERM; echo hi; while :; do sleep 0.05; done",
                      timeout_ms=200)
        self.assertEqual((r.stdout, r.exit_code, r.flags), ("hi\nbye\n", 124, TIMED_OUT))

    def test_orphans_are_reaped(self):
        self.bash("for i in 1 2 3 4 5; do (setsid sh -c 'sh -c : & sh -c : &' &); done; :")
        r = self.bash("for i in $(seq 100); do "
                      "n=$(ps --ppid $PPID -o stat= | grep -c ^Z); [ $n = 0 ] && break; "
                      "sleep 0.05; done; echo $n")
        self.assertEqual(r.stdout, "0\n")

    def test_python_sees_the_same_files(self):
        self.bash("echo shared > shared.txt")
        r = self.agent.run("import os; open(os.path.expanduser('~/shared.txt')).read()")
        self.assertEqual(r.result, "'shared\\n'")

    def test_bash_does_not_touch_the_interpreter(self):
        self.agent.run("v = 11")
        self.bash("exit 1")
        self.assertEqual(self.agent.run("v").result, "11")


if __name__ == "__main__":
    unittest.main()
