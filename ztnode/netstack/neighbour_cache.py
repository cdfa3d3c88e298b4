"""The neighbour cache: which MAC has the next hop, by ARP or by neighbour discovery.

One state machine, that of RFC 4861 section 7.3.2, serves both families::

    (none) --send--> INCOMPLETE --answer--> REACHABLE --30 s--> STALE --send--> DELAY --5 s--> PROBE
                         |                      ^                                 |              |
                       2.5 s                    +---- answer, or TCP makes progress +--------------+
                         v                                                                       | 3 s
                       FAILED  <-----------------------------------------------------------------+

A FAILED entry has left the cache (or was only just looked up); a flow that still holds it looks the address up anew
with its next frame.
"""

from __future__ import annotations

import enum
import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Final, Protocol
from weakref import WeakSet

from ztnode.netstack.clock import Clock
from ztnode.netstack.config import NeighbourConfig
from ztnode.netstack.frame import Frame

NO_MAC: Final = bytes(6)

# Timers of ARP and NDP in seconds (RFC 4861 section 10, RFC 1122 section 2.3.2.1).
SOLICIT_INTERVALS: Final = (0.05, 0.1, 0.2, 0.4, 0.75, 1.0)
"""Waits after each multicast solicitation, the last one before giving up: 2.5 s in all. RFC 4861 says three times one
second; the first answer over an overlay may get lost while a path is being found, so the first retries are quick, and
an address that nobody has fails within 3 s."""
_REACHABLE_TIME: Final = 30.0
"""Each entry's is 0.5 to 1.5 times it at random (RFC 4861 section 6.3.2)."""
_DELAY_FIRST_PROBE: Final = 5.0
_PROBE_INTERVAL: Final = 1.0
_PROBES: Final = 3


class Reachability(enum.IntEnum):
    """RFC 4861 section 7.3.2; FAILED is its "(deleted)"."""

    FAILED = 0
    INCOMPLETE = 1
    STALE = 2
    DELAY = 3
    PROBE = 4
    REACHABLE = 5


class Watcher(Protocol):
    """Who wants to know that the MAC changed: a flow."""

    def refresh(self) -> None:
        """The neighbour's MAC is another one now."""


class Neighbour:
    """One address on the link."""

    __slots__ = ("address", "deadline", "mac", "pending", "probes", "state", "watchers")

    def __init__(self, address: bytes) -> None:
        self.address = address
        self.mac = NO_MAC
        self.state = Reachability.FAILED
        self.deadline = 0.0
        """REACHABLE: when it becomes STALE. INCOMPLETE, DELAY, PROBE: when the timer is due."""
        self.probes = 0
        self.pending: deque[Frame] = deque()
        self.watchers: WeakSet[Watcher] = WeakSet()


def permanent(address: bytes, mac: bytes) -> Neighbour:
    """An entry that needs no asking: a multicast group, a broadcast address."""
    neighbour = Neighbour(address)
    neighbour.mac = mac
    neighbour.state = Reachability.REACHABLE
    neighbour.deadline = math.inf
    return neighbour


class NeighbourCache:
    """All neighbours of one port.

    ``solicit(address, mac)`` must send an ARP request or neighbour solicitation: to ``mac``, or to all when it is None.
    ``output(frames)`` takes frames whose destination is known. ``failed(neighbour, pending)`` is told when an address
    does not answer, with the frames that waited for it.
    """

    def __init__(
        self,
        clock: Clock,
        config: NeighbourConfig,
        *,
        random: Callable[[int], bytes],
        solicit: Callable[[bytes, bytes | None], None],
        output: Callable[[Sequence[Frame]], None],
        failed: Callable[[Neighbour, list[Frame]], None],
        counters: dict[str, int],
    ) -> None:
        self._clock = clock
        self._config = config
        self._random = random
        self._solicit = solicit
        self._output = output
        self._failed = failed
        self._counters = counters
        self._entries: dict[bytes, Neighbour] = {}  # in order of last use by ``lookup``
        self.timers: list[tuple[float, int, Neighbour]] = []
        """A heap, some of it out of date; empty: there is no timer."""
        self._serial = count()

    def lookup(self, address: bytes) -> Neighbour:
        """The entry for a next hop, a new one (nothing sent yet) where there is none."""
        neighbour = self._entries.pop(address, None)
        if neighbour is None:
            neighbour = Neighbour(address)
            self._make_room()
        self._entries[address] = neighbour
        return neighbour

    def get(self, address: bytes) -> Neighbour | None:
        """The entry, if there is one."""
        return self._entries.get(address)

    def snapshot(self) -> list[tuple[bytes, bytes, Reachability]]:
        """(address, MAC, state) of every entry, for display."""
        return [(entry.address, entry.mac, self._current(entry)) for entry in self._entries.values()]

    def _current(self, neighbour: Neighbour) -> Reachability:
        if neighbour.state is Reachability.REACHABLE and self._clock.now >= neighbour.deadline:
            return Reachability.STALE
        return neighbour.state

    def _make_room(self) -> None:
        while len(self._entries) >= self._config.entries:
            # The least recently looked-up one; an entry in use by flows goes only when all are.
            for position, entry in enumerate(self._entries.values()):
                if not entry.watchers and not entry.pending:
                    break
                if position == 32:  # keep the work for one new entry bounded
                    entry = next(iter(self._entries.values()))
                    break
            else:
                entry = next(iter(self._entries.values()))
            self._drop(entry)
            self._count("neighbours_evicted")

    def _drop(self, neighbour: Neighbour) -> list[Frame]:
        if self._entries.get(neighbour.address) is neighbour:
            del self._entries[neighbour.address]
        neighbour.state = Reachability.FAILED
        pending = list(neighbour.pending)
        neighbour.pending.clear()
        return pending

    # --- sending ---
    def send(self, neighbour: Neighbour, frames: Sequence[Frame]) -> None:
        """Send frames, or keep them (a bounded number) until the MAC is known. ``neighbour`` is fresh from ``lookup``
        or has not failed since."""
        state = self._current(neighbour)
        if state is Reachability.STALE:
            # RFC 4861 section 7.3.3: use it, and see whether a confirmation comes before asking.
            neighbour.state = Reachability.DELAY
            self._arm(neighbour, _DELAY_FIRST_PROBE)
        elif state is Reachability.FAILED:
            neighbour.mac = NO_MAC
            neighbour.state = Reachability.INCOMPLETE
            neighbour.probes = 0
            self._ask(neighbour)
            state = Reachability.INCOMPLETE
        if state is Reachability.INCOMPLETE:
            pending = neighbour.pending
            pending.extend((_joined(frame),) for frame in frames)
            while len(pending) > self._config.pending_frames:
                pending.popleft()
                self._count("neighbour_queue_full")
            return
        self._output(frames)

    def _ask(self, neighbour: Neighbour) -> None:
        """Send the next multicast solicitation of an INCOMPLETE entry."""
        interval = SOLICIT_INTERVALS[neighbour.probes]
        neighbour.probes += 1
        self._arm(neighbour, interval)
        self._solicit(neighbour.address, None)

    # --- what was learnt ---
    def confirm(self, neighbour: Neighbour) -> None:
        """An upper layer makes progress through this neighbour (RFC 4861 section 7.3.1)."""
        if neighbour.state > Reachability.INCOMPLETE and neighbour.deadline != math.inf:
            self._reachable(neighbour)

    def heard(self, address: bytes, mac: bytes, *, create: bool) -> None:
        """Somebody told its MAC unasked: an ARP request, the source option of a solicitation (RFC 826,
        RFC 4861 section 7.2.3). ``create``: it spoke to us, so we are likely to answer it."""
        neighbour = self._entries.get(address)
        if neighbour is None:
            if not create:
                return
            neighbour = self.lookup(address)
        if neighbour.state <= Reachability.INCOMPLETE or neighbour.mac != mac:
            self._resolved(neighbour, mac, Reachability.STALE)

    def answered(self, address: bytes, mac: bytes | None, *, solicited: bool, override: bool) -> None:
        """An ARP reply or neighbour advertisement (RFC 4861 section 7.2.5). An unexpected one makes no entry."""
        neighbour = self._entries.get(address)
        if neighbour is None or neighbour.state is Reachability.FAILED:
            return
        if neighbour.state is Reachability.INCOMPLETE:
            if mac is not None:
                self._resolved(neighbour, mac, Reachability.REACHABLE if solicited else Reachability.STALE)
            return
        if mac is not None and mac != neighbour.mac:
            if override:
                self._resolved(neighbour, mac, Reachability.REACHABLE if solicited else Reachability.STALE)
            elif self._current(neighbour) is Reachability.REACHABLE:
                neighbour.state = Reachability.STALE
        elif solicited:
            self._reachable(neighbour)

    def _reachable(self, neighbour: Neighbour) -> None:
        neighbour.state = Reachability.REACHABLE
        neighbour.probes = 0
        spread = 0.5 + self._random(1)[0] / 255
        neighbour.deadline = self._clock.now + _REACHABLE_TIME * spread

    def _resolved(self, neighbour: Neighbour, mac: bytes, state: Reachability) -> None:
        changed = neighbour.mac != mac
        neighbour.mac = mac
        neighbour.probes = 0
        if state is Reachability.REACHABLE:
            self._reachable(neighbour)
        else:
            neighbour.state = state
            neighbour.deadline = 0.0
        if changed:
            for watcher in list(neighbour.watchers):
                watcher.refresh()
        if neighbour.pending:
            frames: list[Frame] = [(mac + bytes(head[6:]),) for (head,) in neighbour.pending]
            neighbour.pending.clear()
            self.send(neighbour, frames)

    # --- timers ---
    def _arm(self, neighbour: Neighbour, delay: float) -> None:
        neighbour.deadline = self._clock.now + delay
        heapq.heappush(self.timers, (neighbour.deadline, next(self._serial), neighbour))

    def next_timer(self) -> float | None:
        """When ``handle_timer`` has work."""
        timers = self.timers
        while timers:
            when, _, neighbour = timers[0]
            if neighbour.deadline == when and Reachability.INCOMPLETE <= neighbour.state < Reachability.REACHABLE:
                return when
            heapq.heappop(timers)  # answered, confirmed or dropped meanwhile
        return None

    def handle_timer(self) -> None:
        """Ask again, or give up."""
        now = self._clock.now
        while (when := self.next_timer()) is not None and when <= now:
            _, _, neighbour = heapq.heappop(self.timers)
            if neighbour.state is Reachability.INCOMPLETE:
                if neighbour.probes < len(SOLICIT_INTERVALS):
                    self._ask(neighbour)
                else:
                    self._give_up(neighbour)
            elif neighbour.state is Reachability.DELAY:
                neighbour.state = Reachability.PROBE
                neighbour.probes = 0
                self._probe(neighbour)
            elif neighbour.probes < _PROBES:
                self._probe(neighbour)
            else:
                self._give_up(neighbour)

    def _probe(self, neighbour: Neighbour) -> None:
        neighbour.probes += 1
        self._arm(neighbour, _PROBE_INTERVAL)
        self._solicit(neighbour.address, neighbour.mac)

    def _give_up(self, neighbour: Neighbour) -> None:
        self._count("neighbours_unreachable")
        self._failed(neighbour, self._drop(neighbour))

    def _count(self, what: str) -> None:
        self._counters[what] = self._counters.get(what, 0) + 1


def _joined(frame: Frame) -> bytes:
    """A frame that must outlive the batch owns its bytes."""
    return b"".join(frame)
