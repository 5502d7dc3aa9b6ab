"""The exceptions of this package, all of them RametError."""

from typing import Dict, Optional, Type


class RametError(Exception):
    """Something ramet could not do.

    ``code`` is a word for programs (``"sandbox_not_found"``), ``status`` the
    HTTP status it came with, or None when no reply was received.
    """

    def __init__(self, message: str, code: str = "error", status: Optional[int] = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status


class InvalidRequestError(RametError):
    """The request was wrong: a bad parameter, path, size or type."""


class PermissionDeniedError(RametError):
    """The guest refused access to a file."""


class NotFoundError(RametError):
    """No such sandbox, template or file."""


class ConflictError(RametError):
    """The sandbox is not in a state for this: failed, closing, not ready."""


class LimitError(RametError):
    """A limit is reached: sandboxes, waiting execs, file transfers."""


class UnavailableError(RametError):
    """The daemon is stopping or out of memory; try again later."""


class GatewayTimeoutError(RametError):
    """The guest did not answer in time."""


class ServerError(RametError):
    """The daemon or the sandbox failed."""


class DaemonUnreachableError(RametError):
    """Nobody answers on the socket, or the connection broke."""


class SandboxClosedError(RametError):
    """This Sandbox object was closed."""


_BY_STATUS: Dict[int, Type[RametError]] = {
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    429: LimitError,
    503: UnavailableError,
    504: GatewayTimeoutError,
}


def error_for(status: Optional[int], code: str, message: str) -> RametError:
    """The exception that stands for an error reply."""
    kind: Type[RametError] = ServerError
    if status is not None:
        kind = _BY_STATUS.get(status, InvalidRequestError if status < 500 else ServerError)
    return kind(message, code, status)
