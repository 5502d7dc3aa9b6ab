"""What the end-to-end tests share: a daemon of their own, a client that holds
every reply to docs/openapi.yaml, and counts of what is left behind.

Environment:
    RAMET_BUILD            the build directory (default build/)
    RAMET_IMAGES           kernel and templates (default /var/lib/ramet/images)
    RAMET_TEST_WORKER      real, fake or auto (default): what runs the sandboxes
    RAMET_TEST_ISOLATION   full (default) or fast
    RAMET_TEST_LOGS        where daemons log (default <build>/test-logs)

The fake worker needs no KVM: the real agent runs beside the daemon instead of
in a guest. Tests that are about the machine itself are then skipped.
"""

import atexit
import contextlib
import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import spec

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("RAMET_BUILD", ROOT / "build")).resolve()
BIN = BUILD / "bin"
LOGS = Path(os.environ.get("RAMET_TEST_LOGS", BUILD / "test-logs")).resolve()
IMAGES = Path(os.environ.get("RAMET_IMAGES", "/var/lib/ramet/images"))
ISOLATION = os.environ.get("RAMET_TEST_ISOLATION", "full")
FAKE_WORKER = BUILD / "tests" / "fake-worker"
RAMET = BIN / "ramet"

REST = 0.5  # seconds after which a daemon that was left alone fills its pool again
DEADLINE = 60.0  # seconds that anything may take before a test gives up on it

sys.path.insert(0, str(ROOT / "api" / "python"))


def real_worker_obstacle():
    """Why the real worker cannot be used here, or None."""
    if not (BIN / "ramet-vmm").exists():
        return "ramet-vmm is not built"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm is not usable"
    if not (IMAGES / "kernel" / "vmlinux").exists():
        return f"no images in {IMAGES}"
    return None


def _choose_worker():
    choice = os.environ.get("RAMET_TEST_WORKER", "auto")
    if choice == "auto":
        return "fake" if real_worker_obstacle() else "real"
    if choice == "real" and real_worker_obstacle():
        raise RuntimeError(real_worker_obstacle())
    return choice


WORKER = _choose_worker()

needs_guest = unittest.skipIf(
    WORKER == "fake", f"needs a real guest: {real_worker_obstacle() or 'fake worker chosen'}")
needs_root = unittest.skipIf(os.geteuid() != 0, "needs root: rametd makes namespaces and cgroups")


def eventually(condition, what, deadline=DEADLINE):
    """Waits for something that cannot be waited for by descriptor: looks again
    each time the clock of a timer descriptor has moved a little."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what}")
        select.select([], [], [], 0.01)


# ---- processes, descriptors, files ----


def processes_of(directory):
    """Pids of all processes whose program lies below `directory`."""
    found = []
    prefix = str(directory) + "/"
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if os.readlink(f"/proc/{entry}/exe").startswith(prefix):
                found.append(int(entry))
        except OSError:
            continue
    return sorted(found)


def descriptors_of(pid):
    """What the descriptors of a process refer to, without numbers that differ."""
    kinds = Counter()
    base = f"/proc/{pid}/fd"
    for entry in os.listdir(base):
        try:
            kinds[re.sub(r"\d+", "N", os.readlink(f"{base}/{entry}"))] += 1
        except OSError:
            continue
    return kinds


def cgroup_directories(name):
    """Directories called `name` in every cgroup hierarchy, and those below them."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, directory, kind, *_ = line.split()
        if kind not in ("cgroup", "cgroup2"):
            continue
        for path, _, _ in os.walk(directory):
            if name in path.split("/"):
                found.append(path)
    return found


@dataclass
class Usage:
    """What a daemon and its workers hold."""

    descriptors: Counter
    processes: int
    memfds: int
    files: list
    mounts: int
    cgroups: int

    def difference(self, before):
        """Sentences about what is more than before."""
        found = []
        more = self.descriptors - before.descriptors
        if more:
            found.append(f"descriptors: {dict(more)}")
        for what in ("processes", "memfds", "mounts", "cgroups"):
            if getattr(self, what) > getattr(before, what):
                found.append(f"{what}: {getattr(before, what)} -> {getattr(self, what)}")
        new = sorted(set(self.files) - set(before.files))
        if new:
            found.append(f"files: {new}")
        return found


# ---- the daemon ----


class Daemon:
    """A rametd in a directory of its own, run from a copy of the programs there,
    so that its processes can be told from any others."""

    count = 0

    def __init__(self, *options, worker=WORKER, directory=None):
        Daemon.count += 1
        # There is no machine whose memory could be copied behind the fake worker.
        self.options = (*options, "--boot-each") if worker == "fake" else options
        self.worker = worker
        self.home = Path(directory or tempfile.mkdtemp(prefix="ramet-e2e-", dir="/tmp"))
        self.socket = str(self.home / "sock")
        self.state = self.home / "state"
        self.process = None
        self.cgroup = None  # the name of its directory in each hierarchy, see learn_cgroup()
        test = Path(sys.argv[0]).stem if sys.argv[0] else "test"
        LOGS.mkdir(parents=True, exist_ok=True)
        self.log = LOGS / f"rametd-{test}-{os.getpid()}-{Daemon.count}.log"
        self._install()

    def _install(self):
        bin_dir = self.home / "bin"
        if bin_dir.exists():
            return
        bin_dir.mkdir()
        shutil.copy2(BIN / "rametd", bin_dir / "rametd")
        self.images = IMAGES
        if self.worker == "real":
            shutil.copy2(BIN / "ramet-vmm", bin_dir / "ramet-vmm")
            return
        shutil.copy2(FAKE_WORKER, bin_dir / "ramet-vmm")
        self.images = self.home / "images"
        root = self.images / "templates" / "python"
        root.mkdir(parents=True)
        (self.images / "kernel").mkdir()
        (self.images / "kernel" / "vmlinux").write_text("vmlinux\n")
        (self.images / "kernel" / "modules.cpio").write_text("modules\n")
        (self.images / "agent.cpio").write_text("agent\n")
        (root / "root.cpio").write_text(f"real {BIN / 'ramet-agent'}\n")

    def add_template(self, name, script):
        """A template for the fake worker."""
        root = self.images / "templates" / name
        root.mkdir(parents=True)
        (root / "root.cpio").write_text(script + "\n")

    def start(self, expect_ready=True):
        """Starts it and waits for READY=1 (sd_notify(3))."""
        notify_path = str(self.home / "notify")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(notify_path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, \
                self.log.open("ab") as log:
            notify.bind(notify_path)
            self.process = subprocess.Popen(
                [str(self.home / "bin" / "rametd"), "--socket", self.socket, "--state",
                 str(self.state), "--images", str(self.images), *self.options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                # A sanitizer's quarantine would count as memory of the daemon.
                env={"RAMET_LOG": "debug", "ASAN_OPTIONS": "quarantine_size_mb=1", **os.environ,
                     "NOTIFY_SOCKET": notify_path},
                start_new_session=True,
            )
            exit_fd = os.pidfd_open(self.process.pid)
            try:
                ready, _, _ = select.select([notify, exit_fd], [], [], DEADLINE)
                if notify in ready:
                    assert b"READY=1" in notify.recv(4096)
                elif not expect_ready:
                    self.process.wait(DEADLINE)
                else:
                    raise AssertionError(f"rametd did not become ready:\n{self.log_tail()}")
            finally:
                os.close(exit_fd)
                os.unlink(notify_path)
        return self

    def log_tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def signal(self, number):
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def stop(self):
        """SIGTERM; returns the exit status."""
        if self.process is None or self.process.poll() is not None:
            return self.process and self.process.returncode
        return self.signal(signal.SIGTERM)

    def destroy(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE)
        if self.process is not None and self.process.returncode < 0:
            self.start()  # cleans up after the one that was killed
            self.stop()
        eventually(lambda: not processes_of(self.home), "all processes are gone")
        shutil.rmtree(self.home)

    def api(self):
        return Api(self.socket)

    def learn_cgroup(self):
        """Where its workers are confined; call it while there is one."""
        for pid in processes_of(self.home):
            found = re.search(r"/(ramet-[0-9a-f]{16})/", Path(f"/proc/{pid}/cgroup").read_text())
            if found:
                self.cgroup = found.group(1)
                return self.cgroup
        raise AssertionError("no process of the daemon is in a cgroup of its own")

    def cgroups(self):
        """Its directories in the cgroup hierarchies."""
        return cgroup_directories(self.cgroup) if self.cgroup else []

    def settle(self):
        """Waits until no sandbox comes or goes and the pool of idle machines is full."""
        api = self.api()
        last = {"pool": None, "since": 0.0}

        def settled():
            capacity = api.get("/v1/capacity").json
            sandboxes, pool, now = capacity["sandboxes"], capacity["pool"], time.monotonic()
            if pool != last["pool"] or pool["starting"] or sandboxes["creating"] or \
                    sandboxes["closing"]:
                last.update(pool=pool, since=now)
            return now - last["since"] > REST  # it is filled again after a moment of quiet

        eventually(settled, "the daemon rests")

    def usage(self):
        processes = processes_of(self.home)
        memfds = 0
        for pid in processes:
            with contextlib.suppress(OSError):
                memfds += sum(count for name, count in descriptors_of(pid).items()
                              if name.startswith("/memfd:"))
        files = [str(path.relative_to(self.state)) for path in self.state.rglob("*")]
        return Usage(
            descriptors=descriptors_of(self.process.pid),
            processes=len(processes),
            memfds=memfds,
            files=files,
            mounts=len(Path("/proc/self/mounts").read_text().splitlines()),
            cgroups=len(self.cgroups()),
        )


_shared = []


def shared_daemon():
    """The daemon that most tests of one program use; ended at exit."""
    if not _shared:
        daemon = Daemon().start()
        _shared.append(daemon)
        atexit.register(_shared_end)
    return _shared[0]


def _shared_end():
    daemon = _shared.pop()
    daemon.stop()
    daemon.destroy()


# ---- the client ----


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout=DEADLINE):
        super().__init__("ramet", timeout=timeout, blocksize=256 * 1024)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Response:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]["code"]

    @property
    def message(self):
        return self.json["error"]["message"]

    def events(self):
        return [json.loads(line) for line in self.body.splitlines()]


class Api:
    """Requests, each reply checked against the API description."""

    def __init__(self, path):
        self.path = path

    def request(self, method, target, body=None, headers=None, check=True):
        connection = UnixConnection(self.path)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, target, body=body, headers=headers or {})
            reply = connection.getresponse()
            response = Response(reply.status, reply.headers, reply.read())
        finally:
            connection.close()
        if check:
            spec.check(method, target, response)
        return response

    def get(self, target, **options):
        return self.request("GET", target, **options)

    def delete(self, target, **options):
        return self.request("DELETE", target, **options)

    def put(self, target, body, **options):
        return self.request("PUT", target, body, **options)

    def post(self, target, document, headers=None, **options):
        body = document if isinstance(document, (bytes, str)) else json.dumps(document)
        return self.request("POST", target, body,
                            {"Content-Type": "application/json", **(headers or {})}, **options)

    def create(self, **fields):
        fields.setdefault("isolation", ISOLATION)
        response = self.post("/v1/sandboxes", fields)
        assert response.status == 201, response.body
        return response.json["id"]

    def close(self, sandbox):
        response = self.delete(f"/v1/sandboxes/{sandbox}")
        assert response.status == 200, response.body

    def run(self, sandbox, code, **fields):
        """One exec, answered in one object."""
        response = self.post(f"/v1/sandboxes/{sandbox}/exec?stream=false", {"code": code, **fields})
        assert response.status == 200, response.body
        return response.json

    def stream(self, sandbox, code, **fields):
        """One exec; yields (seconds since the request, event) as they arrive."""
        target = f"/v1/sandboxes/{sandbox}/exec"
        connection = UnixConnection(self.path)
        begin = time.monotonic()
        try:
            connection.request("POST", target, json.dumps({"code": code, **fields}),
                               {"Content-Type": "application/json"})
            reply = connection.getresponse()
            if reply.status != 200:
                raise AssertionError(reply.read())
            for line in reply:
                event = json.loads(line)
                spec.check_event(event)
                yield time.monotonic() - begin, event
        finally:
            connection.close()


class SandboxCase(unittest.TestCase):
    """Tests that share one sandbox."""

    @classmethod
    def setUpClass(cls):
        if os.geteuid() != 0:
            raise unittest.SkipTest("needs root: rametd makes namespaces and cgroups")
        cls.daemon = shared_daemon()
        cls.api = cls.daemon.api()
        cls.sandbox = cls.api.create()
        cls.base = f"/v1/sandboxes/{cls.sandbox}"
        cls.addClassCleanup(cls.api.close, cls.sandbox)

    def run_code(self, code, **fields):
        return self.api.run(self.sandbox, code, **fields)


_guest_base = tempfile.mktemp(prefix="ramet-guest-", dir="/tmp")
if WORKER == "fake":  # whose "guest" has the files of this host
    atexit.register(shutil.rmtree, _guest_base, ignore_errors=True)


def guest_directory():
    """A directory for the files of one test, which the guest does not have yet."""
    return tempfile.mktemp(prefix="t", dir=_guest_base)


def peak_memory(pid):
    """VmHWM of a process in MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", text).group(1)) / 1024


def reset_peak_memory(pid):
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def main():
    unittest.main(verbosity=2)
