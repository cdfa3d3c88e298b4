"""What a mapping asks of the overlay: the same of a node in this process (``node_overlay``) and of one that is reached
by its control plane (``client_overlay``)."""

from __future__ import annotations

import socket
from typing import Protocol

from ztnode.node.api import Handoff
from ztnode.wire.endpoint import Endpoint


class Overlay(Protocol):
    """Connections of the overlay, and sockets joined to them. Everything raises OSError with one line for a person."""

    async def dial(self, host: str, port: int, timeout: float) -> Handoff:
        """A connection to a numeric address or a name, within ``timeout`` seconds; ``join`` or ``drop`` it at once."""

    async def connect(self, host: str, port: int, timeout: float, connected: socket.socket) -> None:
        """``dial`` and ``join`` in one; ``connected`` is still the caller's where this raises."""

    async def listen(self, host: str | None, port: int) -> tuple[int, Endpoint]:
        """Listen on a managed address (None: all); a number for the listener, and what was bound."""

    async def accept(self, listener: int) -> Handoff:
        """The next connection; ``join`` or ``drop`` it within five seconds."""

    async def close_listener(self, listener: int) -> None:
        """Stop listening. One that is closed is no error."""

    async def join(self, handoff: Handoff, connected: socket.socket) -> None:
        """Join a connection and a connected socket, which is no longer the caller's. When this returns, neither needs
        anybody's care."""

    async def dial_and_lend(
        self, host: str, port: int, timeout: float, client: socket.socket, way_back: socket.socket
    ) -> bool:
        """As ``lend``, to a connection that the worker itself makes, where it can be asked and answers at once. False
        where nothing came of that. Raises OSError where nobody knows."""

    async def lend(self, handoff: Handoff, client: socket.socket, way_back: socket.socket) -> bool:
        """As ``join``, of a client that comes back by ``way_back`` (``worker/loan.py``); that stays the caller's. False
        where the worker is out of reach: then nothing has happened."""

    async def fetch(self, handoff: Handoff) -> socket.socket:
        """The connection's socket, non-blocking, for who has to see the bytes."""

    async def drop(self, handoff: Handoff) -> None:
        """Reset a connection."""

    async def open_udp(self, host: str | None = None, port: int = 0) -> socket.socket:
        """A UDP socket on a managed address (None: on all), port 0: any free one; non-blocking, and its records are
        those of ``worker/udp_pairs.py``."""

    async def resolve(self, name: str) -> str:
        """The preferred address of a name of the overlay."""

    async def is_foreign(self, name: str) -> bool:
        """Whether a name is not the overlay's, but perhaps the host's. Raises ValueError for what is no name."""
