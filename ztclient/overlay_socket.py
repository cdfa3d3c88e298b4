"""A local socket that says which ends its connection has on the overlay."""

from __future__ import annotations

import socket
from typing import Any, TypeAlias

OverlayAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""As the standard library has it: IP and port, for IPv6 flow label and scope too (0)."""


def overlay_address(ip: str, port: int) -> OverlayAddress:
    """The address of an endpoint as Python's sockets write it."""
    return (ip, port, 0, 0) if ":" in ip else (ip, port)


def family_of(ip: str) -> socket.AddressFamily:
    """The address family that a numeric IP belongs to."""
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


class Connection(socket.socket):
    """A connected socket whose ``getpeername`` and ``getsockname`` give the addresses on the overlay. In all else it is
    the local socket that it is, whose other end the node's stack holds."""

    __slots__ = ("_local", "_remote")

    def __init__(self, descriptor: int, local: OverlayAddress, remote: OverlayAddress) -> None:
        """Takes over ``descriptor``, a connected TCP socket."""
        super().__init__(family_of(remote[0]), socket.SOCK_STREAM, 0, fileno=descriptor)
        self._local = local
        self._remote = remote

    def getpeername(self) -> OverlayAddress:
        """The peer's address on the overlay. Raises OSError (ENOTCONN) once the connection has ended."""
        super().getpeername()
        return self._remote

    def getsockname(self) -> OverlayAddress:
        """This end's address on the overlay. Raises OSError (EBADF) once closed."""
        super().getsockname()
        return self._local

    def dup(self) -> Connection:
        """Another object for the same connection."""
        plain = socket.socket(self.family, self.type, self.proto, fileno=socket.dup(self.fileno()))
        timeout = self.gettimeout()
        copied = Connection(plain.detach(), self._local, self._remote)
        copied.settimeout(timeout)
        return copied

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")


def connection(plain: socket.socket, local: tuple[str, int], remote: tuple[str, int]) -> Connection:
    """``plain`` as a Connection, with the same descriptor and timeout; ``plain`` is empty then."""
    timeout = plain.gettimeout()
    known = Connection(plain.detach(), overlay_address(*local), overlay_address(*remote))
    known.settimeout(timeout)
    return known
