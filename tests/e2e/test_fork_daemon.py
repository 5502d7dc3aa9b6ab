"""What forks leave behind: nothing, also when the daemon is killed among them."""

import http.client
import os
import signal
import threading
import unittest

import harness
from forking import ForkCase
from harness import eventually, processes_of


class LeakTest(ForkCase):
    def use_forks(self):
        """A little of everything; all sandboxes are closed again."""
        parent = self.api.create()
        self.python(parent, "data = b'x' * (4 << 20)")
        children = self.fork(parent, 4)
        grandchildren = self.fork(children[0], 2)
        self.post(children[1], "pause")
        self.post(children[2], "pause")
        self.post(children[2], "resume")
        self.merge(parent, grandchildren[0])
        self.assertEqual(self.value(parent, "len(data)"), str(4 << 20))
        self.panic(children[3])
        for sandbox in [*children, *grandchildren, parent]:
            self.api.close(sandbox)

    def test_rounds_of_forks_leave_nothing(self):
        daemon = self.private_daemon()
        warm = self.api.create()
        daemon.learn_cgroup()
        self.api.close(warm)
        self.use_forks()
        daemon.settle()
        before = daemon.usage()
        for _ in range(5):
            self.use_forks()

        def difference():
            return daemon.usage().difference(before)

        try:
            eventually(lambda: not difference(), "everything is as before", 10)
        except AssertionError:
            self.fail("; ".join(difference()))


class KillTest(ForkCase):
    """Kills the daemon with SIGKILL while requests are under way."""

    def setUp(self):
        super().setUp()
        self.private_daemon()

    def requests(self, work):
        """Starts threads that call work(number) until the daemon is gone."""
        def run(number):
            try:
                while True:
                    work(number)
            except (OSError, http.client.HTTPException, AssertionError):
                pass  # it was killed

        threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        return threads

    def kill_and_check(self, threads):
        self.assertEqual(self.daemon.signal(signal.SIGKILL), -signal.SIGKILL)
        for thread in threads:
            thread.join(harness.DEADLINE)
        eventually(lambda: not processes_of(self.daemon.home), "its processes died with it")
        self.daemon.start()
        self.assertEqual(self.api.get("/v1/sandboxes").json["sandboxes"], [])
        self.assertEqual([path for path in self.daemon.cgroups()
                          if not path.endswith(self.daemon.cgroup)], [])

    def stop_and_check(self):
        self.assertEqual(self.daemon.stop(), 0)
        self.assertEqual(processes_of(self.daemon.home), [])
        self.assertEqual(self.daemon.cgroups(), [])
        self.assertFalse(os.path.exists(self.daemon.socket))

    def test_kill_among_forks(self):
        for number in range(4):
            parents = [self.api.create() for _ in range(2)]
            self.daemon.learn_cgroup()
            threads = self.requests(lambda n: self.post(parents[n], "fork", {"n": 12}))  # noqa: B023
            eventually(lambda: any(  # more or less of the fork is done
                item["children"] > 5 * number  # noqa: B023
                for item in self.api.get("/v1/sandboxes").json["sandboxes"]), "forks are made")
            self.kill_and_check(threads)
        self.stop_and_check()

    def test_kill_among_merges(self):
        def merge(number):
            parent = parents[number]
            reply = self.post(parent, "fork")
            winner = reply.json["children"][0]["id"]
            self.merge(parent, winner)
            merged.append(winner)

        for number in range(3):
            merged = []
            parents = [self.api.create() for _ in range(2)]
            self.daemon.learn_cgroup()
            threads = self.requests(merge)
            eventually(lambda: len(merged) > number, "merges are made")  # noqa: B023
            self.kill_and_check(threads)
        self.stop_and_check()

    def test_stop_among_forks(self):
        parents = [self.api.create() for _ in range(2)]
        self.daemon.learn_cgroup()
        threads = self.requests(lambda n: self.post(parents[n], "fork", {"n": 8}))
        eventually(lambda: len(self.api.get("/v1/sandboxes").json["sandboxes"]) > 8,
                   "forks are made")
        self.stop_and_check()
        for thread in threads:
            thread.join(harness.DEADLINE)


if __name__ == "__main__":
    unittest.main(verbosity=2)
