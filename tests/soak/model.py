"""The oracle of the soak: what each sandbox must hold.

A sandbox holds blobs (bytearrays of its Python), files and a log, all made of
chunks that a seed determines, so that the model is a few numbers and both sides
can make or hash the content. A fork copies the model as it copies the machine.
What runs in the background in the guest (a thread that counts, a shell job that
counts, a thread that writes and checks memory of its own) is known only as far
as it was seen last: it must go on from there without a gap."""

import functools
import hashlib
import random

CHUNK = 32 * 1024
DIRECTORY = "/root/soak"
LOG = "/tmp/soak.log"
JOB = "/tmp/soak.job"

# Defined once in each sandbox that is no fork.
GUEST = f"""
import hashlib, json, mmap, os, random, struct, threading, time
CHUNK = {CHUNK}
blobs, count, ticks, wrong = {{}}, 0, 0, []
os.makedirs({DIRECTORY!r}, exist_ok=True)

def chunk(seed):
    return random.Random(seed).randbytes(CHUNK)

def digest(data):
    total, data = hashlib.sha256(), memoryview(data)
    for at in range(0, len(data), CHUNK):
        total.update(hashlib.sha256(data[at:at + CHUNK]).digest())
    return total.hexdigest()

def put(name, seeds):
    blobs[name] = bytearray(len(seeds) * CHUNK)
    poke(name, enumerate(seeds))

def poke(name, edits):
    for at, seed in edits:
        blobs[name][at * CHUNK:(at + 1) * CHUNK] = chunk(seed)

def file_put(path, seeds):
    with open(path, "wb") as file:
        for seed in seeds:
            file.write(chunk(seed))

def file_poke(path, edits):
    with open(path, "r+b") as file:
        for at, seed in edits:
            file.seek(at * CHUNK)
            file.write(chunk(seed))

def file_digest(path):
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(CHUNK):
            total.update(hashlib.sha256(data).digest())
    return total.hexdigest()

def state(names, paths):
    before, end = ticks, time.monotonic() + 30
    while ticks == before and time.monotonic() < end:
        time.sleep(0.002)
    with open({JOB!r}) as file:
        job = file.read().split("\\n")[:-1]
    print(json.dumps({{
        "blobs": {{name: digest(blobs[name]) for name in names if name in blobs}},
        "names": sorted(blobs),
        "files": {{path: file_digest(path) for path in paths if os.path.exists(path)}},
        "paths": sorted(os.path.join({DIRECTORY!r}, name) for name in os.listdir({DIRECTORY!r})),
        "log": hashlib.sha256(open({LOG!r}, "rb").read()).hexdigest(),
        "count": count, "wrong": wrong[:5], "before": before, "ticks": ticks,
        "job": len(job), "gaps": [i for i, line in enumerate(job) if line != str(i)][:5],
    }}))

def ticking():
    global ticks
    while True:
        time.sleep(0.02)
        ticks += 1

def writing(pages=96):
    memory = mmap.mmap(-1, pages * 4096)
    turn = 0
    while True:
        for page in range(pages):
            at = page * 4096 + (page * 37) % 4080
            found, = struct.unpack_from("Q", memory, at)
            if found != turn * 1000003 + page * (turn > 0):
                wrong.append((turn, page, found))
            struct.pack_into("Q", memory, at, (turn + 1) * 1000003 + page)
        turn += 1
        time.sleep(0.15)

open({LOG!r}, "w").close()
open({JOB!r}, "w").close()
for work in (ticking, writing):
    threading.Thread(target=work, daemon=True).start()
"""

GUEST_JOB = (f"(i=0; while :; do echo $i; i=$((i + 1)); sleep 0.4; done) >> {JOB} "
             "2>/dev/null </dev/null &\ndisown\n")


def content(seeds):
    """What a file of these chunks holds."""
    return b"".join(random.Random(seed).randbytes(CHUNK) for seed in seeds)


@functools.lru_cache(maxsize=100000)
def _chunk_digest(seed):
    return hashlib.sha256(random.Random(seed).randbytes(CHUNK)).digest()


@functools.lru_cache(maxsize=20000)
def digest(seeds):
    """The guest's digest() of these chunks; `seeds` is a tuple."""
    total = hashlib.sha256()
    for seed in seeds:
        total.update(_chunk_digest(seed))
    return total.hexdigest()


def edited(seeds, edits):
    changed = list(seeds)
    for at, seed in edits:
        changed[at] = seed
    return tuple(changed)


class Model:
    """What one sandbox must hold now."""

    def __init__(self):
        self.blobs = {}  # name: seeds
        self.files = {}  # path: seeds
        self.log = b""
        self.count = 0
        self.ticks = 0  # seen last, as `job`
        self.job = 0

    def copy(self):
        other = Model()
        other.__dict__.update(self.__dict__)
        other.blobs, other.files = dict(self.blobs), dict(self.files)
        return other

    def chunks(self):
        return sum(map(len, self.blobs.values())) + sum(map(len, self.files.values()))

    def differences(self, seen, names, paths):
        """Sentences about what a sandbox's state(names, paths) says other than this;
        remembers how far its background work is."""
        found = []

        def expect(what, actual, expected):
            if actual != expected:
                found.append(f"{what}: {str(actual)[:200]} instead of {str(expected)[:200]}")

        expect("names of blobs", seen["names"], sorted(self.blobs))
        expect("paths", seen["paths"], sorted(self.files))
        for name in names:
            expect(f"blob {name}", seen["blobs"].get(name), digest(self.blobs[name]))
        for path in paths:
            expect(f"file {path}", seen["files"].get(path), digest(self.files[path]))
        expect("log", seen["log"], hashlib.sha256(self.log).hexdigest())
        expect("count", seen["count"], self.count)
        expect("memory that a thread writes and checks", seen["wrong"], [])
        expect("lines of the job", seen["gaps"], [])
        if seen["ticks"] == seen["before"]:
            found.append(f"the thread stopped counting at {seen['ticks']}")
        if seen["before"] < self.ticks:
            found.append(f"the thread counted to {seen['before']}, which was {self.ticks} before")
        if seen["job"] < self.job:
            found.append(f"the job counted to {seen['job']}, which was {self.job} before")
        self.ticks, self.job = seen["ticks"], seen["job"]
        return found

    def file_changes(self, other):
        """Paths added, removed and modified on the way to `other`."""
        mine, theirs = set(self.files), set(other.files)
        return (sorted(theirs - mine), sorted(mine - theirs),
                sorted(path for path in mine & theirs if self.files[path] != other.files[path]))
