"""What the tests of forks share."""

import unittest

import harness

FORK_TIMINGS = ("reserve_ms", "quiesce_ms", "pause_ms", "state_ms", "map_ms", "parent_ms",
                "stitch_ms", "first_answer_ms", "all_answers_ms", "total_ms")

# Appends 0, 1, 2, ... to a file, a line each, for ever.
BASH_COUNTER = """
(i=0; while :; do echo $i; i=$((i + 1)); sleep 0.01; done) > /tmp/count 2>/dev/null < /dev/null &
disown
"""


@harness.needs_root
@harness.needs_guest
class ForkCase(unittest.TestCase):
    """Tests with sandboxes that are closed in the end, of the daemon they share."""

    def setUp(self):
        self.use(harness.shared_daemon())

    def use(self, daemon):
        self.daemon = daemon
        self.api = daemon.api()

    def private_daemon(self, *options):
        daemon = harness.Daemon(*options)
        self.addCleanup(daemon.destroy)
        self.addCleanup(daemon.stop)
        self.use(daemon.start())
        return daemon

    def close_at_the_end(self, sandbox):
        self.addCleanup(self.api.delete, f"/v1/sandboxes/{sandbox}", check=False)
        return sandbox

    def create(self, **fields):
        return self.close_at_the_end(self.api.create(**fields))

    def post(self, sandbox, what, document=None):
        return self.api.post(f"/v1/sandboxes/{sandbox}/{what}",
                             b"" if document is None else document)

    def fork_reply(self, parent, n=1, **fields):
        """The reply to a fork of which every child must succeed."""
        reply = self.post(parent, "fork", {"n": n, **fields})
        self.assertEqual(reply.status, 201, reply.body)
        children = reply.json["children"]
        self.assertEqual(len(children), n)
        for index, child in enumerate(children):
            self.assertNotIn("error", child)
            self.assertEqual((child["fork_index"], child["state"], child["parent"]),
                             (index, "ready", parent))
            self.close_at_the_end(child["id"])
        return reply.json

    def fork(self, parent, n=1, **fields):
        """Ids of the children."""
        return [child["id"] for child in self.fork_reply(parent, n, **fields)["children"]]

    def merge(self, parent, winner):
        reply = self.api.request("POST", f"/v1/sandboxes/{parent}/merge_into/{winner}")
        self.assertEqual(reply.status, 200, reply.body)
        self.assertEqual(reply.json["id"], parent)
        return reply.json

    def value(self, sandbox, expression):
        """The repr of a Python expression in a sandbox."""
        reply = self.api.run(sandbox, expression)
        self.assertEqual(reply["exit_code"], 0, reply["stderr"])
        return reply["result"]

    def python(self, sandbox, code):
        reply = self.api.run(sandbox, code)
        self.assertEqual((reply["exit_code"], reply["stderr"]), (0, ""))
        return reply["stdout"]

    def bash(self, sandbox, code):
        reply = self.api.run(sandbox, code, language="bash")
        self.assertEqual((reply["exit_code"], reply["stderr"]), (0, ""))
        return reply["stdout"]

    def info(self, sandbox):
        reply = self.api.get(f"/v1/sandboxes/{sandbox}")
        self.assertEqual(reply.status, 200, reply.body)
        return reply.json

    def panic(self, sandbox):
        """Makes a guest fail."""
        self.post(sandbox, "exec?stream=false",
                  {"code": "echo c > /proc/sysrq-trigger; sleep 60", "language": "bash"})
        harness.eventually(lambda: self.info(sandbox)["state"] == "failed", "it has failed")

    def count(self, sandbox):
        """How far the BASH_COUNTER of a sandbox is; all before must be there in order."""
        lines = self.bash(sandbox, "cat /tmp/count").split("\n")[:-1]
        self.assertEqual(lines, [str(number) for number in range(len(lines))])
        return len(lines)
