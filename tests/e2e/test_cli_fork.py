"""ramet fork, merge, pause, resume and tree, as a person or a script uses them."""

import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

import harness
from forking import ForkCase
from harness import RAMET


class ForkCliCase(ForkCase):
    def ramet(self, *arguments, **environment):
        return subprocess.run(
            [str(RAMET), *arguments], capture_output=True, timeout=harness.DEADLINE, check=False,
            stdin=subprocess.DEVNULL, text=True,
            env={**os.environ, "RAMET_SOCKET": self.daemon.socket, **environment})

    def assert_runs(self, *arguments, **environment):
        process = self.ramet(*arguments, **environment)
        self.assertEqual(process.returncode, 0, process.stderr)
        return process

    def assert_fails(self, status, text, *arguments):
        process = self.ramet(*arguments)
        self.assertEqual((process.returncode, process.stdout), (status, ""))
        self.assertIn(text, process.stderr)
        self.assertTrue(process.stderr.startswith("ramet: "))

    def forked(self, *arguments):
        ids = self.assert_runs("fork", *arguments).stdout.split()
        for sandbox in ids:
            self.close_at_the_end(sandbox)
        return ids


class ForkTest(ForkCliCase):
    def test_ids_are_printed_one_per_line(self):
        parent = self.create()
        self.python(parent, "x = 5")
        process = self.assert_runs("fork", "-n", "3", parent)
        self.assertRegex(process.stdout, r"^(sbx_[a-z0-9]{20}\n){3}$")
        self.assertRegex(process.stderr,
                         r"^forked in \d+\.\d ms \(reserve .*, pause .*, first answer .*\)\n$")
        for index, child in enumerate(process.stdout.split()):
            self.close_at_the_end(child)
            self.assertEqual(self.assert_runs("exec", child, "x").stdout, "5\n")
            self.assertEqual(self.info(child)["fork_index"], index)

    def test_one_child_by_default_for_scripts(self):
        parent = self.create()
        script = (f"set -e\nchild=$({RAMET} fork {parent} 2>/dev/null)\n"
                  f"{RAMET} exec $child 'y = 2'\n{RAMET} merge {parent} $child 2>/dev/null\n"
                  f"{RAMET} exec {parent} 'y'\n")
        process = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=False,
            timeout=harness.DEADLINE, env={**os.environ, "RAMET_SOCKET": self.daemon.socket})
        self.assertEqual((process.stdout, process.returncode), ("2\n", 0), process.stderr)

    def test_json(self):
        reply = json.loads(self.assert_runs("fork", "--json", "-n", "2", self.create()).stdout)
        for child in reply["children"]:
            self.close_at_the_end(child["id"])
        self.assertEqual([child["fork_index"] for child in reply["children"]], [0, 1])

    def test_options_become_fields(self):
        parent = self.create(metadata={"a": "b"})
        self.python(parent, "import random; random.seed(1)")
        expected = self.value(parent, "state = random.getstate(); random.random()")
        self.python(parent, "random.setstate(state)")
        child, = self.forked("--keep-random", "--metadata", "c=d", "--metadata", "e=", parent)
        self.assertEqual(self.value(child, "random.random()"), expected)
        self.assertEqual(self.info(child)["metadata"], {"c": "d", "e": ""})

    def test_failures_have_a_reason_and_a_status(self):
        parent = self.create()
        self.assert_fails(1, "must be between 1 and 1024", "fork", "-n", "1025", parent)
        self.assert_fails(1, "there is no sandbox", "fork", "sbx_aaaaaaaaaaaaaaaaaaaa")
        self.post(parent, "pause")
        self.assert_fails(1, "is paused; resume it first", "fork", parent)


class TraceTest(ForkCliCase):
    def setUp(self):
        super().setUp()
        self.directory = self.enterContext(tempfile.TemporaryDirectory(prefix="ramet-trace-"))
        self.path = Path(self.directory) / "out.json"

    def traced(self, n=3):
        self.parent = self.create()
        self.children = self.forked("-n", str(n), "--trace", str(self.path), self.parent)
        return json.loads(self.path.read_text())["traceEvents"]

    def test_every_event_has_what_viewers_want(self):
        for event in self.traced():
            self.assertIsInstance(event["name"], str)
            self.assertIn(event["ph"], ("X", "M"))
            self.assertIsInstance(event["pid"], int)
            self.assertIsInstance(event["tid"], int)
            if event["ph"] == "X":
                self.assertGreaterEqual(event["ts"], 0)
                self.assertGreaterEqual(event["dur"], 0)
            else:
                self.assertIn(event["name"], ("thread_name", "thread_sort_index"))

    def test_rows_are_the_parent_and_its_children(self):
        events = self.traced()
        names = {event["tid"]: event["args"]["name"] for event in events
                 if event["name"] == "thread_name"}
        self.assertEqual(names, {0: "parent", **{
            index + 1: f"child {index} {child}" for index, child in enumerate(self.children)}})
        phases = {tid: [event["name"] for event in events
                        if event["tid"] == tid and event["ph"] == "X"] for tid in names}
        self.assertEqual(phases.pop(0),
                         ["fork", "reserve", "quiesce", "parent", "pause", "state", "map"])
        for found in phases.values():
            self.assertEqual(found, ["child", "reserve", "stitch", "answer", "state"])

    def test_phases_lie_within_the_fork_and_follow_each_other(self):
        events = [event for event in self.traced() if event["ph"] == "X"]
        slack = 2.0  # us, of rounding

        def end(event):
            return event["ts"] + event["dur"]

        for tid in {event["tid"] for event in events}:
            row = {event["name"]: event for event in events if event["tid"] == tid}
            whole = row["child" if tid else "fork"]
            order = ["reserve", "stitch", "answer"] if tid else ["reserve", "quiesce", "pause",
                                                                 "map"]
            for before, after in zip(order, order[1:]):
                self.assertAlmostEqual(end(row[before]), row[after]["ts"], delta=slack)
            inside = ("state", "answer") if tid else ("state", "pause")
            self.assertGreaterEqual(row[inside[0]]["ts"], row[inside[1]]["ts"] - slack)
            self.assertLessEqual(end(row[inside[0]]), end(row[inside[1]]) + slack)
            for event in row.values():
                self.assertLessEqual(end(event), end(whole) + slack, event)
            self.assertLessEqual(end(whole), end(events[0]) + slack)

    def test_child_rows_are_what_the_api_says(self):
        events = self.traced(1)
        timings = self.info(self.children[0])["create_timings"]
        row = {event["name"]: event["dur"] for event in events
               if event["tid"] == 1 and event["ph"] == "X"}
        for phase in ("reserve", "stitch", "state", "answer"):
            self.assertAlmostEqual(row[phase], timings[f"{phase}_ms"] * 1000, places=3)

    def test_a_file_that_cannot_be_written_is_told_before_the_fork(self):
        parent = self.create()
        self.assert_fails(1, "cannot write /nonexistent/trace: No such file", "fork", "--trace",
                          "/nonexistent/trace", parent)
        self.assertEqual(self.info(parent)["children"], 0)

    def test_a_full_disk_is_told(self):
        parent = self.create()
        process = self.ramet("fork", "--trace", "/dev/full", parent)
        for sandbox in process.stdout.split():
            self.close_at_the_end(sandbox)
        self.assertEqual(process.returncode, 1)
        self.assertIn("cannot write /dev/full: No space left", process.stderr)
        self.assertEqual(len(process.stdout.split()), 1)


class MergeTest(ForkCliCase):
    def test_merge(self):
        parent = self.create()
        child, = self.forked(parent)
        self.python(child, "x = 'child'")
        process = self.assert_runs("merge", parent, child)
        self.assertEqual(process.stdout, "")
        self.assertRegex(process.stderr, r"^merged in \d+\.\d ms\n$")
        self.assertEqual(self.value(parent, "x"), "'child'")
        self.assert_runs("rm", child)
        self.assertEqual(self.value(parent, "x"), "'child'")
        self.assert_fails(1, f"was merged into \"{parent}\"", "info", child)

    def test_merge_json(self):
        parent = self.create()
        child, = self.forked(parent)
        reply = json.loads(self.assert_runs("merge", "--json", parent, child).stdout)
        self.assertEqual((reply["id"], reply["state"]), (parent, "ready"))

    def test_strangers(self):
        self.assert_fails(1, "not of one fork tree", "merge", self.create(), self.create())


class PauseTest(ForkCliCase):
    def test_pause_and_resume(self):
        sandbox = self.create()
        self.assertRegex(self.assert_runs("pause", sandbox).stderr, r"^paused in ")
        process = self.ramet("exec", sandbox, "1")
        self.assertEqual(process.returncode, 125)
        self.assertIn("is paused", process.stderr)
        reply = json.loads(self.assert_runs("resume", "--json", sandbox).stdout)
        self.assertEqual(reply["state"], "ready")
        self.assertEqual(self.assert_runs("exec", sandbox, "1 + 1").stdout, "2\n")
        self.assert_fails(1, "is not paused", "resume", sandbox)


class ReclaimTest(ForkCliCase):
    def test_it_says_how_much(self):
        sandbox = self.create()
        self.assert_runs("exec", sandbox, "c = bytearray(b'x' * (64 << 20)); del c")
        self.assertRegex(self.assert_runs("reclaim", sandbox).stdout, r"^\d+\.\d MiB\n$")
        self.assertEqual(json.loads(self.assert_runs("reclaim", "--json", sandbox).stdout).keys(),
                         {"reclaimed_mb", "timings"})


class TreeTest(ForkCliCase):
    def setUp(self):
        super().setUp()
        self.private_daemon()
        self.root = self.create()
        self.a, self.b = self.fork(self.root, 2)
        self.a1, = self.fork(self.a)
        self.other = self.create()
        self.post(self.b, "pause")

    def drawn(self, **environment):
        lines = self.assert_runs("tree", **environment).stdout.splitlines()
        self.assertEqual(lines[0].split(), ["ID", "STATE", "TEMPLATE", "MEMORY", "SHARED",
                                            "EXTENTS", "AGE"])
        return lines[1:]

    def test_boxes(self):
        lines = self.drawn(LC_ALL="C.UTF-8")
        self.assertEqual([line.split(" ready")[0].split(" paused")[0].rstrip() for line in lines],
                         [self.root, f"\u251c\u2500 {self.a}", f"\u2502  \u2514\u2500 {self.a1}",
                          f"\u2514\u2500 {self.b}", self.other])

    def test_plain_ascii_without_utf8(self):
        lines = self.drawn(LC_ALL="C")
        self.assertEqual([line.split(" ready")[0].split(" paused")[0].rstrip() for line in lines],
                         [self.root, f"|- {self.a}", f"|  `- {self.a1}", f"`- {self.b}",
                          self.other])

    def test_columns(self):
        lines = self.drawn(LC_ALL="C.UTF-8")
        self.assertEqual({line.find(" MiB") for line in lines}, {lines[0].find(" MiB")})
        for line in lines:
            self.assertRegex(line, r" (ready|paused) +python +512 MiB +\d+ MiB +\d+  \d+s$")
        self.assertIn(" paused ", next(line for line in lines if self.b in line))

    def test_json(self):
        listed = json.loads(self.assert_runs("tree", "--json").stdout)["sandboxes"]
        self.assertEqual([(item["id"], item["tree_depth"]) for item in listed],
                         [(self.root, 0), (self.a, 1), (self.a1, 2), (self.b, 1), (self.other, 0)])

    def test_empty(self):
        self.assert_runs("rm", "--all")
        self.assertEqual(self.drawn(), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
