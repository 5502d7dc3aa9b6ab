#!/usr/bin/python3
"""What a fork costs, swept over memory, changed memory, children and depth.

    perf_fork.py BUILD [--quick] [--only PART,...] [--mode fast|full] [--rounds N]
    perf_fork.py --table BUILD/perf/fork.json

Runs daemons of its own from BUILD/bin with BUILD/images, prints a table and
writes BUILD/perf/fork.json, fork.md and fork.html. The second form only prints
the table of an earlier run. Needs root, as rametd. The exit status is 1 when a
child's memory was not what it should be. docs/performance.md explains the
numbers.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "perf"))

import fork_page  # noqa: E402
import fork_parts  # noqa: E402
import fork_report  # noqa: E402
import host  # noqa: E402
from fork_plan import Plan  # noqa: E402


def options_parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, nargs="?")
    parser.add_argument("--quick", action="store_true", help="about two minutes, fewer points")
    parser.add_argument("--only", type=lambda text: text.split(","),
                        default=list(fork_parts.PARTS), metavar="PART,...",
                        help=" ".join(fork_parts.PARTS))
    parser.add_argument("--mode", choices=("fast", "full"), default="fast")
    parser.add_argument("--rounds", type=int, help="of each point with few children")
    parser.add_argument("--idle-children", type=int, help="alive at once (default 1000)")
    parser.add_argument("--table", type=Path, metavar="JSON", help="only print its table")
    options = parser.parse_args()
    if (options.build is None) == (options.table is None):
        parser.error("one of BUILD and --table is needed")
    unknown = set(options.only) - set(fork_parts.PARTS)
    if unknown:
        parser.error(f"--only does not know {', '.join(sorted(unknown))}")
    for name in ("rounds", "idle_children"):
        if getattr(options, name) is not None and not 1 <= getattr(options, name) <= 1024:
            parser.error(f"--{name.replace('_', '-')} goes from 1 to 1024")
    return options


def measure(options, build):
    plan = Plan(options.quick, options.mode, options.rounds, options.idle_children)
    data = {"host": {**host.facts(), **host.kvm(build / "bin" / "ramet"),
                     "load_before": host.load(),
                     "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
            "parameters": {"mode": plan.mode, "rounds": plan.rounds, "quick": plan.quick,
                           "parts": options.only}}
    start = time.monotonic()
    for name in options.only:
        fork_parts.PARTS[name](data, build, plan)
        save(data, build)
    data["host"]["load_after"] = host.load()
    data["host"]["seconds"] = round(time.monotonic() - start)
    return data


def save(data, build):
    """After each part: what there is stays when a later one fails."""
    for suffix, text in ((".json", json.dumps(data, indent=1) + "\n"),
                         (".md", fork_report.markdown(data)), (".html", fork_page.page(data))):
        (build / "perf" / f"fork{suffix}").write_text(text)


def main():
    options = options_parse()
    if options.table:
        print(fork_report.markdown(json.loads(options.table.read_text())), end="")
        return 0
    build = options.build.resolve()
    (build / "perf").mkdir(exist_ok=True)
    os.chdir(ROOT)
    try:
        data = measure(options, build)
    except fork_parts.Failed as error:
        print(f"perf_fork: {error}", file=sys.stderr)
        return 1
    save(data, build)
    print(fork_report.markdown(data), end="")
    print(f"written: {build / 'perf' / 'fork.html'}", file=sys.stderr)
    return 1 if data.get("checks", {}).get("mismatches") else 0


if __name__ == "__main__":
    sys.exit(main())
