"""A client of guest/protocol.h for tests: starts ramet-agent on a socketpair.

Every wait has a deadline; an agent that does not answer fails the test."""

import collections
import ctypes
import os
import select
import signal
import socket
import struct
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
AGENT = os.environ.get("RAMET_AGENT", os.path.join(ROOT, "build", "bin", "ramet-agent"))
DEADLINE = float(os.environ.get("RAMET_TEST_DEADLINE", "30"))

MAGIC, VERSION = 0x5246, 1
PAYLOAD_MAX = 256 * 1024
FILE_CHUNK = 128 * 1024
CREDIT_INITIAL = 256 * 1024
QUEUE_MAX = 64
HANDLES_MAX = 64
CODE_MAX = 4 << 20

HELLO = 1
EXEC, EXEC_DATA, CREDIT, CANCEL = 16, 17, 18, 19
FILE_OPEN, FILE_READ, FILE_WRITE, FILE_CLOSE, FILE_LIST = 20, 21, 22, 23, 24
RESEED, PING, SHUTDOWN, TREE, RECLAIM = 25, 26, 27, 28, 29
OK, ERROR, OUTPUT, EXIT = 64, 65, 66, 67
FILE_OPENED, FILE_DATA, FILE_CLOSED, FILE_ENTRIES, TREE_ENTRIES = 68, 69, 70, 71, 72
RECLAIMED = 73
TREE_PAGE = 32 * 1024
TREES_MAX = 16

PYTHON, BASH = 1, 2
STDOUT, STDERR, RESULT, NOTICE = 1, 2, 3, 4
TIMED_OUT, INTERRUPTED, RESTARTED, STATE_LOST, CUT, CANCELLED = 1, 2, 4, 8, 16, 32
LOST = RESTARTED | STATE_LOST

Frame = collections.namedtuple("Frame", "type id payload")
Result = collections.namedtuple(
    "Result", "stdout stderr result notice exit_code flags queue_ns run_ns dropped times")
Entry = collections.namedtuple("Entry", "size mtime_ns mode kind")
TreeEntry = collections.namedtuple("TreeEntry", "path size mtime_ns hash mode uid gid flags")


class AgentError(Exception):
    """MSG_ERROR; `errno` is its code."""

    def __init__(self, code, text):
        super().__init__("%s (%d)" % (text, code))
        self.errno = code


class Closed(Exception):
    """The agent ended the connection."""


_xxhash = ctypes.CDLL("libxxhash.so.0")
_xxhash.XXH3_64bits.restype = ctypes.c_uint64
_xxhash.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def xxh3(data):
    return _xxhash.XXH3_64bits(data, len(data))


def header(kind, ident, length, magic=MAGIC, version=VERSION):
    return struct.pack("<HBBII", magic, version, kind, length, ident)


class Agent:
    """One agent process and the connection to it; a context manager."""

    def __init__(self, **env):
        self.home = tempfile.TemporaryDirectory(prefix="ramet-agent-test-")
        self.run_dir = os.path.join(self.home.name, "run")
        ours, theirs = socket.socketpair()
        self.sock = ours
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [AGENT, "--fd", str(theirs.fileno()), "--run-dir", self.run_dir],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log,
            env=dict(os.environ, HOME=self.home.name, **env))
        theirs.close()
        self.next_id = 1
        self.buffer = bytearray()
        self.stash = []
        self.hello = self.receive()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        self.sock.close()
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.log.close()
            self.home.cleanup()

    def log_text(self):
        self.log.seek(0)
        return self.log.read().decode()

    # ---- frames ----

    def send(self, kind, ident, payload=b""):
        self.sock.sendall(header(kind, ident, len(payload)) + payload)

    def new_id(self):
        self.next_id += 1
        return self.next_id - 1

    def request(self, kind, payload=b""):
        ident = self.new_id()
        self.send(kind, ident, payload)
        return ident

    def _fill(self, deadline):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self.sock], [], [], left)[0]:
            raise TimeoutError("no answer from the agent; its log:\n" + self.log_text())
        try:
            data = self.sock.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Closed
        self.buffer += data

    def receive(self, seconds=DEADLINE):
        """The next frame from the agent, whatever it is."""
        deadline = time.monotonic() + seconds
        while True:
            if len(self.buffer) >= 12:
                magic, version, kind, length, ident = struct.unpack_from("<HBBII", self.buffer)
                assert (magic, version) == (MAGIC, VERSION), "bad frame from the agent"
                assert length <= PAYLOAD_MAX
                if len(self.buffer) >= 12 + length:
                    payload = bytes(self.buffer[12:12 + length])
                    del self.buffer[:12 + length]
                    return Frame(kind, ident, payload)
            self._fill(deadline)

    def answer(self, ident, seconds=DEADLINE):
        """The next frame with this id; others are kept for later."""
        for i, frame in enumerate(self.stash):
            if frame.id == ident:
                return self.stash.pop(i)
        deadline = time.monotonic() + seconds
        while True:
            frame = self.receive(deadline - time.monotonic())
            if frame.id == ident:
                return frame
            self.stash.append(frame)

    def reply(self, ident, kind, seconds=DEADLINE):
        """The payload of the answer, which must be of this type."""
        frame = self.answer(ident, seconds)
        if frame.type == ERROR:
            raise AgentError(struct.unpack_from("<I", frame.payload)[0],
                             frame.payload[4:].decode())
        assert frame.type == kind, "unexpected answer of type %d" % frame.type
        return frame.payload

    def call(self, kind, payload, answer):
        return self.reply(self.request(kind, payload), answer)

    def wait_closed(self):
        """Reads until the agent hangs up; returns its exit status."""
        try:
            while True:
                self.receive()
        except Closed:
            return self.process.wait(DEADLINE)

    # ---- exec ----

    def start(self, code, language=PYTHON, timeout_ms=0, limit=1 << 40):
        """Sends an exec; returns its id."""
        data = code.encode() if isinstance(code, str) else code
        ident = self.request(EXEC, struct.pack("<IIQII", language, timeout_ms, limit,
                                               len(data), 0))
        for i in range(0, len(data), PAYLOAD_MAX):
            self.send(EXEC_DATA, ident, data[i:i + PAYLOAD_MAX])
        return ident

    def output(self, ident, seconds=DEADLINE):
        """The next MSG_OUTPUT of an exec as (stream, data); grants its credit."""
        payload = self.reply(ident, OUTPUT, seconds)
        self.send(CREDIT, ident, struct.pack("<I", len(payload) - 16))
        return struct.unpack_from("<I", payload)[0], payload[16:]

    def finish(self, ident, seconds=DEADLINE, credit=True):
        """Collects an exec to its end."""
        streams = {STDOUT: [], STDERR: [], RESULT: [], NOTICE: []}
        times = []
        deadline = time.monotonic() + seconds
        while True:
            frame = self.answer(ident, deadline - time.monotonic())
            if frame.type == ERROR:
                self.stash.insert(0, frame)
                self.reply(ident, EXIT)
            if frame.type == EXIT:
                break
            stream, _, time_ns = struct.unpack_from("<IIQ", frame.payload)
            data = frame.payload[16:]
            assert data, "empty output frame"
            streams[stream].append(data)
            times.append(time_ns)
            if credit:
                self.send(CREDIT, ident, struct.pack("<I", len(data)))
        text = [b"".join(streams[s]).decode("utf-8", "replace")
                for s in (STDOUT, STDERR, RESULT, NOTICE)]
        return Result(*text, *struct.unpack("<iIQQQ", frame.payload), times)

    def run(self, code, language=PYTHON, **options):
        return self.finish(self.start(code, language, **options))

    def bash(self, code, **options):
        return self.run(code, BASH, **options)

    # ---- files ----

    def open(self, path, write=False, mode=0):
        payload = self.call(FILE_OPEN, struct.pack("<II", int(write), mode) + os.fsencode(path),
                            FILE_OPENED)
        return struct.unpack("<IIQ", payload)

    def write(self, handle, offset, data):
        self.call(FILE_WRITE, struct.pack("<IIQ", handle, 0, offset) + data, OK)

    def read(self, handle, offset, length):
        return self.call(FILE_READ, struct.pack("<IIQ", handle, length, offset), FILE_DATA)

    def close_file(self, handle, abandon=0, size=0, digest=0):
        payload = self.call(FILE_CLOSE, struct.pack("<IIQQ", handle, abandon, size, digest),
                            FILE_CLOSED)
        return struct.unpack("<QQ", payload)

    def upload(self, path, data, mode=0):
        handle = self.open(path, True, mode)[0]
        for i in range(0, len(data), FILE_CHUNK):
            self.write(handle, i, data[i:i + FILE_CHUNK])
        return self.close_file(handle, 0, len(data), xxh3(data))

    def download(self, path):
        """Returns (content, size said at open); checks the checksum."""
        handle, _, size = self.open(path)
        data = bytearray()
        while True:
            piece = self.read(handle, len(data), FILE_CHUNK)
            data += piece
            if len(piece) < FILE_CHUNK:
                break
        assert self.close_file(handle) == (len(data), xxh3(bytes(data)))
        return bytes(data), size

    def list(self, path):
        ident = self.request(FILE_LIST, os.fsencode(path))
        entries = {}
        while True:
            payload = self.reply(ident, FILE_ENTRIES)
            count, at = struct.unpack_from("<I", payload)[0], 8
            if count == 0:
                return entries
            for _ in range(count):
                size, mtime, mode, kind, length = struct.unpack_from("<QqIHH", payload, at)
                name = payload[at + 24:at + 24 + length]
                entries[os.fsdecode(name)] = Entry(size, mtime, mode, kind)
                at += 24 + length

    def tree_start(self, *roots, credit=4 * TREE_PAGE):
        """Sends a walk; returns its id."""
        paths = b"".join(os.fsencode(root) + b"\0" for root in roots)
        return self.request(TREE, struct.pack("<II", len(roots), credit) + paths)

    def tree_page(self, ident):
        """The entries of the next page, none at the end; the page's bytes."""
        payload = self.reply(ident, TREE_ENTRIES)
        count, at, entries = struct.unpack_from("<I", payload)[0], 8, []
        for _ in range(count):
            size, mtime, low, high, mode, uid, gid, length, flags = struct.unpack_from(
                "<QqQQIIIHH", payload, at)
            path = payload[at + 48:at + 48 + length]
            assert len(path) == length
            entries.append(TreeEntry(path, size, mtime, (low, high), mode, uid, gid, flags))
            at += 48 + length
        assert at == len(payload) <= TREE_PAGE
        return entries, len(payload)

    def tree(self, *roots):
        """A whole walk: entries in their order."""
        ident = self.tree_start(*roots)
        entries = []
        while True:
            page, size = self.tree_page(ident)
            if not page:
                return entries
            entries += page
            self.send(CREDIT, ident, struct.pack("<I", size))

    # ---- the rest ----

    def reseed(self, generation=bytes(16), hostname=b"", entropy=b"", flags=0, wall_ns=0,
               token=b"", fork_number=0):
        self.call(RESEED, struct.pack("<Q16sIIII", wall_ns, generation, len(hostname),
                                      len(entropy), flags, fork_number)
                  + hostname + entropy + token, OK)

    def ping(self, seconds=DEADLINE):
        self.reply(self.request(PING), OK, seconds)


def alive(pid):
    """Is this process running (a zombie is not)?"""
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_gone(pid, seconds=DEADLINE):
    """Waits for the end of a process that is not a child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([fd], [], [], seconds)[0]:
            os.kill(pid, signal.SIGKILL)
            raise AssertionError("process %d is still there" % pid)
    finally:
        os.close(fd)
