"""The waiting room for packets to and from addresses whose identity is not known yet, and the schedule of WHOIS.

Strangers decide how many unknown addresses there are, so everything here is bounded: the addresses by the cause that
they are wanted for, the packets by their number and their bytes. Each cause has a table of its own, in which the oldest
makes room, so that what one kind of sender does costs the others nothing.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ztnode.vl1.peer import Peer
from ztnode.wire.endpoint import Endpoint

TIMEOUT: Final = 5.0
"""Seconds that a packet waits for its peer to become known (ZT_TRANSMIT_QUEUE_TIMEOUT, ZT_RECEIVE_QUEUE_TIMEOUT)."""
RETRY: Final = (0.25, 0.5, 1.0)
"""Seconds between one WHOIS and the next; the last of these goes on."""
MAX_WANTED: Final = 512
"""Addresses that the layer above wants."""
MAX_CANDIDATES: Final = 256
"""Addresses of strangers whose HELLO has shown that they hold the key that they claim."""
MAX_ASKED: Final = 256
"""Addresses that known peers have asked us for."""
MAX_STRANGERS: Final = 2048
"""Addresses that packets have come from and nothing is known of, so many that an answer finds its question even while
thousands of made-up addresses a second arrive."""
MAX_OUTGOING: Final = 64
"""Packets that wait for one address."""
MAX_INCOMING: Final = 8
"""Packets from one address that wait to be opened. A packet has 10,024 bytes at most."""
MAX_INCOMING_BYTES: Final = 2 << 20
"""Bytes of all packets that wait to be opened, of the addresses of one cause."""


class Cause(IntEnum):
    """Why an address is wanted, the strongest first."""

    OWN = 0
    """The layer above has something for it."""
    HELLO = 1
    """A HELLO from it shows that its sender holds the key that it claims."""
    ASKED = 2
    """A known peer has asked us for it."""
    PACKET = 3
    """A packet claims to come from it."""


_CAPACITY: Final = {
    Cause.OWN: MAX_WANTED,
    Cause.HELLO: MAX_CANDIDATES,
    Cause.ASKED: MAX_ASKED,
    Cause.PACKET: MAX_STRANGERS,
}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A packet to an address without an identity or without a way to it."""

    verb: int
    payload: bytes
    squeeze: bool
    promised_id: int
    created: float


@dataclass(frozen=True, slots=True)
class Incoming:
    """A packet from an address without an identity."""

    packet: bytes
    endpoint: Endpoint
    arrived: float


class Wanted:
    """An address that something waits for."""

    __slots__ = ("candidate", "cause", "created", "incoming", "next_try", "outgoing", "tries")

    def __init__(self, now: float, cause: Cause) -> None:
        self.created = now
        """When it was last wanted."""
        self.next_try = now
        self.tries = 0
        self.cause = cause
        self.outgoing: deque[Outgoing] | None = None
        self.incoming: deque[Incoming] | None = None
        self.candidate: Peer | None = None
        """Who a HELLO with a good MAC says it is; not checked against the address yet."""


class WaitingRoom:
    """Addresses that are wanted, with what waits for them."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._wanted: dict[int, Wanted] = {}
        self._shares: dict[Cause, dict[int, None]] = {cause: {} for cause in Cause}
        """The addresses of each cause, the oldest first."""
        self._schedule: list[tuple[float, int]] = []
        """A heap of when to ask for which address; entries that no longer hold are passed over."""
        self._incoming_bytes: Counter[Cause] = Counter()

    def __len__(self) -> int:
        return len(self._wanted)

    def __contains__(self, address: int) -> bool:
        return address in self._wanted

    def get(self, address: int) -> Wanted | None:
        """What waits for ``address``, which stays wanted."""
        return self._wanted.get(address)

    def count(self, cause: Cause) -> int:
        """How many addresses are wanted for this cause."""
        return len(self._shares[cause])

    def want(self, address: int, cause: Cause, now: float) -> Wanted:
        """Wait for ``address``; the oldest of the same cause makes room. What was wanted for less moves up."""
        wanted = self._wanted.get(address)
        if wanted is not None and wanted.cause <= cause:
            wanted.created = now if cause is not Cause.OWN else wanted.created
            return wanted
        share = self._shares[cause]
        if len(share) >= _CAPACITY[cause]:
            self._drop(next(iter(share)))
        if wanted is None:
            wanted = self._wanted[address] = Wanted(now, cause)
            self._plan(address, wanted, now)
        else:
            size = sum(len(waiting.packet) for waiting in wanted.incoming or ())
            del self._shares[wanted.cause][address]
            self._incoming_bytes[wanted.cause] -= size
            self._incoming_bytes[cause] += size
            wanted.cause = cause
            wanted.created = now
        share[address] = None
        return wanted

    def keep_outgoing(self, wanted: Wanted, packet: Outgoing) -> None:
        """``packet`` waits until it can be sent; the oldest makes room."""
        if wanted.outgoing is None:
            wanted.outgoing = deque(maxlen=MAX_OUTGOING)
        wanted.outgoing.append(packet)

    def keep_incoming(self, wanted: Wanted, packet: bytes, endpoint: Endpoint, now: float) -> None:
        """``packet`` waits until it can be opened; the oldest from the same address makes room, and beyond
        ``MAX_INCOMING_BYTES`` those of the addresses that were wanted first."""
        if wanted.incoming is None:
            wanted.incoming = deque()
        if len(wanted.incoming) >= MAX_INCOMING:
            self._forget_incoming(wanted, 1)
        wanted.incoming.append(Incoming(packet, endpoint, now))
        self._incoming_bytes[wanted.cause] += len(packet)
        while self._incoming_bytes[wanted.cause] > MAX_INCOMING_BYTES:
            share = self._shares[wanted.cause]
            oldest = next(address for address in share if self._wanted[address].incoming)
            if wanted.cause is Cause.PACKET:
                self._drop(oldest)  # without its packets it is of no use
            else:
                self._forget_incoming(self._wanted[oldest], MAX_INCOMING)

    def take_incoming(self, wanted: Wanted) -> list[Incoming]:
        """The packets that waited to be opened; they no longer do."""
        taken = list(wanted.incoming or ())
        self._incoming_bytes[wanted.cause] -= sum(len(waiting.packet) for waiting in taken)
        wanted.incoming = None
        return taken

    def due(self, now: float) -> list[tuple[int, Wanted]]:
        """The addresses to ask for now; their next time is set."""
        due = []
        while self._schedule and self._schedule[0][0] <= now:
            at, address = heapq.heappop(self._schedule)
            wanted = self._wanted.get(address)
            if wanted is not None and wanted.next_try == at:
                due.append((address, wanted))
                self._plan(address, wanted, now + RETRY[min(wanted.tries, len(RETRY) - 1)])
                wanted.tries += 1
        return due

    def hurry(self, now: float) -> None:
        """Ask for everything at the next opportunity: a root has become reachable."""
        self._schedule.clear()
        for address, wanted in self._wanted.items():
            wanted.tries = 0
            self._plan(address, wanted, now)

    def take(self, address: int) -> Wanted | None:
        """What waited for ``address``, which is no longer wanted."""
        wanted = self._wanted.pop(address, None)
        if wanted is not None:
            del self._shares[wanted.cause][address]
        return wanted

    def expire(self, now: float) -> None:
        """Drop what has waited too long, packet by packet."""
        for address, wanted in list(self._wanted.items()):
            while wanted.outgoing and now - wanted.outgoing[0].created >= TIMEOUT:
                wanted.outgoing.popleft()
                self._counters["drop_send_timeout"] += 1
            while wanted.incoming and now - wanted.incoming[0].arrived >= TIMEOUT:
                self._forget_incoming(wanted, 1)
            if not wanted.outgoing and not wanted.incoming and now - wanted.created >= TIMEOUT:
                self._drop(address)

    def next_timer(self) -> float | None:
        """When ``due`` has something next; it may turn out to be nothing."""
        return self._schedule[0][0] if self._schedule else None

    def _plan(self, address: int, wanted: Wanted, at: float) -> None:
        wanted.next_try = at
        heapq.heappush(self._schedule, (at, address))

    def _forget_incoming(self, wanted: Wanted, count: int) -> None:
        for _ in range(min(count, len(wanted.incoming or ()))):
            assert wanted.incoming is not None
            self._incoming_bytes[wanted.cause] -= len(wanted.incoming.popleft().packet)
            self._counters["drop_unknown_source"] += 1

    def _drop(self, address: int) -> None:
        wanted = self.take(address)
        if wanted is not None:
            self._counters["drop_send_timeout"] += len(wanted.outgoing or ())
            self._forget_incoming(wanted, MAX_INCOMING)
