"""A listening socket: backlog and bounded SYN queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ztnode.netstack.tcp.connection import TcpConnection


class TcpListener:
    """Accepts connections for one port number."""

    port: int
    port_index: int | None
    local: bytes | None
    owner: object

    @property
    def pending(self) -> int:
        """Established connections that nobody accepted yet."""
        return 0

    def accept(self) -> TcpConnection | None:
        """The oldest established connection, or None."""
        return None

    def close(self) -> None:
        """Stop listening: connections not yet accepted are reset."""
