"""Many sandboxes, one after the other and at once: all correct, nothing left."""

import threading
import unittest

import harness
from harness import Daemon, eventually, needs_root

ROUNDS = 50
AT_ONCE = 8


@needs_root
class SoakTest(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon().start()
        self.addCleanup(self.daemon.destroy)
        self.addCleanup(self.daemon.stop)
        self.api = self.daemon.api()

    def use(self, sandbox, number):
        """A little of everything; the answers depend on `number`."""
        base = f"/v1/sandboxes/{sandbox}"
        path = f"{harness.guest_directory()}/n"
        self.assertEqual(self.api.run(sandbox, f"x = {number}; x * 2")["result"], str(number * 2))
        reply = self.api.run(sandbox, f"echo $(({number} + 1))", language="bash")
        self.assertEqual(reply["stdout"], f"{number + 1}\n")
        reply = self.api.put(f"{base}/files?path={path}", str(number).encode())
        self.assertEqual(reply.status, 200)
        self.assertEqual(self.api.get(f"{base}/files?path={path}").body, str(number).encode())
        self.assertEqual(self.api.run(sandbox, "x")["result"], str(number))
        self.api.run(sandbox, f"rm -r {path.rsplit('/', 1)[0]}", language="bash")

    def usage_of_a_used_daemon(self):
        for options in ({}, {"memory_mb": 256}):  # both sizes, each with its pool
            warm = self.api.create(**options)
            self.daemon.learn_cgroup()
            self.use(warm, 0)
            self.api.close(warm)
        self.daemon.settle()
        return self.daemon.usage()

    def assert_as_before(self, before):
        def difference():
            return self.daemon.usage().difference(before)

        try:
            eventually(lambda: not difference(), "everything is as before", 10)
        except AssertionError:
            self.fail("; ".join(difference()))

    def test_50_sandboxes_in_a_row_leave_nothing(self):
        before = self.usage_of_a_used_daemon()
        for number in range(ROUNDS):
            sandbox = self.api.create()
            self.use(sandbox, number)
            self.api.close(sandbox)
        self.assert_as_before(before)

    def test_8_sandboxes_at_once_are_each_correct(self):
        before = self.usage_of_a_used_daemon()
        failures = []

        def live(number):
            try:
                sandbox = self.api.create(memory_mb=256)
                for turn in range(3):
                    self.use(sandbox, 100 * number + turn)
                self.api.close(sandbox)
            except BaseException as error:  # reported by the test's own thread
                failures.append(f"{number}: {error!r}")

        threads = [threading.Thread(target=live, args=(number,)) for number in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(4 * harness.DEADLINE)
        self.assertEqual(failures, [])
        self.assertEqual(self.api.get("/v1/sandboxes").json["sandboxes"], [])
        self.assert_as_before(before)

    def test_requests_that_fail_leave_nothing(self):
        sandbox = self.api.create()
        base = f"/v1/sandboxes/{sandbox}"
        self.daemon.learn_cgroup()
        self.daemon.settle()
        before = self.daemon.usage()
        for _ in range(100):
            self.api.get(f"{base}/files?path=/none")
            self.api.post(f"{base}/exec", "{")
            self.api.post("/v1/sandboxes", {"template": "none"})
            self.api.put(f"{base}/files?path=/tmp", b"x")
            stream = self.api.stream(sandbox, "print(1, flush=True)\nimport time; time.sleep(60)")
            next(stream)
            stream.close()
        eventually(lambda: self.api.get(base).json["execs"]["running"] == 0, "nothing runs")
        self.assert_as_before(before)


if __name__ == "__main__":
    unittest.main(verbosity=2)
