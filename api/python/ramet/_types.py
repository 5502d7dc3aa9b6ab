"""What calls return."""

import base64
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Dict, List, Mapping, Optional


def text_bytes(reply: Mapping[str, Any], key: str, encoding_key: str) -> bytes:
    """The bytes of a text member that may be base64."""
    text = reply.get(key)
    if text is None:
        return b""
    if reply.get(encoding_key) == "base64":
        return base64.b64decode(text)
    return str(text).encode("utf-8", "surrogatepass")


def parse_time(text: Optional[str]) -> datetime:
    """An RFC 3339 time in UTC, as the API writes it."""
    if text is None:
        return datetime.fromtimestamp(0, timezone.utc)
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class ExecResult:
    """How code ended and what it wrote.

    ``stdout`` also contains the repr of a trailing expression, as in an
    interactive interpreter; ``result`` has it alone, or is None.
    """

    stdout: str
    stderr: str
    exit_code: int
    result: Optional[str] = None
    timed_out: bool = False
    interrupted: bool = False
    cancelled: bool = False
    repl_restarted: bool = False
    state_lost: bool = False
    output_cut: bool = False
    output_dropped: int = 0
    notices: List[str] = field(default_factory=list)
    timings: Dict[str, float] = field(default_factory=dict)
    stdout_bytes: bytes = field(default=b"", repr=False)
    stderr_bytes: bytes = field(default=b"", repr=False)

    @property
    def ok(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> "ExecResult":
        stdout = text_bytes(reply, "stdout", "stdout_encoding")
        stderr = text_bytes(reply, "stderr", "stderr_encoding")
        result = None
        if reply["result"] is not None:
            result = text_bytes(reply, "result", "result_encoding").decode("utf-8", "replace")
        return cls(
            stdout=stdout.decode("utf-8", "replace"),
            stderr=stderr.decode("utf-8", "replace"),
            exit_code=reply["exit_code"],
            result=result,
            timed_out=reply["timed_out"],
            interrupted=reply["interrupted"],
            cancelled=reply["cancelled"],
            repl_restarted=reply["repl_restarted"],
            state_lost=reply["state_lost"],
            output_cut=reply["output_cut"],
            output_dropped=reply["output_dropped"],
            notices=list(reply["notices"]),
            timings=dict(reply["timings"]),
            stdout_bytes=stdout,
            stderr_bytes=stderr,
        )


@dataclass(frozen=True)
class ExecEvent:
    """One event of a running exec.

    ``type`` is "stdout", "stderr", "result", "notice" or, once and last,
    "exit". ``data`` is the text (``data_bytes`` exact) and empty for "exit",
    whose outcome is in ``exit_code`` and the fields after it. ``ts`` is
    milliseconds since the code began to run.
    """

    type: str
    data: str
    seq: int
    ts: float
    data_bytes: bytes = field(default=b"", repr=False)
    exit_code: Optional[int] = None
    timed_out: bool = False
    interrupted: bool = False
    cancelled: bool = False
    repl_restarted: bool = False
    state_lost: bool = False
    output_cut: bool = False
    output_dropped: int = 0
    timings: Dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> "ExecEvent":
        if line["type"] == "exit":
            return cls(
                type="exit",
                data="",
                seq=line["seq"],
                ts=line["ts"],
                exit_code=line["exit_code"],
                timed_out=line["timed_out"],
                interrupted=line["interrupted"],
                cancelled=line["cancelled"],
                repl_restarted=line["repl_restarted"],
                state_lost=line["state_lost"],
                output_cut=line["output_cut"],
                output_dropped=line["output_dropped"],
                timings=dict(line["timings"]),
            )
        data = text_bytes(line, "data", "encoding")
        return cls(
            type=line["type"],
            data=data.decode("utf-8", "replace"),
            seq=line["seq"],
            ts=line["ts"],
            data_bytes=data,
        )


@dataclass(frozen=True)
class SandboxInfo:
    """What the daemon knows about a sandbox.

    ``state`` is "creating", "ready", "paused", "failed" or "closing".
    ``parent_id`` is whose fork it is, or None, and ``fork_index`` its place
    among the children of that fork; the parent may be gone. ``depth`` counts
    the forks since the first of its line, ``children`` those of its own that
    exist. ``generation`` is a UUID that no other copy of the guest has.
    ``memory`` says what it shares: ``layers`` mapped in ``extents`` pieces,
    ``shared_mb`` in all. ``tree_depth`` is how far to indent it in a tree(),
    where each sandbox follows its parent; None elsewhere.
    """

    id: str
    state: str
    template: str
    memory_mb: int
    isolation: str
    kernel: str
    created_at: datetime
    metadata: Dict[str, str]
    execs_running: int
    execs_waiting: int
    create_timings: Dict[str, float]
    reason: Optional[str] = None
    parent_id: Optional[str] = None
    fork_index: Optional[int] = None
    depth: int = 0
    children: int = 0
    generation: Optional[str] = None
    memory: Dict[str, int] = field(default_factory=dict)
    tree_depth: Optional[int] = None

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> "SandboxInfo":
        return cls(
            id=reply["id"],
            state=reply["state"],
            template=reply["template"],
            memory_mb=reply["memory_mb"],
            isolation=reply["isolation"],
            kernel=reply["kernel"],
            created_at=parse_time(reply["created_at"]),
            metadata=dict(reply["metadata"]),
            execs_running=reply["execs"]["running"],
            execs_waiting=reply["execs"]["waiting"],
            create_timings=dict(reply["create_timings"]),
            reason=reply.get("reason"),
            parent_id=reply["parent"],
            fork_index=reply.get("fork_index"),
            depth=reply["depth"],
            children=reply["children"],
            generation=reply["generation"],
            memory=dict(reply["memory"]),
            tree_depth=reply.get("tree_depth"),
        )


@dataclass(frozen=True)
class FileEntry:
    """An entry of a directory. ``kind``: "file", "directory", "symlink" or "other"."""

    name: str
    kind: str
    size: int
    mode: int
    mtime: datetime

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> "FileEntry":
        name = text_bytes(reply, "name", "name_encoding")
        return cls(
            name=name.decode("utf-8", "surrogateescape"),
            kind=reply["kind"],
            size=reply["size"],
            mode=int(reply["mode"], 8),
            mtime=parse_time(reply["mtime"]),
        )


@dataclass(frozen=True)
class Upload:
    """A file that arrived: its size and the XXH3-64 hash of its content, in hex."""

    path: str
    size: int
    xxh3: str
