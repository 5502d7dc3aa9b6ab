"""The report of the fork measurement: what its numbers say, and that the page
stands for itself."""

import html.parser
import json
import subprocess
import sys
import tempfile
import unittest
import zlib
from pathlib import Path

import harness

PERF = harness.ROOT / "perf"
sys.path.insert(0, str(PERF))

import fork_guest  # noqa: E402
import fork_page  # noqa: E402
import fork_plan  # noqa: E402
import fork_report  # noqa: E402
import plots  # noqa: E402


def fork(axis, ram, dirty, n, parent, answers, **series):
    return {"axis": axis, "ram": ram, "dirty": dirty, "n": n, "pieces": 1, "area": 0, "depth": 1,
            "series": {"parent": parent, "first": [min(answers)], "all": [max(answers)],
                       "each": answers, **series}}


def whole():
    """Every part of a run, small."""
    return {
        "host": {"cpu": "<a & b>", "cores": 2}, "parameters": {"mode": "fast"},
        "calibration": {"exit": {"unit": "us", "samples": [26.0, 25.0, 30.0]}},
        "baselines": [
            {"kind": "copy", "dirty": 16, "ms": {"first": [90.0], "new": [9.0], "again": [5.0]}},
            {"kind": "fork2", "ram": 1024, "dirty": 128, "n": 100, "sparse": True,
             "ms": {"all": [300.0]}},
            {"kind": "fork2", "ram": 1024, "dirty": 128, "n": 100, "sparse": False,
             "ms": {"all": [1500.0, 1600.0, 1700.0]}},
            {"kind": "python", "dirty": 128, "n": 1, "ms": {"all": [4.0]}}],
        "creates": {"ram": 512, "series": {"all": [7.0, 8.0, 9.0], "reply": [5.0]}},
        "forks": [fork("dirty", 2048, 16, 1, [1.0, 1.2, 3.0], [8.0]),
                  fork("dirty", 2048, 1024, 1, [1.5, 1.6, 4.0], [9.0], fill=[700.0]),
                  fork("n", 1024, 128, 1, [1.2], [9.5]),
                  fork("n", 1024, 128, 5, [1.2], [14.0, 15.0, 17.0, 18.0, 26.0]),
                  fork("n", 1024, 128, 100, [1.2], [150.0 + i for i in range(100)],
                       charged_mib=[3.5], kernel_mib=[1.5])],
        "tax": {"us": {"read in order": {"before": [0.1], "parent": [4.0], "child": [5.0]}}},
        "standstill": {"ms": {"forked": [2.0], "not forked": [0.3]}},
        "idle": {"children": 1000, "ram": 512, "fork_seconds": 9.0, "teardown_ms": 900.0,
                 "answers_ms": 400.0, "cpu_percent_each": 0.02,
                 "meminfo_mib": {"MemAvailable": 4200.0}, "charged_mib": [3.0, 4.0, 3.5],
                 "kernel_mib": [1.0, 1.1, 1.2], "anonymous_mib": [2.0, 2.0, 2.0]},
        "checks": {"forks": 5, "children": 108, "mib": 4000, "mismatches": 0},
    }


class PageParser(html.parser.HTMLParser):
    """Finds what a page would load, and elements that are not closed."""

    VOID = {"meta", "line", "circle", "rect", "polyline"}

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.loads = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.loads += [name for name, _ in attrs if name in ("src", "href", "xlink:href")]
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)

    def handle_endtag(self, tag):
        while self.open and self.open[-1] != tag and self.open[-1] in self.VOID:
            self.open.pop()
        if not self.open or self.open.pop() != tag:
            raise AssertionError(f"</{tag}> closes nothing")


class ReportTest(unittest.TestCase):
    def verdict(self, data, start):
        return next(v for v in fork_report.verdicts(data) if v.name.startswith(start))

    def test_medians_are_judged_by_their_targets(self):
        data = whole()
        for start, value, met in (("parent pause, highest of all dirty", 1.6, True),
                                  ("fork(1)", 9.5, True), ("fork(5)", 26.0, False),
                                  ("fork(100) until", 249.0, True), ("create", 8.0, True),
                                  ("live idle", 1000, True), ("memory of each, kernel", 3.5, True),
                                  ("memory of each, by what", 4.2, False)):
            with self.subTest(start):
                verdict = self.verdict(data, start)
                self.assertAlmostEqual(verdict.value, value)
                self.assertEqual(verdict.met, met)

    def test_flatness_compares_with_the_smallest_point(self):
        self.assertAlmostEqual(self.verdict(whole(), "parent pause, highest / smallest d").value,
                               1.6 / 1.2)

    def test_speedup_is_against_a_fork_of_all_that_is_mapped(self):
        self.assertAlmostEqual(self.verdict(whole(), "fork(100), times").value, 1600 / 249)

    def test_a_wrong_child_is_not_a_met_target(self):
        data = whole()
        data["checks"]["mismatches"] = 1
        self.assertIs(self.verdict(data, "mismatches").met, False)

    def test_a_host_that_has_more_memory_than_before_says_nothing(self):
        data = whole()
        data["idle"]["meminfo_mib"]["MemAvailable"] = -100.0
        self.assertIsNone(self.verdict(data, "memory of each, by what").met)

    def test_what_was_not_measured_is_not_met(self):
        data = {"host": {}, "parameters": {}}
        self.assertEqual({verdict.met for verdict in fork_report.verdicts(data)}, {None})
        self.assertIn("not measured", fork_report.markdown(data))

    def test_rows_of_every_table_have_its_columns(self):
        for title, _, header, rows in fork_report.tables(whole()):
            with self.subTest(title):
                self.assertTrue(rows)
                self.assertEqual({len(row) for row in rows}, {len(header)})

    def test_table_of_an_earlier_run_is_printed_again(self):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "fork.json"
            path.write_text(json.dumps(whole()))
            process = subprocess.run([sys.executable, "-B", PERF / "perf_fork.py", "--table", path],
                                     capture_output=True, text=True, check=True,
                                     timeout=harness.DEADLINE)
        self.assertEqual(process.stdout, fork_report.markdown(whole()))


class PageTest(unittest.TestCase):
    def parse(self, data):
        text = fork_page.page(data)
        parser = PageParser()
        parser.feed(text)
        parser.close()
        self.assertEqual(parser.open, [])
        return text, parser

    def test_page_loads_nothing_and_needs_no_script(self):
        text, parser = self.parse(whole())
        self.assertEqual(parser.loads, [])
        self.assertFalse(parser.seen & {"script", "link", "img", "iframe"})
        self.assertNotIn("url(", text)
        self.assertIn("prefers-color-scheme: dark", text)
        self.assertLessEqual({"svg", "table", "polyline", "rect"}, parser.seen)

    def test_page_escapes_what_the_host_says(self):
        text, _ = self.parse(whole())
        self.assertIn("&lt;a &amp; b&gt;", text)

    def test_page_of_any_part_alone(self):
        for name in ("calibration", "baselines", "creates", "forks", "tax", "standstill", "idle"):
            with self.subTest(name):
                data = whole()
                self.parse({"host": {}, "parameters": {}, name: data[name]})


class PlotTest(unittest.TestCase):
    def test_axis_keeps_values_inside(self):
        for log in (False, True):
            axis = plots.Axis([0.3, 7, 4000], 10, 110, log)
            with self.subTest(log=log):
                self.assertLess(axis.at(0.3), axis.at(7))
                self.assertTrue(all(10 <= axis.at(value) <= 110 for value in (0.3, 7, 4000)))
                self.assertTrue(all(10 <= axis.at(tick) <= 110 for tick in axis.ticks))

    def test_numbers_are_short(self):
        self.assertEqual([plots.number(value) for value in (0, 0.0123, 2, 12.5, 1234.4, 16384)],
                         ["0", "0.0123", "2", "12.5", "1234", "16384"])


class GuestCodeTest(unittest.TestCase):
    def setUp(self):
        self.guest = {}
        exec(fork_guest.SOURCE, self.guest)
        self.guest["grow"](4, 4, 2)

    def test_stamp_changes_its_pieces_and_nothing_else(self):
        before = bytes(self.guest["buf"])
        self.guest["stamp"](7)
        changed = {at // 4096 for at, (a, b) in enumerate(zip(before, self.guest["buf"])) if a != b}
        allowed = {page for start, end in self.guest["spans"]
                   for page in range(start // 4096, end // 4096)}
        self.assertEqual(len(allowed), 512)
        self.assertLessEqual(changed, allowed)
        self.assertGreater(len(changed), 480)  # one in 256 keeps its byte by chance

    def test_no_two_pages_are_alike(self):
        view = memoryview(self.guest["buf"])
        self.assertEqual(len({zlib.crc32(view[at:at + 4096]) for at in range(0, len(view), 4096)}),
                         1024)

    def test_marks_are_read_back_from_where_they_were_written(self):
        self.guest["mark"](9, 64)
        self.assertEqual(self.guest["marks"](64), [9])
        self.guest["buf"][self.guest["marks_at"](64)[5]] = 8
        self.assertEqual(self.guest["marks"](64), [8, 9])

    def test_shares_cover_everything(self):
        for mib, children in ((16, 1), (128, 5), (128, 100), (512, 7), (1024, 100)):
            with self.subTest(mib=mib, children=children):
                found = fork_guest.shares(mib, children)
                self.assertEqual(len(found), children)
                covered = set()
                for first, last in found:
                    covered |= set(range(first, last))
                self.assertEqual(covered, set(range(mib)))

    def test_plan_has_a_pool_for_every_point(self):
        for quick in (False, True):
            plan = fork_plan.Plan(quick, "fast")
            for (ram, pool), points in plan.groups():
                for point in points:
                    self.assertEqual(point.ram, ram)
                    self.assertGreater(pool, point.n)


if __name__ == "__main__":
    unittest.main()
