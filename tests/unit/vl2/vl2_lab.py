"""A network of switches over a VL1 that delivers at once, with a fake clock: thousands of seconds pass in one."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ztnode.vl1 import Vl1Config
from ztnode.vl2 import ConfigStored, NetworkSnapshot, Vl2
from ztnode.wire import c25519
from ztnode.wire.certificate_of_membership import CertificateOfMembership
from ztnode.wire.config_chunk import split_config
from ztnode.wire.config_request import ConfigRequest
from ztnode.wire.identity import Identity
from ztnode.wire.mac import mac_of
from ztnode.wire.network_config import NetworkConfig, NetworkType
from ztnode.wire.packet import (
    ERROR_NETWORK_ACCESS_DENIED,
    VERB_ERROR,
    VERB_NETWORK_CONFIG_REQUEST,
    VERB_OK,
)
from ztnode.wire.rules import Rule, RuleType

CONTROLLER, ALICE, BOB, ROOT, MALLORY = 0x1122334455, 0xA11CE00001, 0xB0B0000002, 0x2007000003, 0x3A11020004
NWID = CONTROLLER << 24 | 0x0A69E3
WALL = 1_800_000_000_000
WINDOW = 1_800_000
"""Milliseconds by which credentials may differ."""


def identity(address: int) -> Identity:
    """A key pair for an address of our choice; nobody checks here that they belong together."""
    secret = random.Random(address).randbytes(64)
    return Identity(address, c25519.derive_public(secret), secret)


IDENTITIES = {address: identity(address) for address in (CONTROLLER, ALICE, BOB, ROOT, MALLORY)}
ACCEPT = (Rule(RuleType.ACTION_ACCEPT),)


def member_config(address: int, *, timestamp: int = WALL, private: bool = True, **fields: Any) -> NetworkConfig:
    """What the controller issues to a member."""
    controller = IDENTITIES[CONTROLLER]
    values: dict[str, Any] = {
        "revision": 1,
        "type": NetworkType.PRIVATE if private else NetworkType.PUBLIC,
        "name": "test",
        "rules": ACCEPT,
        "certificate_of_membership": CertificateOfMembership.issue(NWID, timestamp, WINDOW, IDENTITIES[address]).sign(
            controller
        ),
    }
    return NetworkConfig(NWID, address, timestamp, WINDOW, **(values | fields))


@dataclass(eq=False)
class FakePeer:
    identity: Identity
    latency: float | None = 0.001
    endpoint: tuple[str, int] | None = ("192.0.2.1", 9993)

    @property
    def address(self) -> int:
        return self.identity.address


@dataclass
class FakeRoot:
    identity: Identity


@dataclass
class FakeWorld:
    roots: Sequence[FakeRoot]


class FakeVl1:
    """Delivers through the ``Wire``; knows every peer unless told otherwise."""

    def __init__(self, own: int, wire: Wire) -> None:
        self.own = own
        self.wire = wire
        self.config = Vl1Config()
        self.online = True
        self.planet = FakeWorld([FakeRoot(IDENTITIES[ROOT])])
        self.known = {address: FakePeer(known) for address, known in IDENTITIES.items() if address != own}
        self.contacts: set[int] = set()
        self.trusted: Counter[int] = Counter()

    def peer(self, address: int) -> FakePeer | None:
        return self.known.get(address)

    def send(self, address: int, verb: int, payload: Any, now: float, *, compress: bool = False) -> int:
        assert address != self.own and 0 < address < 0xFF << 32
        if len(payload) > 9900:
            raise ValueError("too long for a packet")
        return self.wire.carry(self.own, address, verb, bytes(payload))

    def send_batch(self, address: int, verb: int, payloads: Sequence[Any], now: float) -> None:
        for parts in payloads:
            self.send(address, verb, b"".join(bytes(part) for part in parts), now)

    def reply_ok(self, peer: FakePeer, verb: int, packet_id: int, payload: Any, now: float) -> int:
        return self.send(peer.address, VERB_OK, bytes((verb,)) + packet_id.to_bytes(8, "big") + bytes(payload), now)

    def reply_error(self, peer: FakePeer, verb: int, packet_id: int, code: int, payload: Any, now: float) -> int:
        head = bytes((verb,)) + packet_id.to_bytes(8, "big") + bytes((code,))
        return self.send(peer.address, VERB_ERROR, head + bytes(payload), now)

    def trust(self, peer: FakePeer, now: float) -> None:
        self.trusted[peer.address] += 1

    def contact(self, address: int, now: float) -> None:
        self.contacts.add(address)

    def release(self, address: int) -> None:
        self.contacts.remove(address)


@dataclass
class Wire:
    """Everything that was sent, and the switches that it is delivered to by ``settle``."""

    now: float = 1000.0
    log: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    """(from, to, verb, payload)"""
    queue: deque[tuple[int, int, int, int, bytes]] = field(default_factory=deque)
    nodes: dict[int, Vl2] = field(default_factory=dict)
    vl1s: dict[int, FakeVl1] = field(default_factory=dict)
    configs: dict[int, NetworkConfig | None] = field(default_factory=dict)
    """What the controller answers to a member: None is access denied, no entry is silence."""
    inboxes: dict[int, list[tuple[bytes, bytes]]] = field(default_factory=dict)
    stored: dict[int, bytes | None] = field(default_factory=dict)
    requests: list[tuple[float, int]] = field(default_factory=list)
    _ids: int = 0

    def carry(self, source: int, target: int, verb: int, payload: bytes) -> int:
        self._ids += 1
        self.log.append((source, target, verb, payload))
        self.queue.append((source, target, verb, self._ids, payload))
        return self._ids

    def add(self, address: int, **options: Any) -> Vl2:
        vl1 = self.vl1s[address] = FakeVl1(address, self)
        node: Vl2 = Vl2(
            vl1,  # type: ignore[arg-type]
            IDENTITIES[address],
            random=random.Random(1).randbytes,
            now=self.now,
            wall=WALL,
            **options,
        )
        self.nodes[address] = node
        self.inboxes[address] = []
        return node

    def settle(self) -> None:
        """Deliver until nothing is under way."""
        for _ in range(10_000):
            if not self.queue:
                break
            source, target, verb, packet_id, payload = self.queue.popleft()
            if target == CONTROLLER and verb == VERB_NETWORK_CONFIG_REQUEST:
                self._answer(source, packet_id, ConfigRequest.parse(payload))
            elif target in self.nodes:
                self.deliver(source, target, verb, payload, packet_id)
        else:
            raise AssertionError("messages run in circles")
        self.collect()

    def deliver(self, source: int, target: int, verb: int, payload: bytes, packet_id: int = 1) -> None:
        peer = self.vl1s[target].known.get(source)
        if peer is not None:
            self.nodes[target].receive([(peer, verb, packet_id, memoryview(payload))], self.now)  # type: ignore[list-item]
        self.collect()

    def collect(self) -> None:
        for address, node in self.nodes.items():
            for nwid, frames in node.frames():
                assert nwid == NWID
                self.inboxes[address] += [(header, bytes(payload)) for header, payload in frames]
            for event in node.events():
                if isinstance(event, ConfigStored):
                    self.stored[address] = event.data

    def _answer(self, member: int, packet_id: int, request: ConfigRequest) -> None:
        self.requests.append((self.now, member))
        if member not in self.configs:
            return
        config = self.configs[member]
        in_re = bytes((VERB_NETWORK_CONFIG_REQUEST,)) + packet_id.to_bytes(8, "big")
        if config is None:
            body = bytes((ERROR_NETWORK_ACCESS_DENIED,)) + request.network_id.to_bytes(8, "big")
            self.deliver(CONTROLLER, member, VERB_ERROR, in_re + body)
            return
        for chunk in self.chunks(config):
            self.deliver(CONTROLLER, member, VERB_OK, in_re + chunk)

    def chunks(self, config: NetworkConfig, **options: Any) -> list[bytes]:
        self._ids += 1
        parts = split_config(NWID, config.build(), self._ids, IDENTITIES[CONTROLLER], **options)
        return [part.build() for part in parts]

    def run(self, seconds: float) -> None:
        """Let time pass, timers and all."""
        end = self.now + seconds
        self.settle()
        for _ in range(100_000):
            due = [timer for node in self.nodes.values() if (timer := node.next_timer()) is not None]
            if min(due, default=end) >= end:
                break
            self.now = max(self.now, min(due))
            for node in self.nodes.values():
                timer = node.next_timer()
                if timer is not None and timer <= self.now:
                    node.handle_timer(self.now)
            self.settle()
        else:
            raise AssertionError("a timer that does not move on")
        self.now = end

    def send(self, address: int, *frames: bytes) -> None:
        self.nodes[address].send_frames(NWID, [memoryview(frame) for frame in frames], self.now)
        self.settle()

    def network(self, address: int) -> NetworkSnapshot:
        snapshot = self.nodes[address].network(NWID)
        assert snapshot is not None
        return snapshot

    def sent(self, source: int, target: int | None = None, verb: int | None = None) -> list[bytes]:
        return [payload for a, b, v, payload in self.log if a == source and target in (None, b) and verb in (None, v)]


def mac(address: int) -> bytes:
    return mac_of(address, NWID).to_bytes(6, "big")


def frame(source: int, target: int, payload: bytes = bytes(60), ethertype: int = 0x0800) -> bytes:
    """An Ethernet frame between members."""
    return mac(target) + mac(source) + ethertype.to_bytes(2, "big") + payload
