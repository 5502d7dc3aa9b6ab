"""Forks, merges and pauses through the Python SDK."""

import os
import subprocess
import sys
import textwrap
import threading
import unittest
from unittest import mock

import harness
from forking import FORK_TIMINGS
from harness import needs_guest, needs_root

import ramet
from ramet import Sandbox


@needs_root
@needs_guest
class ForkSdkCase(unittest.TestCase):
    def setUp(self):
        self.daemon = harness.shared_daemon()
        self.before = self.ids()
        self.addCleanup(self.close_all)

    def ids(self):
        return {info.id for info in Sandbox.list(socket=self.daemon.socket)}

    def close_all(self):
        for sandbox in self.ids() - self.before:
            Sandbox.connect(sandbox, socket=self.daemon.socket).close()

    def create(self, **options):
        return Sandbox(isolation=harness.ISOLATION, socket=self.daemon.socket, **options)


class ForkTest(ForkSdkCase):
    def test_children_are_sandboxes_with_the_parents_state(self):
        with self.create(metadata={"a": "b"}) as parent:
            parent.run_code("x = [1]")
            children = parent.fork(n=3)
            self.assertEqual([type(child) for child in children], [Sandbox] * 3)
            for index, child in enumerate(children):
                child.run_code(f"x.append({index})")
                self.assertEqual((child.parent_id, child.fork_index), (parent.id, index))
                self.assertGreater(child.timings["answer_ms"], 0)
            self.assertEqual([child.run_code("x").result for child in children],
                             ["[1, 0]", "[1, 1]", "[1, 2]"])
            self.assertEqual(parent.run_code("x").result, "[1]")
            self.assertEqual({child.info().metadata["a"] for child in children}, {"b"})
            for child in children:
                child.close()

    def test_one_child_by_default(self):
        with self.create() as parent:
            child, = parent.fork()
            with child:
                self.assertEqual(child.run_code("1 + 1").result, "2")
            self.assertEqual(parent.info().children, 0)

    def test_timings_of_the_last_fork(self):
        with self.create() as parent:
            self.assertEqual(parent.fork_timings, {})
            parent.fork(2)
            self.assertEqual(set(parent.fork_timings), set(FORK_TIMINGS))

    def test_metadata_of_children(self):
        with self.create(metadata={"a": "b"}) as parent:
            child, = parent.fork(metadata={"c": "d"})
            self.assertEqual(child.info().metadata, {"c": "d"})

    def test_keep_random(self):
        with self.create() as parent:
            parent.run_code("import random; random.seed(7)")
            same = [child.run_code("random.random()").result
                    for child in parent.fork(n=2, keep_random=True)]
            own = [child.run_code("random.random()").result for child in parent.fork(n=2)]
            expected = parent.run_code("random.random()").result
            self.assertEqual(same, [expected] * 2)
            self.assertEqual(len({expected, *own}), 3)

    def test_a_sandbox_that_is_no_fork(self):
        with self.create() as sandbox:
            self.assertEqual((sandbox.parent_id, sandbox.fork_index), (None, None))
            info = sandbox.info()
            self.assertEqual((info.parent_id, info.fork_index, info.depth, info.children),
                             (None, None, 0, 0))

    def test_info_of_a_child(self):
        with self.create() as parent:
            child = parent.fork(n=2)[1]
            info = child.info()
            self.assertEqual((info.parent_id, info.fork_index, info.depth), (parent.id, 1, 1))
            self.assertNotEqual(info.generation, parent.info().generation)
            self.assertGreater(info.memory["shared_mb"], 0)
            self.assertEqual(parent.info().children, 2)
            again = Sandbox.connect(child.id, socket=self.daemon.socket)
            self.assertEqual((again.parent_id, again.fork_index), (parent.id, 1))

    def test_bad_count(self):
        with self.create() as parent:
            for n in (0, 1025):
                with self.assertRaises(ramet.InvalidRequestError):
                    parent.fork(n=n)

    def test_fork_of_a_closed_sandbox(self):
        sandbox = self.create()
        sandbox.close()
        for use in (sandbox.fork, sandbox.pause, sandbox.resume):
            with self.assertRaises(ramet.SandboxClosedError):
                use()

    def test_children_in_threads(self):
        with self.create() as parent:
            parent.run_code("import time; base = 10")
            children = parent.fork(n=6)
            results = [None] * 6

            def run(index):
                results[index] = children[index].run_code(f"base + {index}").result

            threads = [threading.Thread(target=run, args=(index,)) for index in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(harness.DEADLINE)
            self.assertEqual(results, [str(10 + index) for index in range(6)])

    def test_limit(self):
        daemon = harness.Daemon("--max-sandboxes", "2").start()
        self.addCleanup(daemon.destroy)
        self.addCleanup(daemon.stop)
        with Sandbox(isolation=harness.ISOLATION, socket=daemon.socket) as parent:
            with self.assertRaises(ramet.LimitError):
                parent.fork(n=2)
            self.assertEqual(len(parent.fork(n=1)), 1)


class ForkErrorTest(ForkSdkCase):
    def test_it_has_the_good_children_and_the_errors(self):
        with self.create() as parent:
            real = parent._transport.call

            def one_fails(method, target, document=None):
                reply = real(method, target, document)
                if target.endswith("/fork"):
                    real("DELETE", "/v1/sandboxes/" + reply["children"][1]["id"])
                    reply["children"][1] = {
                        "fork_index": 1, "error": {"code": "sandbox_died", "message": "it ended"}}
                return reply

            with mock.patch.object(parent._transport, "call", one_fails):
                with self.assertRaises(ramet.ForkError) as got:
                    parent.fork(n=3)
            error = got.exception
            self.assertEqual((error.code, str(error)),
                             ("sandbox_died", "1 of 3 children failed: it ended"))
            self.assertIsInstance(error, ramet.RametError)
            self.assertEqual([child and child.run_code("1").result for child in error.children],
                             ["1", None, "1"])
            self.assertEqual([found and found.code for found in error.errors],
                             [None, "sandbox_died", None])
            self.assertEqual(set(parent.fork_timings), set(FORK_TIMINGS))


class MergeTest(ForkSdkCase):
    def test_parent_goes_on_as_the_winner(self):
        with self.create() as parent:
            name = parent.id
            parent.run_code("x = 'parent'")
            winner, loser = parent.fork(n=2)
            winner.run_code("x = 'winner'")
            parent.merge_into(winner)
            self.assertEqual((parent.id, parent.run_code("x").result), (name, "'winner'"))
            winner.close()
            winner.close()
            loser.close()
            self.assertEqual(parent.run_code("x").result, "'winner'")
            child, = parent.fork()
            self.assertEqual(child.run_code("x").result, "'winner'")

    def test_winner_is_spent(self):
        with self.create() as parent:
            winner, = parent.fork()
            parent.merge_into(winner)
            self.assertIn("merged", repr(winner))
            for use in (lambda: winner.run_code("1"), winner.fork, winner.info, winner.pause,
                        lambda: winner.upload(b"", "/tmp/x"), lambda: parent.merge_into(winner)):
                with self.assertRaises(ramet.SandboxClosedError) as got:
                    use()
                self.assertEqual(got.exception.code, "sandbox_merged")
                self.assertIn(parent.id, str(got.exception))
            with winner:
                pass
            self.assertEqual(parent.run_code("1 + 1").result, "2")

    def test_other_objects_of_the_winner_do_no_harm(self):
        with self.create() as parent:
            winner, = parent.fork()
            other = Sandbox.connect(winner.id, socket=self.daemon.socket)
            parent.merge_into(winner)
            with self.assertRaises(ramet.NotFoundError) as got:
                other.run_code("1")
            self.assertEqual(got.exception.code, "sandbox_merged")
            other.close()
            self.assertEqual(parent.run_code("1 + 1").result, "2")

    def test_strangers_cannot_be_merged(self):
        with self.create() as one, self.create() as two:
            with self.assertRaises(ramet.InvalidRequestError):
                one.merge_into(two)
            self.assertEqual(two.run_code("1 + 1").result, "2")


class PauseTest(ForkSdkCase):
    def test_pause_and_resume(self):
        with self.create() as sandbox:
            self.assertEqual(sandbox.pause().state, "paused")
            with self.assertRaises(ramet.ConflictError) as got:
                sandbox.run_code("1")
            self.assertEqual(got.exception.code, "sandbox_paused")
            self.assertEqual(sandbox.resume().state, "ready")
            self.assertEqual(sandbox.run_code("1 + 1").result, "2")
            with self.assertRaises(ramet.ConflictError):
                sandbox.resume()


class ReclaimTest(ForkSdkCase):
    def test_free_memory_is_given_back(self):
        with self.create() as sandbox:
            sandbox.run_code("b = bytes(64 << 20); c = bytearray(b'x' * (64 << 20)); del b, c")
            self.assertGreater(sandbox.reclaim(), 32)


class TreeTest(ForkSdkCase):
    def test_tree(self):
        with self.create() as parent:
            one, two = parent.fork(n=2)
            three, = one.fork()
            found = [(info.id, info.tree_depth) for info in ramet.tree(self.daemon.socket)
                     if info.id not in self.before]
            self.assertEqual(found, [(parent.id, 0), (one.id, 1), (three.id, 2), (two.id, 1)])


class ProgramTest(ForkSdkCase):
    """Whole programs in the manner of those that search a tree of plans."""

    def run_program(self, text):
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True,
            timeout=harness.DEADLINE, check=False,
            env={**os.environ, "RAMET_SOCKET": self.daemon.socket,
                 "PYTHONPATH": str(harness.ROOT / "api" / "python")})

    def assert_prints(self, text, expected):
        process = self.run_program(text)
        self.assertEqual((process.stdout, process.stderr, process.returncode), (expected, "", 0))
        self.assertEqual(self.ids(), self.before, "sandboxes were left")

    def test_search_that_closes_every_child(self):
        self.assert_prints("""
            from ramet import Sandbox

            with Sandbox() as parent:
                parent.run_code("rows = [3, 1, 2] * 1000")
                children = parent.fork(n=5)
                try:
                    plans = ["len(rows)", "sum(rows)", "max(rows)", "rows.sort()", "rows[0]"]
                    results = [c.run_code(p) for c, p in zip(children, plans)]
                    winner = children[3]
                    parent.merge_into(winner)
                finally:
                    for c in children:
                        c.close()
                print([r.stdout for r in results])
                print(parent.run_code("rows[:3]").stdout, end="")
        """, "['3000\\n', '6000\\n', '3\\n', '', '3\\n']\n[1, 1, 1]\n")

    def test_search_that_closes_the_losers(self):
        self.assert_prints("""
            from ramet import Sandbox

            with Sandbox() as parent:
                parent.run_code('''
                    import random
                    board = list(range(8))
                ''')
                for turn in range(3):
                    children = parent.fork(n=4)
                    scores = []
                    for number, c in enumerate(children):
                        scores.append(int(c.run_code(f"board.append({number}); sum(board)").stdout))
                    winner = children[scores.index(max(scores))]
                    parent.merge_into(winner)
                    for c in children:
                        if c is not winner:
                            c.close()
                print(parent.run_code("print(board)").stdout, end="")
        """, "[0, 1, 2, 3, 4, 5, 6, 7, 3, 3, 3]\n")

    def test_one_program_in_both_languages_with_files(self):
        self.assert_prints("""
            from ramet import Sandbox

            with Sandbox() as sb:
                sb.upload(b"from outside\\n", "/tmp/in.txt")
                print(sb.run_code('''
                    cat /tmp/in.txt
                    mkdir -p /app
                    cd /app && tr a-z A-Z < /tmp/in.txt > out.txt
                ''', language="bash").stdout, end="")
                a, b = sb.fork(n=2)
                with a, b:
                    a.run_code("rm /app/out.txt", language="bash")
                    print(b.download("/app/out.txt").decode(), end="")
                    print(a.run_code("ls /app", language="bash").stdout == "")
        """, "from outside\nFROM OUTSIDE\nTrue\n")

    def test_generations_of_generations(self):
        self.assert_prints("""
            from ramet import Sandbox, tree

            with Sandbox() as root:
                root.run_code("path = ''")
                level = [root]
                for _ in range(3):
                    following = []
                    for sandbox in level:
                        for letter, child in zip("ab", sandbox.fork(n=2)):
                            child.run_code(f"path += '{letter}'")
                            following.append(child)
                    level = following
                print([sandbox.run_code("path").result for sandbox in level])
                for info in reversed(tree()):
                    if info.parent_id:
                        Sandbox.connect(info.id).close()
        """, "[\"'aaa'\", \"'aab'\", \"'aba'\", \"'abb'\", \"'baa'\", \"'bab'\", "
             "\"'bba'\", \"'bbb'\"]\n")


if __name__ == "__main__":
    unittest.main(verbosity=2)
