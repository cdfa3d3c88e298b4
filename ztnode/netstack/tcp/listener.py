"""A listening socket: accept queue and bounded SYN queue.

The SYN queue is a bounded table of half-open connections; when it is full the oldest one goes, so that a flood costs
bounded memory and a genuine handshake, which completes within a round trip, still gets through. SYN cookies would
save the table but lose the options of the SYN (window scale, SACK) for everybody.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.connection_key import ConnectionKey
from ztnode.netstack.tcp.tcp_config import TcpConfig


class ListenerHost(Protocol):
    """What a listener uses of the layer."""

    def remove_listener(self, listener: TcpListener) -> None:
        """It was closed."""

    def notify_listener(self, listener: TcpListener) -> None:
        """The owner should look."""


class TcpListener:
    """Accepts connections for one port number. Look at ``pending`` when ``TcpLayer.ready()`` names it."""

    __slots__ = (
        "_layer",
        "_queue",
        "backlog",
        "closed",
        "config",
        "error",
        "half_open",
        "local",
        "noticed",
        "owner",
        "port",
        "port_index",
    )

    def __init__(
        self,
        layer: ListenerHost,
        port: int,
        backlog: int,
        port_index: int | None,
        local: bytes | None,
        config: TcpConfig,
    ) -> None:
        self._layer = layer
        self.port = port
        self.port_index = port_index
        """Only for this network; None for all."""
        self.local = local
        """Only for this address; None for all."""
        self.noticed = False
        """Named in the next ``TcpLayer.ready()``."""
        self.backlog = backlog
        self.config = config
        """Of the connections that it accepts."""
        self.owner: object = None
        """Opaque to TCP."""
        self.closed = False
        self.error: OSError | None = None
        """ENETDOWN when its network went away."""
        self.half_open: dict[ConnectionKey, TcpConnection] = {}
        """The SYN queue, oldest first."""
        self._queue: deque[TcpConnection] = deque()

    @property
    def pending(self) -> int:
        """Established connections that nobody accepted yet."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """No room in the accept queue: new SYNs are dropped, their senders try again."""
        return len(self._queue) >= self.backlog

    def accept(self) -> TcpConnection | None:
        """The oldest established connection, or None."""
        return self._queue.popleft() if self._queue else None

    def close(self) -> None:
        """Stop listening: connections not yet accepted are reset."""
        if self.closed:
            return
        self.closed = True
        self._layer.remove_listener(self)
        for connection in (*self.half_open.values(), *self._queue):
            connection.abort()
        self.half_open.clear()
        self._queue.clear()

    # --- for connections ---
    def opened(self, key: ConnectionKey) -> None:
        """A handshake is complete."""
        self._queue.append(self.half_open.pop(key))
        self._layer.notify_listener(self)

    def failed(self, key: ConnectionKey) -> None:
        """A connection ended. One that waits in the accept queue stays there: whoever accepts it sees what came and
        then the error, as with the kernel."""
        self.half_open.pop(key, None)
