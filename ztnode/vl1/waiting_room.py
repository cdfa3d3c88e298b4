"""The waiting room for packets to and from addresses whose identity is not known yet, and the schedule of WHOIS.

Everything here is bounded, since strangers decide how many unknown addresses there are: so many addresses, so many
packets for each, and a share of its own for what strangers caused.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from ztnode.token_bucket import TokenBucket
from ztnode.vl1.peer import Peer
from ztnode.wire.endpoint import Endpoint

TIMEOUT: Final = 5.0
"""Seconds that a packet waits for its peer to become known (ZT_TRANSMIT_QUEUE_TIMEOUT, ZT_RECEIVE_QUEUE_TIMEOUT)."""
RETRY: Final = (0.25, 0.5, 1.0)
"""Seconds between one WHOIS and the next; the last of these goes on."""
MAX_WANTED: Final = 512
"""Addresses that the layer above wants."""
MAX_STRANGERS: Final = 128
"""Addresses that only packets from outside have made us ask for."""
MAX_OUTGOING: Final = 64
"""Packets that wait for one address."""
MAX_INCOMING: Final = 8
"""Packets from one address that wait to be opened. A packet has 10,024 bytes at most."""


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


class Wanted:
    """An address that something waits for."""

    __slots__ = ("by_stranger", "candidate", "created", "incoming", "next_try", "outgoing", "tries")

    def __init__(self, now: float, *, by_stranger: bool) -> None:
        self.created = now
        self.next_try = now
        self.tries = 0
        self.by_stranger = by_stranger
        self.outgoing: deque[Outgoing] = deque(maxlen=MAX_OUTGOING)
        self.incoming: deque[Incoming] = deque(maxlen=MAX_INCOMING)
        self.candidate: Peer | None = None
        """Who a HELLO with a good MAC says it is; not checked against the address yet."""


class WaitingRoom:
    """Addresses that are wanted, with what waits for them."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._wanted: dict[int, Wanted] = {}
        self._strangers = 0
        self._stranger_gate = TokenBucket(20, 40)

    def __len__(self) -> int:
        return len(self._wanted)

    def __contains__(self, address: int) -> bool:
        return address in self._wanted

    def get(self, address: int) -> Wanted | None:
        """What waits for ``address``, which stays wanted."""
        return self._wanted.get(address)

    def want(self, address: int, now: float) -> Wanted:
        """Wait for ``address`` on our own account."""
        wanted = self._wanted.get(address)
        if wanted is None:
            if len(self._wanted) - self._strangers >= MAX_WANTED:
                self._drop(next(known for known, wanted in self._wanted.items() if not wanted.by_stranger))
            wanted = self._wanted[address] = Wanted(now, by_stranger=False)
        elif wanted.by_stranger:
            wanted.by_stranger = False
            wanted.created = now
            self._strangers -= 1
        return wanted

    def want_stranger(self, address: int, now: float) -> Wanted | None:
        """Wait for ``address`` because something came from it; None if there are too many such already."""
        wanted = self._wanted.get(address)
        if wanted is None:
            if self._strangers >= MAX_STRANGERS or not self._stranger_gate.admit(now):
                return None
            wanted = self._wanted[address] = Wanted(now, by_stranger=True)
            self._strangers += 1
        return wanted

    def due(self, now: float) -> list[tuple[int, Wanted]]:
        """The addresses to ask for now; their next time is set."""
        due = [(address, wanted) for address, wanted in self._wanted.items() if wanted.next_try <= now]
        for _, wanted in due:
            wanted.next_try = now + RETRY[min(wanted.tries, len(RETRY) - 1)]
            wanted.tries += 1
        return due

    def hurry(self, now: float) -> None:
        """Ask for everything at the next opportunity: a root has become reachable."""
        for wanted in self._wanted.values():
            wanted.next_try = now
            wanted.tries = 0

    def take(self, address: int) -> Wanted | None:
        """What waited for ``address``, which is no longer wanted."""
        wanted = self._wanted.pop(address, None)
        if wanted is not None and wanted.by_stranger:
            self._strangers -= 1
        return wanted

    def expire(self, now: float) -> None:
        """Drop what has waited too long."""
        for address, wanted in list(self._wanted.items()):
            while wanted.outgoing and now - wanted.outgoing[0].created >= TIMEOUT:
                wanted.outgoing.popleft()
                self._counters["drop_send_timeout"] += 1
            if not wanted.outgoing and now - wanted.created >= TIMEOUT:
                self._drop(address)

    def next_timer(self) -> float | None:
        """When ``due`` has something next."""
        return min((wanted.next_try for wanted in self._wanted.values()), default=None)

    def _drop(self, address: int) -> None:
        wanted = self.take(address)
        if wanted is not None:
            self._counters["drop_send_timeout"] += len(wanted.outgoing)
            self._counters["drop_unknown_source"] += len(wanted.incoming)
