"""What VL1 does with the verbs that are its own, as a table. Every other verb is for the layer above."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from ztnode.histogram import Histogram
from ztnode.vl1.peer import Peer
from ztnode.vl1.scope import Scope, is_ipv6, scope_of
from ztnode.vl1.traffic import LATENCY_BOUNDS, VERB_HELLO_COPY
from ztnode.vl1.transmit import Expected
from ztnode.vl1.vl1_core import Vl1Core
from ztnode.vl1.vl1_events import IdentityCollision
from ztnode.wire import packet
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.hello import OkHello, Version, build_ok_hello, newer_worlds, parse_hello, parse_ok_hello
from ztnode.wire.identity import Identity
from ztnode.wire.packet import PROTOCOL_VERSION_MIN
from ztnode.wire.push_direct_paths import parse_push_direct_paths
from ztnode.wire.rendezvous import parse_rendezvous
from ztnode.wire.reply import build_ok, parse_error, parse_ok
from ztnode.wire.whois import build_ok_whois, parse_ok_whois, parse_whois

MAX_PUSHED_PER_SCOPE: Final = 8
"""Endpoints of a scope and family taken from one PUSH_DIRECT_PATHS (…_MAX_PER_SCOPE_AND_FAMILY)."""
MAX_PUSHED_PER_ADDRESS: Final = 4
"""Of these, ports of one IP address: a node has three sockets at the most."""
MAX_WHOIS: Final = 64
"""Addresses looked at in one WHOIS."""
ECHO_INTERVAL: Final = 1 / 6
"""Seconds between answers to ECHO over one path (Path::rateGateEchoRequest)."""
MAX_OK_WORLDS: Final = 4096
"""Bytes of world updates sent along in one OK(HELLO)."""


@dataclass(frozen=True, slots=True)
class ArrivedPacket:
    """An authentic packet of one of VL1's own verbs."""

    peer: Peer
    packet_id: int
    plaintext: bytes
    """Verb byte first, decompressed."""
    endpoint: Endpoint
    """Where the datagram came from: the peer, or the root that relayed it."""
    hops: int
    now: float

    @property
    def payload(self) -> bytes:
        """What follows the verb byte."""
        return self.plaintext[1:]


Handler: TypeAlias = Callable[[Vl1Core, ArrivedPacket], None]


def on_hello(core: Vl1Core, arrival: ArrivedPacket) -> None:
    """HELLO: gated before anything in it is read."""
    if not arrival.peer.hello_gate.admit(arrival.now):
        core.counters["drop_rate_hello"] += 1
        return
    on_hello_copy(core, arrival)


def on_hello_copy(core: Vl1Core, arrival: ArrivedPacket) -> None:
    """Note the version, and answer OK by the way that the HELLO came. A node with several sockets sends the same
    HELLO from each, so a copy is answered too; ``Peer.copy_gate`` bounds that."""
    peer, now = arrival.peer, arrival.now
    moons = bool(core.topology.moons)
    hello = parse_hello(arrival.plaintext, arrival.packet_id, peer.keys, moons=moons)
    if hello.protocol < PROTOCOL_VERSION_MIN:
        core.counters["drop_protocol_version"] += 1
        return
    _note_version(peer, hello.protocol, hello.version)
    worlds = newer_worlds(hello, core.topology.planet, core.topology.moons.values())
    while sum(len(world.build()) for world in worlds) > MAX_OK_WORLDS:
        worlds = worlds[:-1]
    ok = OkHello(
        hello.timestamp,
        core.config.protocol,
        Version(*core.config.version),
        arrival.endpoint if scope_of(arrival.endpoint[0]) is not Scope.NONE else None,
        tuple(worlds),
    )
    _answer(core, arrival, packet.VERB_HELLO, build_ok_hello(ok))
    if hello.surface is not None and not arrival.hops:
        core.surface_reported(peer, arrival.endpoint, hello.surface, now)


def on_ok(core: Vl1Core, arrival: ArrivedPacket) -> None:
    """OK, from whom we asked: ours, or the layer above's. One that comes straight from the peer proves a path."""
    peer, now = arrival.peer, arrival.now
    ok = parse_ok(arrival.payload)
    expected = core.transmit.expected(ok.in_re_packet_id)
    if expected is None and ok.in_re_verb not in UNTRACKED_VERBS:
        core.twins.stray_answer(peer, now)
    if expected is None or expected.address != peer.address or expected.verb != ok.in_re_verb:
        core.counters["drop_unexpected_reply"] += 1
        return
    if not arrival.hops:
        core.counters["answers"] += 1
        core.path_proved(peer, arrival.endpoint, now)
    handler = OK_HANDLERS.get(ok.in_re_verb)
    if handler is None:
        _pass_up(core, arrival)
        return
    core.transmit.expect_no_more(ok.in_re_packet_id)
    handler(core, arrival, ok.payload, expected)


def on_ok_hello(core: Vl1Core, arrival: ArrivedPacket, payload: bytes, expected: Expected) -> None:
    """OK(HELLO): version, latency, world updates, and our own address as the peer sees it."""
    peer, now = arrival.peer, arrival.now
    ok = parse_ok_hello(payload)
    if ok.protocol < PROTOCOL_VERSION_MIN:
        core.counters["drop_protocol_version"] += 1
        return
    _note_version(peer, ok.protocol, ok.version)
    on_ok_echo(core, arrival, payload, expected)
    if core.topology.accepts_worlds_from(peer.address):
        for world in ok.worlds:
            core.world_offered(world, now)
    if ok.surface is not None and not arrival.hops:
        core.surface_reported(peer, arrival.endpoint, ok.surface, now)


def on_ok_echo(core: Vl1Core, arrival: ArrivedPacket, payload: bytes, expected: Expected) -> None:
    """OK(ECHO): the round trip, and that a packet of this length passes."""
    path = arrival.peer.paths.get(arrival.endpoint)
    if path is not None and not arrival.hops:
        round_trip = max(0.0, arrival.now - expected.sent)
        path.measured(round_trip)
        if arrival.peer.latencies is None:
            arrival.peer.latencies = Histogram(LATENCY_BOUNDS)
        arrival.peer.latencies.observe(round_trip * 1000)
        if expected.verb == packet.VERB_ECHO and payload:
            core.contacts.carried(arrival.peer, path, len(payload))


def on_ok_whois(core: Vl1Core, arrival: ArrivedPacket, payload: bytes, _expected: Expected) -> None:
    """OK(WHOIS): identities that we asked a root for; its word is taken for them, as the reference does."""
    if not core.topology.is_upstream(arrival.peer.address):
        core.counters["drop_not_upstream"] += 1
        return
    for identity in parse_ok_whois(payload):
        core.introductions.identity_found(identity, arrival.now)


def on_error(core: Vl1Core, arrival: ArrivedPacket) -> None:
    """ERROR: a collision of identities is ours; what concerns the layer above's verbs goes there."""
    error = parse_error(arrival.payload)
    core.traffic.errors_received[error.code] += 1
    expected = core.transmit.expected(error.in_re_packet_id)
    asked = expected is not None and expected.address == arrival.peer.address
    if error.code == packet.ERROR_IDENTITY_COLLISION and asked and core.topology.is_upstream(arrival.peer.address):
        core.emit(IdentityCollision(arrival.peer.address))
    elif error.in_re_verb in UNTRACKED_VERBS or (asked and error.in_re_verb not in HANDLERS):
        _pass_up(core, arrival)
    else:
        core.counters["drop_unexpected_reply"] += 1


def on_whois(core: Vl1Core, arrival: ArrivedPacket) -> None:
    """WHOIS: answer with the identities that we know, and ask our own roots for the others."""
    peer, now = arrival.peer, arrival.now
    if not core.is_relay and not peer.whois_gate.admit(now):
        core.counters["drop_rate_whois"] += 1
        return
    identities: list[Identity] = []
    for address in parse_whois(arrival.payload[: 5 * MAX_WHOIS]):
        if address == core.identity.address:
            identities.append(core.identity.without_secret())
        elif (known := core.topology.by_address.get(address)) is not None:
            identities.append(known.identity)
        elif core.is_relay:
            core.introductions.asked_for(peer, address, now)
    if identities:
        _answer(core, arrival, packet.VERB_WHOIS, build_ok_whois(identities))


def on_rendezvous(core: Vl1Core, arrival: ArrivedPacket) -> None:
    """RENDEZVOUS from a root: try the endpoint that it names for a peer."""
    if not core.topology.is_upstream(arrival.peer.address):
        core.counters["drop_not_upstream"] += 1
        return
    rendezvous = parse_rendezvous(arrival.payload)
    core.introductions.suggest(rendezvous.address, rendezvous.endpoint, arrival.now)


def on_echo(core: Vl1Core, arrival: ArrivedPacket) -> None:
    """ECHO: the same back, unless too much of it is asked for."""
    path = arrival.peer.paths.get(arrival.endpoint)
    if path is None:
        admitted = arrival.peer.echo_gate.admit(arrival.now)
    elif admitted := arrival.now >= path.next_echo_answer:
        path.next_echo_answer = arrival.now + ECHO_INTERVAL
    if not admitted:
        core.counters["drop_rate_echo"] += 1
        return
    _answer(core, arrival, packet.VERB_ECHO, arrival.payload)


def on_push_direct_paths(core: Vl1Core, arrival: ArrivedPacket) -> None:
    """PUSH_DIRECT_PATHS: try endpoints that the peer says are its own, a few of each scope."""
    peer, now = arrival.peer, arrival.now
    if not peer.push_gate.admit(now):
        core.counters["drop_rate_push_direct_paths"] += 1
        return
    by_scope: Counter[tuple[Scope, bool]] = Counter()
    by_address: Counter[str] = Counter()
    for pushed in parse_push_direct_paths(arrival.payload):
        path = peer.paths.get(pushed.endpoint)
        if pushed.forget or (path is not None and not path.dead):
            continue
        ip = pushed.endpoint[0]
        key = (scope_of(ip), is_ipv6(pushed.endpoint))
        by_scope[key] += 1
        by_address[ip] += 1
        if by_scope[key] <= MAX_PUSHED_PER_SCOPE and by_address[ip] <= MAX_PUSHED_PER_ADDRESS:
            core.contacts.confirm(peer, pushed.endpoint, now)


def on_nothing(core: Vl1Core, arrival: ArrivedPacket) -> None:
    """NOP: authentic, and needs no answer."""


def on_bonding(_core: Vl1Core, arrival: ArrivedPacket) -> None:
    """Measurements of multipath bonding, which is not done here."""
    arrival.peer.bonds = True


def on_unknown(core: Vl1Core, _arrival: ArrivedPacket) -> None:
    """A verb that nobody knows: authentic, and otherwise nothing."""
    core.counters["drop_unknown_verb"] += 1


def _pass_up(core: Vl1Core, arrival: ArrivedPacket) -> None:
    verb = arrival.plaintext[0] & packet.VERB_MASK
    core.pass_up(arrival.peer, verb, arrival.packet_id, memoryview(arrival.plaintext)[1:])


def _note_version(peer: Peer, protocol: int, version: Version) -> None:
    peer.protocol = protocol
    peer.version = (version.major, version.minor, version.revision)


def _answer(core: Vl1Core, arrival: ArrivedPacket, verb: int, payload: bytes) -> None:
    plaintext = build_ok(verb, arrival.packet_id, payload)
    core.transmit.send_to(arrival.endpoint, arrival.peer, packet.VERB_OK, (plaintext[1:],), arrival.now)


HANDLERS: Final[dict[int, Handler]] = {
    packet.VERB_NOP: on_nothing,
    packet.VERB_HELLO: on_hello,
    VERB_HELLO_COPY: on_hello_copy,
    packet.VERB_ERROR: on_error,
    packet.VERB_OK: on_ok,
    packet.VERB_WHOIS: on_whois,
    packet.VERB_RENDEZVOUS: on_rendezvous,
    packet.VERB_ECHO: on_echo,
    packet.VERB_PUSH_DIRECT_PATHS: on_push_direct_paths,
    packet.VERB_ACK: on_bonding,
    packet.VERB_QOS_MEASUREMENT: on_bonding,
    packet.VERB_REMOTE_TRACE: on_nothing,
    packet.VERB_PATH_NEGOTIATION_REQUEST: on_bonding,
}
"""By verb."""

PASSED_UP: Final = frozenset(
    (
        packet.VERB_FRAME,
        packet.VERB_EXT_FRAME,
        packet.VERB_MULTICAST_LIKE,
        packet.VERB_NETWORK_CREDENTIALS,
        packet.VERB_NETWORK_CONFIG_REQUEST,
        packet.VERB_NETWORK_CONFIG,
        packet.VERB_MULTICAST_GATHER,
        packet.VERB_MULTICAST_FRAME,
        packet.VERB_USER_MESSAGE,
    )
)
"""Verbs of the layer above. What is in neither table is authentic, and otherwise nothing: no traffic that keeps a peer
alive (IncomingPacket::tryDecode, Peer::received)."""

OK_HANDLERS: Final[dict[int, Callable[[Vl1Core, ArrivedPacket, bytes, Expected], None]]] = {
    packet.VERB_HELLO: on_ok_hello,
    packet.VERB_WHOIS: on_ok_whois,
    packet.VERB_ECHO: on_ok_echo,
}
"""By in-re verb. An OK to anything else is passed up."""

UNTRACKED_VERBS: Final = frozenset((packet.VERB_FRAME, packet.VERB_EXT_FRAME, packet.VERB_MULTICAST_FRAME))
"""Verbs sent in such numbers that no packet id is remembered, so that an ERROR to them cannot be matched here."""
