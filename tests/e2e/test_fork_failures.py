"""Forks when something dies or hangs: who shares what is lost fails and says why,
everybody else lives, and nobody ever reads what was not there."""

import contextlib
import os
import re
import signal
import threading
import unittest
from pathlib import Path

import harness
from forking import ForkCase
from harness import eventually, processes_of
from workers import LOST_MEMORY, Workers

KILLED = "was killed (SIGKILL)"
BIG_MB = 600

# Memory that differs from page to page, and a sum of it that any change or zero changes.
FILL = """
import hashlib, os, random
block = random.Random({seed}).randbytes(1 << 20)
data = bytearray({megabytes} << 20)
for at in range({megabytes}):
    data[at << 20:(at + 1) << 20] = block
    data[(at << 20) + 8:(at << 20) + 16] = at.to_bytes(8, "little")
sum_of = lambda: hashlib.sha256(data).hexdigest()
"""


class FailureCase(ForkCase):
    """Each with a daemon of its own, so that its processes can be told apart."""

    def setUp(self):
        super().setUp()
        self.workers = Workers(self.private_daemon())

    def filled(self, megabytes, seed=1, **fields):
        """A sandbox with so much changed memory, and the sum of it."""
        sandbox = self.create(**fields)
        self.python(sandbox, FILL.format(seed=seed, megabytes=megabytes))
        return sandbox, self.value(sandbox, "sum_of()")

    def pid(self, sandbox):
        found = self.workers.pid_of(sandbox)
        self.assertIsNotNone(found, f"{sandbox} has no worker")
        return found

    def fails(self, sandbox, words):
        item = eventually(lambda: self.failed_item(sandbox), f"{sandbox} fails")
        self.assertIn(words, item["reason"])
        reply = self.post(sandbox, "exec?stream=false", {"code": "1"})
        self.assertEqual((reply.status, reply.error), (409, "sandbox_failed"))
        self.assertIn(words, reply.message)

    def failed_item(self, sandbox):
        item = self.info(sandbox)
        settled = item["state"] == "failed" and not item["reason"].endswith("worker is ending")
        return item if settled else None

    def stopped_donor(self, megabytes, n=2, attempts=5):
        """A parent, its children and the pid of the donor, which was stopped as it fills."""
        for attempt in range(attempts):
            parent, digest = self.filled(megabytes, attempt, memory_mb=1024)
            donor = self.pid(parent)
            children = self.fork(parent, n)
            os.kill(donor, signal.SIGSTOP)
            if self.workers.layers(donor)[1]:
                return parent, children, donor, digest
            os.kill(donor, signal.SIGCONT)  # it was too fast
            for sandbox in (parent, *children):
                self.api.close(sandbox)
        self.fail("no donor was caught while it filled")


class DonorTest(FailureCase):
    def test_donor_that_is_killed_as_it_fills_takes_those_who_share_with_it(self):
        other, other_sum = self.filled(16)
        cousin, = self.fork(other)
        parent, children, donor, _ = self.stopped_donor(BIG_MB, 3)
        os.kill(donor, signal.SIGKILL)
        for sandbox in (parent, *children):
            self.fails(sandbox, LOST_MEMORY)
            self.fails(sandbox, KILLED)
        for sandbox in (other, cousin):
            self.assertEqual(self.value(sandbox, "sum_of()"), other_sum)
        self.fork(other, 2)

    def test_answers_while_a_donor_dies_are_right_or_none(self):
        """Many reads race with the death of the donor that should serve them."""
        parent, digest = self.filled(BIG_MB, memory_mb=1024)
        donor = self.pid(parent)
        children = self.fork(parent, 3)
        wrong, answers = [], []

        def ask(sandbox):
            code = (f"[at for at in range({BIG_MB}) "
                    "if data[(at << 20) + 16:(at + 1) << 20] != block[16:] or "
                    "data[(at << 20) + 8:(at << 20) + 16] != at.to_bytes(8, 'little')]")
            reply = self.post(sandbox, "exec?stream=false", {"code": code})
            answers.append(reply.status)
            if reply.status == 200 and reply.json["result"] != "[]":
                wrong.append(reply.body)

        threads = [threading.Thread(target=ask, args=(s,)) for s in (parent, *children)]
        for thread in threads:
            thread.start()
        eventually(lambda: self.info(children[-1])["execs"]["running"], "they read")
        with contextlib.suppress(ProcessLookupError):
            os.kill(donor, signal.SIGKILL)
        for thread in threads:
            thread.join(2 * harness.DEADLINE)
        self.assertEqual((wrong, len(answers)), ([], 4))
        for sandbox in (parent, *children):
            item = self.info(sandbox)
            if item["state"] == "failed":
                self.assertIn(LOST_MEMORY, self.failed_item(sandbox)["reason"])
            else:  # it was filled by then
                self.assertEqual(self.value(sandbox, "sum_of()"), digest)

    def test_a_line_whose_first_layer_is_lost_fails_as_a_whole(self):
        parent, children, donor, _ = self.stopped_donor(BIG_MB, 1)
        # Whoever has its own layer above the one that is lost needs both.
        reply = self.post(children[0], "fork", {"n": 1})
        line = [parent, *children]
        if reply.status == 201:
            line += [child["id"] for child in reply.json["children"] if "id" in child]
        os.kill(donor, signal.SIGKILL)
        for sandbox in line:
            self.fails(sandbox, LOST_MEMORY)

    def test_a_donor_that_hangs_makes_nothing_wrong_and_holds_up_no_close(self):
        other, other_sum = self.filled(8)
        parent, children, donor, digest = self.stopped_donor(BIG_MB)
        replies = []
        asking = threading.Thread(target=lambda: replies.append(
            self.post(children[0], "exec?stream=false", {"code": "sum_of()"})))
        asking.start()
        eventually(lambda: self.info(children[0])["execs"]["running"], "it asks")
        self.assertEqual(self.value(other, "sum_of()"), other_sum)
        self.api.close(children[0])
        asking.join(harness.DEADLINE)
        self.assertEqual((replies[0].status, replies[0].error), (409, "cancelled"))
        os.kill(donor, signal.SIGCONT)
        for sandbox in (parent, children[1]):
            self.assertEqual(self.value(sandbox, "sum_of()"), digest)

    def test_all_that_wait_for_a_donor_that_hangs_can_be_closed(self):
        parent, children, donor, _ = self.stopped_donor(BIG_MB)
        for sandbox in (parent, *children):
            self.api.close(sandbox)
        eventually(lambda: donor not in processes_of(self.daemon.home),
                   "the donor is ended with the last of them")

    def test_parent_pauses_and_resumes_while_its_layer_is_filled(self):
        parent, digest = self.filled(BIG_MB, memory_mb=1024)
        child, = self.fork(parent)
        for sandbox in (parent, child):
            self.assertEqual(self.post(sandbox, "pause").status, 200)
        for sandbox in (parent, child):
            self.assertEqual(self.post(sandbox, "resume").status, 200)
            self.assertEqual(self.value(sandbox, "sum_of()"), digest)

    def test_three_generations_at_once_while_the_first_is_filled(self):
        line, digest = self.filled(300, memory_mb=1024)
        line = [line]
        for _ in range(3):
            line += self.fork(line[-1])
        for sandbox in reversed(line):
            self.assertEqual(self.value(sandbox, "sum_of()"), digest)

    def test_daemon_that_is_killed_while_layers_are_filled_leaves_nothing(self):
        _, _, donor, _ = self.stopped_donor(BIG_MB)
        self.daemon.learn_cgroup()
        self.assertEqual(self.daemon.signal(signal.SIGKILL), -signal.SIGKILL)
        self.assertTrue(donor)
        eventually(lambda: not processes_of(self.daemon.home), "its processes died with it")
        self.daemon.start()
        self.assertEqual(self.api.get("/v1/sandboxes").json["sandboxes"], [])
        self.assertEqual([path for path in self.daemon.cgroups()
                          if not path.endswith(self.daemon.cgroup)], [])
        self.fork(self.create())


class WorkerTest(FailureCase):
    def test_child_that_is_killed_dies_alone(self):
        parent, digest = self.filled(8)
        one, two = self.fork(parent, 2)
        os.kill(self.pid(one), signal.SIGKILL)
        self.fails(one, KILLED)
        for sandbox in (parent, two):
            self.assertEqual(self.value(sandbox, "sum_of()"), digest)
        self.assertEqual(self.value(self.fork(parent)[0], "sum_of()"), digest)

    def test_parent_that_is_killed_leaves_its_children(self):
        parent, digest = self.filled(8)
        one, two = self.fork(parent, 2)
        self.assertEqual(self.value(one, "sum_of()"), digest)
        eventually(lambda: not self.filling(), "the layer is filled")
        os.kill(self.pid(parent), signal.SIGKILL)
        self.fails(parent, KILLED)
        for sandbox in (one, two):
            self.assertEqual(self.value(sandbox, "sum_of()"), digest)

    def filling(self):
        return any(self.workers.layers(pid)[1] for pid in self.workers.processes())

    def idle_shells(self):
        """Pids of the workers in the pool, oldest first."""
        def shells():
            pool = self.api.get("/v1/capacity").json["pool"]
            owned = [int(vm[2:]) for vm in self.workers.processes().values()
                     if not self.workers.owner(vm)]
            return not pool["starting"] and pool["ready"] == len(owned)

        eventually(shells, "the pool is filled and the template's worker gone")
        return [pid for pid, vm in sorted(self.workers.processes().items(),
                                          key=lambda item: int(item[1][2:]))
                if not self.workers.owner(vm)]

    def test_parents_next_worker_that_is_killed_is_replaced(self):
        """Which of the idle ones it will be is not told: one of all attempts meets it."""
        parent, digest = self.filled(8)
        for attempt in range(12):
            reply = self.fork_while_one_dies(parent, attempt)
            self.assertEqual(reply.status, 201, reply.body)
            self.assertEqual(self.value(parent, "sum_of()"), digest)
            for child in reply.json["children"]:
                if "error" in child:
                    # The second: children take their workers when the parent runs.
                    self.assertRegex(child["error"]["message"],
                                     f"{re.escape(KILLED)}|worker died before it was used")
                    continue
                self.assertEqual(self.value(child["id"], "sum_of()"), digest)
                self.api.close(child["id"])
            if "after its fork failed" in self.daemon.log.read_text():
                return
        self.fail("the parent's next worker was never the one that died")

    def fork_while_one_dies(self, parent, which):
        """The reply to a fork into two, of whose new workers one is killed before it runs."""
        shells = self.idle_shells()
        for pid in shells:
            os.kill(pid, signal.SIGSTOP)
        before = self.layers_filled()
        replies = []
        forking = threading.Thread(target=lambda: replies.append(
            self.post(parent, "fork", {"n": 2})))
        forking.start()
        eventually(lambda: self.layers_filled() > before, "the parent was stopped and copied")
        victim = shells.pop(which % len(shells))
        os.kill(victim, signal.SIGKILL)
        for pid in shells:
            os.kill(pid, signal.SIGCONT)
        forking.join(harness.DEADLINE)
        return replies[0]

    def layers_filled(self):
        return self.daemon.log.read_text().count("a memory layer was filled")

    def test_child_beyond_its_memory_limit_is_killed_alone(self):
        parent, digest = self.filled(8)
        one, two = self.fork(parent, 2)
        lower_memory_limit(self.pid(one), 40 << 20)
        reply = self.post(one, "exec?stream=false",
                          {"code": "more = bytearray(os.urandom(1 << 20)) * 150"})
        self.assertNotEqual(reply.status, 200, reply.body)
        self.fails(one, "more memory than its cgroup allows")
        for sandbox in (parent, two):
            self.assertEqual(self.value(sandbox, "sum_of()"), digest)

    def test_guest_that_shut_down_cannot_be_forked(self):
        parent = self.create()
        self.post(parent, "exec?stream=false",
                  {"code": "echo o > /proc/sysrq-trigger; sleep 60", "language": "bash"})
        item = eventually(lambda: self.failed_item(parent), "it has failed")
        self.assertIn("shut down", item["reason"])
        reply = self.post(parent, "fork")
        self.assertEqual((reply.status, reply.error), (409, "sandbox_failed"))

    def test_guest_that_panics_during_its_fork(self):
        """The fork comes before the crash or after it: there are children, or an error."""
        for delay in range(4):
            parent, digest = self.filled(4)
            code = ("import ctypes, time\n"
                    f"print('begun', flush=True)\ntime.sleep(0.004 * {delay})\n"
                    "open('/proc/sysrq-trigger', 'w').write('c')\n")
            stream = self.api.stream(parent, code)
            next(stream)
            reply = self.post(parent, "fork", {"n": 2})
            with contextlib.suppress(AssertionError):
                list(stream)
            eventually(lambda: self.failed_item(parent), "it has failed")  # noqa: B023
            if reply.status != 201:
                self.assertIn(reply.status, (409, 500), reply.body)
                continue
            for child in reply.json["children"]:
                if "error" in child:
                    self.assertTrue(child["error"]["message"])
                else:  # which crashes as its parent did
                    eventually(lambda: self.failed_item(child["id"]), "it fails")  # noqa: B023
                    self.close_at_the_end(child["id"])


class AtOnceTest(FailureCase):
    def test_merge_while_forking_is_refused_or_waits(self):
        parent, digest = self.filled(64)
        winner, = self.fork(parent)
        self.python(winner, "data[-1:] = b'w'")
        winner_sum = self.value(winner, "sum_of()")
        replies = []
        forking = threading.Thread(target=lambda: replies.append(
            self.post(parent, "fork", {"n": 4})))
        forking.start()
        eventually(lambda: self.info(parent)["children"] > 1 or replies, "the fork began")
        merged = self.post(parent, f"merge_into/{winner}")
        forking.join(harness.DEADLINE)
        self.assertEqual(replies[0].status, 201, replies[0].body)
        for child in replies[0].json["children"]:
            self.assertEqual(self.value(self.close_at_the_end(child["id"]), "sum_of()"), digest)
        if merged.status == 200:
            self.assertEqual(self.value(parent, "sum_of()"), winner_sum)
        else:
            self.assertEqual((merged.status, merged.error), (409, "sandbox_busy"))
            self.assertEqual(self.value(parent, "sum_of()"), digest)
            self.merge(parent, winner)
            self.assertEqual(self.value(parent, "sum_of()"), winner_sum)

    def test_20_parents_at_once(self):
        parents = [self.filled(2, seed) for seed in range(20)]
        replies = {}

        def fork(parent):
            replies[parent] = self.post(parent, "fork", {"n": 2})

        threads = [threading.Thread(target=fork, args=(parent,)) for parent, _ in parents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * harness.DEADLINE)
        for parent, digest in parents:
            self.assertEqual(replies[parent].status, 201, replies[parent].body)
            for child in replies[parent].json["children"]:
                self.assertNotIn("error", child)
                self.assertEqual(self.value(self.close_at_the_end(child["id"]), "sum_of()"), digest)
            self.assertEqual(self.value(parent, "sum_of()"), digest)

    def test_more_children_than_there_is_room_for(self):
        parent, digest = self.filled(2)
        before = self.info(parent)["memory"]
        reply = self.post(parent, "fork", {"n": 1000})
        self.assertEqual((reply.status, reply.error), (429, "limit_reached"))
        self.assertIn("max_sandboxes", reply.message)
        self.assertEqual(self.info(parent)["memory"], before)  # it was not stopped
        self.assertEqual(self.value(self.fork(parent)[0], "sum_of()"), digest)


def lower_memory_limit(pid, more):
    """To what a worker uses now and `more` bytes."""
    text = Path(f"/proc/{pid}/cgroup").read_text()
    for controllers, path in re.findall(r"^\d+:(\S*):(/.*)$", text, re.M):
        for kind, options, root in mounted_cgroups():
            names = ("memory.max", "memory.current")
            if kind == "cgroup":
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
                if "memory" not in controllers.split(",") or "memory" not in options:
                    continue
            elif controllers:
                continue
            for base in (Path(root + path), Path(root + "/" + "/".join(path.split("/")[-2:]))):
                if (base / names[0]).exists():
                    used = int((base / names[1]).read_text())
                    (base / names[0]).write_text(str(used + more))
                    return
    raise unittest.SkipTest("no memory cgroup of the worker can be found")


def mounted_cgroups():
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, directory, kind, options, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            yield kind, options.split(","), directory


if __name__ == "__main__":
    unittest.main(verbosity=2)
