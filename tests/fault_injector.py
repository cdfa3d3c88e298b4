"""A bad network at the Ethernet port, for tests: loss, duplication, corruption, delay and reordering, all from a
generator that the caller seeds (as smoltcp's ``phy::FaultInjector`` does around a device)."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from ztnode.netstack.frame import Frame
from ztnode.wire import ethernet
from ztnode.wire.buffer import Buffer


class Generator(Protocol):
    """What is needed of ``random.Random``."""

    def random(self) -> float:
        """Uniform in [0, 1)."""

    def randrange(self, stop: int, /) -> int:
        """Uniform in [0, stop)."""


class FrameHost(Protocol):
    """What a stack is to the owner who carries its frames."""

    def receive(self, index: int, frames: Sequence[memoryview], now: float) -> None: ...

    def copy_unread(self) -> None: ...

    def to_send(self, now: float) -> list[tuple[int, Frame]]: ...

    def handle_timer(self, now: float) -> None: ...

    def next_timer(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities are per frame, times in seconds. All zero: a perfect wire."""

    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    """One bit of the IP packet flips. ARP and the Ethernet header are left alone: on a real wire the frame check
    sequence guards them, and they have no checksum of their own."""
    reorder: float = 0.0
    """The frame is held back by ``reorder_delay``, so that later ones overtake it."""
    reorder_delay: float = 0.005
    delay: float = 0.0
    jitter: float = 0.0
    """Up to this much is added to ``delay``, at random. Frames may overtake one another."""


class FaultyLink:
    """One direction of a wire."""

    def __init__(self, faults: Faults, generator: Generator) -> None:
        self.faults = faults
        self._generator = generator
        self._held: list[tuple[float, int, bytes]] = []
        self._serial = count()
        self.counters = {"frames": 0, "lost": 0, "duplicated": 0, "corrupted": 0, "reordered": 0}

    def push(self, frames: Iterable[Buffer], now: float) -> None:
        """Frames enter the wire. They are copied."""
        faults, counters, chance = self.faults, self.counters, self._generator.random
        for frame in frames:
            counters["frames"] += 1
            if faults.loss and chance() < faults.loss:
                counters["lost"] += 1
                continue
            copies = 1
            if faults.duplicate and chance() < faults.duplicate:
                counters["duplicated"] += 1
                copies = 2
            for _ in range(copies):
                content = bytes(frame)
                if faults.corrupt and chance() < faults.corrupt:
                    content = self._corrupted(content)
                when = now + faults.delay
                if faults.jitter:
                    when += faults.jitter * chance()
                if faults.reorder and chance() < faults.reorder:
                    counters["reordered"] += 1
                    when += faults.reorder_delay
                heapq.heappush(self._held, (when, next(self._serial), content))

    def _corrupted(self, frame: bytes) -> bytes:
        room = len(frame) - ethernet.HEADER_LENGTH
        if room <= 0 or frame[12:14] == ethernet.TYPE_ARP.to_bytes(2, "big"):
            return frame
        self.counters["corrupted"] += 1
        bit = self._generator.randrange(room * 8)
        content = bytearray(frame)
        content[ethernet.HEADER_LENGTH + (bit >> 3)] ^= 1 << (bit & 7)
        return bytes(content)

    def pull(self, now: float) -> list[bytes]:
        """Frames that have arrived by now, in order of arrival."""
        arrived: list[bytes] = []
        while self._held and self._held[0][0] <= now:
            arrived.append(heapq.heappop(self._held)[2])
        return arrived

    def next_timer(self) -> float | None:
        """When the next frame arrives."""
        return self._held[0][0] if self._held else None


class FaultInjector:
    """Wraps a stack (or another wrapper) and is driven just like it; every port has a bad wire in each direction."""

    def __init__(self, host: FrameHost, inbound: Faults, outbound: Faults, generator: Generator) -> None:
        self._host = host
        self._faults = (inbound, outbound)
        self._generator = generator
        self.inbound: dict[int, FaultyLink] = {}
        self.outbound: dict[int, FaultyLink] = {}

    def _link(self, links: dict[int, FaultyLink], index: int, faults: Faults) -> FaultyLink:
        link = links.get(index)
        if link is None:
            link = links[index] = FaultyLink(faults, self._generator)
        return link

    def receive(self, index: int, frames: Sequence[memoryview], now: float) -> None:
        """As ``Stack.receive``; frames that are delayed reach the stack by ``handle_timer``."""
        self._link(self.inbound, index, self._faults[0]).push(frames, now)
        self._deliver(now)

    def _deliver(self, now: float) -> None:
        for index, link in self.inbound.items():
            arrived = link.pull(now)
            if arrived:
                self._host.receive(index, [memoryview(frame) for frame in arrived], now)

    def copy_unread(self) -> None:
        """As ``Stack.copy_unread``."""
        self._host.copy_unread()

    def to_send(self, now: float) -> list[tuple[int, Frame]]:
        """As ``Stack.to_send``."""
        for index, frame in self._host.to_send(now):
            self._link(self.outbound, index, self._faults[1]).push((b"".join(frame),), now)
        return [(index, (frame,)) for index, link in self.outbound.items() for frame in link.pull(now)]

    def handle_timer(self, now: float) -> None:
        """As ``Stack.handle_timer``."""
        self._deliver(now)
        self._host.handle_timer(now)

    def next_timer(self) -> float | None:
        """As ``Stack.next_timer``."""
        links = [*self.inbound.values(), *self.outbound.values()]
        times = [self._host.next_timer(), *(link.next_timer() for link in links)]
        return min((time for time in times if time is not None), default=None)
