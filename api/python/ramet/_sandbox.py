"""The Sandbox class."""

import io
import json
import os
import threading
from types import TracebackType
from typing import IO, Any, Dict, Iterator, List, Mapping, Optional, Sequence, Type, Union
from urllib.parse import quote

from ._errors import (
    DaemonUnreachableError,
    ForkError,
    NotFoundError,
    RametError,
    SandboxClosedError,
    error_for,
)
from ._diff import Diff
from ._transport import Transport
from ._types import ExecEvent, ExecResult, FileEntry, SandboxInfo, Upload

_BLOCK = 256 * 1024


class Sandbox:
    """A Linux virtual machine that runs code.

    Creating the object creates the sandbox and returns when it is ready. It
    lives until close(), which leaving the ``with`` block does::

        with Sandbox() as sb:
            sb.run_code("x = 20 + 1")
            assert sb.run_code("x * 2").result == "42"

    template: what to boot; "python" by default.
    memory_mb: guest memory in MiB, an even number.
    isolation: "full" (default) keeps guest programs from the guest kernel as
        hardware would; "fast" is for guests whose programs trust each other.
    metadata: labels, at most 16.
    socket: the daemon's socket; default $RAMET_SOCKET, else ramet.sock in
        $XDG_RUNTIME_DIR or /run.
    plain: the slow reference path of the machine; for tests.
    """

    def __init__(
        self,
        template: Optional[str] = None,
        *,
        memory_mb: Optional[int] = None,
        isolation: Optional[str] = None,
        metadata: Optional[Mapping[str, str]] = None,
        socket: Optional[str] = None,
        plain: bool = False,
    ) -> None:
        request: Dict[str, Any] = {}
        if template is not None:
            request["template"] = template
        if memory_mb is not None:
            request["memory_mb"] = memory_mb
        if isolation is not None:
            request["isolation"] = isolation
        if metadata is not None:
            request["metadata"] = dict(metadata)
        if plain:
            request["plain"] = True
        transport = Transport.shared(socket)
        reply = transport.call("POST", "/v1/sandboxes", request)
        self._attach(transport, reply)

    def _attach(self, transport: Transport, reply: Mapping[str, Any]) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._closed = False
        self._merged_into: Optional[str] = None
        #: The sandbox's id, "sbx_...".
        self.id: str = reply["id"]
        self._base = "/v1/sandboxes/" + quote(self.id, safe="")
        #: Milliseconds that making it took, phase by phase; total_ms in all.
        self.timings: Dict[str, float] = dict(reply["create_timings"])
        #: The id of the sandbox that it was forked from, or None.
        self.parent_id: Optional[str] = reply["parent"]
        #: Which child of that fork it is, from 0; None when it is no fork.
        self.fork_index: Optional[int] = reply.get("fork_index")
        #: Milliseconds that the last fork() of this sandbox took, phase by phase.
        self.fork_timings: Dict[str, float] = {}

    @classmethod
    def _from_reply(cls, transport: Transport, reply: Mapping[str, Any]) -> "Sandbox":
        sandbox = cls.__new__(cls)
        sandbox._attach(transport, reply)
        return sandbox

    @classmethod
    def connect(cls, sandbox_id: str, *, socket: Optional[str] = None) -> "Sandbox":
        """Attaches to a sandbox that exists. Closing this object destroys it too."""
        transport = Transport.shared(socket)
        reply = transport.call("GET", "/v1/sandboxes/" + quote(sandbox_id, safe=""))
        return cls._from_reply(transport, reply)

    @staticmethod
    def list(*, socket: Optional[str] = None) -> "List[SandboxInfo]":
        """All sandboxes of the daemon, oldest first."""
        reply = Transport.shared(socket).call("GET", "/v1/sandboxes")
        return [SandboxInfo.from_reply(item) for item in reply["sandboxes"]]

    # ---- code ----

    def _exec_request(self, code: str, language: str, timeout: Optional[float],
                      output_limit: Optional[int]) -> Dict[str, Any]:
        self._check_open()
        request: Dict[str, Any] = {"code": code, "language": language}
        if timeout is not None:
            request["timeout_ms"] = max(1, round(timeout * 1000)) if timeout > 0 else 0
        if output_limit is not None:
            request["output_limit"] = output_limit
        return request

    def run_code(
        self,
        code: str,
        language: str = "python",
        timeout: Optional[float] = None,
        *,
        output_limit: Optional[int] = None,
    ) -> ExecResult:
        """Runs code and returns what it wrote and how it ended.

        language: "python" keeps variables, imports and open files between
            calls; "bash" is a new shell each time.
        timeout: seconds after which the code is interrupted; None: never.
        output_limit: bytes of output after which the rest is dropped.

        An exception in the code is not raised here: see ``exit_code`` and
        ``stderr`` of the result.
        """
        request = self._exec_request(code, language, timeout, output_limit)
        reply = self._transport.call("POST", self._base + "/exec?stream=false", request)
        return ExecResult.from_reply(reply)

    def run_code_stream(
        self,
        code: str,
        language: str = "python",
        timeout: Optional[float] = None,
        *,
        output_limit: Optional[int] = None,
    ) -> Iterator[ExecEvent]:
        """Runs code and yields events as they happen, "exit" last.

        Parameters as for run_code(). The code starts with the first event
        that is asked for; closing the iterator early interrupts it.
        """
        request = self._exec_request(code, language, timeout, output_limit)
        return self._events(request)

    def _events(self, request: Mapping[str, Any]) -> Iterator[ExecEvent]:
        reply = self._transport.request(
            "POST",
            self._base + "/exec?stream=true",
            json.dumps(request).encode("ascii"),
            {"Content-Type": "application/json"},
        )
        ended = False
        try:
            for text in reply.lines():
                line = json.loads(text)
                if line["type"] == "error":
                    error = line["error"]
                    raise error_for(None, error["code"], error["message"])
                ended = line["type"] == "exit"
                yield ExecEvent.from_line(line)
            if not ended:
                raise DaemonUnreachableError(
                    "the connection to rametd broke before the code ended", "disconnected"
                )
        finally:
            reply.close()

    # ---- files ----

    def _files(self, rest: str, path: Union[str, bytes]) -> str:
        self._check_open()
        return f"{self._base}/files{rest}?path={quote(os.fsencode(path), safe='/')}"

    def upload(
        self,
        data: Union[bytes, bytearray, memoryview, IO[bytes]],
        path: str,
        *,
        mode: Optional[int] = None,
    ) -> Upload:
        """Writes a file in the sandbox, from bytes or a file opened for binary reading.

        Missing directories are made. The file appears whole, after its hash
        was compared on both sides, or not at all. ``mode``: permission bits.
        """
        target = self._files("", path)
        if mode is not None:
            target += f"&mode={mode:o}"
        if isinstance(data, str):
            raise TypeError("upload() wants bytes; encode the text first")
        reply = self._transport.request("PUT", target, data)
        result = json.loads(reply.read())
        return Upload(path=str(path), size=result["size"], xxh3=result["xxh3"])

    def download(self, path: str) -> bytes:
        """The content of a file in the sandbox."""
        target = io.BytesIO()
        self.download_to(path, target)
        return target.getvalue()

    def download_to(self, path: str, file: IO[bytes]) -> int:
        """Writes a file's content into a file opened for binary writing; returns its size."""
        reply = self._transport.request("GET", self._files("", path))
        size = 0
        try:
            while True:
                block = reply.read(_BLOCK)
                if not block:
                    return size
                file.write(block)
                size += len(block)
        finally:
            reply.close()

    def list_files(self, path: str = "/") -> "List[FileEntry]":
        """The entries of a directory, without "." and ".."."""
        reply = self._transport.call("GET", self._files("/list", path))
        return [FileEntry.from_reply(entry) for entry in reply["entries"]]

    # ---- forks ----

    def fork(
        self,
        n: int = 1,
        *,
        metadata: Optional[Mapping[str, str]] = None,
        keep_random: bool = False,
    ) -> "List[Sandbox]":
        """Makes n copies of the sandbox as it is at this moment, and returns them.

        Memory, variables, processes, files, open files: everything goes on in
        every child and, undisturbed, in this sandbox. Each child then goes its
        own way; memory that nobody changes is shared. Code that runs during the
        fork goes on in the children as well, where its output is dropped.

        n: how many, up to 1024.
        metadata: labels of the children; None: the same as this sandbox's.
        keep_random: Python's ``random`` (and numpy's) go on from the same
            state in every child; by default each child has its own numbers.
            The kernel's random numbers differ in any case.

        Raises ForkError, which has the children that are well, when some
        could not be made.
        """
        self._check_open()
        request: Dict[str, Any] = {"n": n}
        if metadata is not None:
            request["metadata"] = dict(metadata)
        if keep_random:
            request["keep_random"] = True
        reply = self._transport.call("POST", self._base + "/fork", request)
        self.fork_timings = dict(reply["timings"])
        children: "List[Optional[Sandbox]]" = []
        errors: "List[Optional[RametError]]" = []
        for item in reply["children"]:
            error = item.get("error")
            children.append(None if error else self._from_reply(self._transport, item))
            errors.append(error_for(None, error["code"], error["message"]) if error else None)
        if any(errors):
            raise ForkError(children, errors)
        return [child for child in children if child is not None]

    def merge_into(self, winner: "Sandbox") -> None:
        """Goes on as ``winner``: from now on this object and its id are the winner's machine.

        What this sandbox was before ends. The id, the metadata and the place in
        the tree stay; everything in the machine is the winner's, code that runs
        in it included. ``winner.close()`` does nothing afterwards, and any
        other use of that object raises SandboxClosedError. Both must be of one
        fork tree.
        """
        self._check_open()
        winner._check_open()
        self._transport.call("POST", f"{self._base}/merge_into/{quote(winner.id, safe='')}")
        with winner._lock:
            winner._merged_into = self.id
            winner._closed = True

    def diff(
        self,
        other: "Sandbox",
        paths: Optional[Sequence[str]] = None,
        text: bool = False,
    ) -> Diff:
        """What is different in ``other``: files by their content, and memory in pages.

        Both machines hash their files and go on meanwhile. Any two sandboxes
        can be compared. Modification times alone are no difference.

        paths: only these and what is below them; at most 64, absolute. None:
            everything, except virtual file systems such as /proc and /dev.
        text: also fetch the contents of text files of up to 256 KiB, for
            ``Diff.text`` and ``DiffEntry.unified``.
        """
        self._check_open()
        other._check_open()
        request: Dict[str, Any] = {"other": other.id}
        if paths is not None:
            if isinstance(paths, (str, bytes)):
                raise TypeError("diff() wants a list of paths")
            request["paths"] = [os.fspath(path) for path in paths]
        if text:
            request["text"] = True
        return Diff.from_reply(self._transport.call("POST", self._base + "/diff", request))

    def pause(self) -> SandboxInfo:
        """Stops the machine where it is, until resume(). Its clocks go on.

        Code and files are refused with ConflictError meanwhile; what is under
        way goes on afterwards.
        """
        self._check_open()
        return SandboxInfo.from_reply(self._transport.call("POST", self._base + "/pause"))

    def resume(self) -> SandboxInfo:
        """Lets a paused machine go on."""
        self._check_open()
        return SandboxInfo.from_reply(self._transport.call("POST", self._base + "/resume"))

    def reclaim(self) -> float:
        """Has the machine give back memory that nothing in it uses; returns MiB.

        It also does that by itself, some time after code has run.
        """
        self._check_open()
        reply = self._transport.call("POST", self._base + "/reclaim")
        return float(reply["reclaimed_mb"])

    # ---- the sandbox ----

    def info(self) -> SandboxInfo:
        """What the daemon knows about it now."""
        self._check_open()
        return SandboxInfo.from_reply(self._transport.call("GET", self._base))

    def console(self) -> bytes:
        """The last output on the machine's console, for finding out why it failed."""
        self._check_open()
        return self._transport.request("GET", self._base + "/console").read()

    def close(self) -> None:
        """Destroys the sandbox; code that runs in it ends. May be called again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            self._transport.call("DELETE", self._base)
        except NotFoundError:
            pass  # somebody else was faster

    def _check_open(self) -> None:
        if self._merged_into is not None:
            raise SandboxClosedError(
                f"sandbox {self.id} was merged into {self._merged_into}; use that one",
                "sandbox_merged",
            )
        if self._closed:
            raise SandboxClosedError(f"sandbox {self.id} was closed", "sandbox_closed")

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = " merged" if self._merged_into else " closed" if self._closed else ""
        return f"<Sandbox {self.id}{state}>"


def tree(socket: Optional[str] = None) -> List[SandboxInfo]:
    """All sandboxes in the order of their fork tree, each after its parent.

    ``tree_depth`` of each says how far below the topmost of them it stands.
    """
    reply = Transport.shared(socket).call("GET", "/v1/tree")
    return [SandboxInfo.from_reply(item) for item in reply["sandboxes"]]
