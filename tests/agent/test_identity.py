"""MSG_RESEED: a copied guest becomes one of its own, Python included."""

import os
import random
import signal
import struct
import subprocess
import sys
import time
import unittest
import uuid

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from wire import (BASH, ERROR, EXIT, OK, OUTPUT, RESEED, Agent, Closed)

PYTHON_TOO, TOKEN, FORK = 1, 2, 4
FIRST = repr(random.Random(1).random())


class IdentityCase(unittest.TestCase):
    def setUp(self):
        self.agent = Agent()
        self.addCleanup(self.agent.close)

    def value(self, code):
        r = self.agent.run(code)
        self.assertEqual(r.exit_code, 0, r.stderr)
        return r.result

    def start(self, code):
        """Starts code that prints something first; returns when it has."""
        ident = self.agent.start(code)
        self.agent.output(ident)
        return ident

    def python_pid(self):
        return int(subprocess.check_output(["pgrep", "-P", str(self.agent.process.pid)]))


class Files(IdentityCase):
    def read(self, name):
        with open(os.path.join(self.agent.run_dir, name)) as f:
            return f.read()

    def test_generation_is_kept(self):
        for _ in range(2):
            generation = uuid.uuid4()
            self.agent.reseed(generation.bytes, b"child-1", os.urandom(64))
            self.assertEqual(self.read("generation"), "%s\n" % generation)

    def test_token_is_roots_alone(self):
        self.agent.reseed(flags=TOKEN, token=bytes(range(16)))
        self.assertEqual(self.read("token"), bytes(range(16)).hex() + "\n")
        self.assertEqual(os.stat(os.path.join(self.agent.run_dir, "token")).st_mode & 0o777, 0o600)

    def test_files_are_changed_in_place(self):
        self.agent.reseed(flags=TOKEN, token=bytes(16))
        with open(os.path.join(self.agent.run_dir, "token")) as f:
            before = os.fstat(f.fileno()).st_ino
            self.agent.reseed(flags=TOKEN, token=bytes(range(16)))
            self.assertEqual(f.read(), bytes(range(16)).hex() + "\n")
        self.assertEqual(os.stat(os.path.join(self.agent.run_dir, "token")).st_ino, before)

    def test_a_file_that_was_cut_or_replaced_is_made_again(self):
        path = os.path.join(self.agent.run_dir, "generation")
        self.agent.reseed()
        os.truncate(path, 3)
        generation = uuid.uuid4()
        self.agent.reseed(generation.bytes)
        self.assertEqual(self.read("generation"), "%s\n" % generation)
        with open(path + ".mine", "w") as f:
            f.write("x" * 37)
        os.rename(path + ".mine", path)
        self.agent.reseed(generation.bytes)
        self.assertEqual(self.read("generation"), "%s\n" % generation)

    def test_leftovers_and_a_lost_directory_do_not_matter(self):
        self.agent.reseed()
        with open(os.path.join(self.agent.run_dir, "generation.new"), "w") as f:
            f.write("left by a write that was cut short")
        generation = uuid.uuid4()
        self.agent.reseed(generation.bytes)
        self.assertEqual(self.read("generation"), "%s\n" % generation)
        for name in os.listdir(self.agent.run_dir):
            os.unlink(os.path.join(self.agent.run_dir, name))
        os.rmdir(self.agent.run_dir)
        self.agent.reseed(generation.bytes)
        self.assertEqual(os.listdir(self.agent.run_dir), ["generation"])

    def test_fork_without_number_is_refused(self):
        with self.assertRaises(Closed):
            self.agent.reseed(flags=FORK)

    def test_longest_name_and_entropy(self):
        self.agent.reseed(hostname=b"h" * 64, entropy=os.urandom(512))


class Python(IdentityCase):
    def test_random_is_reseeded(self):
        draws = set()
        for _ in range(4):
            self.agent.run("import random; random.seed(1)")
            self.agent.reseed(entropy=os.urandom(32), flags=PYTHON_TOO)
            draws.add(self.value("random.random()"))
        self.assertEqual(len(draws | {FIRST}), 5)

    def test_without_the_flag_python_is_left_alone(self):
        """As when a merged sandbox gets its new name."""
        self.agent.run("import random, ramet_fork; random.seed(1); seen = []\n"
                       "ramet_fork.register(seen.append)")
        self.agent.reseed(hostname=b"other")
        self.assertEqual(self.value("random.random()"), FIRST)
        self.assertEqual(self.value("seen, ramet_fork.index, ramet_fork.generation"),
                         "([], None, None)")

    def test_a_child_that_keeps_random(self):
        self.agent.run("import random, _ssl, uuid; random.seed(1); added = []\n"
                       "_ssl.RAND_add = lambda data, entropy: added.append(len(data))\n"
                       "node = uuid.uuid1().node")
        self.agent.run("added.clear()")  # it has been tried out after the import
        self.agent.reseed(flags=FORK, fork_number=1)
        self.assertEqual(self.value("random.random()"), FIRST)
        self.assertEqual(self.value("added"), "[32]")
        self.assertEqual(self.value("uuid.uuid1().node == node"), "False")

    def test_openssl_is_reseeded(self):
        self.agent.run("import _ssl; added = []; add = _ssl.RAND_add\n"
                       "_ssl.RAND_add = lambda *a: (added.append(len(a[0])), add(*a))")
        self.agent.run("added.clear()")  # it has been tried out after the import
        self.agent.reseed(flags=PYTHON_TOO)
        self.assertEqual(self.value("added"), "[32]")

    def test_uuid1_has_another_node(self):
        self.agent.run("import uuid; before = uuid.uuid1()")
        self.agent.reseed(flags=PYTHON_TOO)
        self.assertEqual(self.value("after = uuid.uuid1(); (after.node != before.node, "
                                    "after.node >> 40 & 1, uuid.uuid1().node == after.node)"),
                         "(True, 1, True)")

    def test_temporary_names_start_anew(self):
        self.agent.run("import tempfile; names = tempfile._get_candidate_names(); next(names)\n"
                       "old = names.rng")
        self.agent.reseed(flags=PYTHON_TOO)
        self.assertEqual(self.value("names.rng is old"), "False")

    def test_numpy_and_torch_stand_ins(self):
        """Neither is needed to see that its seed function is called."""
        self.agent.run("import sys, types\nm = types.ModuleType('numpy.random')\nseeds = []\n"
                       "m.seed = m.manual_seed = seeds.append\n"
                       "sys.modules['numpy.random'] = sys.modules['torch'] = m")
        self.agent.reseed(flags=PYTHON_TOO)
        self.assertEqual(self.value("len(seeds), len(seeds[0]), type(seeds[1])"),
                         "(2, 16, <class 'int'>)")

    def test_cryptography_stand_ins(self):
        self.agent.run("import sys, types\nadded = []\nbound = types.SimpleNamespace(\n"
                       "    lib=types.SimpleNamespace(\n"
                       "        RAND_add=lambda *a: added.append(len(a[0]))),\n"
                       "    ffi=types.SimpleNamespace(from_buffer=bytes))\n"
                       "base = 'cryptography.hazmat.bindings.'\n"
                       "sys.modules[base + '_openssl'] = bound\n"
                       "sys.modules[base + '_rust'] = types.SimpleNamespace(_openssl=bound)")
        self.agent.run("added.clear()")  # it has been tried out after the import
        self.agent.reseed(flags=PYTHON_TOO)
        self.assertEqual(self.value("added"), "[32, 32]")

    def test_debians_cryptography(self):
        code = ("from cryptography.hazmat.bindings import _openssl\n"
                "_openssl.lib.RAND_add is not None")
        if self.agent.run(code).result != "True":
            self.skipTest("python3-cryptography of Debian 12 is not installed")
        self.agent.reseed(flags=PYTHON_TOO)
        self.assertEqual(self.value("_openssl.lib.RAND_status()"), "1")

    def test_modules_replaced_by_something_else(self):
        self.agent.run("import sys\nfor name in ('random', '_ssl', 'uuid', 'tempfile', 'torch'):\n"
                       "    sys.modules[name] = object()")
        self.agent.reseed(flags=PYTHON_TOO)
        self.assertEqual(self.value("1"), "1")

    def test_half_a_pair_of_gauss_is_not_left_over(self):
        self.agent.run("import random; random.seed(1); random.gauss(0, 1)\n"
                       "r = random.Random(1); r.gauss(0, 1); old = r.gauss(0, 1)")
        self.agent.reseed(flags=PYTHON_TOO)
        self.assertEqual(self.value("random.gauss(0, 1) == old"), "False")

    def test_generators_of_the_code_go_on(self):
        self.agent.run("import random; mine = random.Random(1)")
        self.agent.reseed(flags=PYTHON_TOO)
        self.assertEqual(self.value("mine.random()"), FIRST)

    def test_at_once_after_the_start(self):
        with Agent() as agent:
            agent.reseed(flags=PYTHON_TOO)
            self.assertEqual(agent.run("1").result, "1")

    def test_often(self):
        self.agent.run("import random")
        for number in range(1, 30):
            self.agent.reseed(flags=PYTHON_TOO | FORK, fork_number=number)
        self.assertEqual(self.value("import ramet_fork; ramet_fork.index"), "28")

    def test_a_signal_from_elsewhere_changes_nothing(self):
        self.agent.run("import random; random.seed(1)")
        os.kill(self.python_pid(), signal.SIGRTMAX)
        self.assertEqual(self.value("random.random()"), FIRST)


class Environment(IdentityCase):
    def test_generation_and_index(self):
        self.assertEqual(self.value("import os, ramet_fork\n"
                                    "(ramet_fork.index, ramet_fork.generation,"
                                    "[k for k in os.environ if k[:6] == 'RAMET_'])"),
                         "(None, None, ['RAMET_RUN_DIR'])")
        self.assertEqual(self.agent.bash("echo $RAMET_FORK_INDEX$RAMET_GENERATION").stdout, "\n")
        for number in (3, 11):
            generation = uuid.uuid4()
            self.agent.reseed(generation.bytes, flags=PYTHON_TOO | FORK, fork_number=number)
            mine = "%d %s" % (number - 1, generation)
            self.assertEqual(self.value("ramet_fork.index, ramet_fork.generation"),
                             str((number - 1, str(generation))))
            self.assertEqual(self.value("os.environ['RAMET_FORK_INDEX'] + ' ' + "
                                        "os.environ['RAMET_GENERATION']"), repr(mine))
            self.assertEqual(self.value("import subprocess; subprocess.getoutput("
                                        "'echo $RAMET_FORK_INDEX $RAMET_GENERATION')"), repr(mine))
            self.assertEqual(self.agent.bash("echo $RAMET_FORK_INDEX $RAMET_GENERATION").stdout,
                             mine + "\n")

    def test_a_sandbox_that_is_no_child_has_no_index(self):
        generation = uuid.uuid4()
        self.agent.reseed(generation.bytes, flags=PYTHON_TOO)
        self.assertEqual(self.value("import os; os.environ['RAMET_GENERATION']"),
                         repr(str(generation)))
        self.assertEqual(self.value("'RAMET_FORK_INDEX' in os.environ"), "False")
        self.assertEqual(self.agent.bash("echo ${RAMET_FORK_INDEX-none}").stdout, "none\n")

    def test_a_restarted_interpreter_knows(self):
        generation = uuid.uuid4()
        self.agent.reseed(generation.bytes, flags=PYTHON_TOO | FORK, fork_number=5)
        self.agent.run("import os; os._exit(3)")
        self.assertEqual(self.value("import ramet_fork; ramet_fork.index, ramet_fork.generation"),
                         str((4, str(generation))))


class Busy(IdentityCase):
    """Code runs at the moment."""

    def reseed_and_finish(self, ident, **fields):
        self.agent.reseed(entropy=os.urandom(32), flags=PYTHON_TOO, **fields)
        return self.agent.finish(ident)

    def test_between_two_instructions(self):
        ident = self.start("import random\nrandom.seed(1); before = random.getstate()\n"
                           "print('ready', flush=True)\n"
                           "while random.getstate() == before: pass\nrandom.random()")
        self.assertNotEqual(self.reseed_and_finish(ident).result, FIRST)

    def test_while_it_waits(self):
        ident = self.start("import random, time\nrandom.seed(1)\nprint('ready')\n"
                           "time.sleep(0.3)\nrandom.random()")
        self.assertNotEqual(self.reseed_and_finish(ident).result, FIRST)

    def test_c_code_that_has_let_go_of_the_interpreter(self):
        """Another thread sees the new seed while the main thread is still there."""
        ident = self.start(
            "import random, threading, hashlib\nrandom.seed(1); before = random.getstate()\n"
            "seen = []\ndef watch():\n    while random.getstate() == before: pass\n"
            "    seen.append(inside)\n"
            "inside = True\nthread = threading.Thread(target=watch); thread.start()\n"
            "print('ready', flush=True)\n"
            "hashlib.pbkdf2_hmac('sha256', b'x', b'y', 3000000)\ninside = False\n"
            "thread.join(); seen, random.random()")
        seen, _, draw = self.reseed_and_finish(ident).result[1:-1].partition(", ")
        self.assertEqual(seen, "[True]")
        self.assertNotEqual(draw, FIRST)

    def test_c_code_that_keeps_the_interpreter(self):
        """The answer does not wait for its end; the new seed comes right after it."""
        ident = self.start("import random\nrandom.seed(1)\nprint('ready', flush=True)\n"
                           "sum(range(60000000))\nrandom.random()")
        asked = self.agent.request(RESEED, struct.pack("<Q16sIIII", 0, bytes(16), 0, 0, 1, 0))
        frames = [self.agent.receive(), self.agent.receive()]
        while frames[-1].type == OUTPUT:
            frames.append(self.agent.receive())
        self.assertEqual([(f.type, f.id) for f in frames if f.type in (OK, ERROR, EXIT)],
                         [(OK, asked), (EXIT, ident)])
        results = [f.payload[16:].decode() for f in frames if f.type == OUTPUT]
        self.assertNotIn(FIRST, results)
        self.assertEqual(len(results), 1)

    def test_a_stopped_interpreter_is_reseeded_when_it_goes_on(self):
        ident = self.start("import os, random, signal\nrandom.seed(1)\nprint('stopping')\n"
                           "os.kill(os.getpid(), signal.SIGSTOP)\nrandom.random()")
        self.agent.reseed(flags=PYTHON_TOO)
        os.kill(self.python_pid(), signal.SIGCONT)
        self.assertNotEqual(self.agent.finish(ident).result, FIRST)

    def test_code_can_neither_handle_nor_block_the_signal(self):
        self.agent.run("import signal\nrefused = []\nfor number in signal.valid_signals():\n"
                       "    try: signal.signal(number, signal.SIG_IGN)\n"
                       "    except OSError: refused.append(int(number))")
        self.assertEqual(self.value("refused"), "[%d, %d, %d]" % (
            signal.SIGKILL, signal.SIGSTOP, signal.SIGRTMAX))
        ident = self.start("import random\nrandom.seed(1); before = random.getstate()\n"
                           "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
                           "print('ready', flush=True)\n"
                           "while random.getstate() == before: pass\nrandom.random()")
        self.assertNotEqual(self.reseed_and_finish(ident).result, FIRST)

    def test_threads_between_calls(self):
        """Nothing that a thread draws after the answer is old."""
        self.agent.run("import random, threading, os\nrandom.seed(1); before = random.getstate()\n"
                       "def draw():\n    while not os.path.exists('go'): pass\n"
                       "    new.append(random.getstate() != before)\n"
                       "new = []; thread = threading.Thread(target=draw); thread.start()")
        self.agent.reseed(flags=PYTHON_TOO)
        with open(os.path.join(self.agent.home.name, "go"), "w"):
            pass
        self.assertEqual(self.value("thread.join(); new"), "[True]")

    def test_signal_handlers_between_calls(self):
        self.agent.run("import random, signal\nrandom.seed(1); before = random.getstate()\n"
                       "new = []\nsignal.signal(signal.SIGUSR1, "
                       "lambda *_: new.append(random.getstate() != before))")
        self.agent.reseed(flags=PYTHON_TOO)
        os.kill(self.python_pid(), signal.SIGUSR1)
        self.assertEqual(self.value("new"), "[True]")

    def test_while_bash_runs(self):
        self.agent.run("import random; random.seed(1)")
        ident = self.agent.start("echo ready; sleep 0.2", BASH)
        self.agent.output(ident)
        self.agent.reseed(flags=PYTHON_TOO)
        self.agent.finish(ident)
        self.assertNotEqual(self.value("random.random()"), FIRST)

    def test_with_code_waiting(self):
        ident = self.start("import random, time\nrandom.seed(1)\nprint('ready')\ntime.sleep(0.2)")
        waiting = self.agent.start("random.random()")
        self.agent.reseed(flags=PYTHON_TOO)
        self.agent.finish(ident)
        self.assertNotEqual(self.agent.finish(waiting).result, FIRST)


class Callbacks(IdentityCase):
    def fork(self, number=1, flags=PYTHON_TOO | FORK):
        self.agent.reseed(uuid.uuid4().bytes, flags=flags, fork_number=number)

    def called(self, name="called"):
        path = os.path.join(self.agent.home.name, name)
        if not os.path.exists(path):
            return None
        with open(path) as f:
            return f.read()

    REGISTER = ("import os, random, ramet_fork\n@ramet_fork.register\ndef note(index):\n"
                "    with open('called', 'a') as f: print(index, os.environ['RAMET_FORK_INDEX'],"
                " ramet_fork.index, file=f)\n")

    def test_called_before_the_answer(self):
        self.agent.run(self.REGISTER)
        self.fork(3)
        self.assertEqual(self.called(), "2 2 2\n")
        self.fork(1)
        self.assertEqual(self.called(), "2 2 2\n0 0 0\n")

    def test_called_in_code_that_runs(self):
        ident = self.start(self.REGISTER + "print('ready', flush=True)\n"
                           "while ramet_fork.index is None: pass\n1")
        self.fork(2)
        self.assertEqual(self.called(), "1 1 1\n")
        self.assertEqual(self.agent.finish(ident).result, "1")

    def test_new_seeds_are_there(self):
        self.agent.run("import random, ramet_fork\nrandom.seed(1)\ndrawn = []\n"
                       "ramet_fork.register(lambda index: drawn.append(random.random()))")
        self.fork()
        self.assertNotEqual(self.value("drawn"), "[%s]" % FIRST)

    def test_not_called_in_what_is_no_child(self):
        self.agent.run(self.REGISTER)
        self.agent.reseed(flags=PYTHON_TOO)
        self.assertEqual(self.value("1"), "1")
        self.assertIsNone(self.called())

    def test_what_it_raises_is_shown_by_the_next_call(self):
        self.agent.run("import ramet_fork; seen = []\n"
                       "ramet_fork.register(lambda i: 1 / 0)\nramet_fork.register(seen.append)")
        self.fork()
        r = self.agent.run("seen")
        self.assertEqual(r.result, "[0]")
        self.assertIn("ZeroDivisionError", r.stderr)

    def test_one_that_exits_does_not_end_the_interpreter(self):
        self.agent.run("import sys, ramet_fork; ramet_fork.register(lambda i: sys.exit(1))")
        self.fork()
        self.assertEqual(self.value("2"), "2")

    def test_one_that_takes_too_long_is_interrupted(self):
        self.agent.run("import ramet_fork\ndef for_ever(index):\n    while True: pass\n"
                       "ramet_fork.register(for_ever)")
        begin = time.monotonic()
        self.fork()
        self.assertLess(time.monotonic() - begin, 10)
        r = self.agent.run("ramet_fork.index")
        self.assertEqual(r.result, "0")
        self.assertIn("KeyboardInterrupt", r.stderr)

    def test_a_long_call_of_the_code_is_not_interrupted_for_them(self):
        ident = self.start(self.REGISTER + "import hashlib\nprint('ready', flush=True)\n"
                           "n = hashlib.pbkdf2_hmac('sha256', b'x', b'y', 6000000)\n"
                           "len(n), ramet_fork.index")
        self.fork()
        r = self.agent.finish(ident)
        self.assertEqual((r.exit_code, r.result), (0, "(32, 0)"))
        self.assertEqual(self.called(), "0 0 0\n")

    def test_only_functions_can_be_registered(self):
        r = self.agent.run("import ramet_fork; ramet_fork.register(3)")
        self.assertIn("TypeError", r.stderr)


if __name__ == "__main__":
    unittest.main()
