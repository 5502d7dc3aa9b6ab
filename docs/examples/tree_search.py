#!/usr/bin/python3
"""One step of a tree search, with real data: the places of the time zone database
are loaded once, then five plans for a short round trip through all of them run in
five forks of that state, the results are compared file by file, and the parent
goes on as the best.

usage: tree_search.py [SOCKET]      (a daemon's; default: $RAMET_SOCKET)
"""

import os
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "api", "python"))
from ramet import Sandbox  # noqa: E402

LOAD = """
import math, os, random, re, time
os.makedirs("/data", exist_ok=True)
places = []
for line in open("/usr/share/zoneinfo/zone1970.tab"):
    if not line.startswith("#"):
        _, where, name = line.split("\\t")[:3]
        m = re.match(r"([+-])(\\d{2})(\\d{2})(\\d{2})?([+-])(\\d{3})(\\d{2})(\\d{2})?", where)
        lat, lon = (math.radians(float(s + "1") * (int(d) + int(minutes) / 60)) for s, d, minutes
                    in ((m[1], m[2], m[3]), (m[5], m[6], m[7])))
        places.append((name.strip(), lat, lon))
xyz = [(math.cos(a) * math.cos(o), math.cos(a) * math.sin(o), math.sin(a)) for _, a, o in places]
N = len(places)
far = [[6371 * math.acos(max(-1.0, min(1.0, sum(a * b for a, b in zip(p, q))))) for q in xyz]
       for p in xyz]

def length(tour):
    return sum(far[a][b] for a, b in zip(tour, tour[1:] + tour[:1]))

def nearest(start):
    left, tour = set(range(N)) - {start}, [start]
    while left:
        tour.append(min(left, key=far[tour[-1]].__getitem__))
        left.remove(tour[-1])
    return tour

def two_opt(tour, seconds):
    end, better = time.monotonic() + seconds, True
    while better and time.monotonic() < end:
        better = False
        for i in range(1, N - 1):
            for j in range(i + 1, N):
                a, b, c, d = tour[i - 1], tour[i], tour[j], tour[(j + 1) % N]
                if far[a][c] + far[b][d] < far[a][b] + far[c][d] - 1e-9:
                    tour[i:j + 1], better = tour[i:j + 1][::-1], True
    return tour

def save(tour, plan):
    with open("/data/tour.txt", "w") as f:
        f.write(f"# {plan}\\n" + "".join(places[i][0] + "\\n" for i in tour))
tour = list(range(N))
save(tour, "as listed")
print(f"{N} places, {N * N} distances; as listed: {length(tour):,.0f} km")
"""

PLANS = {
    "nearest neighbour": "tour = nearest(0)",
    "best of many starts": "tour = min((nearest(s) for s in range(0, N, 7)), key=length)",
    "from west to east": "tour = sorted(range(N), key=lambda i: places[i][2])",
    "2-opt of a random tour": "tour = two_opt(random.sample(range(N), N), 2)",
    "2-opt of nearest": "tour = two_opt(nearest(0), 2)",
}

FINISH = """
save(tour, {plan!r})
print(f"{{length(tour):,.0f}}")
"""


def attempt(child, plan, results):
    answer = child.run_code(PLANS[plan] + FINISH.format(plan=plan))
    if answer.exit_code:
        raise RuntimeError(f"plan '{plan}' failed: {answer.stderr}")
    results[plan] = float(answer.stdout.replace(",", ""))


def search(socket=None, isolation="fast"):
    with Sandbox(socket=socket, isolation=isolation) as parent:
        start = time.monotonic()
        print("    " + parent.run_code(LOAD).stdout.strip())
        loaded = time.monotonic()
        children = dict(zip(PLANS, parent.fork(n=len(PLANS))))
        forked = time.monotonic()
        print(f"    loaded in {(loaded - start) * 1e3:.0f} ms; five forks in "
              f"{(forked - loaded) * 1e3:.1f} ms, of which the parent stood still for "
              f"{parent.fork_timings['parent_ms']:.1f} ms")

        results = {}
        threads = [threading.Thread(target=attempt, args=(child, plan, results))
                   for plan, child in children.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(results) != len(PLANS):
            sys.exit("tree_search: not every plan has a result")
        for plan in sorted(results, key=results.get):
            print(f"    {results[plan]:>10,.0f} km  {plan}")

        best = min(results, key=results.get)
        diff = parent.diff(children[best], paths=["/data"])
        print(f"    the winner differs from the parent in {diff.modified + diff.added}")
        parent.merge_into(children[best])
        for child in children.values():
            child.close()
        after = parent.run_code("print(f'{length(tour):,.0f} km, ' + open('/data/tour.txt').readline())")
        print(f"    the parent, {parent.id}, goes on as the winner: {after.stdout.strip()}")
        if best not in after.stdout or diff.modified != ["/data/tour.txt"]:
            sys.exit("tree_search: that is not the winner's state")


if __name__ == "__main__":
    search(sys.argv[1] if len(sys.argv) > 1 else None)
