"""Numbers of several rounds, the targets for them, and how both are shown.

A number has a column (host, full, fast, plain), a name and a unit. Every round
adds one value; what counts is the median of the rounds, and the lowest is
shown beside it in the JSON, because other load can only make things slower.
"""

import statistics
from collections import OrderedDict

COLUMNS = ("host", "full", "fast", "plain")


class Target:
    """An upper bound for one number; `least` makes it a lower bound."""

    def __init__(self, column, name, bound, least=False):
        self.column, self.name, self.bound, self.least = column, name, bound, least

    def met(self, value):
        return value >= self.bound if self.least else value <= self.bound


TARGETS = (
    Target("full", "boot to agent ready, p50", 1500),
    Target("fast", "boot to agent ready, p50", 1000),
    Target("full", "create, whole, p50", 1500),
    Target("fast", "create, whole, p50", 1000),
    Target("full", 'run_code("1") by SDK, p50', 6),
    Target("fast", 'run_code("1") by SDK, p50', 3),
    Target("full", "idle CPU of the worker", 0.1),
    Target("fast", "idle CPU of the worker", 0.1),
    Target("full", "worker memory without guest RAM", 8),
    Target("fast", "worker memory without guest RAM", 8),
    Target("full", "getpid", 40),
    Target("fast", "getpid", 3),
    Target("full", "page fault, warm memory", 45),
    Target("fast", "page fault, warm memory", 18),
    Target("full", "VMM exits per context switch", 0.1),
    Target("fast", "VMM exits per context switch", 0.1),
)


def percentile(values, percent):
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


class Results:
    def __init__(self):
        self._rows = OrderedDict()  # name -> (unit, {column: [values]})

    def add(self, column, name, unit, value):
        self._rows.setdefault(name, (unit, {}))[1].setdefault(column, []).append(float(value))

    def add_percentiles(self, column, name, unit, values, percents=(50, 95)):
        for percent in percents:
            self.add(column, f"{name}, p{percent}", unit, percentile(values, percent))

    def value(self, column, name):
        values = self._rows.get(name, ("", {}))[1].get(column)
        return statistics.median(values) if values else None

    def verdicts(self):
        """(target, value or None, met) of every target."""
        for target in TARGETS:
            value = self.value(target.column, target.name)
            yield target, value, value is not None and target.met(value)

    def as_json(self):
        return {
            "numbers": {
                name: {"unit": unit,
                       **{column: {"median": statistics.median(values), "lowest": min(values),
                                   "highest": max(values), "rounds": values}
                          for column, values in columns.items()}}
                for name, (unit, columns) in self._rows.items()},
            "targets": [{"column": t.column, "name": t.name, "bound": t.bound, "value": value,
                         "met": met} for t, value, met in self.verdicts()],
        }

    def as_markdown(self):
        lines = ["| | unit | host | full | fast | plain | full / host | fast / host |",
                 "|---|---|---:|---:|---:|---:|---:|---:|"]
        for name, (unit, _) in self._rows.items():
            values = {column: self.value(column, name) for column in COLUMNS}
            cells = [show(values[column]) for column in COLUMNS]
            for column in ("full", "fast"):
                known = values[column] is not None and values["host"]
                cells.append(show(values[column] / values["host"]) if known else "")
            lines.append(f"| {name} | {unit} | " + " | ".join(cells) + " |")
        lines += ["", "| target | mode | bound | measured | met |", "|---|---|---:|---:|---|"]
        for target, value, met in self.verdicts():
            lines.append(f"| {target.name} | {target.column} | {'>=' if target.least else '<='} "
                         f"{target.bound} | {show(value)} | {'yes' if met else 'NO'} |")
        return "\n".join(lines) + "\n"


def show(value):
    if value is None:
        return ""
    if value == 0:
        return "0"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
