"""A datagram network under a fake clock, on which several ``Vl1`` talk: delay, loss, duplication, reordering, NAT.

Everything random comes from one seed, so a failure can be replayed.
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ztnode.vl1 import Event, Message, Vl1, Vl1Config
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.identity import Identity
from ztnode.wire.world import Root, World, WorldType

VECTORS = Path(__file__).parents[2] / "vectors" / "vl1"
WALL = 1_700_000_000_000


def identities() -> list[Identity]:
    """Eight identities, secrets included, that zerotier-idtool made."""
    generated = json.loads((VECTORS / "identities.json").read_text())["identities"]
    captured = json.loads((VECTORS / "packets.json").read_text())["identities"]
    return [Identity.parse_text(entry["secret"]) for entry in generated] + [
        Identity.parse_text(text) for text in captured.values()
    ]


IDENTITIES = identities()
SIGNER = IDENTITIES[0]
"""Whose key signs the planets of these tests."""


def planet(roots: Iterable[tuple[Identity, tuple[Endpoint, ...]]], timestamp: int = 1) -> World:
    """A planet with these roots."""
    assert SIGNER.secret is not None
    entries = [Root(identity.without_secret(), endpoints) for identity, endpoints in roots]
    return World.sign(
        WorldType.PLANET, 7, timestamp, SIGNER.public, entries, public=SIGNER.public, secret=SIGNER.secret
    )


@dataclass
class Host:
    """A node and what has come out of it."""

    vl1: Vl1
    endpoint: Endpoint
    messages: list[Message] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    sent: int = 0

    @property
    def address(self) -> int:
        return self.vl1.identity.address

    def payloads(self, verb: int) -> list[bytes]:
        """The payloads of this verb that arrived."""
        return [bytes(payload) for _, got, _, payload in self.messages if got == verb]

    def path_to(self, other: Host) -> Endpoint | None:
        peer = self.vl1.peer(other.address)
        return None if peer is None else peer.endpoint


class Nat:
    """Maps inner endpoints to ports of one outer address. What comes in passes only from where something went."""

    def __init__(self, outer_ip: str) -> None:
        self.outer_ip = outer_ip
        self._ports: dict[Endpoint, int] = {}
        self._allowed: set[tuple[int, Endpoint]] = set()

    def outward(self, source: Endpoint, destination: Endpoint) -> Endpoint:
        port = self._ports.setdefault(source, 40000 + len(self._ports))
        self._allowed.add((port, destination))
        return self.outer_ip, port

    def inward(self, source: Endpoint, destination: Endpoint) -> Endpoint | None:
        if (destination[1], source) not in self._allowed:
            return None
        return next(inner for inner, port in self._ports.items() if port == destination[1])


class Network:
    """The clock, the wires and the hosts."""

    def __init__(
        self, seed: int = 1, *, delay: float = 0.01, jitter: float = 0.0, loss: float = 0.0, duplication: float = 0.0
    ) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.delay, self.jitter, self.loss, self.duplication = delay, jitter, loss, duplication
        self.hosts: dict[Endpoint, Host] = {}
        self.nats: dict[str, Nat] = {}
        self.behind: dict[str, Nat] = {}
        self.blocked: Callable[[Endpoint, Endpoint], bool] = lambda source, destination: False
        self.tampers: Callable[[bytes], bytes] = lambda datagram: datagram
        self._wire: list[tuple[float, int, bytes, Endpoint, Endpoint]] = []
        self._serial = 0

    def add(
        self,
        identity: Identity,
        endpoint: Endpoint,
        world: World,
        *,
        nat: Nat | None = None,
        moons: Iterable[World] = (),
        **settings: object,
    ) -> Host:
        """Start a node."""
        vl1 = Vl1(
            identity,
            world,
            moons=tuple(moons),
            random=self.random.randbytes,
            now=self.now,
            wall=WALL + int(self.now * 1000),
            config=Vl1Config(**settings),  # type: ignore[arg-type]
        )
        host = self.hosts[endpoint] = Host(vl1, endpoint)
        if nat is not None:
            self.behind[endpoint[0]] = nat
            self.nats[nat.outer_ip] = nat
        return host

    def inject(self, datagram: bytes, source: Endpoint, destination: Endpoint) -> None:
        """Put a datagram on the wire."""
        self._serial += 1
        arrival = self.now + self.delay + self.random.random() * self.jitter
        heapq.heappush(self._wire, (arrival, self._serial, datagram, source, destination))

    def flush(self) -> None:
        """Take what the hosts have to say."""
        for host in self.hosts.values():
            host.messages += host.vl1.messages()
            host.events += host.vl1.events()
            for destination, datagrams in host.vl1.to_send():
                for datagram in datagrams:
                    host.sent += 1
                    self._transmit(datagram, host.endpoint, destination)

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; stop early once ``until`` holds. Whether it does (True without one)."""
        end = self.now + seconds
        while True:
            self.flush()
            if until is not None and until():
                return True
            timers = [timer for host in self.hosts.values() if (timer := host.vl1.next_timer()) is not None]
            upcoming = min([*timers, *(entry[0] for entry in self._wire[:1])], default=end)
            if upcoming > end:
                self.now = end
                return until is None
            self.now = max(self.now, upcoming)
            while self._wire and self._wire[0][0] <= self.now:
                _, _, datagram, source, destination = heapq.heappop(self._wire)
                self._deliver(datagram, source, destination)
            for host in self.hosts.values():
                if (timer := host.vl1.next_timer()) is not None and timer <= self.now:
                    host.vl1.handle_timer(self.now)

    def _transmit(self, datagram: bytes, source: Endpoint, destination: Endpoint) -> None:
        if (nat := self.behind.get(source[0])) is not None:
            source = nat.outward(source, destination)
        if self.blocked(source, destination) or self.random.random() < self.loss:
            return
        self.inject(self.tampers(datagram), source, destination)
        if self.random.random() < self.duplication:
            self.inject(datagram, source, destination)

    def _deliver(self, datagram: bytes, source: Endpoint, destination: Endpoint) -> None:
        if (nat := self.nats.get(destination[0])) is not None:
            inner = nat.inward(source, destination)
            if inner is None:
                return
            destination = inner
        if (host := self.hosts.get(destination)) is not None:
            host.vl1.receive([(datagram, source)], self.now)


def triangle(
    network: Network, *, relay_only: bool = False, nat: bool = False, **settings: Any
) -> tuple[Host, Host, Host]:
    """A root and two leaves. ``relay_only``: the leaves cannot reach each other."""
    root_endpoint, one, two = ("203.0.113.1", 9993), ("203.0.113.2", 9993), ("203.0.113.3", 9993)
    world = planet([(IDENTITIES[0], (root_endpoint,))])
    root = network.add(IDENTITIES[0], root_endpoint, world)
    if nat:
        one, two = ("10.1.0.2", 9993), ("10.2.0.2", 9993)
    leaves = (
        network.add(IDENTITIES[1], one, world, nat=Nat("198.51.100.1") if nat else None, **settings),
        network.add(IDENTITIES[2], two, world, nat=Nat("198.51.100.2") if nat else None, **settings),
    )
    if relay_only:
        network.blocked = lambda source, destination: root_endpoint not in (source, destination)
    return root, *leaves
