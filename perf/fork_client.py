"""A daemon of its own and the client that measures it (perf/fork_bench.c)."""

import ast
import contextlib
import json
import os
import re
import select
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import host

LIMIT = 240  # seconds that any one step may take
QUIET_SECONDS = 0.2
QUIET_LIMIT = 5  # seconds; a guest or somebody else may be busy for ever


class Failed(RuntimeError):
    pass


class Client:
    """Everything that the parts of the measurement ask of a daemon."""

    def __init__(self, process, bench, pool, mode):
        self.process, self.pool, self.mode = process, pool, mode
        self._bench = bench

    def job(self, calls, then=None):
        """Calls as fork_bench describes them."""
        job = {"calls": calls}
        if then:
            job["then"] = then
        try:
            self._bench.stdin.write(json.dumps(job) + "\n")
            self._bench.stdin.flush()
        except BrokenPipeError:
            pass
        line = self._bench.stdout.readline()
        if not line:
            raise Failed("the client ended; see its message above and rametd's log")
        return json.loads(line)

    def good(self, calls):
        """The same calls, all of which must succeed."""
        for call in calls:
            if call["status"] >= 300:
                raise Failed(f"HTTP status {call['status']}: {call['reply']}")
        return calls

    def create(self, memory_mb, code="1"):
        """(reply, ms to the reply, ms to the first answer of code)"""
        body = {"memory_mb": memory_mb, "isolation": self.mode}
        answer = self.job([{"method": "POST", "path": "/v1/sandboxes", "body": body}],
                          {"code": code})
        call, = self.good(answer["calls"])
        first, = self.good(answer["then"])
        value_of(first)
        return call["reply"], call["ms"], first["ms"]

    def fork(self, parent, count, code="1", also=()):
        """A fork, `code` in each child as soon as it is known, and before these
        the calls `also`: (reply, ms to the reply, calls of also, of the children)."""
        answer = self.job(
            [{"method": "POST", "path": f"/v1/sandboxes/{parent}/fork", "body": {"n": count}}],
            {"code": code, "calls": list(also)})
        call, = self.good(answer["calls"])
        for child in call["reply"]["children"]:
            if "error" in child:
                raise Failed(f"child {child['fork_index']}: {child['error']}")
        then = self.good(answer["then"])
        if len(then) != len(also) + count:
            raise Failed(f"{count} children were asked for, {len(then) - len(also)} answered")
        return call["reply"], call["ms"], then[:len(also)], then[len(also):]

    def run(self, jobs):
        """Runs [(sandbox, code)...], all at once; their values in order."""
        return [value_of(call) for call in
                self.good(self.job([exec_call(sandbox, code) for sandbox, code in jobs])["calls"])]

    def delete(self, ids):
        """Destroys sandboxes at once; ms until the last was gone."""
        calls = [{"method": "DELETE", "path": f"/v1/sandboxes/{name}"} for name in ids]
        return max(call["ms"] for call in self.good(self.job(calls)["calls"]))

    def capacity(self):
        call, = self.good(self.job([{"method": "GET", "path": "/v1/capacity"}])["calls"])
        return call["reply"]

    def workers(self):
        return host.workers_of(self.process.pid)

    @staticmethod
    def _quiet():
        """Whether the processors had next to nothing to do for a moment."""
        before = host.busy_seconds()
        select.select([], [], [], QUIET_SECONDS)
        return host.busy_seconds() - before <= QUIET_SECONDS / 5

    def settle(self):
        """Waits until the pool is full and nothing but sandboxes and idle shells is
        there: no donor fills a layer, nothing is being closed. Then, for a while, until
        the host's kernel has buried what was."""
        end = time.monotonic() + LIMIT
        while True:
            now = self.capacity()
            known = now["sandboxes"]["total"] + now["pool"]["ready"]
            if (now["pool"]["ready"] >= self.pool and not now["pool"]["starting"]
                    and len(self.workers()) == known):
                break
            if time.monotonic() > end:
                raise Failed(f"the daemon does not come to rest: {now}, "
                             f"{len(self.workers())} workers")
            select.select([], [], [], 0.05)
        end = time.monotonic() + QUIET_LIMIT
        while not self._quiet() and time.monotonic() < end:
            pass


def exec_call(sandbox, code):
    return {"method": "POST", "path": f"/v1/sandboxes/{sandbox}/exec?stream=false",
            "body": {"code": code}}


def value_of(call):
    """The value of the code's last expression; None when it has none."""
    reply = call["reply"]
    if reply["exit_code"] or reply["timed_out"]:
        raise Failed(f"code failed in the guest: {reply['stderr']}")
    return None if reply["result"] is None else ast.literal_eval(reply["result"])


@contextlib.contextmanager
def daemon(build, pool, mode, max_sandboxes=256, connections=128):
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="ramet-perf-"))
        path = f"{directory}/sock"
        log = stack.enter_context(open(build / "perf" / "rametd.log", "ab"))
        process = subprocess.Popen(
            [build / "bin" / "rametd", "--socket", path, "--state", f"{directory}/state",
             "--images", build / "images", "--worker", build / "bin" / "ramet-vmm",
             "--pool", str(pool), "--max-sandboxes", str(max_sandboxes)],
            stdout=log, stderr=log, env={**os.environ, "RAMET_LOG": "warn"})
        stack.callback(_stop, process)
        end = time.monotonic() + 10
        while not Path(path).exists():
            if process.poll() is not None or time.monotonic() > end:
                raise Failed(f"rametd does not start, see {log.name}")
            select.select([], [], [], 0.02)
        bench = stack.enter_context(subprocess.Popen(
            [build / "bin" / "fork_bench", path, str(connections)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True))
        yield Client(process, bench, pool, mode)


def _stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# ---- what the kernel says about workers ----


class Exits:
    """Notes when the first of some processes ends, from now on."""

    def __init__(self, pids):
        self._poll = select.poll()
        self._files = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self._files.append(os.pidfd_open(pid))
                self._poll.register(self._files[-1], select.POLLIN)
        self._start, self._end = time.monotonic(), None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self):
        if self._poll.poll(LIMIT * 1000):
            self._end = time.monotonic()

    def first(self):
        """Waits for it; seconds since the beginning."""
        self._thread.join()
        for fd in self._files:
            os.close(fd)
        if self._end is None:
            raise Failed("no worker ended after a fork: its layer is not filled")
        return self._end - self._start


def memory_cgroup(pid):
    """The directory of the memory controller that a process is charged to, and
    its version, or (None, 0)."""
    text = host.read(f"/proc/{pid}/cgroup")
    match = re.search(r"^\d+:[^:]*\bmemory\b[^:]*:(.*)$", text, re.M)
    if match:
        return Path("/sys/fs/cgroup/memory" + match.group(1)), 1
    match = re.search(r"^0::(.*)$", text, re.M)
    if match:
        for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
            path = Path(mount + match.group(1))
            if (path / "memory.current").exists():
                return path, 2
    return None, 0


class Peak:
    """The highest memory use of all workers of a daemon together since then."""

    def __init__(self, pid):
        group, version = memory_cgroup(pid)
        self._group = group.parent if group else None
        self._version = version
        self._start = None
        if self._version == 1:
            self._start = int(host.read(self._group / "memory.usage_in_bytes"))
            (self._group / "memory.max_usage_in_bytes").write_text("0")

    def more(self):
        """Bytes above the use at the beginning; None where the kernel cannot tell."""
        if self._start is None:
            return None
        return int(host.read(self._group / "memory.max_usage_in_bytes")) - self._start


def is_guest(pid):
    """Whether a worker holds a guest's memory, which an idle shell does not."""
    return "/memfd:ramet-layer" in host.read(f"/proc/{pid}/maps")


def worker_memory(pid):
    """Bytes that a worker has of its own: {"charged": by its cgroup, kernel memory
    included, "kernel": that alone, "anonymous": pages of the process}."""
    group, version = memory_cgroup(pid)
    kernel = host.kernel_memory(pid)
    if version == 1:
        charged = int(host.read(group / "memory.usage_in_bytes"))
    elif version == 2:
        charged = int(host.read(group / "memory.current"))
    else:
        charged = None
    rollup = host.read(f"/proc/{pid}/smaps_rollup")
    anonymous = int(re.search(r"^Anonymous:\s+(\d+)", rollup, re.M).group(1)) * 1024
    return {"charged": charged, "kernel": kernel, "anonymous": anonymous}


def meminfo():
    """Bytes, by name."""
    return {name: int(value) * 1024 for name, value in
            re.findall(r"^([\w()]+):\s+(\d+) kB", host.read("/proc/meminfo"), re.M)}
