"""What all networks of one node share: who we are, how to send, where to report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ztnode.vl1 import Message, Vl1
from ztnode.vl2.vl2_events import Event
from ztnode.wire.buffer import Buffer
from ztnode.wire.identity import Identity


@dataclass(slots=True)
class Vl2Core:
    """Handed to every network. ``random`` gives as many random bytes as asked for."""

    vl1: Vl1
    identity: Identity
    random: Callable[[int], bytes]
    counters: Counter[str]
    """Drops, by reason, over all networks."""
    now: float
    """The time of the driver that is running; what filters send on the side is stamped with it."""
    events: list[Event] = field(default_factory=list)
    retry: list[Message] = field(default_factory=list)
    """Messages that were held back and may pass now."""
    forget_inflows: Callable[[], None] = lambda: None
    """Called when what was decided about incoming frames no longer holds."""
    upstreams: Callable[[], Sequence[int]] | None = None
    """The roots that serve multicast; None: those of the planet."""
    acquaintances: Callable[[int, float], Sequence[int]] = lambda _count, _now: ()
    """Peers that share or shared a network with us, up to so many."""
    os_arch: str = ""
    ephemeral: bool = False
    """Our identity ends with this process, and controllers are told so."""

    @property
    def address(self) -> int:
        """Our own ZeroTier address."""
        return self.identity.address

    def identity_of(self, address: int) -> Identity | None:
        """The identity behind an address, None while it is unknown."""
        if address == self.identity.address:
            return self.identity
        peer = self.vl1.peer(address)
        return None if peer is None else peer.identity

    def send(self, address: int, verb: int, payload: Buffer, now: float, *, compress: bool = False) -> int:
        """As ``Vl1.send``, but what is too long for a packet is counted and dropped (0 is returned): the length of what
        we pass on is up to others."""
        try:
            return self.vl1.send(address, verb, payload, now, compress=compress)
        except ValueError:
            self.counters["drop_too_long_to_send"] += 1
            return 0

    def roots(self) -> list[int]:
        """The roots that serve multicast, without ourselves."""
        if self.upstreams is not None:
            return list(self.upstreams())
        own = self.identity.address
        return [root.identity.address for root in self.vl1.planet.roots if root.identity.address != own]

    def best_root(self) -> int | None:
        """The root with the shortest round trip, or the first while none is known."""
        best, best_latency = None, float("inf")
        for address in self.roots():
            peer = self.vl1.peer(address)
            latency = None if peer is None else peer.latency
            if best is None or (latency is not None and latency < best_latency):
                best, best_latency = address, float("inf") if latency is None else latency
        return best
