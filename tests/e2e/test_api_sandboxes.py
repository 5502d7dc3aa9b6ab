"""Creating, listing and closing sandboxes through the HTTP API."""

import datetime
import json
import socket
import threading
import unittest

import harness
from harness import SandboxCase, needs_guest, needs_root


class InfoTest(SandboxCase):
    def test_info_of_a_ready_sandbox(self):
        info = self.api.get(self.base).json
        self.assertEqual((info["id"], info["state"], info["template"]),
                         (self.sandbox, "ready", "python"))
        self.assertEqual((info["memory_mb"], info["isolation"]), (512, harness.ISOLATION))
        self.assertTrue(info["kernel"])

    def test_created_at_is_now(self):
        text = self.api.get(self.base).json["created_at"]
        created = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")
        age = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None) - created
        self.assertLess(abs(age.total_seconds()), 300)

    def test_list_contains_it(self):
        ids = [item["id"] for item in self.api.get("/v1/sandboxes").json["sandboxes"]]
        self.assertIn(self.sandbox, ids)

    def test_running_exec_is_counted(self):
        stream = self.api.stream(self.sandbox, "import time\nprint(1, flush=True)\ntime.sleep(600)")
        next(stream)
        self.assertEqual(self.api.get(self.base).json["execs"], {"running": 1, "waiting": 0})
        self.assertEqual(self.api.get("/v1/capacity").json["execs"]["running"], 1)
        stream.close()

    def test_capacity_counts_it(self):
        capacity = self.api.get("/v1/capacity").json
        self.assertGreaterEqual(capacity["sandboxes"]["ready"], 1)
        self.assertGreaterEqual(capacity["memory_mb"]["sandboxes"], 512)

    @needs_guest
    def test_console_shows_what_the_guest_wrote_there(self):
        self.run_code("echo 'to the console' > /dev/console", language="bash")
        harness.eventually(
            lambda: b"to the console" in self.api.get(f"{self.base}/console").body, "it is there")

    @needs_guest
    def test_guest_is_a_machine_of_its_own(self):
        host = open("/proc/sys/kernel/random/boot_id").read().strip()
        guest = self.run_code("cat /proc/sys/kernel/random/boot_id", language="bash")["stdout"]
        self.assertNotEqual(guest.strip(), host)
        self.assertEqual(self.run_code("nproc", language="bash")["stdout"], "1\n")


@needs_root
class LifecycleTest(unittest.TestCase):
    def setUp(self):
        self.daemon = harness.shared_daemon()
        self.api = self.daemon.api()

    def ids(self):
        return [item["id"] for item in self.api.get("/v1/sandboxes").json["sandboxes"]]

    def test_create_answers_201_with_location_and_timings(self):
        reply = self.api.post("/v1/sandboxes", {"isolation": harness.ISOLATION})
        self.assertEqual(reply.status, 201)
        self.assertEqual(reply.headers["Location"], "/v1/sandboxes/" + reply.json["id"])
        self.assertGreater(reply.json["timings"]["total_ms"], 0)
        self.api.close(reply.json["id"])

    def test_create_without_a_body_takes_the_defaults(self):
        reply = self.api.request("POST", "/v1/sandboxes")
        self.assertEqual(reply.status, 201, reply.body)
        self.assertEqual(reply.json["isolation"], "full")
        self.api.close(reply.json["id"])

    def test_metadata_is_kept(self):
        metadata = {"team": "a", "\u00fcnicode": "\u2713", "empty": ""}
        sandbox = self.api.create(metadata=metadata)
        self.assertEqual(self.api.get(f"/v1/sandboxes/{sandbox}").json["metadata"], metadata)
        self.api.close(sandbox)

    def test_memory_is_what_was_asked_for(self):
        sandbox = self.api.create(memory_mb=256)
        self.assertEqual(self.api.get(f"/v1/sandboxes/{sandbox}").json["memory_mb"], 256)
        if harness.WORKER == "real":
            total = self.api.run(sandbox, "open('/proc/meminfo').readline().split()[1]")["result"]
            self.assertLess(int(total.strip("'")), 256 * 1024)
            self.assertGreater(int(total.strip("'")), 128 * 1024)
        self.api.close(sandbox)

    def test_both_isolation_modes_run_code(self):
        for isolation in ("full", "fast"):
            with self.subTest(isolation=isolation):
                sandbox = self.api.create(isolation=isolation)
                self.assertEqual(self.api.get(f"/v1/sandboxes/{sandbox}").json["isolation"],
                                 isolation)
                self.assertEqual(self.api.run(sandbox, "2 + 2")["result"], "4")
                self.api.close(sandbox)

    def test_closed_sandbox_is_unknown(self):
        sandbox = self.api.create()
        self.api.close(sandbox)
        self.assertEqual(self.api.get(f"/v1/sandboxes/{sandbox}").status, 404)
        self.assertEqual(self.api.delete(f"/v1/sandboxes/{sandbox}").status, 404)
        self.assertNotIn(sandbox, self.ids())

    def test_sandboxes_do_not_see_each_other(self):
        one, two = self.api.create(), self.api.create()
        self.api.run(one, "secret = 1")
        self.assertEqual(self.api.run(two, "'secret' in globals()")["result"], "False")
        self.api.close(one)
        self.assertEqual(self.api.run(two, "1")["result"], "1")
        self.api.close(two)

    def test_closing_ends_running_and_waiting_execs(self):
        sandbox = self.api.create()
        replies = []

        def run(code):
            replies.append(self.api.post(f"/v1/sandboxes/{sandbox}/exec?stream=false",
                                         {"code": code}))

        threads = [threading.Thread(target=run, args=(code,))
                   for code in ("import time; time.sleep(600)", "1")]
        for thread, state in zip(threads, ("running", "waiting")):
            thread.start()
            harness.eventually(
                lambda: self.api.get(f"/v1/sandboxes/{sandbox}").json["execs"][state] == 1,
                f"one exec is {state}")
        self.api.close(sandbox)
        for thread in threads:
            thread.join(harness.DEADLINE)
        self.assertEqual([(reply.status, reply.error) for reply in replies],
                         [(409, "cancelled")] * 2)

    def test_closing_ends_a_stream_with_an_error_event(self):
        sandbox = self.api.create()
        stream = self.api.stream(sandbox, "import time\nprint(1, flush=True)\ntime.sleep(600)")
        next(stream)
        self.api.close(sandbox)
        events = [event for _, event in stream]
        self.assertEqual((events[-1]["type"], events[-1]["error"]["code"]), ("error", "cancelled"))

    def test_two_closes_at_once(self):
        sandbox = self.api.create()
        replies = []
        threads = [threading.Thread(
            target=lambda: replies.append(self.api.delete(f"/v1/sandboxes/{sandbox}").status))
            for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(harness.DEADLINE)
        self.assertIn(200, replies)
        self.assertLessEqual(set(replies), {200, 404, 409})

    @needs_guest  # the fake one is ready before a client can leave
    def test_create_whose_client_left_is_closed(self):
        before = self.ids()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.daemon.socket)
            body = json.dumps({"isolation": harness.ISOLATION}).encode()
            client.sendall(b"POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\n"
                           b"Content-Type: application/json\r\n"
                           b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            harness.eventually(lambda: len(self.ids()) > len(before), "the create began")
        harness.eventually(lambda: self.ids() == before, "the orphan is closed")

    @needs_guest
    def test_guest_that_powers_off_is_reported(self):
        sandbox = self.api.create()
        reply = self.api.post(f"/v1/sandboxes/{sandbox}/exec?stream=false",
                              {"code": "echo o > /proc/sysrq-trigger; sleep 60",
                               "language": "bash"})
        self.assertEqual((reply.status, reply.error), (500, "sandbox_failed"))
        self.assertIn("powered off", reply.message)
        harness.eventually(
            lambda: self.api.get(f"/v1/sandboxes/{sandbox}").json["state"] == "failed",
            "the sandbox has failed")
        self.assertTrue(self.api.get(f"/v1/sandboxes/{sandbox}").json["reason"])
        reply = self.api.post(f"/v1/sandboxes/{sandbox}/exec", {"code": "1"})
        self.assertEqual((reply.status, reply.error), (409, "sandbox_failed"))
        self.assertIn(b"Power down", self.api.get(f"/v1/sandboxes/{sandbox}/console").body)
        self.api.close(sandbox)

    @needs_guest
    def test_guest_kernel_panic_is_reported(self):
        sandbox = self.api.create()
        reply = self.api.post(f"/v1/sandboxes/{sandbox}/exec?stream=false",
                              {"code": "echo c > /proc/sysrq-trigger; sleep 60",
                               "language": "bash"})
        self.assertEqual((reply.status, reply.error), (500, "sandbox_failed"))
        self.assertIn("panic", self.api.get(f"/v1/sandboxes/{sandbox}").json["reason"])
        self.api.close(sandbox)


@needs_root
class LimitTest(unittest.TestCase):
    def test_one_sandbox_too_many_is_429(self):
        daemon = harness.Daemon("--max-sandboxes", "2").start()
        api = daemon.api()
        try:
            ids = [api.create(), api.create()]
            reply = api.post("/v1/sandboxes", {})
            self.assertEqual((reply.status, reply.error), (429, "limit_reached"))
            self.assertEqual(api.get("/v1/capacity").json["sandboxes"]["max"], 2)
            api.close(ids[0])
            api.close(api.create())
        finally:
            daemon.stop()
            daemon.destroy()


@needs_root
@unittest.skipUnless(harness.FAKE_WORKER.exists(), "the fake worker is not built")
class BrokenWorkerTest(unittest.TestCase):
    """A guest or worker that fails is an answer with a reason, and leaves nothing."""

    SCRIPTS = {
        "panic": 500,
        "poweroff": 500,
        "die-in-boot 9": 500,
        "close-channel": 500,
        "old-protocol": 500,
        "hello-garbage": 500,
    }

    def test_create_fails_with_a_reason(self):
        daemon = harness.Daemon(worker="fake").start()
        api = daemon.api()
        try:
            for number, (script, status) in enumerate(self.SCRIPTS.items()):
                with self.subTest(script=script):
                    daemon.add_template(f"t{number}", script)
                    reply = api.post("/v1/sandboxes", {"template": f"t{number}"})
                    self.assertEqual(reply.status, status, reply.body)
                    self.assertTrue(reply.message)
            self.assertEqual(api.get("/v1/sandboxes").json["sandboxes"], [])
        finally:
            daemon.stop()
            daemon.destroy()

    def test_broken_agent_ends_the_exec_with_an_error(self):
        daemon = harness.Daemon(worker="fake").start()
        api = daemon.api()
        daemon.add_template("scripted", "agent")
        try:
            for code in ("die", "silence", "garbage", "badstream", "badexit", "hugeframe"):
                with self.subTest(code=code):
                    sandbox = api.create(template="scripted")
                    reply = api.post(f"/v1/sandboxes/{sandbox}/exec?stream=false", {"code": code})
                    self.assertGreaterEqual(reply.status, 400, reply.body)
                    self.assertTrue(reply.message)
                    again = api.post(f"/v1/sandboxes/{sandbox}/exec", {"code": "echo 1"})
                    self.assertEqual((again.status, again.error), (409, "sandbox_failed"))
                    api.close(sandbox)
        finally:
            daemon.stop()
            daemon.destroy()


if __name__ == "__main__":
    unittest.main(verbosity=2)
