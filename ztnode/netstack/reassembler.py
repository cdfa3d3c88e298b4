"""Reassembly of IP fragments within bounds (RFC 791, RFC 815, RFC 5722, RFC 8200 section 4.5).

Both families follow the strict rule of IPv6: a fragment that overlaps another one kills the whole datagram, for no
honest sender makes such. An exact duplicate of a range is the network's doing and is ignored. When memory runs out the
oldest datagram goes first (RFC 815 leaves that open; newest-first would let an attacker shut the door for good).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final, TypeAlias

Key: TypeAlias = tuple[int, bytes, bytes, int, int]
"""(port index, source, destination, protocol, identification). IPv6 leaves the protocol out: 0."""

MAX_DATAGRAM: Final = 65535
TIMEOUT: Final = 30.0
"""Seconds. RFC 1122 section 3.3.2 says 60 to 120 s, RFC 8200 60 s; on today's links what is late by 30 s was lost, and
a shorter time bounds the harm of a flood (Linux: 30 s for IPv4)."""


@dataclass(slots=True)
class _Datagram:
    deadline: float
    starts: list[int] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    """The fragments' payloads, sorted by ``starts``."""
    length: int | None = None
    """Known once the last fragment is here."""
    received: int = 0
    first_header: bytes = b""
    """Start of the packet that held the first fragment: what an ICMP error about the datagram quotes."""
    protocol: int = 0
    dead: bool = False
    """Overlapped: everything that still comes for it is dropped until the time is over."""


class Reassembler:
    """The datagrams of all ports of which pieces are missing.

    ``max_fragments`` is of one datagram: 64 KiB in pieces of the smallest IPv6 MTU are 53.
    """

    def __init__(
        self,
        *,
        counters: dict[str, int],
        max_bytes: int = 1 << 20,
        max_datagrams: int = 64,
        max_fragments: int = 128,
        timeout: float = TIMEOUT,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_datagrams = max_datagrams
        self._max_fragments = max_fragments
        self._timeout = timeout
        self.datagrams: dict[Key, _Datagram] = {}
        """In order of their deadlines; empty: there is no timer."""
        self._bytes = 0
        self.counters = counters

    def __len__(self) -> int:
        return len(self.datagrams)

    @property
    def buffered(self) -> int:
        """Payload bytes held."""
        return self._bytes

    def add(
        self, key: Key, offset: int, more: bool, protocol: int, payload: memoryview, packet: memoryview, now: float
    ) -> tuple[int, bytes, bytes] | None:
        """Take a fragment; (upper-layer protocol, payload, start of the first fragment's packet) when the datagram is
        whole.

        ``packet`` is the IP packet that the fragment came in. Fragments whose length is not a multiple of eight where
        more follow, that are empty, or that reach beyond 65,535 bytes are dropped.
        """
        end = offset + len(payload)
        if not payload or end > MAX_DATAGRAM or (more and len(payload) & 7):
            self._count("bad_fragment")
            return None
        datagram = self.datagrams.get(key)
        if datagram is None:
            while len(self.datagrams) >= self._max_datagrams:
                self._evict()
            datagram = self.datagrams[key] = _Datagram(now + self._timeout)
        if datagram.dead:
            return None
        position = bisect_left(datagram.starts, offset)
        if self._duplicate(datagram, position, offset, payload):
            self._count("duplicate_fragment")
            return None
        if self._conflicts(datagram, position, offset, end, more):
            self._kill(datagram)
            self._count("overlapping_fragment")
            return None
        if len(datagram.starts) >= self._max_fragments:
            self._kill(datagram)
            self._count("too_many_fragments")
            return None
        datagram.starts.insert(position, offset)
        datagram.pieces.insert(position, bytes(payload))
        datagram.received += len(payload)
        self._bytes += len(payload)
        if not more:
            datagram.length = end
        if not offset:
            datagram.first_header = bytes(packet[:1232])
            datagram.protocol = protocol
        if datagram.received == datagram.length:  # no overlaps, so the sum says that all is here
            self._remove(key, datagram)
            return datagram.protocol, b"".join(datagram.pieces), datagram.first_header
        while self._bytes > self._max_bytes:
            self._evict()
        return None

    @staticmethod
    def _duplicate(datagram: _Datagram, position: int, offset: int, payload: memoryview) -> bool:
        return (
            position < len(datagram.starts)
            and datagram.starts[position] == offset
            and datagram.pieces[position] == payload
        )

    @staticmethod
    def _conflicts(datagram: _Datagram, position: int, offset: int, end: int, more: bool) -> bool:
        """Whether the fragment overlaps what is here, or disagrees with it about the end."""
        starts = datagram.starts
        if position and starts[position - 1] + len(datagram.pieces[position - 1]) > offset:
            return True
        if position < len(starts) and starts[position] < end:
            return True
        if datagram.length is not None:
            return end > datagram.length or not more
        return not more and bool(starts) and starts[-1] > offset

    def _kill(self, datagram: _Datagram) -> None:
        self._bytes -= datagram.received
        datagram.received = 0
        datagram.starts.clear()
        datagram.pieces.clear()
        datagram.first_header = b""
        datagram.dead = True

    def _remove(self, key: Key, datagram: _Datagram) -> None:
        self._bytes -= datagram.received
        del self.datagrams[key]

    def _evict(self) -> None:
        key = next(iter(self.datagrams))
        self._remove(key, self.datagrams[key])
        self._count("reassembly_evicted")

    def next_timer(self) -> float | None:
        """When the oldest datagram is given up."""
        for datagram in self.datagrams.values():
            return datagram.deadline
        return None

    def handle_timer(self, now: float) -> list[tuple[Key, bytes]]:
        """Give up what is too old. Returns (key, start of the first fragment's packet) of those of which the first
        fragment had come: their senders are owed a time-exceeded error (RFC 1122 section 3.3.2, RFC 8200 4.5)."""
        expired: list[tuple[Key, bytes]] = []
        while self.datagrams:
            key = next(iter(self.datagrams))
            datagram = self.datagrams[key]
            if datagram.deadline > now:
                break
            self._remove(key, datagram)
            self._count("reassembly_timeout")
            if datagram.first_header:
                expired.append((key, datagram.first_header))
        return expired

    def drop_port(self, port_index: int) -> None:
        """Forget what a port that is gone had begun."""
        for key in [key for key in self.datagrams if key[0] == port_index]:
            self._remove(key, self.datagrams[key])

    def _count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1
