"""The exceptions of this package, all of them RametError."""

from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Type

if TYPE_CHECKING:
    from ._sandbox import Sandbox


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
    """The sandbox is not in a state for this: failed, closing, paused, being forked."""


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
    """This Sandbox object was closed, or its sandbox was merged into another."""


class ForkError(RametError):
    """Some children of a fork could not be made; the parent goes on.

    ``children`` has a Sandbox, or None where one failed, for each child that
    was asked for; those that exist are the caller's to use or close.
    ``errors`` has, in the same order, None or what went wrong. ``code`` is
    that of the first error.
    """

    def __init__(
        self,
        children: "Sequence[Optional[Sandbox]]",
        errors: Sequence[Optional[RametError]],
    ) -> None:
        failed = [error for error in errors if error is not None]
        super().__init__(
            f"{len(failed)} of {len(errors)} children failed: {failed[0].message}",
            failed[0].code,
            failed[0].status,
        )
        self.children: "List[Optional[Sandbox]]" = list(children)
        self.errors: List[Optional[RametError]] = list(errors)


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
