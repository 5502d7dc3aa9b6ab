"""The Sandbox class."""

import io
import json
import os
import threading
from types import TracebackType
from typing import IO, Any, Dict, Iterator, List, Mapping, Optional, Type, Union
from urllib.parse import quote

from ._errors import DaemonUnreachableError, NotFoundError, SandboxClosedError, error_for
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
        self._attach(transport, reply["id"])
        #: Milliseconds that the creation took: spawn_ms, setup_ms, boot_ms, total_ms.
        self.timings: Dict[str, float] = dict(reply["timings"])

    def _attach(self, transport: Transport, sandbox_id: str) -> None:
        self._transport = transport
        self._base = "/v1/sandboxes/" + quote(sandbox_id, safe="")
        self._lock = threading.Lock()
        self._closed = False
        #: The sandbox's id, "sbx_...".
        self.id: str = sandbox_id

    @classmethod
    def connect(cls, sandbox_id: str, *, socket: Optional[str] = None) -> "Sandbox":
        """Attaches to a sandbox that exists. Closing this object destroys it too."""
        transport = Transport.shared(socket)
        reply = transport.call("GET", "/v1/sandboxes/" + quote(sandbox_id, safe=""))
        sandbox = cls.__new__(cls)
        sandbox._attach(transport, reply["id"])
        sandbox.timings = dict(reply["create_timings"])
        return sandbox

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
        return f"<Sandbox {self.id}{' closed' if self._closed else ''}>"
