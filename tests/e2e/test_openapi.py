"""The server held to docs/openapi.yaml: every operation and every status.

The other test programs check each reply that they see against the description
(harness.Api); this one makes sure that nothing in it goes unseen."""

import re
import socket
import threading
import unittest

import harness
import spec
from harness import SandboxCase

UNKNOWN = "/v1/sandboxes/sbx_aaaaaaaaaaaaaaaaaaaa"

# What only a real guest can do.
GUEST_ONLY = {
    ("POST", "/v1/sandboxes/{id}/fork", "201"),
    ("POST", "/v1/sandboxes/{id}/fork", "429"),
    ("POST", "/v1/sandboxes/{id}/merge_into/{winner}", "200"),
    ("POST", "/v1/sandboxes/{id}/merge_into/{winner}", "409"),
    ("POST", "/v1/sandboxes/{id}/pause", "200"),
    ("POST", "/v1/sandboxes/{id}/resume", "200"),
    ("POST", "/v1/sandboxes/{id}/reclaim", "200"),
    ("POST", "/v1/sandboxes/{id}/reclaim", "409"),
} if harness.WORKER == "fake" else set()

# What cannot be brought about from outside on a healthy host, and why.
ACCOUNTED = {
    ("POST", "/v1/sandboxes", "500"): "needs a worker or guest that breaks: BrokenWorkerTest",
    ("POST", "/v1/sandboxes", "503"): "needs a host without memory, or a stopping daemon",
    ("DELETE", "/v1/sandboxes/{id}", "409"): "a race of two closes: LifecycleTest",
    ("POST", "/v1/sandboxes/{id}/exec", "500"): "needs a guest that dies: BrokenWorkerTest",
    ("POST", "/v1/sandboxes/{id}/exec", "503"): "needs a stopping daemon: EndTest",
    ("POST", "/v1/sandboxes/{id}/exec", "504"): "needs a guest that does not obey its agent",
    ("POST", "/v1/sandboxes/{id}/fork", "500"): "needs a worker that dies in the fork",
    ("POST", "/v1/sandboxes/{id}/fork", "503"): "needs a host without memory, or a stopping daemon",
    ("POST", "/v1/sandboxes/{id}/fork", "504"): "needs a guest that does not stop",
    ("POST", "/v1/sandboxes/{id}/merge_into/{winner}", "500"): "needs a guest that refuses a name",
    ("POST", "/v1/sandboxes/{id}/merge_into/{winner}", "503"): "needs a host without memory",
    ("POST", "/v1/sandboxes/{id}/diff", "429"): "needs 32 comparisons that stay",
    ("POST", "/v1/sandboxes/{id}/diff", "500"): "needs a guest that dies: test_diff",
    ("POST", "/v1/sandboxes/{id}/diff", "503"): "needs a host without memory, or a stopping daemon",
    ("POST", "/v1/sandboxes/{id}/diff", "504"): "needs a guest that does not answer",
    ("POST", "/v1/sandboxes/{id}/pause", "500"): "needs a worker that dies in the pause",
    ("POST", "/v1/sandboxes/{id}/pause", "503"): "needs a host without memory",
    ("POST", "/v1/sandboxes/{id}/pause", "504"): "needs a guest that does not stop",
    ("POST", "/v1/sandboxes/{id}/resume", "500"): "needs a worker that just died",
    ("POST", "/v1/sandboxes/{id}/reclaim", "500"): "needs a worker that just died",
    ("POST", "/v1/sandboxes/{id}/reclaim", "503"): "needs a host without memory",
    ("POST", "/v1/sandboxes/{id}/reclaim", "504"): "needs a guest that does not answer",
    ("GET", "/v1/sandboxes/{id}/files", "403"): "the agent is root in the guest",
    ("GET", "/v1/sandboxes/{id}/files", "429"): "needs 64 transfers that stay",
    ("GET", "/v1/sandboxes/{id}/files", "500"): "needs a failing disk in the guest",
    ("PUT", "/v1/sandboxes/{id}/files", "429"): "needs 64 transfers that stay",
    ("PUT", "/v1/sandboxes/{id}/files", "500"): "needs a failing disk in the guest",
    ("PUT", "/v1/sandboxes/{id}/files", "507"): "needs a full disk in the guest",
    ("GET", "/v1/sandboxes/{id}/files/list", "403"): "the agent is root in the guest",
    ("GET", "/v1/sandboxes/{id}/files/list", "413"): "needs a directory of 80000 long names",
    ("GET", "/v1/sandboxes/{id}/files/list", "500"): "needs a failing disk in the guest",
}


class CoverageTest(SandboxCase):
    """Brings about each (method, path, status) once, then compares."""

    def exercise_sandboxes(self):
        api = self.api
        api.get("/v1/sandboxes")
        api.get("/v1/sandboxes?x=1")
        for body in ("{", '{"template":"none"}', " " * 70000):
            api.post("/v1/sandboxes", body)
        api.request("POST", "/v1/sandboxes", "{}", {"Content-Type": "text/plain"})
        api.request("POST", "/v1/sandboxes", "{}", {"X-Long": "a" * 20000})
        for target in (self.base, UNKNOWN, "/v1/sandboxes/bad"):
            api.get(target)
            api.get(target + "/console")
        api.get(self.base + "?x" * 9000)
        api.get(self.base + "/console" + "?x" * 9000)
        for target in (api.create(), UNKNOWN[len("/v1/sandboxes/"):], "bad"):
            api.delete("/v1/sandboxes/" + target)
        api.delete(self.base + "?" + "x" * 17000)
        daemon = harness.Daemon("--max-sandboxes", "1").start()
        try:
            sandbox = daemon.api().create()
            daemon.api().post("/v1/sandboxes", {})
            daemon.api().post(f"/v1/sandboxes/{sandbox}/fork", {})
        finally:
            daemon.stop()
            daemon.destroy()

    def exercise_exec(self):
        api, target = self.api, self.base + "/exec"
        api.post(target, {"code": "print(1); 1 / 0"})
        api.post(target + "?stream=false", {"code": "1"})
        api.post(target, "{")
        api.post(UNKNOWN + "/exec", {"code": ""})
        api.post(target, " " * (25 * 1024 * 1024))
        api.request("POST", target, "{}", {"Content-Type": "text/plain"})
        api.post(target + "?" + "x" * 17000, "")
        closing = api.create()
        thread = threading.Thread(target=api.post, args=(
            f"/v1/sandboxes/{closing}/exec?stream=false",
            {"code": "import time; time.sleep(600)"}))
        thread.start()
        harness.eventually(
            lambda: api.get(f"/v1/sandboxes/{closing}").json["execs"]["running"], "it runs")
        api.close(closing)
        thread.join(harness.DEADLINE)
        self.exercise_full_queue()

    def exercise_full_queue(self):
        running = self.api.stream(self.sandbox,
                                  "import time\nprint(1, flush=True)\ntime.sleep(600)")
        next(running)
        waiting = []
        for _ in range(64):
            client = socket.socket(socket.AF_UNIX)
            client.connect(self.daemon.socket)
            client.sendall(b"POST %s/exec HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n"
                           b'{"code":""}' % self.base.encode())
            waiting.append(client)
        harness.eventually(lambda: self.api.get(self.base).json["execs"]["waiting"] == 64,
                           "the queue is full")
        self.api.post(self.base + "/exec", {"code": "1"})
        running.close()
        for client in waiting:
            client.close()

    def exercise_files(self):
        api, files = self.api, self.base + "/files"
        path = harness.guest_directory() + "/f"
        closed = api.create()
        failing = self.failed_sandbox()
        for method, body in (("PUT", b"data"), ("GET", None)):
            api.request(method, f"{files}?path={path}", body)
            api.request(method, f"{files}?path=relative", body)
            api.request(method, f"{UNKNOWN}/files?path={path}", body)
            api.request(method, f"{files}?path=/{'x' * 17000}", body)
            api.request(method, f"/v1/sandboxes/{failing}/files?path={path}", body)
        api.put(f"{files}?path=/sys/kernel/ramet-test", b"x")
        api.request("PUT", f"{files}?path={path}", b"x", {"Content-Type": "multipart/form-data"})
        api.get(f"{files}/list?path=/")
        api.get(f"{files}/list?path=relative")
        api.get(f"{files}/list?path={path}.none")
        api.get(f"{files}/list?path=/{'x' * 17000}")
        api.get(f"/v1/sandboxes/{failing}/files/list?path=/")
        api.close(closed)
        api.close(failing)

    def exercise_forks(self):
        api, parent = self.api, self.api.create()
        base = f"/v1/sandboxes/{parent}"
        children = [child["id"] for child in
                    api.post(f"{base}/fork", {"n": 2}).json.get("children", [])]
        children = children or [api.create(), api.create()]  # of a fake guest
        api.post(f"{base}/fork", "{")
        api.post(f"{base}/fork", " " * 70000)
        api.request("POST", f"{base}/fork", "{}", {"Content-Type": "text/plain"})
        api.request("POST", f"{base}/reclaim")
        for what in ("fork", "pause", "resume", "reclaim", f"merge_into/{parent}"):
            api.request("POST", f"{UNKNOWN}/{what}")
            api.request("POST", f"/v1/sandboxes/bad/{what}")
            api.request("POST", f"{base}/{what}?{'x' * 17000}")
        api.request("POST", f"{base}/pause")
        for what in ("fork", "pause", "reclaim", f"merge_into/{children[0]}"):
            api.request("POST", f"{base}/{what}")
        for _ in range(2):
            api.request("POST", f"{base}/resume")
        api.request("POST", f"{base}/merge_into/{children[0]}")
        api.request("POST", f"{base}/merge_into/{children[0]}")
        api.get("/v1/tree")
        api.get("/v1/tree?x=1")
        for sandbox in (parent, *children):
            api.delete(f"/v1/sandboxes/{sandbox}")

    def exercise_diff(self):
        api, target, other = self.api, self.base + "/diff", self.api.create()
        where = harness.guest_directory()
        api.put(f"{self.base}/files?path={where}/f", b"x")
        api.post(target, {"other": other, "paths": [where]})
        api.post(target, {"other": other, "paths": ["relative"]})
        api.post(UNKNOWN + "/diff", {"other": other})
        api.post(target, {"other": other, "paths": ["/" + "x" * 4000] * 64})
        api.post(target, " " * (3 * 1024 * 1024))
        api.request("POST", target, "{}", {"Content-Type": "text/plain"})
        api.request("POST", target + "?" + "x" * 17000)
        failing = self.failed_sandbox()
        api.post(target, {"other": failing})
        api.close(failing)
        api.close(other)

    def failed_sandbox(self):
        """One whose guest or worker ended."""
        if harness.WORKER == "real":
            return self.panicked_sandbox()
        before = set(harness.processes_of(self.daemon.home))
        sandbox = self.api.create()
        for pid in set(harness.processes_of(self.daemon.home)) - before:
            harness.os.kill(pid, harness.signal.SIGKILL)
        harness.eventually(
            lambda: self.api.get(f"/v1/sandboxes/{sandbox}").json["state"] == "failed",
            "the sandbox has failed")
        self.api.post(f"/v1/sandboxes/{sandbox}/exec", {"code": "1"})
        return sandbox

    def panicked_sandbox(self):
        sandbox = self.api.create()
        self.api.post(f"/v1/sandboxes/{sandbox}/exec?stream=false",
                      {"code": "echo c > /proc/sysrq-trigger; sleep 60", "language": "bash"})
        harness.eventually(
            lambda: self.api.get(f"/v1/sandboxes/{sandbox}").json["state"] == "failed",
            "the sandbox has failed")
        return sandbox

    def exercise_host(self):
        for name in ("healthz", "version", "capacity"):
            self.api.get(f"/v1/{name}")
            self.api.get(f"/v1/{name}?x=1")

    def test_every_status_of_every_operation_was_seen(self):
        self.exercise_sandboxes()
        self.exercise_exec()
        self.exercise_files()
        self.exercise_forks()
        self.exercise_diff()
        self.exercise_host()
        described = {(method, template, status)
                     for method, template, operation in spec.operations()
                     for status in operation["responses"]}
        plain = {(method, template, "default") if (method, template, status) not in described
                 else (method, template, status) for method, template, status in spec.seen}
        self.assertEqual(described - plain - set(ACCOUNTED) - GUEST_ONLY, set(),
                         "described but never seen")
        self.assertLessEqual(set(ACCOUNTED), described, "accounted for but not described")


class DocumentTest(unittest.TestCase):
    def test_schemas_are_json_schemas(self):
        for name, schema in spec.DOCUMENT["components"]["schemas"].items():
            with self.subTest(schema=name):
                spec.jsonschema.Draft202012Validator.check_schema(schema)

    def test_every_reference_resolves(self):
        def walk(node):
            if isinstance(node, dict):
                if "$ref" in node:
                    spec._resolved(node)
                for child in node.values():
                    walk(child)
            elif isinstance(node, list):
                for child in node:
                    walk(child)

        walk(spec.DOCUMENT)

    def test_operation_ids_are_unique(self):
        names = [operation["operationId"] for _, _, operation in spec.operations()]
        self.assertEqual(len(names), len(set(names)))

    def test_validation_refuses_what_does_not_fit(self):
        for wrong in ({}, {"error": {"code": "x", "message": "m"}},
                      {"error": {"code": "X Y", "message": "m"}, "timings": {"total_ms": 1}},
                      {"error": {"code": "x", "message": "m"}, "timings": {"total_ms": "1"}}):
            with self.assertRaises(spec.jsonschema.ValidationError):
                spec.validate(wrong, {"$ref": "#/components/schemas/Error"})
        with self.assertRaises(spec.jsonschema.ValidationError):
            spec.check_event({"type": "stdout", "data": 1, "seq": 0, "ts": 0})


@harness.needs_root
class RouteTest(unittest.TestCase):
    """What the description does not have, the server does not have either."""

    def test_methods_are_exactly_those_described(self):
        api = harness.shared_daemon().api()
        for template, item in spec.DOCUMENT["paths"].items():
            target = re.sub(r"\{\w+\}", "sbx_aaaaaaaaaaaaaaaaaaaa", template)
            reply = api.request("TRACE", target)
            allowed = set(reply.headers["Allow"].split(", "))
            self.assertEqual(allowed, {method.upper() for method in item if method != "parameters"},
                             template)

    def test_body_fields_are_exactly_those_described(self):
        api = harness.shared_daemon().api()
        for name, target in (("CreateRequest", "/v1/sandboxes"),
                             ("ExecRequest", UNKNOWN + "/exec"),
                             ("ForkRequest", UNKNOWN + "/fork")):
            for field in spec.DOCUMENT["components"]["schemas"][name]["properties"]:
                reply = api.post(target, {field: []})
                self.assertEqual((reply.status, reply.error), (400, "invalid_request"), field)
                self.assertIn(f'"{field}" must be', reply.message)


if __name__ == "__main__":
    unittest.main(verbosity=2)
