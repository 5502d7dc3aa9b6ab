"""Memory that a guest frees goes back to the host, and nothing else does."""

import re
import time
import unittest
from pathlib import Path

import harness
from harness import eventually, needs_guest, needs_root, processes_of

MIB = 1024 * 1024
BIG_MB = 200  # what tests allocate and free in a guest of 512 MiB

FILL = f"""
big = bytearray({BIG_MB} << 20)
for at in range(0, len(big), 4096):
    big[at] = 1 + at % 251
"""

# Makes calls of a guest's kernel to the host, as root may: bitmaps of pages
# that are "free".
HYPERCALL = """
import ctypes, errno, fcntl, os, struct
_driver = os.open("/dev/xen/privcmd", os.O_RDWR)
def call(*args, number=55):
    buf = bytearray(struct.pack("<6Q", number, *(a % (1 << 64) for a in args),
                                *[0] * (5 - len(args))))
    try:
        return fcntl.ioctl(_driver, 0x305000, buf)
    except OSError as e:
        return errno.errorcode[e.errno]
bits = ctypes.create_string_buffer(b"\\xff" * 4096)
at = ctypes.addressof(bits)
FREE = 2
frames = os.sysconf("SC_PHYS_PAGES")
"""

# Programs that allocate, check and free, in memory and in files, until a file
# says stop; the last line of their output is "rounds errors".
STRESS = """
import hashlib, os, random, sys
random.seed(int(sys.argv[1]))
directory = f"/tmp/stress{sys.argv[1]}"
os.mkdir(directory)
kept, rounds, errors = {}, 0, 0
def block(seed, size):
    return random.Random(seed).randbytes(4096) * (size // 4096)
while not os.path.exists("/tmp/stop") or rounds < 20:
    rounds += 1
    key = random.randrange(8)
    if key in kept:
        kind, seed, size, value = kept.pop(key)
        if kind == "file":
            path, value = value, open(value, "rb").read()
            os.unlink(path)
        errors += bytes(value) != block(seed, size)
        del value
    seed, size = random.randrange(1 << 30), 4096 * random.randrange(1, 3000)
    if random.random() < 0.3:
        path = f"{directory}/{key}"
        with open(path, "wb") as f:
            f.write(block(seed, size))
        kept[key] = "file", seed, size, path
    else:
        kept[key] = "memory", seed, size, bytearray(block(seed, size))
print(rounds, errors)
"""


def private_mb(daemon):
    """What all workers of a daemon hold for themselves, copies of shared pages
    that they wrote to included, in MiB."""
    total = 0
    for pid in processes_of(daemon.home):
        try:
            if not Path(f"/proc/{pid}/exe").resolve().name.startswith("ramet-vmm"):
                continue
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(n) for n in re.findall(r"^Anonymous:\s+(\d+) kB", text, re.M))
    return total / 1024


@needs_root
@needs_guest
class ReclaimCase(unittest.TestCase):
    """Tests with a daemon whose pool does not change while they measure."""

    @classmethod
    def setUpClass(cls):
        cls.daemon = harness.Daemon().start()
        cls.addClassCleanup(cls.daemon.destroy)
        cls.addClassCleanup(cls.daemon.stop)
        cls.api = cls.daemon.api()

    def create(self, **fields):
        sandbox = self.api.create(**fields)
        self.addCleanup(self.api.delete, f"/v1/sandboxes/{sandbox}")
        self.run_code(sandbox, "None")
        return sandbox

    def run_code(self, sandbox, code, **fields):
        answer = self.api.run(sandbox, code, **fields)
        self.assertEqual(answer["exit_code"], 0, answer)
        return answer["stdout"]

    def reclaim(self, sandbox):
        response = self.api.request("POST", f"/v1/sandboxes/{sandbox}/reclaim")
        self.assertEqual(response.status, 200, response.body)
        return response.json["reclaimed_mb"]

    def settle(self):
        """Until the pool is full again. Returns what the workers hold."""
        held, since = private_mb(self.daemon), time.monotonic()

        def steady():
            nonlocal held, since
            now = private_mb(self.daemon)
            if abs(now - held) > 0.5:
                held, since = now, time.monotonic()
            return time.monotonic() - since > 0.5

        eventually(steady, "the workers' memory does not change any more")
        return held


class FreedMemory(ReclaimCase):
    def check_request(self, isolation):
        sandbox = self.create(isolation=isolation)
        before = self.settle()
        self.run_code(sandbox, FILL)
        self.assertGreater(private_mb(self.daemon), before + BIG_MB - 5)
        self.run_code(sandbox, "del big")
        self.assertGreater(self.reclaim(sandbox), BIG_MB - 20)
        self.assertLess(private_mb(self.daemon), before + 25)
        self.assertLess(self.reclaim(sandbox), 5)
        self.run_code(sandbox, FILL + "assert all(big[at] == 1 + at % 251 "
                      "for at in range(0, len(big), 4096))")

    def test_goes_back_when_asked_for_full(self):
        self.check_request("full")

    def test_goes_back_when_asked_for_fast(self):
        self.check_request("fast")

    # Linux keeps page flags for whole sections of 128 MiB.
    def test_goes_back_in_a_guest_of_odd_size(self):
        sandbox = self.create(memory_mb=306)
        self.run_code(sandbox, "big = bytearray(60 << 20)\n"
                      "for at in range(0, len(big), 4096): big[at] = 1")
        self.run_code(sandbox, "del big")
        self.assertGreater(self.reclaim(sandbox), 50)

    def test_goes_back_on_the_plain_path(self):
        sandbox = self.create(plain=True)
        self.run_code(sandbox, FILL)
        self.run_code(sandbox, "del big")
        self.assertGreater(self.reclaim(sandbox), BIG_MB - 20)

    def test_goes_back_by_itself_after_execs(self):
        sandbox = self.create()
        before = self.settle()
        self.run_code(sandbox, FILL)
        self.run_code(sandbox, "del big")
        eventually(lambda: private_mb(self.daemon) < before + 25, "the memory is back")

    def test_of_a_file_goes_back_too(self):
        sandbox = self.create()
        self.run_code(sandbox, f"open('/tmp/f', 'wb').write(bytes({BIG_MB} << 20)); None")
        self.run_code(sandbox, "import os; os.unlink('/tmp/f')")
        self.assertGreater(self.reclaim(sandbox), BIG_MB - 20)

    def test_what_is_in_use_stays(self):
        sandbox = self.create()
        self.run_code(sandbox, FILL)
        self.reclaim(sandbox)
        held = private_mb(self.daemon)
        self.assertLess(self.reclaim(sandbox), 5)
        self.assertGreater(private_mb(self.daemon), held - 5)
        self.run_code(sandbox, "assert all(big[at] == 1 + at % 251 "
                      "for at in range(0, len(big), 4096))")

    def test_goes_back_while_code_runs(self):
        sandbox = self.create()
        self.run_code(sandbox, FILL)
        self.run_code(sandbox, "del big")
        events = self.api.stream(sandbox, "print('runs', flush=True); import time\n"
                                 "end = time.monotonic() + 3\nwhile time.monotonic() < end: pass")
        for _, event in events:
            if event["type"] == "stdout":
                self.assertGreater(self.reclaim(sandbox), BIG_MB - 20)
        self.assertEqual(event["exit_code"], 0)

    def test_a_template_is_frozen_without_free_memory(self):
        self.create()
        took = re.findall(r"template 'python' .* takes (\d+) MiB", self.daemon.log.read_text())
        self.assertTrue(took)
        for megabytes in took:
            self.assertLess(int(megabytes), 200)


class Data(ReclaimCase):
    def check_under_load(self, isolation):
        sandbox = self.create(isolation=isolation)
        self.run_code(sandbox, "import hashlib, random, subprocess, sys\n"
                      "open('/tmp/stress.py', 'w').write(" + repr(STRESS) + ")\n"
                      "mine = random.Random(1).randbytes(20 << 20)\n"
                      "open('/tmp/mine', 'wb').write(mine)\n"
                      "digest = hashlib.sha256(mine).hexdigest()\n"
                      "stress = [subprocess.Popen([sys.executable, '/tmp/stress.py', str(n)],\n"
                      "          stdout=open(f'/tmp/out{n}', 'w')) for n in range(3)]")
        given = 0
        for _ in range(25):
            given += self.reclaim(sandbox)
            self.run_code(sandbox, "assert hashlib.sha256(mine).hexdigest() == digest\n"
                          "assert hashlib.sha256(open('/tmp/mine', 'rb').read()).hexdigest() "
                          "== digest")
        told = self.run_code(sandbox, "open('/tmp/stop', 'w').close()\n"
                             "for n, s in enumerate(stress):\n"
                             "    assert s.wait(60) == 0\n"
                             "    print(open(f'/tmp/out{n}').read().strip())")
        for line in told.splitlines():
            rounds, errors = (int(word) for word in line.split())
            self.assertGreaterEqual(rounds, 20)
            self.assertEqual(errors, 0)
        self.assertGreater(given, 20, "the passes took something while the programs ran")

    def test_survives_passes_under_load_full(self):
        self.check_under_load("full")

    def test_survives_passes_under_load_fast(self):
        self.check_under_load("fast")

    def fork(self, sandbox, n=1):
        response = self.api.post(f"/v1/sandboxes/{sandbox}/fork", {"n": n})
        self.assertEqual(response.status, 201, response.body)
        children = [child["id"] for child in response.json["children"]]
        for child in children:
            self.addCleanup(self.api.delete, f"/v1/sandboxes/{child}")
        return children, response.json["dirty_pages"]

    def test_what_was_given_back_is_not_copied_by_a_fork(self):
        sandbox = self.create()
        self.run_code(sandbox, FILL + "keep = bytes(range(256)) * 40960")
        self.run_code(sandbox, "del big")
        self.reclaim(sandbox)
        children, dirty = self.fork(sandbox, 2)
        self.assertLess(dirty, 80 * MIB // 4096)
        for who in (sandbox, *children):
            self.assertEqual(self.run_code(who, "print(keep == bytes(range(256)) * 40960)"),
                             "True\n")

    def test_of_a_parent_and_its_children_stays_apart(self):
        sandbox = self.create()
        self.run_code(sandbox, FILL)
        (first, second), _ = self.fork(sandbox, 2)
        check = "print(sum(big[0::4096]))"
        expected = self.run_code(sandbox, check)
        self.run_code(first, "for at in range(0, len(big), 4096): big[at] = 7")
        self.run_code(first, "del big")
        self.assertGreater(self.reclaim(first), BIG_MB - 20)
        self.run_code(sandbox, "big[0:4096] = bytes(4096)")
        self.reclaim(sandbox)
        self.assertEqual(self.run_code(second, check), expected)
        grandchildren, dirty = self.fork(first)
        self.assertLess(dirty, 60 * MIB // 4096)
        self.run_code(grandchildren[0], FILL)
        self.assertEqual(self.run_code(grandchildren[0], check), expected)
        self.run_code(first, FILL)
        self.assertEqual(self.run_code(first, check), expected)


class HostileGuest(ReclaimCase):
    """What a guest may name, and what comes of it."""

    def test_frames_that_are_not_its_memory_are_refused(self):
        sandbox = self.create()
        self.run_code(sandbox, HYPERCALL + """
ram = 512 << 8
for first, count in ((ram, 64), (ram - 64, 128), (1 << 40, 64), (-64, 64), (-64, 128),
                     (1 << 63, 64), (ram + 512, 512), (1 << 52, 16384)):
    assert call(FREE, first, count, at) == "EINVAL", (first, count)
""")

    def test_impossible_numbers_are_refused(self):
        sandbox = self.create()
        self.run_code(sandbox, HYPERCALL + """
for first, count in ((0, 16384 + 64), (0, -64), (0, 1 << 32), (0, (1 << 32) + 64), (1, 64),
                     (0, 1), (32, 64), (0, 63), (0, 1 << 63), (64, 16385)):
    assert call(FREE, first, count, at) == "EINVAL", (first, count)
assert call(FREE, 0, 0, at) == 0
""")

    def test_a_bitmap_that_is_not_there_is_refused(self):
        sandbox = self.create()
        self.run_code(sandbox, HYPERCALL + """
for va in (0, 0x7ffffffff000, 1 << 63, 0xffff808000000000, -1, 0xffff7fffffffffff):
    assert call(FREE, 0, 64, va) == "EFAULT", va
""")

    def test_the_balloon_of_other_hypervisors_is_refused(self):
        sandbox = self.create()
        self.run_code(sandbox, HYPERCALL + """
for command in (0, 1, 6, 11):  # increase, decrease, populate, exchange
    assert call(command, at, number=12) == "ENOSYS", command
""")

    def check_suicide(self, code, isolation):
        bystander = self.create(isolation=isolation)
        self.run_code(bystander, "x = 41")
        victim = self.create(isolation=isolation)
        response = self.api.post(f"/v1/sandboxes/{victim}/exec?stream=false",
                                 {"code": HYPERCALL + code, "timeout_ms": 8000})
        self.assertIn(response.status, (200, 409, 500, 502, 504), response.body)
        state = self.api.get(f"/v1/sandboxes/{victim}").json
        if state["state"] == "failed":
            self.assertRegex(state["reason"], r"guest|kernel|agent")
        self.assertEqual(self.run_code(bystander, "print(x + 1)"), "42\n")
        self.assertEqual(self.api.get("/v1/healthz").status, 200)
        self.create(isolation=isolation)

    EVERYTHING = """
for _ in range(3):
    for first in range(0, 512 << 8, 16384):
        call(FREE, first, 16384, at)
"""

    # Page tables, rings, grants, the kernel itself: all that it has.
    def test_one_that_names_everything_harms_itself_only_full(self):
        self.check_suicide(self.EVERYTHING, "full")

    def test_one_that_names_everything_harms_itself_only_fast(self):
        self.check_suicide(self.EVERYTHING, "fast")

    def test_one_that_names_pages_at_random_harms_itself_only(self):
        self.check_suicide("""
import random
for _ in range(400):
    first = 64 * random.randrange(512 << 2)
    count = min(64 * random.randrange(1, 257), (512 << 8) - first)
    bits.raw = random.randbytes(4096)
    for _ in range(2):
        call(FREE, first, count, at)
""", "full")


if __name__ == "__main__":
    harness.main()
