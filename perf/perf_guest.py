#!/usr/bin/python3
"""What a sandbox costs: boot, hot calls, system calls, memory, channel.

    perf_guest.py BUILD [--rounds N] [--creates N] [--calls N] [--megabytes N]
                  [--modes full,fast,plain] [--idle SECONDS]

Runs a daemon of its own from BUILD/bin with BUILD/images, prints a table and
writes BUILD/perf/guest.json and BUILD/perf/guest.md. Needs root, as rametd.
docs/performance.md explains the numbers.
"""

import argparse
import contextlib
import json
import re
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "api" / "python"))
sys.path.insert(0, str(ROOT / "perf"))

import host  # noqa: E402
from ramet import Sandbox  # noqa: E402
from results import Results  # noqa: E402

RAM_MB = 512
LIMIT = 120  # seconds that any one step may take
BENCH_NAMES = {
    "anon_page_fault": "page fault, warm memory",
    "cow_break": "copy-on-write break",
    "fork_exit": "fork + exit + wait",
    "vfork_exec_exit": "vfork + exec + exit + wait",
    "pipe_round_trip": "pipe round trip",
    "context_switch": "context switch",
    "futex_round_trip": "futex round trip",
    "mmap_munmap": "mmap + munmap, 64 KiB",
    "cpu_1m_steps": "1 million steps of arithmetic",
    "python3_print": 'python3 -c "print(1)"',
}
# Cheap enough where every event exits.
PLAIN_BENCHES = ("getpid", "anon_page_fault", "pipe_round_trip", "context_switch")
# With how many operations in a batch: what a batch starts and ends is not meant.
EXIT_BENCHES = (("getpid", "getpid", 5000), ("anon_page_fault", "page fault", 4096),
                ("context_switch", "context switch", 4000),
                ("pipe_round_trip", "pipe round trip", 2000))


def note(text):
    print(f"[load {host.load():.2f}] {text}", file=sys.stderr, flush=True)


# ---- the daemon ----


@contextlib.contextmanager
def daemon(build):
    """A daemon of this build; gives its pid and socket."""
    with tempfile.TemporaryDirectory(prefix="ramet-perf-") as directory:
        path = f"{directory}/sock"
        log = build / "perf" / "rametd.log"
        with open(log, "wb") as out:
            process = subprocess.Popen(
                [build / "bin" / "rametd", "--socket", path, "--state", f"{directory}/state",
                 "--images", build / "images", "--worker", build / "bin" / "ramet-vmm"],
                stdout=out, stderr=out)
        try:
            end = time.monotonic() + 10
            while not Path(path).exists():
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"rametd does not start, see {log}")
                select.select([], [], [], 0.02)
            yield process.pid, path
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(LIMIT)


def sandbox(path, mode):
    isolation = "full" if mode == "plain" else mode
    return Sandbox(socket=path, isolation=isolation, memory_mb=RAM_MB, plain=mode == "plain")


# ---- parts ----


def creates(results, path, mode, count):
    note(f"{mode}: {count} creates")
    timings = []
    for _ in range(count):
        with sandbox(path, mode) as sb:
            timings.append(sb.timings)
    for name, key in (("create, whole", "total_ms"), ("worker ready", "spawn_ms"),
                      ("kernel and image loaded", "setup_ms"), ("boot to agent ready", "boot_ms")):
        results.add_percentiles(mode, name, "ms", [t[key] for t in timings])


def bench_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def bench_add(results, column, lines):
    for line in lines:
        results.add(column, BENCH_NAMES.get(line["name"], line["name"]), line["unit"], line["p50"])


def guest_bench(results, sb, mode, binary):
    """The first thing a sandbox does: its memory is cold."""
    note(f"{mode}: guest_bench")
    sb.upload(binary.read_bytes(), "/root/guest_bench", mode=0o755)

    def run(arguments):
        reply = sb.run_code(f"/root/guest_bench {arguments}", "bash", timeout=LIMIT)
        if reply.exit_code:
            raise RuntimeError(f"guest_bench {arguments}: {reply.stderr}")
        return bench_lines(reply.stdout)

    # 156 MiB in one go: more than what the boot has used and freed again.
    cold = run("only=anon_page_fault ops=40000 once=1")
    results.add(mode, "page fault, cold memory", "us", cold[0]["p50"])
    if mode == "plain":
        for name in PLAIN_BENCHES:
            bench_add(results, mode, run(f"only={name} budget_ms=900"))
        return
    lines = [line for line in run("budget_ms=900") if line["name"] != "anon_page_fault"]
    bench_add(results, mode, lines + run("only=anon_page_fault budget_ms=4000"))


def host_bench(results, binary):
    note("host: guest_bench")
    output = subprocess.run([binary, "budget_ms=900"], stdout=subprocess.PIPE, check=True,
                            timeout=LIMIT)
    bench_add(results, "host", bench_lines(output.stdout.decode()))


def timed(count, call):
    """Milliseconds of each of `count` calls, after some that only warm up."""
    for _ in range(20):
        call()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times


class RawClient:
    """One keep-alive connection and the least a client can do."""

    def __init__(self, path, sandbox_id, code):
        body = json.dumps({"code": code}).encode()
        self._request = (f"POST /v1/sandboxes/{sandbox_id}/exec?stream=false HTTP/1.1\r\n"
                         "Host: ramet\r\nContent-Type: application/json\r\n"
                         f"Content-Length: {len(body)}\r\n\r\n").encode() + body
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(LIMIT)
        self._socket.connect(path)

    def close(self):
        self._socket.close()

    def call(self):
        self._socket.sendall(self._request)
        data = b""
        while True:
            piece = self._socket.recv(65536)
            if not piece:
                raise RuntimeError("rametd closed the connection")
            data += piece
            head, found, body = data.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            if found and length and len(body) >= int(length.group(1)):
                if not head.startswith(b"HTTP/1.1 200 "):
                    raise RuntimeError(data.decode())
                return body


def hot_calls(results, path, sb, mode, calls):
    note(f"{mode}: {calls} hot calls")
    percents = (50, 95, 99)
    guest, engine = [], []

    def by_sdk():
        reply = sb.run_code("1")
        if reply.result != "1":
            raise RuntimeError(f"run_code(\"1\") gave {reply}")
        guest.append(reply.timings["run_ms"])
        engine.append(reply.timings["total_ms"])

    def bash():
        if sb.run_code("true", "bash").exit_code:
            raise RuntimeError("bash true failed")

    results.add_percentiles(mode, 'run_code("1") by SDK', "ms", timed(calls, by_sdk), percents)
    with contextlib.closing(RawClient(path, sb.id, "1")) as client:
        results.add_percentiles(mode, 'run_code("1") by plain socket', "ms",
                                timed(calls, client.call), percents)
    results.add(mode, 'run_code("1") inside the daemon, p50', "ms", statistics.median(engine))
    results.add(mode, 'run_code("1") inside the guest, p50', "ms", statistics.median(guest))
    results.add_percentiles(mode, "bash `true`", "ms", timed(max(calls // 10, 10), bash))


def idle(results, daemon_pid, mode, seconds):
    note(f"{mode}: idle for {seconds} s")
    worker, = host.workers_of(daemon_pid)
    before, woken = host.cpu_ns(worker), host.wakeups(worker)
    select.select([], [], [], seconds)
    used = host.cpu_ns(worker) - before
    results.add(mode, "idle CPU of the worker", "%", used / (seconds * 1e9) * 100)
    results.add(mode, "idle wake-ups of the worker", "1/s",
                (host.wakeups(worker) - woken) / seconds)
    own = host.worker_memory(worker, RAM_MB * host.MIB)
    results.add(mode, "worker memory without guest RAM", "MiB", own / host.MIB)
    kernel = host.kernel_memory(worker)
    if kernel is not None:
        results.add(mode, "kernel memory for the worker", "MiB", kernel / host.MIB)


def channel(results, sb, mode, megabytes):
    note(f"{mode}: {megabytes} MB up and down")
    block = bytes(range(256)) * 3907  # 1.0002 MB that does not repeat by the page
    data = (block * megabytes)[:megabytes * 1000000]
    start = time.perf_counter()
    sb.upload(data, "/tmp/big")
    middle = time.perf_counter()
    back = sb.download("/tmp/big")
    end = time.perf_counter()
    if back != data:
        raise RuntimeError("the download differs from the upload")
    sb.run_code("rm /tmp/big", "bash")
    results.add(mode, "upload", "MB/s", megabytes / (middle - start))
    results.add(mode, "download", "MB/s", megabytes / (end - middle))


def exits(results, build, mode):
    """KVM_RUN returns per operation: those of a guest that measures, less those
    of one that does nothing and those that its timer costs in that time."""
    note(f"{mode}: exits")

    def run(program):
        """Returns, seconds that the program took, its results."""
        command = [build / "bin" / "ramet-vmm", "--run", "--stats", "--kernel",
                   build / "images/kernel/vmlinux", "--initrd", build / "guest-tests.cpio",
                   "--isolation", mode, "--cmdline", f"ramet.run={program}"]
        process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 check=True, timeout=LIMIT)
        output = process.stdout.decode(errors="replace")
        return (int(re.search(rb"\bexits=(\d+)", process.stderr).group(1)),
                float(re.search(r"took ([\d.]+) s", output).group(1)), bench_lines(output))

    nothing, _, _ = run("hello")
    count, seconds, _ = run("guest_bench,only=cpu_1m_steps,budget_ms=900")
    timer = max(0, count - nothing) / seconds
    results.add(mode, "VMM exits per second of arithmetic", "1/s", timer)
    for name, title, ops in EXIT_BENCHES:
        count, seconds, (line,) = run(f"guest_bench,only={name},ops={ops},budget_ms=900")
        results.add(mode, f"VMM exits per {title}", "",
                    max(0, count - nothing - timer * seconds) / ((line["n"] + 1) * line["ops"]))


# ---- all ----


def measure(results, build, options):
    binary = build / "guest-obj" / "guest_bench"
    with daemon(build) as (pid, path):
        for mode in options.modes:  # what the first one pays, nobody else does
            with sandbox(path, mode) as sb:
                results.add(mode, "create, first of a daemon", "ms", sb.timings["total_ms"])
        for round_number in range(options.rounds):
            note(f"round {round_number + 1} of {options.rounds}")
            host_bench(results, binary)
            for mode in options.modes:
                creates(results, path, mode, 3 if mode == "plain" else options.creates)
                with sandbox(path, mode) as sb:
                    guest_bench(results, sb, mode, binary)
                with sandbox(path, mode) as sb:
                    hot_calls(results, path, sb, mode,
                              options.calls if mode != "plain" else options.calls // 5)
                    channel(results, sb, mode, options.megabytes)
                    idle(results, pid, mode, options.idle)
                if mode != "plain":
                    exits(results, build, mode)


def options_parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--creates", type=int, default=10)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--idle", type=int, default=10, metavar="SECONDS")
    parser.add_argument("--modes", type=lambda text: text.split(","), default=["full", "fast", "plain"])
    options = parser.parse_args()
    if not set(options.modes) <= {"full", "fast", "plain"}:
        parser.error("--modes knows full, fast and plain")
    if min(options.rounds, options.creates, options.calls, options.megabytes, options.idle) < 1:
        parser.error("every number must be at least 1")
    return options


def main():
    options = options_parse()
    build = options.build.resolve()
    (build / "perf").mkdir(exist_ok=True)
    facts = {**host.facts(), **host.kvm(build / "bin" / "ramet"),
             "guest_memory_mib": RAM_MB, "load_before": host.load(),
             "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    results = Results()
    measure(results, build, options)
    facts["load_after"] = host.load()
    parameters = {name: getattr(options, name) for name in
                  ("rounds", "creates", "calls", "megabytes", "idle", "modes")}
    table = "\n".join(f"- {name}: {value}" for name, value in {**facts, **parameters}.items())
    table += "\n\n" + results.as_markdown()
    (build / "perf" / "guest.md").write_text(table)
    (build / "perf" / "guest.json").write_text(json.dumps(
        {"host": facts, "parameters": parameters, **results.as_json()}, indent=1) + "\n")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
