"""The fork measurement as one HTML page: plots and tables, nothing else to load."""

from html import escape

import plots
from fork_report import baseline, forks, met_text, p, series_p, tables, verdicts

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #666e77; --line: #d9dde1;
  --back: #ffffff; --card: #f6f7f9; --good: #17703b; --bad: #b3261e; --c0: #2a6fbb; --c1: #c8641b;
  --c2: #2b8a57; --c3: #9a4fb0; --c4: #b08a00; --c5: #c2356a; --c6: #3a8f9e; --c7: #7a6a5a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --soft: #9aa3ad; --line: #3a4047;
  --back: #16181b; --card: #1f2226; --good: #6fcf97; --bad: #ff8a80; --c0: #6cb0f5; --c1: #f5a261;
  --c2: #6fcf97; --c3: #cf94e0; --c4: #e2c044; --c5: #f285ad; --c6: #74cbd9; --c7: #bfae9c; } }
body { margin: 2rem auto; max-width: 1340px; padding: 0 1rem; background: var(--back);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p, dl { color: var(--soft); max-width: 60rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr));
  gap: 1rem; }
figure { margin: 0; padding: 1rem; background: var(--card); border-radius: 8px; }
figcaption { font-weight: 600; } figcaption span { color: var(--soft); font-weight: 400; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 12px; }
.grid { stroke: var(--line); } .axis { stroke: var(--soft); }
line.limit { stroke: var(--ink); stroke-dasharray: 5 4; } text.limit { fill: var(--ink); }
polyline { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
circle, rect { fill: currentColor; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .3rem 0;
  padding: 0; font-size: .85rem; }
.legend li::before { content: "\\25A0\\00A0"; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.yes { color: var(--good); } .NO { color: var(--bad); font-weight: 600; }
""" + "".join(f".s{i} {{ color: var(--c{i}); }}\n" for i in range(plots.COLOURS))


def _medians(found, key, name, percent=50):
    points = [(fork[key], series_p(fork, name, percent)) for fork in found]
    return [(x, y) for x, y in points if y is not None]


def latency_plots(data):
    series = []
    for fork in forks(data, "n"):
        if fork["n"] in (1, 5, 20, 100):
            series.append((f"each child of fork({fork['n']})", fork["series"]["each"]))
    creates = data.get("creates", {}).get("series", {}).get("all", ())
    yield plots.cdf("From the call to each child's first run_code answer",
                    [("create", creates), *series], "ms", "% of answers", log_x=True,
                    note="all rounds")
    found = [fork for fork in forks(data, "n") if fork["n"] in (1, 5, 20, 100)]
    phases = ("reserve", "quiesce", "pause", "map")
    columns = []
    for fork in found:
        values = [series_p(fork, name) or 0 for name in phases]
        parent = (series_p(fork, "parent") or 0) - values[2] - values[3]
        first = (series_p(fork, "first") or 0) - sum(values) - max(0, parent)
        rest = (series_p(fork, "all") or 0) - (series_p(fork, "first") or 0)
        values = [max(0, value) for value in (*values, parent, first, rest)]
        whole = sum(values) or 1
        columns.append((f"fork({fork['n']}), {plots.number(whole)} ms",
                        [100 * value / whole for value in values]))
    yield plots.bars("Where the time of a fork goes", columns,
                     ["reserve", "quiesce", "pause, state saved", "map", "parent runs on",
                      "first run_code", "all run_code"], "%", note="medians", total=False)


def slope_plots(data):
    found = forks(data, "dirty")
    yield plots.lines("Parent pause against changed memory",
                      [("p50", _medians(found, "dirty", "parent")),
                       ("p99", _medians(found, "dirty", "parent", 99)),
                       ("of it, stopping and saving state", _medians(found, "dirty", "pause")),
                       ("of it, new layer and map", _medians(found, "dirty", "map"))],
                      "MiB changed", "ms", log_x=True, limit=(2, "target"))
    others = []
    for kind, name, part, extra in (("fork2", "fork(2) and a VM for each", "all", {"n": 1}),
                                    ("python", "fork(2) of CPython", "all", {"n": 1}),
                                    ("copy", "copy while paused, new memory", "new", {}),
                                    ("copy", "copy while paused, memory used before", "again", {})):
        points = []
        for dirty in sorted({b["dirty"] for b in data.get("baselines", ())}):
            ms = baseline(data, kind, dirty=dirty, **extra)
            if ms:
                points.append((dirty, p(ms[part])))
        others.append((name, points))
    yield plots.lines("fork(1) against changed memory, and what else there is",
                      [("to the first run_code answer", _medians(found, "dirty", "first")),
                       ("parent pause", _medians(found, "dirty", "parent")), *others],
                      "MiB changed", "ms", log_x=True, log_y=True)
    ram = forks(data, "ram")
    yield plots.lines("Against RAM", [("parent pause, p50", _medians(ram, "ram", "parent")),
                                      ("fork(1) to the first run_code answer",
                                       _medians(ram, "ram", "first"))],
                      "MiB of RAM", "ms", log_x=True)
    yield plots.lines("Filling the new layer, in the background",
                      [("until filled and its donor gone", _medians(found, "dirty", "fill"))],
                      "MiB changed", "ms", log_x=True, log_y=True)
    yield plots.lines("Memory that a fork needs for a while",
                      [("at most", _medians(found, "dirty", "peak"))],
                      "MiB changed", "MiB above what was used before", log_x=True, log_y=True)


def shape_plots(data):
    found = forks(data, "n")
    fork2, python = [], []
    for fork in found:
        for kind, points in (("fork2", fork2), ("python", python)):
            same = {"sparse": False, "ram": fork["ram"]} if kind == "fork2" else {}
            ms = baseline(data, kind, dirty=fork["dirty"], n=fork["n"], **same)
            if ms:
                points.append((fork["n"], p(ms["all"])))
    yield plots.lines("Against the number of children",
                      [("first run_code answer", _medians(found, "n", "first")),
                       ("all run_code answers", _medians(found, "n", "all")),
                       ("fork(2) and a VM for each: all run", fork2),
                       ("fork(2) of CPython: all answered", python),
                       ("until all children were gone again", _medians(found, "n", "teardown"))],
                      "children", "ms", log_x=True, log_y=True)
    deep = forks(data, "depth")
    yield plots.lines("Forks of forks", [("parent pause", _medians(deep, "depth", "parent")),
                                         ("to the first run_code answer",
                                          _medians(deep, "depth", "first"))],
                      "depth", "ms")
    pieces = forks(data, "pieces")
    yield plots.lines("Against the number of changed pieces",
                      [("parent pause", _medians(pieces, "pieces", "parent")),
                       ("to the first run_code answer", _medians(pieces, "pieces", "first"))],
                      "pieces", "ms", log_x=True)


def memory_plots(data):
    columns = []
    for fork in forks(data, "n"):
        charged, kernel = series_p(fork, "charged_mib"), series_p(fork, "kernel_mib")
        if charged is not None and kernel is not None:
            columns.append((f"fork({fork['n']})", [kernel, charged - kernel]))
    idle = data.get("idle")
    if idle and idle["charged_mib"] and idle["kernel_mib"]:
        kernel = sum(idle["kernel_mib"]) / len(idle["kernel_mib"])
        charged = sum(idle["charged_mib"]) / len(idle["charged_mib"])
        columns.append((f"{idle['children']} idle", [kernel, charged - kernel]))
    yield plots.bars("Memory of each child", columns, ["kernel memory", "its own pages"], "MiB",
                     limit=(4, "target"), note="charged to its cgroup")
    if idle:
        yield plots.cdf(f"Memory of {idle['children']} children, alive at once and idle",
                        [("all", idle["charged_mib"]), ("kernel memory", idle["kernel_mib"]),
                         ("anonymous", idle["anonymous_mib"])], "MiB", "% of children")
    tax = data.get("tax", {}).get("us", {})
    columns = [(who, [p(samples[who]) if name == other else 0 for other in tax])
               for name, samples in tax.items() for who in ("before", "parent", "child")]
    yield plots.bars("A page in the first 100 ms after a fork", columns, list(tax), "us",
                     note="before: memory in use, no fork")


SECTIONS = (("Latency", latency_plots), ("Slopes", slope_plots), ("Shape", shape_plots),
            ("Memory", memory_plots))


def table_html(title, note, header, rows):
    text = [f"<h2>{escape(title)}</h2>", f"<p>{escape(note)}</p>" if note else "",
            '<div class="scroll"><table><thead><tr>',
            *(f"<th>{escape(cell)}</th>" for cell in header), "</tr></thead><tbody>"]
    for row in rows:
        text.append("<tr>" + "".join(
            f'<td class="{cell}">{cell}</td>' if cell in ("yes", "NO") else
            f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    return "".join(text) + "</tbody></table></div>"


def page(data):
    facts = {**data["host"], **data["parameters"]}
    all_tables = list(tables(data))
    met = [met_text(verdict) for verdict in verdicts(data)]
    parts = ["<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
             '<meta name="viewport" content="width=device-width, initial-scale=1">',
             f"<title>ramet: forks measured</title><style>{STYLE}</style></head><body>",
             "<h1>Forks measured</h1><p>",
             escape("; ".join(f"{name}: {value}" for name, value in facts.items())),
             "</p><p>A time goes from sending the call to the first <code>run_code</code> answer "
             "from inside the guest, unless it names a phase. Targets met: "
             f"{met.count('yes')} of {len(met)}.</p>", table_html(*all_tables[0])]
    for title, make in SECTIONS:
        figures = [figure for figure in make(data) if figure]
        if figures:
            parts.append(f'<h2>{title}</h2><div class="plots">{"".join(figures)}</div>')
    parts += [table_html(*table) for table in all_tables[1:]]
    return "\n".join(parts) + "</body></html>\n"
