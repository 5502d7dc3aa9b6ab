"""Run code in ramet sandboxes.

    from ramet import Sandbox

    with Sandbox() as sb:
        print(sb.run_code("1 + 1").stdout)
        a, b = sb.fork(n=2)            # two copies of it, as it is now

Every sandbox is a Linux virtual machine of its own. Only the standard library
is needed; a running ``rametd`` is reached through its Unix socket.
"""

from ._diff import Diff, DiffEntry, DiffMemory, DiffSide
from ._errors import (
    ConflictError,
    DaemonUnreachableError,
    ForkError,
    GatewayTimeoutError,
    InvalidRequestError,
    LimitError,
    NotFoundError,
    PermissionDeniedError,
    RametError,
    SandboxClosedError,
    ServerError,
    UnavailableError,
)
from ._sandbox import Sandbox, tree
from ._types import ExecEvent, ExecResult, FileEntry, SandboxInfo, Upload

__version__ = "0.1.0"

__all__ = [
    "ConflictError",
    "DaemonUnreachableError",
    "Diff",
    "DiffEntry",
    "DiffMemory",
    "DiffSide",
    "ExecEvent",
    "ExecResult",
    "FileEntry",
    "ForkError",
    "GatewayTimeoutError",
    "InvalidRequestError",
    "LimitError",
    "NotFoundError",
    "PermissionDeniedError",
    "RametError",
    "Sandbox",
    "SandboxClosedError",
    "SandboxInfo",
    "ServerError",
    "UnavailableError",
    "Upload",
    "tree",
]
