"""HTTP/1.1 over a Unix socket, with connections kept open for reuse."""

import http.client
import json
import os
import select
import socket
import threading
from typing import IO, Any, Dict, Iterator, List, Mapping, Optional, Union

from ._errors import DaemonUnreachableError, RametError, error_for

_IDLE_MAX = 8
_BLOCK = 256 * 1024

Body = Union[None, bytes, bytearray, memoryview, IO[bytes]]


def default_socket() -> str:
    """Where rametd is expected when nobody says otherwise."""
    given = os.environ.get("RAMET_SOCKET")
    if given:
        return given
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or "/run", "ramet.sock")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("ramet", blocksize=_BLOCK)
        self._path = path
        self._pid = os.getpid()

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.connect(self._path)
        except OSError as error:
            self.close()
            raise DaemonUnreachableError(
                f"cannot reach rametd on {self._path}: {error.strerror or error}; is it running?",
                "unreachable",
            ) from error

    def reusable(self) -> bool:
        """Not closed by the daemon meanwhile, and not inherited over a fork."""
        if self.sock is None or self._pid != os.getpid():
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)


class Reply:
    """A reply whose body is still to be read. Close it, or read it to its end."""

    def __init__(self, transport: "Transport", connection: _Connection,
                 response: http.client.HTTPResponse) -> None:
        self._transport = transport
        self._connection: Optional[_Connection] = connection
        self._response = response
        self.status = response.status

    def header(self, name: str) -> Optional[str]:
        return self._response.getheader(name)

    def read(self, size: Optional[int] = None) -> bytes:
        try:
            data = self._response.read() if size is None else self._response.read(size)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise _broken(error) from error
        remaining = self._response.length
        if size is not None and not data and remaining:
            self.close()
            raise _broken(http.client.IncompleteRead(b"", remaining))
        if self._response.isclosed():
            self._give_back()
        return data

    def lines(self) -> Iterator[bytes]:
        """Lines as they arrive, without their newline."""
        try:
            while True:
                line = self._response.readline()
                if not line:
                    break
                if not line.endswith(b"\n"):
                    raise http.client.IncompleteRead(line)
                yield line[:-1]
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise _broken(error) from error
        self._give_back()

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport.give_back(connection, self._response)

    def close(self) -> None:
        """Drops the connection when the body was not read to its end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _broken(error: Exception) -> DaemonUnreachableError:
    return DaemonUnreachableError(
        f"the connection to rametd broke: {error or type(error).__name__}", "disconnected"
    )


class Transport:
    """Requests to one daemon. Safe to use from several threads."""

    _lock = threading.Lock()
    _shared: Dict[str, "Transport"] = {}

    def __init__(self, path: str) -> None:
        self.path = path
        self._idle: List[_Connection] = []

    @classmethod
    def shared(cls, path: Optional[str]) -> "Transport":
        """The one transport of this process for a socket path."""
        path = os.path.abspath(path or default_socket())
        with cls._lock:
            return cls._shared.setdefault(path, cls(path))

    def _take(self) -> _Connection:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return _Connection(self.path)
            if connection.reusable():
                return connection
            connection.close()

    def give_back(self, connection: _Connection, response: http.client.HTTPResponse) -> None:
        with self._lock:
            if not response.will_close and len(self._idle) < _IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def request(self, method: str, target: str, body: Body = None,
                headers: Optional[Mapping[str, str]] = None) -> Reply:
        """Sends a request; an error reply is raised as the exception for it."""
        connection = self._take()
        try:
            try:
                connection.request(method, target, body=body, headers=dict(headers or {}))
            except (BrokenPipeError, ConnectionResetError):
                # The daemon may have refused before the body was sent: its reply waits.
                if connection.sock is None:
                    raise
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _broken(error) from error
        except BaseException:
            connection.close()
            raise
        reply = Reply(self, connection, response)
        if response.status >= 300:
            raise _error_of(reply)
        return reply

    def call(self, method: str, target: str, document: Optional[Mapping[str, Any]] = None) -> Any:
        """A request with JSON both ways."""
        headers = {"Accept": "application/json"}
        body = None
        if document is not None:
            body = json.dumps(document).encode("ascii")
            headers["Content-Type"] = "application/json"
        return json.loads(self.request(method, target, body, headers).read())


def _error_of(reply: Reply) -> RametError:
    text = reply.read()
    try:
        error = json.loads(text)["error"]
        return error_for(reply.status, str(error["code"]), str(error["message"]))
    except (ValueError, KeyError, TypeError):
        return error_for(reply.status, "error", f"rametd answered with status {reply.status}")
