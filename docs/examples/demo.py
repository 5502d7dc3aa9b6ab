#!/usr/bin/python3
"""`make demo`: starts a daemon of its own, gives an agent's typical first
minutes to a sandbox - state that survives, a failure, bash, files both ways, and
one step of a tree search over five forks - and prints what happened and how long it took.

usage: demo.py [BUILD_DIR]      (default: build)
"""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "api", "python"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tree_search  # noqa: E402
from ramet import Sandbox  # noqa: E402


def milliseconds(start):
    return (time.monotonic() - start) * 1e3


def show(title, text, took):
    print(f"\n--- {title}  ({took:.1f} ms)")
    for line in text.rstrip("\n").splitlines():
        print(f"    {line}")


def run(sb, title, code, **options):
    start = time.monotonic()
    result = sb.run_code(code, **options)
    took = milliseconds(start)
    show(title, result.stdout + result.stderr, took)
    if result.exit_code:
        print(f"    [exit code {result.exit_code}]")
    return result


def visit(socket, isolation):
    start = time.monotonic()
    with Sandbox(socket=socket, isolation=isolation, memory_mb=512) as sb:
        show(f"create a sandbox, isolation {isolation}",
             f"{sb.id}: a Debian kernel of its own in its own KVM virtual machine", milliseconds(start))
        run(sb, "bash: where am I?", "uname -srm; free -h | head -2; id -un", language="bash")
        run(sb, "python: expensive state, built once", """
            import json, math, os
            primes = [n for n in range(2, 20000) if all(n % d for d in range(2, math.isqrt(n) + 1))]
            len(primes)
        """)
        run(sb, "python: the next call finds it", "sum(primes[-3:]), os.getpid()")
        run(sb, "python: an exception is an answer, not an end", "primes[10**6]")
        run(sb, "python: a call that never ends is interrupted", "while True: pass", timeout=0.5)
        run(sb, "python: and the state is still there", "len(primes)")

        data = os.urandom(8 << 20)
        start = time.monotonic()
        sb.upload(data, "/data/input.bin")
        took = milliseconds(start)
        show("upload 8 MiB", f"{len(data) / 1e6 / (took / 1e3):.0f} MB/s", took)
        digest = run(sb, "sha256sum inside", "sha256sum /data/input.bin | cut -c1-64", language="bash")
        start = time.monotonic()
        back = sb.download("/data/input.bin")
        took = milliseconds(start)
        same = back == data and digest.stdout.strip() == hashlib.sha256(data).hexdigest()
        show("download it again", f"{'identical' if same else 'DIFFERENT'}, "
             f"{len(back) / 1e6 / (took / 1e3):.0f} MB/s", took)
        if not same:
            sys.exit("demo: the file changed on its way")

        times = []
        for _ in range(200):
            start = time.monotonic()
            sb.run_code("1")
            times.append(milliseconds(start))
        times.sort()
        print(f"\n--- 200 times run_code(\"1\"): p50 {times[100]:.2f} ms, p99 {times[198]:.2f} ms")


def main():
    build = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build"))
    with tempfile.TemporaryDirectory(prefix="ramet-demo-") as directory:
        socket = os.path.join(directory, "ramet.sock")
        daemon = subprocess.Popen(
            [f"{build}/bin/rametd", "--socket", socket, "--state", f"{directory}/state",
             "--images", f"{build}/images", "--worker", f"{build}/bin/ramet-vmm"],
            stderr=subprocess.PIPE, text=True)
        try:
            # The daemon says when it serves; its log goes on to our stderr.
            for line in daemon.stderr:
                if "serving on" in line:
                    break
            else:
                sys.exit(f"demo: rametd ended with status {daemon.wait()}")
            for isolation in ("full", "fast"):
                visit(socket, isolation)
                print(f"\n--- a tree search: load once, fork 5, merge the winner, "
                      f"isolation {isolation}")
                tree_search.search(socket, isolation)
        finally:
            daemon.send_signal(signal.SIGTERM)
            rest = daemon.communicate(timeout=30)[1]
            if daemon.returncode:
                sys.exit(f"demo: rametd ended with status {daemon.returncode}: {rest}")
    print("\nThe daemon is stopped; nothing is left behind.")


if __name__ == "__main__":
    main()
