"""Keeps the fragments of one datagram together on their way to the workers.

Only the first fragment names the ports, and with them the worker; the others follow it. Fragments that overtake their
first one wait here for it. The worker then reassembles, so that limits, errors and time-outs of reassembly are the
stack's, in one place. (To choose by addresses and identification alone would need no memory, but the datagram would
then be put together at a worker that does not have the socket.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeAlias

from ztnode.ring import Record

Key: TypeAlias = tuple[int, bytes, int, bytes]
"""(port index, source and destination, protocol, identification). IPv6 leaves the protocol out: 0."""

SECONDS: Final = 30.0
"""As long as the stack waits for missing fragments."""
MAX_DATAGRAMS: Final = 1024
MAX_HELD: Final = 1 << 20
"""Bytes of fragments that wait for their first one; the oldest datagram goes first."""
_OVERHEAD: Final = 256


class _Datagram:
    __slots__ = ("deadline", "held", "held_bytes", "length", "owner", "received")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.owner: int | None = None
        self.held: list[Record] = []
        self.held_bytes = 0
        self.received = 0
        self.length = 0
        """Known once the last fragment was seen."""


class FragmentSteering:
    """Who gets the fragments of the datagrams that are under way."""

    def __init__(self, counters: dict[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        """``counters["fragments_lost"]`` counts those whose first one did not come in time, or had no room to wait."""
        counters.setdefault("fragments_lost", 0)
        self._counters = counters
        self._clock = clock
        self._datagrams: dict[Key, _Datagram] = {}  # in order of their deadlines
        self._held = 0

    def __len__(self) -> int:
        return len(self._datagrams)

    def add(
        self, key: Key, owner: int | None, offset: int, length: int, more: bool, record: Record
    ) -> tuple[int, list[Record]]:
        """A fragment came; ``owner`` is known for a first one. Returns the worker and what to give it now.

        ``length``: bytes of the datagram in this fragment. ``record``'s memory may end with the call.
        """
        self._expire()
        datagram = self._datagrams.get(key)
        if datagram is None:
            if len(self._datagrams) >= MAX_DATAGRAMS:
                self._drop(next(iter(self._datagrams)))
            datagram = self._datagrams[key] = _Datagram(self._clock() + SECONDS)
        if owner is not None:
            # Also when there is one already: then the identification is in use for the next datagram.
            datagram.owner = owner
        datagram.received += length
        if not more:
            datagram.length = offset + length
        if datagram.owner is None:
            self._hold(datagram, record)
            return 0, []
        ready = [record, *datagram.held]
        self._held -= datagram.held_bytes
        datagram.held, datagram.held_bytes = [], 0
        if 0 < datagram.length <= datagram.received:
            del self._datagrams[key]  # all have passed, and the identification may be used again
        return datagram.owner, ready

    def _hold(self, datagram: _Datagram, record: Record) -> None:
        frame = b"".join(record[1])
        datagram.held.append((record[0], (frame,)))
        datagram.held_bytes += len(frame) + _OVERHEAD
        self._held += len(frame) + _OVERHEAD
        while self._held > MAX_HELD:
            self._drop(next(iter(self._datagrams)))

    def _expire(self) -> None:
        now = self._clock()
        while self._datagrams:
            key, datagram = next(iter(self._datagrams.items()))
            if datagram.deadline > now:
                break
            self._drop(key)

    def _drop(self, key: Key) -> None:
        datagram = self._datagrams.pop(key)
        self._held -= datagram.held_bytes
        self._counters["fragments_lost"] += len(datagram.held)
