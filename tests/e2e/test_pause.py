"""Pausing and resuming a sandbox in place."""

import time
import unittest

from forking import BASH_COUNTER, ForkCase
from harness import eventually

# Notes when it ran, by the wall clock and the monotonic one.
CLOCKS = """
import threading, time
ticks = []
def ticking():
    while True:
        ticks.append((time.time(), time.monotonic()))
        time.sleep(0.01)
threading.Thread(target=ticking, daemon=True).start()
"""


class PauseTest(ForkCase):
    def pause(self, sandbox):
        reply = self.post(sandbox, "pause")
        self.assertEqual((reply.status, reply.json["state"]), (200, "paused"))

    def resume(self, sandbox):
        reply = self.post(sandbox, "resume")
        self.assertEqual((reply.status, reply.json["state"]), (200, "ready"))

    def test_state_is_shown_and_counted(self):
        def counts():
            found = self.api.get("/v1/capacity").json["sandboxes"]
            return found["ready"], found["paused"], found["total"]

        sandbox = self.create()
        ready, paused, total = counts()
        self.pause(sandbox)
        self.assertEqual(self.info(sandbox)["state"], "paused")
        self.assertEqual(counts(), (ready - 1, paused + 1, total))
        self.resume(sandbox)
        self.assertEqual(counts(), (ready, paused, total))

    def test_code_and_files_are_refused_meanwhile(self):
        sandbox = self.create()
        self.pause(sandbox)
        base = f"/v1/sandboxes/{sandbox}"
        for reply in (self.post(sandbox, "exec", {"code": "1"}),
                      self.api.get(f"{base}/files?path=/etc/hosts"),
                      self.api.put(f"{base}/files?path=/tmp/x", b"x"),
                      self.api.get(f"{base}/files/list?path=/"),
                      self.post(sandbox, "pause")):
            self.assertEqual((reply.status, reply.error), (409, "sandbox_paused"))
        self.resume(sandbox)
        self.assertEqual(self.value(sandbox, "1 + 1"), "2")
        self.assertEqual(self.bash(sandbox, "ls /tmp/x 2>/dev/null; :"), "")

    def test_resume_of_one_that_is_not_paused(self):
        reply = self.post(self.create(), "resume")
        self.assertEqual((reply.status, reply.error), (409, "sandbox_not_paused"))
        reply = self.post("sbx_aaaaaaaaaaaaaaaaaaaa", "resume")
        self.assertEqual((reply.status, reply.error), (404, "sandbox_not_found"))

    def test_background_job_stops_and_goes_on(self):
        sandbox = self.create()
        self.bash(sandbox, BASH_COUNTER)
        eventually(lambda: self.count(sandbox) > 10, "it counts")
        self.pause(sandbox)
        self.resume(sandbox)
        seen = self.count(sandbox)
        eventually(lambda: self.count(sandbox) > seen + 10, "it counts on")

    def test_nothing_runs_meanwhile_and_clocks_go_on(self):
        sandbox = self.create()
        self.python(sandbox, CLOCKS)
        eventually(lambda: int(self.value(sandbox, "len(ticks)")) > 10, "it ticks")
        self.pause(sandbox)
        begin = time.monotonic()
        end = begin + 1.5
        eventually(lambda: time.monotonic() > end, "a while")
        paused = time.monotonic() - begin
        self.resume(sandbox)
        eventually(lambda: int(self.value(
            sandbox, "sum(a[1] - ticks[0][1] > 1.5 for a in ticks)")) > 10, "it ticks on")
        wall, monotonic = eval(self.value(  # noqa: S307
            sandbox, "[max(b[k] - a[k] for a, b in zip(ticks, ticks[1:])) for k in (0, 1)]"))
        for gap in (wall, monotonic):
            self.assertGreater(gap, paused - 0.01)
            self.assertLess(gap, paused + 1)
        before = time.time()
        guest = float(self.value(sandbox, "time.time()"))
        self.assertGreater(guest, before - 0.05)
        self.assertLess(guest, time.time() + 0.05)

    def test_exec_that_runs_goes_on_afterwards(self):
        sandbox = self.create()
        stream = self.api.stream(sandbox, "import time\n"
                                          "for i in range(20):\n"
                                          "    print(i, flush=True)\n"
                                          "    time.sleep(0.02)\n")
        text = next(stream)[1]["data"]
        for _ in range(3):
            self.pause(sandbox)
            self.resume(sandbox)
        for _, event in stream:
            text += event["data"] if event["type"] == "stdout" else ""
        self.assertEqual(event["exit_code"], 0)
        self.assertEqual(text, "".join(f"{i}\n" for i in range(20)))

    def test_output_is_complete_over_many_pauses(self):
        sandbox = self.create()
        lines = 20000
        text, events = "", 0
        for _, event in self.api.stream(sandbox, f"for i in range({lines}): print(i)"):
            text += event["data"] if event["type"] == "stdout" else ""
            events += 1
            if events <= 10:
                self.pause(sandbox)
                self.resume(sandbox)
        self.assertEqual(text, "".join(f"{i}\n" for i in range(lines)))

    def test_paused_sandbox_can_be_closed(self):
        sandbox = self.create()
        self.pause(sandbox)
        self.api.close(sandbox)
        self.assertEqual(self.api.get(f"/v1/sandboxes/{sandbox}").status, 404)

    def test_paused_parent_and_running_children(self):
        parent = self.create()
        self.python(parent, "data = bytes(range(256)) * 65536")
        children = self.fork(parent, 2)
        self.pause(parent)
        for child in children:
            self.assertEqual(self.value(child, "data == bytes(range(256)) * 65536"), "True")
        grandchild, = self.fork(children[0])
        self.resume(parent)
        for sandbox in (parent, grandchild):
            self.assertEqual(self.value(sandbox, "data == bytes(range(256)) * 65536"), "True")
        self.pause(children[1])
        self.resume(children[1])
        self.fork(parent)


if __name__ == "__main__":
    unittest.main(verbosity=2)
