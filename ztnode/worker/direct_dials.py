"""Connections that clients ask the worker itself for, at the hand-off socket.

A dial by the control plane passes through gRPC twice and through the node's loop twice; a client of this machine that
knows the worker's socket from an earlier one may do without. What does not come about here at once it asks the node
for, which tries again where that helps, and says why not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ztnode.wire.endpoint import parse_ip
from ztnode.worker.control_requests import PairHost, ParkedConnection
from ztnode.worker.handoff_server import REQUEST

if TYPE_CHECKING:
    from ztnode.netstack.stack import Stack


class DialHost(PairHost, Protocol):
    """What a dial asks of the loop that it lives on."""

    @property
    def stack(self) -> Stack: ...

    def port_index(self, nwid: int) -> int:
        """The stack's port on a network. Raises ValueError."""

    def opened(self, seconds: float) -> None:
        """A connection that a client asked for took so long."""


@functools.lru_cache(256)
def _parse(request: bytes) -> tuple[str, int, int, float, str, bool]:
    """IP, port, network id (0: any), seconds, congestion control, whether small writes may wait. A program mostly asks
    for the same again. Raises ValueError for a request that is none."""
    length, delay, packed, port, nwid, milliseconds, name = REQUEST.unpack(request)
    if length not in (4, 16) or delay > 1:
        raise ValueError("no request for a connection")
    congestion = name.rstrip(b"\0").decode("ascii")
    return parse_ip(packed[:length]), port, nwid, max(milliseconds, 1) / 1000, congestion, bool(delay)


class DirectDial:
    """One that is under way. ``answer`` is called once, from ``on_ready``: with what is to be fetched and the address
    and port of this end, or with None when nothing comes of it."""

    def __init__(
        self, host: DialHost, request: bytes, answer: Callable[[ParkedConnection | None, bytes], object]
    ) -> None:
        """Raises OSError, ValueError for a request that is none."""
        ip, port, nwid, timeout, congestion, delay = _parse(request)
        self._host = host
        self._answer = answer
        self._began = now = host.now
        self._connection = host.stack.connect(
            ip,
            port,
            now,
            port_index=host.port_index(nwid) if nwid else None,
            timeout=timeout,
            congestion=congestion,
        )
        if delay:
            self._connection.nodelay = False
        self._connection.owner = self

    def on_ready(self) -> None:
        """The connection changed."""
        connection = self._connection
        if connection.error is not None:
            connection.owner = None
            self._answer(None, b"")
        elif connection.established:
            ip, local_port = connection.local
            self._answer(ParkedConnection(self._host, connection), f"{ip} {local_port}".encode())
            self._host.opened(self._host.now - self._began)

    def cancel(self) -> None:
        """Its client is gone."""
        self._connection.owner = None
        self._connection.abort()
