"""The parts of the fork measurement. Each adds to one dictionary of plain data
(see fork_report.py), in which series are lists of samples, one for each round."""

import json
import subprocess
import sys
import time

import fork_client
import fork_guest
import host
from fork_client import Failed

PHASES = ("reserve", "quiesce", "pause", "state", "map", "parent", "stitch", "first_answer",
          "all_answers", "total")


def note(text):
    print(f"[load {host.load():.2f}] {text}", file=sys.stderr, flush=True)


def run_json(command):
    """Every line that a program prints, as JSON."""
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True,
                            timeout=fork_client.LIMIT).stdout
    return [json.loads(line) for line in output.splitlines()]


# ---- without ramet ----


def calibration(data, build, plan):
    note("calibration: exits, bare virtual machines")
    binary = build / "bin" / "fork_baseline"
    found = data.setdefault("calibration", {})
    found["exit"] = {"unit": "us", "samples": run_json([binary, "exit", "20"])[0]["samples"]}
    for ram in plan.calibration_ram:
        for line in run_json([binary, "vm", str(ram), "20"]):
            found[f"{line['name']}, {ram} MiB"] = {"unit": "us", "samples": line["samples"]}


def baselines(data, build, plan):
    """What the same would cost otherwise; milliseconds."""
    found = data.setdefault("baselines", [])
    binary = build / "bin" / "fork_baseline"

    def add(kind, parameters, lines):
        found.append({"kind": kind, **parameters,
                      "ms": {name: [sample / 1e3 for sample in samples]
                             for name, samples in lines}})

    for dirty in plan.copy_dirty:
        note(f"baseline: {dirty} MiB copied while paused")
        lines = run_json([binary, "copy", str(dirty), str(plan.rounds)])
        add("copy", {"dirty": dirty}, [(line["name"], line["samples"]) for line in lines])
    for ram, dirty, count, sparse in plan.fork2:
        note(f"baseline: fork(2) and a VM for each of {count}, {ram} MiB, {dirty} MiB dirty")
        lines = run_json([binary, "fork", str(ram), str(dirty), str(count),
                          str(plan.rounds_of(count))] + ["sparse"] * sparse)
        add("fork2", {"ram": ram, "dirty": dirty, "n": count, "sparse": sparse},
            [(line["name"], line["samples"]) for line in lines])
    for dirty, count in plan.python:
        note(f"baseline: fork(2) of CPython with {dirty} MiB, {count} children")
        line, = run_json(["/usr/bin/python3", "perf/fork_warm_python.py", str(dirty), str(count),
                          str(plan.rounds_of(count))])
        found.append({"kind": "python", "dirty": dirty, "n": count, "ms": line})


# ---- one fork ----


class Parent:
    """A warm sandbox with memory of known content."""

    def __init__(self, client, point):
        self.client, self.point = client, point
        self.id = client.create(point.ram)[0]["id"]
        self.number = 0
        area = point.area or point.dirty
        self.area = area
        client.run([(self.id, fork_guest.SOURCE)])
        client.run([(self.id, f"grow({area}, {point.pieces}, {point.dirty})")])
        if point.area:  # a fork that nobody counts: what was grown is not changed any more
            client.settle()
            children = client.fork(self.id, 1)[0]["children"]
            client.delete([child["id"] for child in children])

    def dirty(self):
        self.number += 1
        self.client.run([(self.id, f"stamp({self.number})")])

    def expected(self, shares):
        value, = self.client.run([(self.id, f"checksums({shares})")])
        return value


class Series(dict):
    """name -> samples"""

    def add(self, name, value):
        if value is not None:
            self.setdefault(name, []).append(value)


def fork_times(series, reply, reply_ms, answers):
    """What the API and the client say about one fork."""
    timings = reply["timings"]
    for phase in PHASES:
        if f"{phase}_ms" in timings:
            series.add(phase, timings[f"{phase}_ms"])
    times = sorted(call["ms"] for call in answers)
    series.add("reply", reply_ms)
    series.add("first", times[0])
    series.add("all", times[-1])
    series.setdefault("each", []).extend(times)
    series.add("dirty_pages", reply["dirty_pages"])
    series.add("range_pages", reply["range_pages"])
    memory = reply["children"][0]["memory"]
    series.add("extents", memory["extents"])
    series.add("layers", memory["layers"])


def check(data, parent, children, shares, expected):
    """The children's memory is what it was at the fork while the parent writes;
    then what each child writes is seen by nobody else."""
    client, ids = parent.client, [child["id"] for child in children]
    parent.number += 1
    jobs = [(parent.id, f"stamp({parent.number}); checksum(0, {parent.area})")]
    jobs += [(name, f"checksum({first}, {last})")
             for name, (first, last) in zip(ids, shares)]
    now, *found = client.run(jobs)
    wrong = sum(a != b for a, b in zip(found, expected))
    client.run([(name, f"mark({(i + 1) % 256}, {fork_guest.MARKS})")
                for i, name in enumerate(ids)])
    jobs = [(parent.id, f"checksum(0, {parent.area})")]
    jobs += [(name, f"marks({fork_guest.MARKS})") for name in ids]
    after, *found = client.run(jobs)
    wrong += sum(marks != [(i + 1) % 256] for i, marks in enumerate(found))
    wrong += after != now
    totals = data.setdefault("checks", {"forks": 0, "children": 0, "mib": 0, "mismatches": 0})
    totals["forks"] += 1
    totals["children"] += len(ids)
    totals["mib"] += sum(last - first for first, last in shares)
    totals["mismatches"] += wrong
    if wrong:
        note(f"WRONG: {wrong} mismatches after a fork of {parent.point}")


def guest_memory(client):
    """pid -> memory of every worker that holds a guest."""
    found = {}
    for pid in client.workers():
        try:
            if fork_client.is_guest(pid):
                found[pid] = fork_client.worker_memory(pid)
        except (OSError, AttributeError):
            continue  # gone meanwhile
    return found


def undisturbed(series, client, exits, peak, with_memory):
    """What needs that nobody does anything meanwhile: how long the layer takes to
    be filled, and the memory of every guest (pid -> bytes)."""
    series.add("fill", exits.first() * 1e3)
    if peak.more() is not None:
        series.add("peak", peak.more() / host.MIB)
    if not with_memory:
        return {}
    client.settle()
    return guest_memory(client)


def add_memory(series, memory, gone):
    """Of those guests that are gone since: the children."""
    for name in ("charged", "kernel", "anonymous"):
        values = [memory[pid][name] for pid in gone if memory[pid][name] is not None]
        if values:
            series.add(f"{name}_mib", sum(values) / len(values) / host.MIB)


def measured_fork(data, series, parent, count, at_once):
    """One round. `at_once`: the memory is checked while the layer is filled, else
    what filling it costs is measured first."""
    client = parent.client
    parent.dirty()
    shares = fork_guest.shares(parent.area, count)
    expected = parent.expected(shares)
    client.settle()
    before = client.workers()
    peak = fork_client.Peak(before[0])
    exits = fork_client.Exits(before)
    reply, reply_ms, _, answers = client.fork(parent.id, count)
    fork_times(series, reply, reply_ms, answers)
    for call in answers:
        if call["reply"]["result"] != "1":
            raise Failed(f"run_code(\"1\") gave {call['reply']}")
    memory = {}
    if at_once:
        check(data, parent, reply["children"], shares, expected)
        exits.first()
    else:
        memory = undisturbed(series, client, exits, peak, count > 1)
        check(data, parent, reply["children"], shares, expected)
    series.add("teardown", client.delete([child["id"] for child in reply["children"]]))
    gone = set(memory) - set(client.workers())
    if len(gone) == count:
        add_memory(series, memory, gone)


def forks(data, build, plan):
    """The sweep, one daemon for all points that need the same pool."""
    for (ram, pool), points in plan.groups():
        with fork_client.daemon(build, pool, plan.mode) as client:
            for point in points:
                note(f"forks: {point}")
                parent = Parent(client, point)
                series = Series()
                for number in range(plan.rounds_of(point.n)):
                    measured_fork(data, series, parent, point.n, number % 2 == 1)
                data.setdefault("forks", []).append({**point._asdict(), "depth": 1,
                                                     "series": series})
                client.delete([parent.id])


def depth(data, build, plan):
    """A fork of a fork of a fork: each level's child is the next one's parent."""
    point = plan.depth_point
    series = {}
    with fork_client.daemon(build, 4, plan.mode) as client:
        for number in range(plan.depth_chains):
            note(f"depth: chain {number + 1} of {plan.depth_chains}, {plan.depth} levels")
            parent = Parent(client, point)
            chain = [parent.id]
            for level in range(1, plan.depth + 1):
                parent.dirty()
                shares = fork_guest.shares(parent.area, 1)
                expected = parent.expected(shares)
                client.settle()
                reply, reply_ms, _, answers = client.fork(parent.id, 1)
                fork_times(series.setdefault(level, Series()), reply, reply_ms, answers)
                check(data, parent, reply["children"], shares, expected)
                parent.id = reply["children"][0]["id"]
                chain.append(parent.id)
            client.delete(chain)
    for level, found in series.items():
        data.setdefault("forks", []).append({**point._asdict(), "depth": level, "axis": "depth",
                                             "series": found})


# ---- the rest ----


def creates(data, build, plan):
    note(f"creates: {plan.creates}")
    series = Series()
    with fork_client.daemon(build, 4, plan.mode) as client:
        for number in range(plan.creates + 1):
            if number:  # the first makes the template, and there is no pool before
                client.settle()
            reply, reply_ms, answer_ms = client.create(plan.create_ram)
            if number:
                series.add("reply", reply_ms)
                series.add("all", answer_ms)
                for name, value in reply["timings"].items():
                    series.add(name.removesuffix("_ms"), value)
            client.delete([reply["id"]])
    data["creates"] = {"ram": plan.create_ram, "series": series}


TOUCHES = [(f"{verb} {order}", write, shuffled) for order, shuffled in
           (("in order", False), ("scattered", True))
           for verb, write in (("read", False), ("write", True))]


def tax(data, build, plan):
    """What a page costs parent and child in the first 100 ms after a fork, both
    at work; "before" is the same memory before the fork."""
    point = plan.tax_point
    found = data.setdefault("tax", {"ram": point.ram, "dirty": point.dirty, "us": {}})
    with fork_client.daemon(build, 4, plan.mode) as client:
        parent = Parent(client, point)
        for name, write, shuffled in TOUCHES:
            note(f"tax: {name}")
            code = f"touch({write}, {shuffled}, 100000000)"
            for _ in range(plan.tax_rounds):
                parent.dirty()
                client.settle()
                before, = client.run([(parent.id, code)])
                parent.dirty()
                client.settle()
                reply, _, (own,), (other,) = client.fork(
                    parent.id, 1, code, [fork_client.exec_call(parent.id, code)])
                for who, value in (("before", before), ("parent", fork_client.value_of(own)),
                                   ("child", fork_client.value_of(other))):
                    pages, ns = value
                    found["us"].setdefault(name, {}).setdefault(who, []).append(ns / pages / 1e3)
                client.delete([child["id"] for child in reply["children"]])


def standstill(data, build, plan):
    """The longest time that a busy thread of the parent did not run, as its guest
    sees it, when it is forked and when not."""
    point = plan.tax_point
    found = data.setdefault("standstill", {"ms": {"forked": [], "not forked": []}})
    with fork_client.daemon(build, 4, plan.mode) as client:
        parent = Parent(client, point)
        note("standstill")
        for number in range(2 * plan.rounds):
            forked = number % 2 == 1
            parent.dirty()
            client.settle()
            client.run([(parent.id, "watch(300000000)")])
            if forked:
                reply = client.fork(parent.id, 1)[0]
            longest, = client.run([(parent.id, "watched()")])
            found["ms"]["forked" if forked else "not forked"].append(longest / 1e6)
            if forked:
                client.delete([child["id"] for child in reply["children"]])


MEMINFO = ("MemAvailable", "Slab", "PageTables", "KernelStack", "Percpu", "AnonPages", "Shmem")


def idle(data, build, plan):
    """Many children of one warm parent, alive at once and doing nothing."""
    count, ram = plan.idle_children, plan.idle_ram
    note(f"idle: {count} children at once")
    with fork_client.daemon(build, 4, plan.mode, max_sandboxes=count + 8,
                            connections=256) as client:
        parent = client.create(ram, "import json, random, re; 1")[0]["id"]
        client.settle()
        before = fork_client.meminfo()
        start = time.monotonic()
        children = []
        while len(children) < count:
            reply = client.fork(parent, min(plan.idle_step, count - len(children)))[0]
            children += [child["id"] for child in reply["children"]]
        seconds = time.monotonic() - start
        client.settle()
        pause(plan.idle_seconds)
        after = fork_client.meminfo()
        memory = guest_memory(client)
        cpu = {pid: host.cpu_ns(pid) for pid in memory}
        pause(plan.idle_seconds)
        used = sum(host.cpu_ns(pid) - cpu[pid] for pid in memory)
        answers = client.good(client.job([fork_client.exec_call(name, "1")
                                          for name in children])["calls"])
        for call in answers:
            fork_client.value_of(call)
        teardown = client.delete(children)
        gone = [memory[pid] for pid in set(memory) - set(client.workers())]
    if len(gone) != count:
        raise Failed(f"{count} children were alive, {len(gone)} of their workers were seen")
    data["idle"] = {
        "children": count, "ram": ram, "fork_seconds": seconds, "teardown_ms": teardown,
        "answers_ms": max(call["ms"] for call in answers),
        "cpu_percent_each": used / count / (plan.idle_seconds * 1e9) * 100,
        "meminfo_mib": {name: (before[name] - after[name] if name == "MemAvailable"
                               else after[name] - before[name]) / host.MIB
                        for name in MEMINFO if name in before},
        **{f"{name}_mib": [worker[name] / host.MIB for worker in gone
                           if worker[name] is not None]
           for name in ("charged", "kernel", "anonymous")},
    }


def pause(seconds):
    """Time for what is idle to be idle in."""
    time.sleep(seconds)


PARTS = {"calibration": calibration, "baselines": baselines, "creates": creates, "forks": forks,
         "depth": depth, "tax": tax, "standstill": standstill, "idle": idle}
