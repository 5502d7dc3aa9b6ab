"""Kills worker processes at random, and finds out who had to die of it.

A worker maps the memory layers that it reads privately and the one that it fills
as a donor shared, so /proc tells who shares what. When a donor is killed exactly
the sandboxes that have its unfilled layer fail, and those that have a layer which
a donor fills from such memory; nobody else."""

import contextlib
import os
import signal
import threading
import time

import harness
from workers import LOST_MEMORY
from world import KILLED, ApiError, Mismatch

# What a parent changes before its donor is killed: each MiB is the same.
ADD_BALLAST = """
ballast, first = bytearray({} << 20), os.urandom(1 << 20)
for at in range(0, len(ballast), 1 << 20):
    ballast[at:at + (1 << 20)] = first
"""
DROP_BALLAST = """
if globals().get("ballast"):
    for at in range(0, len(ballast), 1 << 20):
        assert ballast[at:at + (1 << 20)] == first, at
ballast = None
"""


class Chaos:
    def __init__(self, world, actions):
        self.world = world
        self.actions = actions
        self.random = actions.random

    def run_once(self):
        return self.random.choices((self.kill_any, self.kill_sandbox, self.kill_donor),
                                   (2, 1, 2))[0]()

    # ---- any, at any moment ----

    def kill_any(self):
        """Whatever it does now. What dies of it is judged when it is noticed."""
        workers = self.world.workers.processes()
        if not workers:
            return
        pid = self.random.choice(sorted(workers))
        self.world.kill(pid, workers[pid])
        self.world.counts["kill any worker"] += 1

    # ---- one that nobody disturbs, with exact consequences ----

    def kill_sandbox(self):
        with self.world.steady.alone():
            with self.world.lock:
                candidates = [s for s in self.world.live.values() if not s.closing]
            if not candidates:
                return
            victim = self.random.choice(candidates)
            pid = self.world.workers.pid_of(victim.id)
            if pid is None:
                return
            victim.doomed = True
            self.world.kill(pid, self.world.workers.current(victim.id))
            self.expect_failed(victim, KILLED)
            self.expect_alive(but={victim.id})
            self.world.counts["kill a sandbox"] += 1

    def kill_donor(self):
        """Forks a sandbox that has much to copy and kills its donor among it."""
        with self.world.steady.alone():
            picked = self.world.pick(self.random)
            if not picked:
                return
            parent, = picked
            try:
                self.world.run(parent, ADD_BALLAST.format(parent.memory_mb // 4 - 40))
                pid = self.world.workers.pid_of(parent.id)
                if pid is None:
                    return
                if self.random.random() < 0.5:
                    self.kill_donor_after_fork(parent, pid)
                else:
                    self.kill_donor_during_fork(parent, pid)
            except ApiError as error:
                self.world.judge(parent, error)
            finally:
                parent.lock.release()

    def kill_donor_after_fork(self, parent, pid):
        vm = self.world.workers.current(parent.id)
        self.actions.fork_of(parent, self.random.choice((1, 2, 4)))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        must, may = self.sharers(pid)
        if not must:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            self.world.counts["donor was done"] += 1
            self.drop_ballast(parent)
            return
        for sandbox in may:
            sandbox.doomed = True
        self.world.kill(pid, vm)
        for sandbox in must:
            self.expect_failed(sandbox, LOST_MEMORY)
        for sandbox in may:
            if sandbox not in must:
                self.settle(sandbox)
        self.expect_alive(but={sandbox.id for sandbox in may})
        self.world.counts["kill a donor after its fork"] += 1

    def kill_donor_during_fork(self, parent, pid):
        vm = self.world.workers.current(parent.id)
        over = threading.Event()

        def kill_as_it_fills():
            while not over.is_set():
                if self.world.workers.layers(pid)[1]:
                    time.sleep(delay)
                    self.world.kill(pid, vm)
                    return
                time.sleep(0.001)

        delay = self.random.choice((0, 0.002, 0.01))
        killer = threading.Thread(target=kill_as_it_fills)
        killer.start()
        children = []
        try:
            children = self.actions.fork_of(parent, self.random.choice((1, 3)))
        except ApiError as error:
            parent.doomed = True
            if not self.world.killed_since(time.monotonic()):
                raise Mismatch(f"{parent.id}: {error} and nothing was killed") from error
        finally:
            over.set()
            killer.join()
        self.settle(parent, held=True)
        for child in children:
            self.settle(child)
        self.expect_alive(but={parent.id} | {child.id for child in children})
        self.world.counts["kill a donor during its fork"] += 1

    # ---- who shares what ----

    def sharers(self, donor):
        """Live sandboxes that must fail with a donor, and those that may: a donor which
        reads lost memory can have been just fast enough."""
        workers = self.world.workers.processes()
        layers = {pid: self.world.workers.layers(pid) for pid in workers}
        _, first = layers.get(donor, (set(), None))
        if first is None:
            return set(), set()
        lost, grown = set(), {first}
        while grown != lost:
            lost = set(grown)
            for reads, fills in layers.values():
                if fills and reads & lost:
                    grown.add(fills)
        with self.world.lock:
            by_vm = {self.world.workers.current(s.id): s for s in self.world.live.values()
                     if not s.closing}
        found = {pid: by_vm[vm] for pid, vm in workers.items() if vm in by_vm}
        return ({s for pid, s in found.items() if first in layers[pid][0]},
                {s for pid, s in found.items() if layers[pid][0] & lost})

    # ---- what becomes of them ----

    def outcome(self, sandbox):
        """Its description, or None when it is being closed by somebody."""
        try:
            return self.world.settled(sandbox, self.world.info(sandbox))
        except ApiError as error:
            if error.status != 404 or not sandbox.closing:
                raise Mismatch(f"{sandbox.id}: {error}") from error
            return None

    def expect_failed(self, sandbox, words):
        end = time.monotonic() + harness.DEADLINE
        while not sandbox.closing:
            item = self.outcome(sandbox)
            if item is None or item["state"] == "closing":
                return
            if item["state"] == "failed":
                if words not in item["reason"]:
                    raise Mismatch(f"{sandbox.id} failed with: {item['reason']}")
                self.world.counts["sandboxes lost to kills"] += 1
                self.world.close(sandbox)
                return
            if time.monotonic() > end:
                raise Mismatch(f"{sandbox.id} is {item['state']} though its memory is lost")
            time.sleep(0.005)

    def settle(self, sandbox, held=False):
        """Of one that may fail: it has failed for that reason, or it is right."""
        if not held:
            with sandbox.lock:
                self.settle(sandbox, True)
            return
        sandbox.doomed = False
        item = self.outcome(sandbox)
        if item is None or sandbox.closing:
            return
        if item["state"] == "failed":
            self.expect_failed(sandbox, LOST_MEMORY)
            return
        try:
            self.drop_ballast(sandbox)
            self.actions.verify(sandbox)
        except ApiError as error:
            self.world.judge(sandbox, error)

    def drop_ballast(self, sandbox):
        self.world.run(sandbox, DROP_BALLAST)

    def expect_alive(self, but):
        """Nobody else fails of what was done."""
        with self.world.lock:
            others = [s for s in self.world.live.values() if s.id not in but and not s.closing]
        for sandbox in others:
            item = self.outcome(sandbox)
            if item and item["state"] == "failed" and \
                    not self.world.reason_is_known(sandbox, item["reason"]):
                raise Mismatch(f"{sandbox.id} failed with others: {item['reason']}")
