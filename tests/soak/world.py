"""What the clients of the soak share: the live sandboxes with their models, what
was killed on purpose, and how errors are judged by it."""

import contextlib
import http.client
import json
import os
import signal
import threading
import time
from collections import defaultdict

import harness
from workers import LOST_MEMORY, Workers

KILLED = "was killed (SIGKILL)"
# A kill is heard of, and its victims are found, within this many seconds.
AFTERMATH = 5.0
REQUEST_DEADLINE = 150.0


class ApiError(Exception):
    def __init__(self, status, code, message):
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message = status, code, message
        self.sandbox = None  # whom the request was about, when it is known


class Mismatch(Exception):
    """What must never be."""


class Live:
    """A sandbox that exists. Who works with it holds its lock; closing and killing
    need none."""

    def __init__(self, identity, family, isolation, memory_mb, depth, model):
        self.id = identity
        self.family = family  # the id of the sandbox at the root
        self.isolation = isolation
        self.memory_mb = memory_mb
        self.depth = depth
        self.model = model
        self.lock = threading.Lock()
        self.closing = False
        self.doomed = False  # a worker was killed that it cannot live without


class Kill:
    def __init__(self, vm):
        self.vm = vm  # "vm12"
        self.time = time.monotonic()


class Shared:
    """A lock that many may hold, or one alone."""

    def __init__(self):
        self._condition = threading.Condition()
        self._holders, self._alone = 0, False

    @contextlib.contextmanager
    def shared(self):
        with self._condition:
            self._condition.wait_for(lambda: not self._alone)
            self._holders += 1
        try:
            yield
        finally:
            with self._condition:
                self._holders -= 1
                self._condition.notify_all()

    @contextlib.contextmanager
    def alone(self):
        with self._condition:
            self._condition.wait_for(lambda: not self._alone)
            self._alone = True
            self._condition.wait_for(lambda: not self._holders)
        try:
            yield
        finally:
            with self._condition:
                self._alone = False
                self._condition.notify_all()


class World:
    def __init__(self, daemon, max_live, isolations, memory_mb):
        self.daemon = daemon
        self.api = daemon.api()
        self.workers = Workers(daemon)
        self.max_live = max_live
        self.isolations, self.memory_mb = isolations, memory_mb
        self.lock = threading.Lock()
        self.live = {}     # id: Live
        self.making = 0    # sandboxes that are to be added
        self.families = {}  # id of any sandbox there ever was: family
        self.kills = []
        self.steady = Shared()  # alone: no sandbox comes or becomes another
        self.stop = threading.Event()
        self.mismatches = []
        self.latencies = defaultdict(list)
        self.counts = defaultdict(int)
        self.deepest = self.most_layers = self.most_extents = 0

    # ---- requests ----

    def request(self, method, target, document=None, body=None, expect=(200, 201)):
        """The document of a reply; ApiError for one that is not expected."""
        if document is not None:
            body = json.dumps(document)
        headers = {"Content-Type": "application/json"} if document is not None else {}
        connection = harness.UnixConnection(self.daemon.socket, REQUEST_DEADLINE)
        try:
            connection.request(method, target, body, headers)
            reply = connection.getresponse()
            data = reply.read()
        except http.client.IncompleteRead as error:  # a download: judge() knows why it ended
            raise ApiError(409, "cut_off", f"{method} {target}: {error!r}") from error
        except (OSError, http.client.HTTPException) as error:
            raise Mismatch(f"{method} {target}: no reply: {error!r}") from error
        finally:
            connection.close()
        if reply.status in expect:
            return data if "/files?" in target and method == "GET" else json.loads(data)
        try:
            error = json.loads(data)["error"]
        except (ValueError, KeyError):
            raise Mismatch(f"{method} {target}: {reply.status} {data[:300]!r}") from None
        raise ApiError(reply.status, error["code"], error["message"])

    def post(self, sandbox, what, document=None):
        try:
            return self.request("POST", f"/v1/sandboxes/{sandbox.id}/{what}", document)
        except ApiError as error:
            error.sandbox = sandbox
            raise

    def run(self, sandbox, code, language="python"):
        reply = self.post(sandbox, "exec?stream=false", {"code": code, "language": language})
        if reply["exit_code"] or reply["stderr"]:
            raise Mismatch(f"{sandbox.id}: code ended with {reply['exit_code']}: "
                           f"{reply['stderr'][-800:]}")
        return reply["stdout"]

    def info(self, sandbox):
        return self.request("GET", f"/v1/sandboxes/{sandbox.id}")

    # ---- sandboxes ----

    def add(self, item, family, model, hold=False):
        """With `hold` the caller has its lock."""
        sandbox = Live(item["id"], family or item["id"], item["isolation"],
                       item["memory_mb"], item["depth"], model)
        if hold:
            sandbox.lock.acquire()
        with self.lock:
            self.live[sandbox.id] = sandbox
            self.families[sandbox.id] = sandbox.family
            self.deepest = max(self.deepest, sandbox.depth)
        return sandbox

    def forget(self, sandbox):
        with self.lock:
            if self.live.get(sandbox.id) is sandbox:
                del self.live[sandbox.id]

    def close(self, sandbox):
        """May be called by anyone at any moment, once."""
        with self.lock:
            if sandbox.closing:
                return
            sandbox.closing = True
        self.request("DELETE", f"/v1/sandboxes/{sandbox.id}")
        self.forget(sandbox)

    def pick(self, random, count=1, wanted=lambda sandbox: True, weight=lambda sandbox: 1):
        """Up to `count` sandboxes with their locks held, or None when there is none."""
        with self.lock:
            candidates = [s for s in self.live.values()
                          if not s.closing and not s.doomed and wanted(s)]
        picked = []
        while candidates and len(picked) < count:
            sandbox = random.choices(candidates, [weight(s) for s in candidates])[0]
            candidates.remove(sandbox)
            if sandbox.lock.acquire(blocking=False):
                picked.append(sandbox)
        if len(picked) == count:
            return picked
        for sandbox in picked:
            sandbox.lock.release()
        return None

    def room(self, count):
        """Whether so many more may be made; release with made()."""
        with self.lock:
            if len(self.live) + self.making + count > self.max_live:
                return False
            self.making += count
        return True

    def made(self, count):
        with self.lock:
            self.making -= count

    def look(self, sandbox):
        """Notes how its memory is made up."""
        memory = self.info(sandbox)["memory"]
        with self.lock:
            self.most_layers = max(self.most_layers, memory["layers"])
            self.most_extents = max(self.most_extents, memory["extents"])

    # ---- what may fail, and why ----

    def kill(self, pid, vm):
        kill = Kill(vm)
        with self.lock:
            self.kills.append(kill)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return kill

    def killed_since(self, begin):
        with self.lock:
            return any(kill.time > begin - AFTERMATH for kill in self.kills)

    def reason_is_known(self, sandbox, reason):
        """Whether some kill explains why a sandbox has failed."""
        with self.lock:
            kills = list(self.kills)
        if LOST_MEMORY in reason:
            return any(self.families.get(self.workers.owner(kill.vm)) == sandbox.family
                       for kill in kills)
        return KILLED in reason and any(
            self.workers.owner(kill.vm) == sandbox.id for kill in kills)

    def settled(self, sandbox, item):
        """Its description once the reason of its end is known."""
        end = time.monotonic() + harness.DEADLINE
        while (item.get("reason") or "").endswith("worker is ending") and time.monotonic() < end:
            time.sleep(0.01)
            item = self.info(sandbox)
        return item

    def judge(self, sandbox, error):
        """An error of work with a sandbox: returns when that had to be expected and the
        sandbox is gone or lost, raises Mismatch when not."""
        sandbox = error.sandbox or sandbox
        if sandbox.closing and error.status in (404, 409):
            return
        try:
            item = self.settled(sandbox, self.info(sandbox))
        except ApiError as gone:
            if sandbox.doomed and sandbox.closing and gone.status == 404:
                return  # who killed it has seen it fail and closed it
            raise Mismatch(f"{sandbox.id}: {error}; then {gone}") from error
        if item["state"] == "failed" and self.reason_is_known(sandbox, item["reason"]):
            self.counts["sandboxes lost to kills"] += 1
            if not sandbox.closing:
                self.close(sandbox)
            return
        raise Mismatch(f"{sandbox.id} ({sandbox.isolation}, depth {sandbox.depth}): {error}; it is "
                       f"{item['state']}: {item.get('reason')}") from error

    def note(self, mismatch):
        with self.lock:
            self.mismatches.append(str(mismatch))
        self.stop.set()
