#!/usr/bin/python3
"""Forks for a long time, at random, against an oracle.

usage: soak_fork.py [--seconds N] [--seed N] [--isolation fast|full|mixed]
                    [--max-live N] [--clients N] [--kill-every SECONDS]

Clients create, change, fork, merge, pause, compare and close sandboxes at once,
and kill their workers. Everything that a sandbox holds is compared with a model
of it (model.py). Afterwards all are closed, and the daemon must hold what it held
before; then it is stopped, and nothing may be left. The last line is

    soak: N actions in S s, N mismatches, N leaks (seed N)

and the exit status 0 only without both. A seed repeats what each client does,
not how clients meet. Environment: see tests/e2e/harness.py."""

import argparse
import os
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random, SystemRandom

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

import harness  # noqa: E402
from actions import WEIGHTS, Actions  # noqa: E402
from chaos import Chaos  # noqa: E402
from world import ApiError, Mismatch, World  # noqa: E402

MEMORY_MB = (320, 512)
POOL = 3  # idle virtual machines of each kind


def client(world, seed, number):
    """One of those who act at once."""
    random = Random(f"{seed}-{number}")
    actions = Actions(world, random)
    names = sorted(WEIGHTS)
    while not world.stop.is_set():
        name, = random.choices(names, [WEIGHTS[name] for name in names])
        if len(world.live) < 3:
            name = "create"
        elif len(world.live) > world.max_live * 0.5 and random.random() < 0.4:
            name = "close"
        begin = time.monotonic()
        try:
            done = getattr(actions, f"action_{name}")()
        except (Mismatch, ApiError) as error:
            world.note(f"{name}: {error}")
            return
        except Exception:
            world.note(f"{name}: {traceback.format_exc()}")
            return
        if done:
            world.latencies[name].append(time.monotonic() - begin)
        else:
            world.stop.wait(0.02)  # nobody to do it with


def killer(world, seed, every):
    random = Random(f"{seed}-kills")
    chaos = Chaos(world, Actions(world, random))
    while not world.stop.wait(random.uniform(0.4, 1.6) * every):
        try:
            chaos.run_once()
        except (Mismatch, ApiError) as error:
            world.note(f"kill: {error}")
        except Exception:
            world.note(f"kill: {traceback.format_exc()}")


def holdings(daemon):
    """Counts of what a daemon and its workers hold, for comparing."""
    usage = daemon.usage()
    found = Counter({f"descriptors {kind}": n for kind, n in usage.descriptors.items()})
    found.update({f"file {name}": 1 for name in usage.files})
    found.update(processes=usage.processes, memfds=usage.memfds, mounts=usage.mounts,
                 cgroups=usage.cgroups)
    for pid in harness.processes_of(daemon.home):
        try:
            kinds = harness.descriptors_of(pid)
            found[f"network namespace {os.readlink(f'/proc/{pid}/ns/net')}"] = 1
        except OSError:
            continue
        found["userfaultfds"] += sum(n for kind, n in kinds.items() if "[userfaultfd]" in kind)
    namespaces = [name for name in found if name.startswith("network")]
    for name in namespaces:
        del found[name]
    found["network namespaces"] = len(namespaces)
    return found


def warm(world):
    """Every template is made, and its pool filled, before anything is counted."""
    for isolation in world.isolations:
        for memory_mb in world.memory_mb:
            item = world.request("POST", "/v1/sandboxes",
                                 {"isolation": isolation, "memory_mb": memory_mb})
            world.daemon.learn_cgroup()
            world.request("POST", f"/v1/sandboxes/{item['id']}/fork", {"n": 1})
            for other in world.request("GET", "/v1/sandboxes")["sandboxes"]:
                world.request("DELETE", f"/v1/sandboxes/{other['id']}")

    def filled():
        capacity = world.request("GET", "/v1/capacity")
        shells = POOL * len(world.isolations) * len(world.memory_mb)
        return capacity["pool"]["ready"] == shells and not capacity["sandboxes"]["total"]

    harness.eventually(filled, "the pools are filled")
    return holdings(world.daemon)


def leaks_of(world, before):
    """Sentences about what is left when all sandboxes are closed."""
    for item in world.request("GET", "/v1/sandboxes")["sandboxes"]:
        world.request("DELETE", f"/v1/sandboxes/{item['id']}", expect=(200, 404))
    found = []

    def clean():
        found[:] = [f"{what}: {before[what]} -> {n}"
                    for what, n in sorted(holdings(world.daemon).items()) if n > before[what]]
        return not found

    try:
        harness.eventually(clean, "everything is as before", 20)
    except AssertionError:
        pass
    return found


def leaks_of_stopped(daemon):
    found = []
    if daemon.stop() != 0:
        found.append(f"rametd ended with {daemon.process.returncode}")
    found += [f"process {pid}" for pid in harness.processes_of(daemon.home)]
    found += [f"cgroup {path}" for path in daemon.cgroups()]
    expected = {"bin", "state", "images"}
    found += [f"file {path}" for path in daemon.home.iterdir() if path.name not in expected]
    return found


def report(world, options, seconds, leaks):
    total = 0
    for name in sorted(WEIGHTS):
        times = sorted(world.latencies[name])
        total += len(times)
        if times:
            print(f"{name:20} {len(times):6}   p50 {times[len(times) // 2] * 1e3:8.1f} ms   "
                  f"p90 {times[len(times) * 9 // 10] * 1e3:8.1f} ms   "
                  f"max {times[-1] * 1e3:8.1f} ms")
    for name, n in sorted(world.counts.items()):
        print(f"{name:34} {n:6}")
    print(f"deepest fork {world.deepest}, most layers {world.most_layers}, "
          f"most extents {world.most_extents}")
    for text in world.mismatches:
        print(f"MISMATCH: {text}")
    for text in leaks:
        print(f"LEAK: {text}")
    print(f"soak: {total} actions in {seconds:.0f} s, {len(world.mismatches)} mismatches, "
          f"{len(leaks)} leaks (seed {options.seed})", flush=True)


def parse(arguments):
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1 << 31))
    parser.add_argument("--isolation", choices=("fast", "full", "mixed"), default="mixed")
    parser.add_argument("--max-live", type=int, default=40)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--kill-every", type=float, default=2.5, help="0: never")
    return parser.parse_args(arguments)


def run_clients(world, options):
    """Seconds that it took."""
    begin = time.monotonic()
    threads = [threading.Thread(target=client, args=(world, options.seed, number), daemon=True)
               for number in range(options.clients)]
    if options.kill_every:
        threads.append(threading.Thread(
            target=killer, args=(world, options.seed, options.kill_every), daemon=True))
    for thread in threads:
        thread.start()
    world.stop.wait(options.seconds)
    world.stop.set()
    for thread in threads:
        thread.join(3 * harness.DEADLINE)
        if thread.is_alive():
            world.note("a client does not come to an end")
    return time.monotonic() - begin


def soak(options, memory_mb=MEMORY_MB):
    """Returns mismatches and leaks."""
    isolations = ("fast", "full") if options.isolation == "mixed" else (options.isolation,)
    daemon = harness.Daemon("--pool", str(POOL), worker="real").start()
    try:
        world = World(daemon, options.max_live, isolations, memory_mb)
        print(f"soak: seed {options.seed}, log {daemon.log}", flush=True)
        before = warm(world)
        seconds = run_clients(world, options)
        if daemon.process.poll() is None:
            leaks = leaks_of(world, before) + leaks_of_stopped(daemon)
        else:
            leaks = [f"rametd ended with {daemon.process.returncode}: {daemon.log_tail()}"]
    finally:
        daemon.destroy()
    report(world, options, seconds, leaks)
    return world.mismatches, leaks


def main():
    obstacle = harness.real_worker_obstacle()
    if obstacle or os.geteuid() != 0:
        sys.exit(f"soak: {obstacle or 'needs root'}")
    mismatches, leaks = soak(parse(sys.argv[1:]))
    sys.exit(1 if mismatches or leaks else 0)


if __name__ == "__main__":
    main()
