"""Statistics, targets and tables of the fork measurement.

The data, as fork.json has it: "host" and "parameters"; "calibration": name ->
{"unit", "samples"}; "baselines": [{"kind": copy, fork2 or python, parameters,
"ms": {name: samples}}]; "creates": {"ram", "series"}; "forks": [{"axis", "ram",
"dirty", "n", "pieces", "area", "depth", "series": {name: samples}}]; "tax":
{"us": {what: {who: samples}}}; "standstill": {"ms": {when: samples}}; "idle"; "checks". Series are milliseconds unless
their name says otherwise. Any part may be missing.
"""

from typing import NamedTuple, Optional

from results import percentile, show

FLAT = 1.5  # how much more than the smallest point counts as flat


def p(values, percent=50):
    return percentile(values, percent) if values else None


def forks(data, axis, n=None):
    return [fork for fork in data.get("forks", ())
            if fork["axis"] == axis and (n is None or fork["n"] == n)]


def series_p(fork, name, percent=50):
    return p(fork["series"].get(name, ()), percent)


def baseline(data, kind, **parameters):
    """The "ms" of the first baseline that fits, or None."""
    for found in data.get("baselines", ()):
        if found["kind"] == kind and all(found.get(key) == value
                                         for key, value in parameters.items()):
            return found["ms"]
    return None


# ---- targets ----


class Verdict(NamedTuple):
    name: str
    bound: float
    unit: str
    value: Optional[float]
    least: bool = False

    @property
    def met(self):
        if self.value is None:
            return None
        return self.value >= self.bound if self.least else self.value <= self.bound


def _flatness(found, name):
    """The highest median of an axis against that of its smallest point."""
    medians = [series_p(fork, name) for fork in found]
    if len(medians) < 2 or None in medians or not medians[0]:
        return None
    return max(medians) / medians[0]


def _highest(found, name):
    medians = [series_p(fork, name) for fork in found]
    return max(medians) if medians and None not in medians else None


def speedups(data):
    """(fork, times faster than fork(2)-per-VM) of every fork that has such a
    baseline: until all children answered there, until they ran here."""
    found = []
    for fork in data.get("forks", ()):
        other = baseline(data, "fork2", ram=fork["ram"], dirty=fork["dirty"], n=fork["n"],
                         sparse=False)
        if other and fork["axis"] in ("n", "cross"):
            found.append((fork, p(other["all"]) / series_p(fork, "all")))
    return found


def verdicts(data):
    dirty, ram = forks(data, "dirty"), forks(data, "ram")
    idle, checks = data.get("idle", {}), data.get("checks", {})
    creates = data.get("creates", {}).get("series", {})
    ratios = [ratio for fork, ratio in speedups(data) if fork["n"] == 100]
    charged = idle.get("charged_mib")
    available = idle.get("meminfo_mib", {}).get("MemAvailable")
    if available is not None and available <= 0:
        available = None  # somebody else on this host freed more
    return [
        Verdict("parent pause, highest of all dirty sizes", 2, "ms", _highest(dirty, "parent")),
        Verdict("parent pause, highest of all RAM sizes", 2, "ms", _highest(ram, "parent")),
        Verdict("parent pause, highest / smallest dirty size", FLAT, "x",
                _flatness(dirty, "parent")),
        Verdict("parent pause, highest / smallest RAM size", FLAT, "x",
                _flatness(ram, "parent")),
        *(Verdict(f"fork({n}) until {'all' if n > 1 else 'it'} answered", bound, "ms",
                  _highest(forks(data, "n", n), "all")) for n, bound in ((1, 10), (5, 25),
                                                                         (100, 400))),
        Verdict("create from the pool to first answer", 8, "ms", p(creates.get("all", ()))),
        Verdict("live idle children at once", 1000, "", idle.get("children"), least=True),
        Verdict("memory of each, kernel memory included, by its cgroup", 4, "MiB",
                sum(charged) / len(charged) if charged else None),
        Verdict("memory of each, by what the host has less", 4, "MiB",
                available / idle["children"] if available is not None else None),
        Verdict("fork(100), times faster than fork(2) and a VM for each", 10, "x",
                min(ratios) if ratios else None, least=True),
        Verdict("mismatches in checked children", 0, "", checks.get("mismatches")),
    ]


def met_text(verdict):
    return {True: "yes", False: "NO", None: "not measured"}[verdict.met]


# ---- tables: (title, note, header, rows) ----


FORK_COLUMNS = (("parent", 50), ("parent", 99), ("reserve", 50), ("quiesce", 50), ("pause", 50),
                ("state", 50), ("map", 50), ("stitch", 50), ("first_answer", 50),
                ("first", 50), ("all", 50), ("all", 90), ("all", 99), ("fill", 50), ("peak", 50),
                ("teardown", 50), ("extents", 50), ("charged_mib", 50), ("kernel_mib", 50))
FORK_NAMES = {"first_answer": "first confirmed", "first": "first run_code", "all": "all run_code",
              "fill": "filled", "peak": "peak MiB", "charged_mib": "MiB each",
              "kernel_mib": "kernel MiB each"}


def fork_table(title, found):
    header = ["RAM", "dirty", "n", "pieces", "depth"]
    header += [FORK_NAMES.get(name, name) + (f" p{percent}" if percent != 50 else "")
               for name, percent in FORK_COLUMNS]
    rows = [[str(fork[key]) for key in ("ram", "dirty", "n", "pieces", "depth")]
            + [show(series_p(fork, name, percent)) for name, percent in FORK_COLUMNS]
            for fork in found]
    return title, "", header, rows


def fork_tables(data):
    titles = (("dirty", "Forks by memory changed"), ("ram", "Forks by RAM"),
              ("n", "Forks by children"), ("cross", "Forks by memory changed and children"),
              ("pieces", "Forks by pieces of changed memory"), ("depth", "Forks of forks"))
    for axis, title in titles:
        found = forks(data, axis)
        if found:
            yield fork_table(title, found)


def baseline_rows(data):
    names = {"copy": "copy while paused", "fork2": "fork(2) and a VM for each",
             "python": "fork(2) of CPython"}
    for found in data.get("baselines", ()):
        what = names[found["kind"]] + (", only dirty memory mapped" if found.get("sparse")
                                       else "")
        for name, samples in found["ms"].items():
            yield [what, str(found.get("ram", "")), str(found["dirty"]), str(found.get("n", "")),
                   name, show(p(samples)), show(p(samples, 90)), show(max(samples))]


def tables(data):
    verdict_rows = [[v.name, f"{'>=' if v.least else '<='} {show(v.bound)} {v.unit}".strip(),
                     show(v.value), met_text(v)] for v in verdicts(data)]
    yield "Targets", "", ["target", "bound", "measured", "met"], verdict_rows
    yield from fork_tables(data)
    creates = data.get("creates")
    if creates:
        rows = [[name, *(show(p(values, percent)) for percent in (50, 90, 99)),
                 show(max(values))] for name, values in creates["series"].items()]
        yield ("Creates from the pool, ms", "all: to the first run_code answer",
               ["phase", "p50", "p90", "p99", "highest"], rows)
    tax = data.get("tax")
    if tax:
        rows = [[name, *(show(p(who.get(column))) for column in ("before", "parent", "child"))]
                for name, who in tax["us"].items()]
        yield ("The first 100 ms after a fork, us per page", "",
               ["", "before", "parent", "child"], rows)
    still = data.get("standstill")
    if still:
        rows = [[name, *(show(p(values, percent)) for percent in (50, 90)), show(max(values))]
                for name, values in still["ms"].items() if values]
        yield ("Longest standstill of a busy thread of the parent, ms", "as its guest sees it",
               ["", "p50", "p90", "highest"], rows)
    if data.get("idle"):
        yield "Idle children", "", ["", "value", "unit"], list(idle_rows(data["idle"]))
    if data.get("baselines"):
        yield ("Without ramet, ms", "", ["what", "RAM", "dirty", "n", "until", "p50", "p90",
                                         "highest"], list(baseline_rows(data)))
    if speedups(data):
        rows = [[str(fork["ram"]), str(fork["dirty"]), str(fork["n"]), show(ratio)]
                for fork, ratio in speedups(data)]
        yield ("Times faster than fork(2) and a VM for each", "", ["RAM", "dirty", "n", "times"],
               rows)
    if data.get("calibration"):
        rows = [[name, found["unit"], show(p(found["samples"])), show(min(found["samples"]))]
                for name, found in data["calibration"].items()]
        yield "Calibration", "", ["what", "unit", "p50", "lowest"], rows
    if data.get("checks"):
        yield ("Checked in the same run", "", list(data["checks"]),
               [[str(value) for value in data["checks"].values()]])


def idle_rows(idle):
    yield ["children alive at once", str(idle["children"]), ""]
    for name, text in (("charged", "charged to each by its cgroup"),
                       ("kernel", "of this, kernel memory"),
                       ("anonymous", "anonymous memory of each")):
        values = idle.get(f"{name}_mib")
        if values:
            yield [text + ", mean", show(sum(values) / len(values)), "MiB"]
            yield [text + ", highest", show(max(values)), "MiB"]
    for name, value in idle["meminfo_mib"].items():
        text = "less MemAvailable" if name == "MemAvailable" else f"more {name}"
        yield [f"{text} for each", show(value / idle["children"]), "MiB"]
    yield ["processor time of each", show(idle["cpu_percent_each"]), "%"]
    yield ["until all were forked", show(idle["fork_seconds"]), "s"]
    yield ["run_code in all at once", show(idle["answers_ms"]), "ms"]
    yield ["until all were gone", show(idle["teardown_ms"]), "ms"]


def markdown(data):
    facts = {**data["host"], **data["parameters"]}
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    for title, text, header, rows in tables(data):
        lines += ["", f"**{title}**", ""]
        lines += [text, ""] if text else []
        lines.append("| " + " | ".join(header) + " |")
        lines.append("|---" + "|---:" * (len(header) - 1) + "|")
        lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
