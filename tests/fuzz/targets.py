"""What is fuzzed: every decoder and every engine, each a function of bytes that must not raise.

An engine's input is a script of steps: a byte that says what happens, a length (two bytes), and what is sent. So one
input may bring several packets, from several senders, with time between them; ``step`` writes one.
"""

from __future__ import annotations

import contextlib
import mmap
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final, cast

from tests.unit.controller.test_controller import Bench
from tests.unit.netstack.test_netstack_stack import A4, A6, B4, MAC_A, MAC_B, packed, stack
from tests.unit.vl1.vl1_network import IDENTITIES, WALL, planet
from tests.unit.vl2 import vl2_lab
from tests.unit.vl2.vl2_lab import ACCEPT, ALICE, BOB, MALLORY, NWID, Wire, member_config
from ztnode.netstack.stack import Stack
from ztnode.node import local_conf
from ztnode.ring import DATA_OFFSET, MIN_CAPACITY, Ring, RingCorrupt
from ztnode.vl1 import Vl1, Vl1Config
from ztnode.wire import arp, ethernet, frame, icmp, icmpv6, ipv4, ipv6, multicast, rules, tcp, udp
from ztnode.wire.capability import Capability
from ztnode.wire.certificate_of_membership import CertificateOfMembership
from ztnode.wire.certificate_of_ownership import CertificateOfOwnership
from ztnode.wire.compression import decompress
from ztnode.wire.config_chunk import ConfigChunk
from ztnode.wire.config_request import ConfigRequest, RequestMetadata, parse_auth_info
from ztnode.wire.dictionary import Dictionary
from ztnode.wire.errors import WireError
from ztnode.wire.hello import hello_identity, parse_hello, parse_ok_hello
from ztnode.wire.keys import PeerKeys
from ztnode.wire.known_peers import KnownPeers
from ztnode.wire.network_config import NetworkConfig
from ztnode.wire.network_credentials import NetworkCredentials
from ztnode.wire.packet import CIPHER_AES_GMAC_SIV, VERB_NETWORK_CONFIG_REQUEST
from ztnode.wire.push_direct_paths import parse_push_direct_paths
from ztnode.wire.reader import Reader
from ztnode.wire.rendezvous import parse_rendezvous
from ztnode.wire.reply import parse_error, parse_ok
from ztnode.wire.revocation import Revocation
from ztnode.wire.tag import Tag
from ztnode.wire.whois import parse_ok_whois, parse_whois
from ztnode.wire.world import World
from ztnode.worker import protocol

Target = Callable[[bytes], None]
MAX_STEPS: Final = 24
_ROOT, _LEAF, _PEER = IDENTITIES[:3]
_ROOT_AT, _PEER_AT, _ELSEWHERE = ("203.0.113.1", 9993), ("203.0.113.3", 9993), ("198.51.100.9", 1024)


def step(kind: int, data: bytes) -> bytes:
    """One step of an engine's script."""
    return bytes((kind,)) + len(data).to_bytes(2, "big") + data


def steps(script: bytes) -> Iterator[tuple[int, bytes]]:
    """The steps of a script, as far as it goes."""
    at = 0
    for _ in range(MAX_STEPS):
        if len(script) - at < 3:
            return
        length = int.from_bytes(script[at + 1 : at + 3], "big")
        yield script[at], script[at + 3 : at + 3 + length]
        at += 3 + length


# Decoders


@cache
def _keys() -> PeerKeys:
    return PeerKeys(_PEER.agree(_LEAF))


def _hello(data: bytes) -> object:
    return parse_hello(data, 8, _keys())


DECODERS: Final[tuple[Callable[[bytes], object], ...]] = (
    World.parse,
    hello_identity,
    _hello,
    parse_ok_hello,
    parse_ok,
    parse_error,
    parse_whois,
    parse_ok_whois,
    parse_rendezvous,
    parse_push_direct_paths,
    Dictionary.parse,
    NetworkConfig.parse,
    ConfigRequest.parse,
    ConfigChunk.parse,
    NetworkCredentials.parse,
    CertificateOfMembership.parse,
    lambda data: Capability.parse_from(Reader(data)),
    lambda data: CertificateOfOwnership.parse_from(Reader(data)),
    lambda data: Revocation.parse_from(Reader(data)),
    lambda data: Tag.parse_from(Reader(data)),
    lambda data: RequestMetadata.parse_dictionary(Dictionary.parse(data)),
    parse_auth_info,
    rules.parse_rules,
    frame.parse_ext_frame,
    multicast.parse_likes,
    multicast.parse_gather,
    multicast.parse_gathered,
    multicast.parse_multicast_frame,
    multicast.parse_multicast_frame_reply,
    decompress,
    lambda data: KnownPeers(data, WALL),
    arp.parse,
    ethernet.parse,
    icmp.parse,
    lambda data: icmpv6.parse(data, 0),
    ipv4.parse,
    lambda data: ipv4.parse(data, quoted=True),
    ipv6.parse,
    lambda data: ipv6.parse_extensions(data[0] if data else 0, memoryview(data)),
    tcp.parse,
    tcp.parse_options,
    lambda data: udp.parse(data, 0, checksum_required=False),
)


def decoders(data: bytes) -> None:
    """The first byte says which; WireError is an answer."""
    if data:
        with contextlib.suppress(WireError):
            DECODERS[data[0] % len(DECODERS)](data[1:])


def configuration(data: bytes) -> None:
    """local.conf: ValueError is an answer."""
    with contextlib.suppress(ValueError):
        local_conf.parse(data)


# VL1


def _vl1(script: bytes, *, relay: bool) -> None:
    """Datagrams of strangers; packets of a peer and of a root, authentic and without sense; time."""
    own, other = (_ROOT, _LEAF) if relay else (_LEAF, _ROOT)
    world = planet([(_ROOT, (_ROOT_AT,))])
    now = 1000.0
    vl1 = Vl1(own, world, random=random.Random(1).randbytes, now=now, wall=WALL, config=_CONFIG_OF[relay])
    vl1.add_peer(_PEER.without_secret(), now, [_PEER_AT])
    if relay:
        vl1.add_peer(other.without_secret(), now, [_ROOT_AT])
    packet_id = 1 << 32
    for kind, data in steps(script):
        packet_id += 8
        sender, endpoint = (_PEER, _PEER_AT) if kind & 1 else (other, _ROOT_AT)
        match kind >> 1 & 3:
            case 0:
                vl1.receive([(data, _ELSEWHERE)], now)
            case 1:
                destination, source = own.address.to_bytes(5, "big"), sender.address.to_bytes(5, "big")
                vl1.receive([(data[:8].ljust(8, b"\0") + destination + source + data[8:], endpoint)], now)
            case 2 if 0 < len(data) < 9000:
                keys = _agreed(own.address, sender.address)
                sealed = keys.seal(packet_id, own.address, sender.address, (data,), CIPHER_AES_GMAC_SIV, 10000)
                vl1.receive([(sealed, endpoint if kind & 8 else _ELSEWHERE)], now)
            case _:
                now += len(data) / 10
                vl1.handle_timer(now)
        vl1.to_send(), vl1.messages(), vl1.events(), vl1.identity_checks()
    assert len(vl1.peers()) < 10


_CONFIG_OF: Final = {
    relay: Vl1Config(relay=relay, defer_identity_checks=True, allow_loopback=relay) for relay in (True, False)
}


@cache
def _agreed(one: int, other: int) -> PeerKeys:
    by_address = {identity.address: identity for identity in IDENTITIES}
    return PeerKeys(by_address[one].agree(by_address[other]))


def vl1_leaf(data: bytes) -> None:
    """A leaf."""
    _vl1(data, relay=False)


def vl1_root(data: bytes) -> None:
    """A root."""
    _vl1(data, relay=True)


# VL2


def _vl2(script: bytes, enemy: int) -> None:
    """Alice is in a network with Bob; ``enemy`` sends what it likes, verb first, or signs what it likes (the
    controller)."""
    wire = Wire()
    wire.configs[ALICE] = member_config(ALICE, rules=ACCEPT)
    wire.add(ALICE)
    wire.nodes[ALICE].join(NWID, wire.now)
    wire.run(1)
    for number, (kind, data) in enumerate(steps(script)):
        match kind & 7:
            case 0 | 1 | 2 if data:
                payload = data[1:] if kind & 8 else NWID.to_bytes(8, "big") + data[1:]
                wire.deliver(enemy, ALICE, data[0] & 31, payload, number)
            case 3 if enemy == vl2_lab.CONTROLLER and data:
                try:
                    config = NetworkConfig.parse(data)
                except WireError:
                    continue
                for chunk in wire.chunks(config):
                    wire.deliver(enemy, ALICE, 0x0B, chunk, number)
            case 4:
                wire.nodes[ALICE].send_frames(NWID, [memoryview(data)], wire.now)
            case _:
                wire.run(len(data) / 10)
        wire.queue.clear()


def vl2_member(data: bytes) -> None:
    """A hostile member, or one who would be."""
    _vl2(data, BOB if data[:1] < b"\x80" else MALLORY)


def vl2_controller(data: bytes) -> None:
    """A hostile controller, whose signature is good."""
    _vl2(data, vl2_lab.CONTROLLER)


# The controller


def controller(script: bytes) -> None:
    """Requests of members and strangers, and documents as somebody might have edited them."""
    bench = Bench()
    nwid = bench.network()
    bench.authorize(nwid, 0xAA00000001)
    for kind, data in steps(script):
        peer = cast(Any, bench.vl1.peer(0xAA00000001 + (kind & 1)))
        bench.now += 1.0
        if kind & 6 == 2:
            with contextlib.suppress(ValueError):
                Bench({f"controller.d/network/{nwid:016x}.json": data})
            continue
        payload = data if kind & 8 else nwid.to_bytes(8, "big") + data
        verb = VERB_NETWORK_CONFIG_REQUEST if kind & 6 == 0 else data[0] & 31 if data else 0
        bench.controller.receive([(peer, verb, 1, payload)], bench.now, bench.wall)
        bench.controller.handle_timer(bench.now, bench.wall)
        bench.vl1.take()


# The host on the virtual Ethernet


def netstack(script: bytes) -> None:
    """Frames, whole or behind a header that is right, to a host that listens, and time."""
    host: Stack = stack(1, MAC_A, f"{A4}/24", f"{A6}/64")
    host.tcp.listen(80)
    now = 0.0
    head = MAC_A.to_bytes(6, "big") + MAC_B.to_bytes(6, "big")
    for kind, data in steps(script):
        match kind & 7:
            case 0:
                host.receive(0, [memoryview(data)], now)
            case 1:
                host.receive(0, [memoryview(head + data)], now)
            case 2 | 3 | 4:
                number = (ipv4.PROTOCOL_TCP, ipv4.PROTOCOL_UDP, ipv4.PROTOCOL_ICMP)[(kind & 7) - 2]
                header = ipv4.Header(packed(B4), packed(A4), number, len(data))
                host.receive(0, [memoryview(head + b"\x08\x00" + ipv4.build(header) + data)], now)
            case 5:
                header6 = ipv6.Header(packed("fd66::2"), packed(A6), kind, len(data))
                host.receive(0, [memoryview(head + b"\x86\xdd" + ipv6.build(header6) + data)], now)
            case _:
                now += len(data) / 10
                host.handle_timer(now)
        host.to_send(now)
    host.copy_unread()


# What goes between processes


def channel(data: bytes) -> None:
    """The control channel between node and worker; ProtocolError is an answer. What it takes it says again."""
    try:
        message = protocol.parse(data)
    except protocol.ProtocolError:
        pass
    else:
        assert protocol.parse(protocol.build(message)[4:]) == message
    try:
        for message in protocol.MessageStream().feed(data):
            protocol.build(message)
    except protocol.ProtocolError:
        pass


def ring(data: bytes) -> None:
    """Shared memory that the other process has written to as it liked; RingCorrupt is an answer."""
    shared = Ring.create(MIN_CAPACITY)
    try:
        shared.write_many([(1, (bytes(40),)), (2, (bytes(100),))])
        with mmap.mmap(shared.fds[0], DATA_OFFSET + MIN_CAPACITY) as memory:
            memory[:8], memory[128:136] = data[:8].ljust(8, b"\0"), data[8:16].ljust(8, b"\0")
            memory[DATA_OFFSET : DATA_OFFSET + len(data[16:])] = data[16 : 16 + MIN_CAPACITY]
        try:
            for _ in range(4):
                if not shared.read():
                    break
                shared.release()
            shared.write_many([(3, (bytes(64),))])
        except RingCorrupt:
            pass
    finally:
        shared.close()


TARGETS: Final[dict[str, Target]] = {
    "decoders": decoders,
    "configuration": configuration,
    "vl1-leaf": vl1_leaf,
    "vl1-root": vl1_root,
    "vl2-member": vl2_member,
    "vl2-controller": vl2_controller,
    "controller": controller,
    "netstack": netstack,
    "channel": channel,
    "ring": ring,
}
