"""The node's side of the stack workers: start, feed, restart and stop them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from ztnode.node.api import Handoff, WorkerInfo
from ztnode.ring import Buffer


class Supervisor:
    """All stack workers of one node, seen as one host on every joined network. Runs on the node's event loop.

    Networks are known by the port ``index`` that the node gives each (0 … 2³¹-1); where a method takes ``nwid``,
    None means whichever network has a route.
    """

    def __init__(
        self,
        state: Path,
        on_frames: Callable[[list[tuple[int, memoryview]]], None],
        *,
        workers: int = 1,
    ) -> None:
        """``state`` is the directory of the hand-off sockets. ``on_frames`` is called with each batch of whole Ethernet
        frames that the stack sends, as (port index, frame); the views are good only during the call."""
        raise NotImplementedError

    async def start(self) -> None:
        """Start every worker and wait until each is ready. Raises OSError when one does not come up in time."""

    async def stop(self) -> None:
        """End every worker within a second, by force if need be; their connections end with a reset."""

    def port_up(
        self,
        index: int,
        *,
        nwid: int,
        mac: int,
        mtu: int,
        addresses: Sequence[str],
        routes: Sequence[tuple[str, str | None]],
    ) -> None:
        """A network is there or has changed: addresses and route targets in CIDR form, gateways or None."""

    def port_down(self, index: int) -> None:
        """The network is gone: its connections and listeners end."""

    def send_frames(self, records: Sequence[tuple[int, Sequence[Buffer]]]) -> None:
        """Deliver Ethernet frames to the stack: (port index, parts of a frame). Without room: dropped and counted."""

    async def dial(self, host: str, port: int, *, nwid: int | None = None, timeout: float = 30.0) -> Handoff:
        """Open a TCP connection. Raises DialError, ValueError on an address that is not numeric."""
        raise NotImplementedError

    async def listen(
        self, host: str, port: int, *, nwid: int | None = None, backlog: int = 128
    ) -> tuple[int, tuple[str, int]]:
        """Listen; returns a listener id and what was bound. It outlives a worker that dies. Raises DialError."""
        raise NotImplementedError

    async def accept(self, listener: int) -> Handoff:
        """The next connection. Raises DialError when the listener is closed, KeyError if unknown."""
        raise NotImplementedError

    async def close_listener(self, listener: int) -> None:
        """Stop listening. Raises KeyError if unknown."""

    async def open_udp(self, host: str, port: int, *, nwid: int | None = None) -> Handoff:
        """A UDP socket bound to an overlay address. Raises DialError."""
        raise NotImplementedError

    async def ping(self, host: str, *, nwid: int | None = None, size: int = 56, timeout: float = 3.0) -> float:
        """Round-trip time of one ICMP echo, in seconds. Raises DialError."""
        raise NotImplementedError

    def capture(self, nwid: int, *, snaplen: int = 65535) -> AsyncIterator[bytes]:
        """The network's Ethernet frames as pcapng blocks, from now on. Raises KeyError if not joined, DialError."""
        raise NotImplementedError

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Each worker as of its last report (at most a few seconds old)."""
        return ()

    @property
    def counters(self) -> dict[str, int]:
        """Drops and restarts."""
        return {}
