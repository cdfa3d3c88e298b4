"""What the thin client raises. Everything is an OSError, because that is what code around sockets catches."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

ERRNO_KEY = "ztnode-errno"
"""Trailing metadata: the symbolic errno of a failed call, e.g. ``ECONNREFUSED``, or ``EAI_NONAME`` for names."""


class Error(OSError):
    """A request that the node refused. ``errno`` says why to a program, ``strerror`` to a person."""

    def __str__(self) -> str:
        """The reason alone: it is a whole sentence, and a number before it helps nobody."""
        return self.strerror or os.strerror(self.errno or 0)


class NodeUnavailableError(Error, ConnectionError):
    """No node was found, or the one named does not answer."""


class NotFoundError(Error):
    """A network that is not joined, or a listener that is closed."""


class AuthenticationError(Error, PermissionError):
    """The node wants a bearer token or a client certificate, and this client has none or the wrong one."""


class ForeignNameError(socket.gaierror):
    """A name that is not the overlay's; whether the host knows it is another question."""


class JoinTimeoutError(Error, TimeoutError):
    """A network was joined but did not become usable in the time given."""


def from_rpc(error: grpc.RpcError, address: str) -> Exception:
    """The exception for a failed call: the OSError subclass of the errno that the node sent, or ValueError for a
    malformed argument. ``address`` is the node's, for the message."""
    import grpc

    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return Error(errno.EIO, f"the call to the node at {address} failed: {error}")
    code = error.code()
    reason = error.details() or code.name.lower().replace("_", " ")
    number = None
    for item in error.trailing_metadata() or ():
        key, value = item[0], item[1]
        if key == ERRNO_KEY and isinstance(value, str):
            if value.startswith("EAI_"):
                return socket.gaierror(getattr(socket, value, socket.EAI_FAIL), reason)
            number = getattr(errno, value, None)
    if isinstance(number, int):
        return OSError(number, reason)
    return _by_status(code, reason, address)


def _by_status(code: grpc.StatusCode, reason: str, address: str) -> Exception:
    import grpc

    match code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            return ValueError(reason)
        case grpc.StatusCode.NOT_FOUND:
            return NotFoundError(errno.ENOENT, reason)
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return AuthenticationError(errno.EACCES, reason)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return TimeoutError(errno.ETIMEDOUT, f"the node at {address} did not answer in time")
        case grpc.StatusCode.UNAVAILABLE:
            # gRPC's text repeats the address several times; what the system said comes last.
            cause = _first_line(reason).rpartition("error: ")[2]
            return NodeUnavailableError(errno.ECONNREFUSED, f"no node answers at {address} ({cause}): is it running?")
        case grpc.StatusCode.CANCELLED:
            return NodeUnavailableError(errno.ECONNRESET, f"the node at {address} is stopping and ended the call")
        case grpc.StatusCode.UNIMPLEMENTED:
            if reason == "Method not found!":  # gRPC's own words for a service that the server has not
                reason = (
                    "it was started without it (ztnode controller needs serve --controller), or is of another version"
                )
            return Error(errno.ENOSYS, f"the node at {address} does not offer this: {_first_line(reason)}")
        case _:
            return Error(errno.EIO, _first_line(reason))


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
