"""Putting fragmented packets together again, in bounded memory.

A fragment carries no MAC, so whoever sees a packet id can send rubbish for it; what is put together wrongly fails
the packet's own MAC later. Two things keep a flood from costing others their packets: endpoints of confirmed paths and
strangers have tables of their own, and in each the oldest entry makes room for the newest.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, TypeAlias

from ztnode.wire.endpoint import Endpoint
from ztnode.wire.fragment import OFFSET_DATA, OFFSET_NUMBER
from ztnode.wire.packet import MAX_PACKET_FRAGMENTS, MAX_PACKET_LENGTH

TIMEOUT: Final = 2.0
"""Seconds that an incomplete packet waits for its other fragments. (The reference waits 5 s, in 32 slots.)"""
MAX_FROM_PEERS: Final = 1024
"""Incomplete packets from endpoints of confirmed paths."""
MAX_FROM_STRANGERS: Final = 64
"""Incomplete packets from anywhere else."""


class _Partial:
    """A packet of which something is missing."""

    __slots__ = ("created", "data", "endpoint", "length", "missing")

    def __init__(self, created: float, endpoint: Endpoint) -> None:
        self.created = created
        self.endpoint = endpoint
        """Where the head came from; until it comes, where the first fragment did."""
        self.data: list[bytes | memoryview | None] = []
        """By fragment number, the head at 0. As long as the total is unknown: the head alone."""
        self.missing = 0
        self.length = 0


Whole: TypeAlias = tuple[bytes, Endpoint]
"""A packet put together and the endpoint that its head came from."""


class PacketAssembler:
    """Incomplete packets by their packet id (the first 8 bytes of head and fragment alike)."""

    def __init__(self, capacity: int, counters: Counter[str]) -> None:
        self._capacity = capacity
        self._counters = counters
        self._partial: dict[bytes, _Partial] = {}

    def __len__(self) -> int:
        return len(self._partial)

    def head(self, datagram: bytes, endpoint: Endpoint, now: float) -> Whole | None:
        """Take a head (FLAG_FRAGMENTED in its header, checked by the caller). The whole packet if that completes it."""
        key = datagram[:8]
        partial = self._partial.get(key)
        if partial is None:
            partial = self._add(key, now, endpoint)
            partial.data.append(datagram)
            partial.length = len(datagram)
            return None
        if partial.data[0] is not None:
            self._counters["drop_fragment_duplicate"] += 1
            return None
        partial.data[0] = datagram
        partial.endpoint = endpoint
        partial.length += len(datagram)
        partial.missing -= 1
        return self._finish(key, partial)

    def fragment(self, datagram: bytes, endpoint: Endpoint, now: float) -> Whole | None:
        """Take a fragment that is no head (checked by the caller). The whole packet if that completes it."""
        numbers = datagram[OFFSET_NUMBER]
        total, number = numbers >> 4, numbers & 0x0F
        if not 1 <= number < total <= MAX_PACKET_FRAGMENTS:
            self._counters["drop_fragment_malformed"] += 1
            return None
        key = datagram[:8]
        partial = self._partial.get(key)
        if partial is None:
            partial = self._add(key, now, endpoint)
            partial.data = [None] * total
            partial.missing = total
        elif len(partial.data) == 1:  # the head came first, and this says how many fragments follow
            if total == 2:
                head = partial.data[0]
                assert head is not None
                del self._partial[key]
                if partial.length + len(datagram) - OFFSET_DATA > MAX_PACKET_LENGTH:
                    self._counters["drop_oversized"] += 1
                    return None
                return b"".join((head, memoryview(datagram)[OFFSET_DATA:])), partial.endpoint
            partial.data.extend([None] * (total - 1))
            partial.missing = total - 1
        elif len(partial.data) != total:
            self._counters["drop_fragment_malformed"] += 1
            return None
        if partial.data[number] is not None:
            self._counters["drop_fragment_duplicate"] += 1
            return None
        data = memoryview(datagram)[OFFSET_DATA:]
        partial.data[number] = data
        partial.length += len(data)
        partial.missing -= 1
        return self._finish(key, partial)

    def purge(self, now: float) -> None:
        """Forget packets that will not be completed."""
        expired = []
        for key, partial in self._partial.items():
            if now - partial.created < TIMEOUT:
                break
            expired.append(key)
        for key in expired:
            del self._partial[key]
            self._counters["drop_fragment_timeout"] += 1

    def _add(self, key: bytes, now: float, endpoint: Endpoint) -> _Partial:
        if len(self._partial) >= self._capacity:
            del self._partial[next(iter(self._partial))]
            self._counters["drop_fragment_overflow"] += 1
        partial = self._partial[key] = _Partial(now, endpoint)
        return partial

    def _finish(self, key: bytes, partial: _Partial) -> Whole | None:
        if partial.missing and partial.length <= MAX_PACKET_LENGTH:
            return None
        del self._partial[key]
        if partial.length > MAX_PACKET_LENGTH:
            self._counters["drop_oversized"] += 1
            return None
        return b"".join([part for part in partial.data if part is not None]), partial.endpoint
