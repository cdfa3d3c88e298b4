"""Whole stacks under a fake clock: two hosts on a wire, errors, several ports, bad input, own addresses."""

from __future__ import annotations

import errno
import json
import random
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fault_injector import FaultInjector, Faults, FaultyLink
from ztnode.netstack.config import LOOPED, NeighbourConfig, PortConfig, StackConfig
from ztnode.netstack.echo import EchoReply
from ztnode.netstack.stack import Stack
from ztnode.wire import arp, checksum, ethernet, icmp, icmpv6, ipv4, ipv6, tcp, udp

VECTORS = [
    bytes.fromhex(text)
    for text in json.loads((Path(__file__).parents[2] / "vectors" / "net" / "linux.json").read_text()).values()
]
MAC_A, MAC_B = 0x026600000001, 0x026600000002
A4, B4, A6, B6 = "10.66.0.1", "10.66.0.2", "fd66::1", "fd66::2"
VERSIONS = pytest.mark.parametrize(("ours", "theirs"), [(A4, B4), (A6, B6)], ids=["ipv4", "ipv6"])


def packed(text: str) -> bytes:
    return ip_address(text).packed


def stack(seed: int, mac: int, *addresses: str, mtu: int = 1500, config: StackConfig | None = None) -> Stack:
    instance = Stack(random=random.Random(seed).randbytes, now=0.0, config=config or StackConfig(announce=False))
    instance.add_port(0, PortConfig(mac, mtu, addresses), 0.0)
    return instance


class Wire:
    """Port 0 of two stacks joined; time is ours."""

    def __init__(self, a: Stack, b: Stack) -> None:
        self.a, self.b = a, b
        self.now = 0.0
        self.seen: list[bytes] = []

    def exchange(self) -> None:
        """Carry frames until nobody says any more."""
        while True:
            quiet = True
            for source, target in ((self.a, self.b), (self.b, self.a)):
                frames = [b"".join(frame) for _, frame in source.to_send(self.now)]
                if frames:
                    quiet = False
                    self.seen += frames
                    target.receive(0, [memoryview(frame) for frame in frames], self.now)
            if quiet:
                return

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        self.exchange()
        while True:
            due = [timer for timer in (self.a.next_timer(), self.b.next_timer()) if timer is not None]
            if not due or min(due) > end:
                break
            self.now = max(self.now, min(due))
            self.a.handle_timer(self.now)
            self.b.handle_timer(self.now)
            self.exchange()
        self.now = end


@pytest.fixture
def wire() -> Wire:
    return Wire(stack(1, MAC_A, f"{A4}/24", f"{A6}/64"), stack(2, MAC_B, f"{B4}/24", f"{B6}/64"))


def test_stacks_that_are_one_host_reach_each_other_by_its_address() -> None:
    """A frame to ourselves goes out, marked, and is taken in by a sibling; unmarked it would be a forgery."""
    config = StackConfig(announce=False, siblings=True)
    one, two = (stack(seed, MAC_A, f"{A4}/24", config=config) for seed in (1, 2))
    server, client = two.udp(A4, 53), one.udp(A4, 1000)
    client.sendto(b"brother", (A4, 53), 0.0)
    [(index, frame)] = one.to_send(0.0)
    assert index == LOOPED
    view = memoryview(b"".join(frame))
    two.receive(0, [view], 0.0)
    assert server.recvfrom() is None
    assert two.counters["bad_source"] == 1
    two.receive(index, [view], 0.0)
    assert server.recvfrom() == (b"brother", (A4, 1000))
    two.receive(0, [view], 0.0)
    assert two.counters["bad_source"] == 2, "the mark is that frame's alone"


@VERSIONS
def test_who_was_let_in_before_is_looked_at_again_when_addresses_change(ours: str, theirs: str) -> None:
    """A source that was good becomes our own address: its packets are forgeries from then on. And nobody fills our
    memory with sources that are made up."""
    bits = 24 if ours == A4 else 64
    target = stack(1, MAC_A, f"{ours}/{bits}")

    def receive(source: bytes) -> None:
        destination = packed(ours)
        pseudo = checksum.pseudo_sum(source, destination, ipv4.PROTOCOL_TCP) + tcp.HEADER_LENGTH
        header = tcp.build(tcp.Header(1000, 80, 1, 0, tcp.SYN, 1000))
        field = checksum.finish(checksum.region_sum(header) + pseudo)
        segment = header[:16] + field.to_bytes(2, "big") + header[18:]
        if len(source) == 4:
            packet = ipv4.build(ipv4.Header(source, destination, ipv4.PROTOCOL_TCP, len(segment), 64, 1, 0)) + segment
            frame = ethernet.build(target.ports[0].mac, ethernet.mac_bytes(MAC_B), ethernet.TYPE_IPV4) + packet
        else:
            packet = ipv6.build(ipv6.Header(source, destination, ipv4.PROTOCOL_TCP, len(segment), 64)) + segment
            frame = ethernet.build(target.ports[0].mac, ethernet.mac_bytes(MAC_B), ethernet.TYPE_IPV6) + packet
        target.receive(0, [memoryview(frame)], 0.0)

    for _ in range(2):
        receive(packed(theirs))
    assert target.tcp.counters["resets_sent"] == 2, "nobody listens"
    target.update_port(0, PortConfig(MAC_A, 1500, (f"{ours}/{bits}", f"{theirs}/{bits}")), 0.0)
    receive(packed(theirs))
    assert target.counters["bad_source"] == 1 and target.tcp.counters["resets_sent"] == 2
    for number in range(5000):
        receive(packed(theirs)[:-2] + (number + 300).to_bytes(2, "big"))
    assert len(target.ports[0].familiar) <= 4096


# --- two hosts ---


@VERSIONS
def test_echo(wire: Wire, ours: str, theirs: str) -> None:
    ping = wire.a.ping(theirs, 0.0)
    ping.send(b"x" * 5000, 0.0)
    wire.run(0.1)
    (reply,) = ping.replies()
    assert (reply.sequence, reply.payload, reply.hop_limit) == (1, b"x" * 5000, 64)
    assert ping in wire.a.ready()
    assert wire.a.ready() == []
    # Nobody asked a second time.
    wire.a.receive(0, [memoryview(frame) for frame in wire.seen], wire.now)
    assert ping.replies() == []


@VERSIONS
def test_udp_and_refusal(wire: Wire, ours: str, theirs: str) -> None:
    one, two = wire.a.udp(), wire.b.udp(theirs, 5000)
    one.connect((theirs, 5000), 0.0)
    one.send(b"hello", 0.0)
    wire.run(0.1)
    data, source = two.recvfrom() or (b"", ("", 0))
    assert (data, source) == (b"hello", one.local)
    two.sendto(b"y" * 40000, source, wire.now)
    wire.run(0.1)
    assert one.recv() == b"y" * 40000
    two.close()
    one.send(b"gone", wire.now)
    wire.run(0.1)
    with pytest.raises(ConnectionRefusedError):
        one.recv()
    with pytest.raises(OSError, match="Bad file descriptor"):
        two.recvfrom()


def test_unconnected_udp_hears_of_errors_without_raising(wire: Wire) -> None:
    socket = wire.a.udp()
    socket.sendto(b"?", (B4, 9), 0.0)
    wire.run(0.1)
    assert socket.recvfrom() is None
    ((error, whom),) = socket.errors()
    assert isinstance(error, ConnectionRefusedError)
    assert whom == (B4, 9)


@VERSIONS
def test_nobody_there(wire: Wire, ours: str, theirs: str) -> None:
    nobody = theirs[:-1] + "9"
    socket, ping = wire.a.udp(), wire.a.ping(nobody, 0.0)
    socket.connect((nobody, 9), 0.0)
    socket.send(b"?", 0.0)
    ping.send(b"", 0.0)
    connection = wire.a.connect(nobody, 80, 0.0)
    wire.run(3.0)
    for error in (socket.error, ping.error, connection.error):
        assert error is not None
        assert error.errno == errno.EHOSTUNREACH


@VERSIONS
def test_a_neighbour_moves_to_another_mac(wire: Wire, ours: str, theirs: str) -> None:
    """It announces itself, and established flows follow."""
    socket = wire.a.udp()
    socket.connect((theirs, 9), 0.0)
    wire.b.udp(theirs, 9)
    socket.send(b"1", 0.0)
    wire.run(0.1)
    flow = wire.a.find_flow(packed(theirs), wire.now)
    assert flow.header[:6] == ethernet.mac_bytes(MAC_B)
    before = flow.generation
    config = wire.b.ports[0].config
    wire.b.update_port(0, PortConfig(0x026600000007, config.mtu, config.addresses), wire.now)
    wire.b.ports[0].announce(packed(theirs))
    wire.run(0.1)
    assert flow.header[:6] == ethernet.mac_bytes(0x026600000007)
    assert flow.generation > before


def test_tcp_reaches_its_layer(wire: Wire) -> None:
    listener = wire.b.listen(None, 80)
    connection = wire.a.connect(B6, 80, 0.0)
    wire.run(0.1)
    assert connection.established
    accepted = listener.accept()
    assert accepted is not None
    assert accepted.remote == connection.local


# --- addresses, routes, ports ---


def test_own_addresses_turn_round_inside() -> None:
    alone = stack(1, MAC_A, f"{A4}/24", f"{A6}/64")
    for address in (A4, A6):
        one, two = alone.udp(address, 0), alone.udp(address, 5000)
        one.sendto(b"me", (address, 5000), 0.0)
        assert alone.next_timer() == 0.0
        assert alone.to_send(0.0) == []
        assert two.recvfrom() == (b"me", one.local)
        listener = alone.listen(address, 80)
        connection = alone.connect(address, 80, 0.0)
        assert alone.to_send(0.0) == []
        assert connection.established
        assert listener.accept() is not None
        listener.close()
        two.close()


def test_gateways_and_several_ports() -> None:
    host = Stack(random=random.Random(1).randbytes, now=0.0, config=StackConfig(announce=False))
    host.add_port(3, PortConfig(MAC_A, 1500, ("10.1.0.1/24",), (("10.9.0.0/16", "10.1.0.254"),)), 0.0)
    host.add_port(4, PortConfig(MAC_B, 2800, ("10.2.0.1/24",), (("10.8.0.0/16", "10.2.0.1"),)), 0.0)
    far = host.find_flow(packed("10.9.1.1"), 0.0)
    assert (far.port_index, far.local, far.next_hop, far.mtu) == (3, packed("10.1.0.1"), packed("10.1.0.254"), 1500)
    near = host.find_flow(packed("10.2.0.9"), 0.0)
    assert (near.port_index, near.local, near.mtu) == (4, packed("10.2.0.1"), 2800)
    for target, index in (("10.8.0.1", None), ("10.2.0.9", 3), ("192.0.2.1", None)):
        with pytest.raises(OSError, match="unreachable"):  # our own address as gateway is no route
            host.find_flow(packed(target), 0.0, port_index=index)
    with pytest.raises(ValueError, match="exists"):
        host.add_port(3, PortConfig(MAC_A, 1500), 0.0)
    for bad in (PortConfig(MAC_A, 100, ("10.0.0.1/8",)), PortConfig(MAC_A, 1000, ("fd00::1/64",))):
        with pytest.raises(ValueError, match="MTU"):
            host.add_port(5, bad, 0.0)
    with pytest.raises(ValueError, match="does not appear"):
        host.add_port(5, PortConfig(MAC_A, 1500, ("10.0.0.1/8",), (("nowhere", None),)), 0.0)
    assert 5 not in host.ports


def test_the_way_to_a_host_is_another_one_when_routes_change() -> None:
    host = Stack(random=random.Random(1).randbytes, now=0.0, config=StackConfig(announce=False))
    by_gateway = PortConfig(MAC_A, 1500, ("10.1.0.1/24",), (("10.9.0.0/16", "10.1.0.254"),))
    host.add_port(3, by_gateway, 0.0)
    target = packed("10.9.1.1")
    before = host.find_flow(target, 0.0)
    assert host.find_flow(target, 0.0) is before
    host.add_port(4, PortConfig(MAC_B, 2800, ("10.9.1.2/24",)), 0.0)
    assert host.find_flow(target, 0.0).port_index == 4
    assert host.find_flow(target, 0.0, port_index=3) is before
    assert host.find_flow(target, 0.0).port_index == 4
    host.remove_port(4, 0.0)
    assert host.find_flow(target, 0.0) is before
    host.update_port(3, PortConfig(MAC_A, 1500, ("10.1.0.1/24",)), 0.0)
    with pytest.raises(OSError, match="unreachable"):
        host.find_flow(target, 0.0)


def test_a_way_by_a_port_that_is_gone_is_in_nobodys_way() -> None:
    host = stack(1, MAC_A, "10.1.0.1/24")
    target = packed("10.1.0.2")
    held = host.find_flow(target, 0.0)
    host.remove_port(0, 0.0)
    with pytest.raises(OSError, match="unreachable"):
        host.find_flow(target, 0.0)
    host.add_port(0, PortConfig(MAC_A, 2800, ("10.1.0.1/24",)), 0.0)
    assert host.find_flow(target, 0.0) is not held


def test_link_local_addresses_are_on_every_link_with_ipv6() -> None:
    host = stack(1, MAC_A, f"{A6}/64")
    peer = ipv6.link_local(ethernet.mac_bytes(MAC_B))
    flow = host.find_flow(peer, 0.0, port_index=0)
    assert flow.local == ipv6.link_local(ethernet.mac_bytes(MAC_A))


def test_removed_port_ends_its_sockets() -> None:
    host = stack(1, MAC_A, f"{A4}/24")
    bound, free = host.udp(port_index=0), host.udp()
    connection = host.connect(B4, 80, 0.0)
    host.remove_port(0, 1.0)
    assert connection.error is not None
    assert connection.error.errno == errno.ENETDOWN
    assert bound.errors()[0][0].errno == errno.ENETDOWN
    assert host.to_send(1.0) == []
    with pytest.raises(OSError, match="unreachable"):
        free.sendto(b"", (B4, 9), 1.0)


def test_addresses_that_are_not_ours_cannot_be_bound() -> None:
    host = stack(1, MAC_A, f"{A4}/24")
    with pytest.raises(OSError, match="assign"):
        host.udp("10.66.0.3", 1)
    with pytest.raises(OSError, match="assign"):
        host.listen("10.66.0.3", 1)
    host.udp(A4, 7)
    for address in (A4, None):
        with pytest.raises(OSError, match="in use"):
            host.udp(address, 7)


def test_announcements() -> None:
    host = Stack(random=random.Random(1).randbytes, now=0.0)
    host.add_port(0, PortConfig(MAC_A, 1500, (f"{A4}/24", f"{A6}/64")), 0.0)
    frames = [b"".join(frame) for _, frame in host.to_send(0.0)]
    kinds = [frame[12:14] for frame in frames]
    assert kinds == [b"\x08\x06", b"\x86\xdd", b"\x86\xdd"]  # IPv4, IPv6, link-local IPv6
    announced = arp.parse(frames[0][14:])
    assert (announced.sender, announced.target, announced.operation) == (packed(A4), packed(A4), arp.REQUEST)


# --- ICMP from strangers ---


def to_a(payload: bytes, protocol: int, source: str = B4, target: str = A4, group: bool = False) -> memoryview:
    """A frame to stack A."""
    mac = ethernet.BROADCAST if group else ethernet.mac_bytes(MAC_A)
    src, dst = packed(source), packed(target)
    if len(src) == 4:
        header = ipv4.build(ipv4.Header(src, dst, protocol, len(payload)))
        kind = ethernet.TYPE_IPV4
    else:
        header, kind = ipv6.build(ipv6.Header(src, dst, protocol, len(payload))), ethernet.TYPE_IPV6
    return memoryview(ethernet.build(mac, ethernet.mac_bytes(MAC_B), kind) + header + payload)


def quoted_udp(source_port: int, source: str = A4) -> bytes:
    header = ipv4.build(ipv4.Header(packed(source), packed(B4), 17, 108))
    return header + udp.HEADER.pack(source_port, 9, 108, 0)


def too_big(mtu: int, quoted: bytes) -> memoryview:
    return to_a(icmp.build(icmp.Icmp(icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED, 0, mtu, quoted)), 1)


def test_path_mtu_is_lowered_only_for_what_we_sent() -> None:
    host = stack(1, MAC_A, f"{A4}/24")
    socket = host.udp(A4, 5000)
    flow = host.find_flow(packed(B4), 0.0)
    for mtu, quoted in (
        (600, quoted_udp(5001)),
        (600, quoted_udp(5000, "10.66.0.7")),
        (600, quoted_udp(5000)[:20]),
        (1600, quoted_udp(5000)),
    ):
        host.receive(0, [too_big(mtu, quoted)], 0.0)
        assert flow.mtu == 1500
    host.receive(0, [too_big(1300, quoted_udp(5000))], 0.0)
    assert flow.mtu == 1300
    host.receive(0, [too_big(70, quoted_udp(5000))], 0.0)
    assert flow.mtu == 552
    socket.sendto(bytes(1000), (B4, 9), 0.0)
    host.receive(0, [to_a_arp_reply()], 0.0)
    sizes = [len(b"".join(frame)) for _, frame in host.to_send(0.0)][1:]
    assert max(sizes) <= 14 + 552
    assert len(sizes) == 2
    host.handle_timer(601.0)
    assert flow.mtu == 1500


def to_a_arp_reply() -> memoryview:
    a, b = ethernet.mac_bytes(MAC_A), ethernet.mac_bytes(MAC_B)
    reply = arp.build(arp.Arp(arp.REPLY, b, packed(B4), a, packed(A4)))
    return memoryview(ethernet.build(a, b, ethernet.TYPE_ARP) + reply)


def test_tcp_path_mtu_needs_a_sequence_number_in_flight(wire: Wire) -> None:
    wire.b.listen(None, 80)
    connection = wire.a.connect(B4, 80, 0.0)
    wire.run(0.1)
    connection.write(bytes(1000))
    data = next(f for _, frame in wire.a.to_send(wire.now) if len(f := b"".join(frame)) > 1000)
    flow = wire.a.find_flow(packed(B4), wire.now)
    packet = bytearray(data[14 : 14 + 28])
    guessed = packet[:24] + (int.from_bytes(packet[24:28], "big") + 5000 & 0xFFFFFFFF).to_bytes(4, "big")
    wire.a.receive(0, [too_big(700, bytes(guessed))], wire.now)
    assert flow.mtu == 1500
    wire.a.receive(0, [too_big(700, bytes(packet))], wire.now)
    assert flow.mtu == 700


def test_echoes_and_errors_are_rate_limited() -> None:
    host = stack(1, MAC_A, f"{A4}/24", config=StackConfig(announce=False, echo_per_second=20, errors_per_second=10))
    host.receive(0, [to_a_arp_reply()], 0.0)
    request = icmp.build(icmp.Icmp(icmp.ECHO_REQUEST, 0, 1, 1, b"x"))
    pseudo = checksum.pseudo_sum(packed(B4), packed(A4), 17)
    datagram = udp.build(1, 2, b"", pseudo)
    frames = [to_a(request, 1)] * 100 + [to_a(datagram, 17)] * 100
    # Answers wait for ARP: let the neighbour be known first.
    host.ports[0].neighbours.heard(packed(B4), ethernet.mac_bytes(MAC_B), create=True)
    host.receive(0, frames, 0.0)
    assert len(host.to_send(0.0)) == 30
    assert host.counters["echo_rate_limited"] == 80
    assert host.counters["icmp_rate_limited"] == 90


@pytest.mark.parametrize(
    "frame",
    [
        to_a(icmp.build(icmp.Icmp(icmp.ECHO_REQUEST, 0, 1, 1, b"x")), 1, target="10.66.0.255", group=True),
        to_a(icmp.build(icmp.Icmp(icmp.ECHO_REQUEST, 0, 1, 1, b"x")), 1, group=True),
        to_a(icmp.build(icmp.Icmp(icmp.ECHO_REQUEST, 0, 1, 1, b"x")), 1, source="224.0.0.1"),
        to_a(icmp.build(icmp.Icmp(icmp.ECHO_REQUEST, 0, 1, 1, b"x")), 1, source="10.66.0.255"),
        to_a(icmp.build(icmp.Icmp(icmp.ECHO_REQUEST, 0, 1, 1, b"x")), 1, source="127.0.0.1"),
        to_a(tcp.build(tcp.Header(7, 7, 3, 4, tcp.SYN, 100)), 6, source=A4),  # the "land" attack
        to_a(tcp.build(tcp.Header(7, 7, 3, 4, tcp.SYN, 100)), 6, A6, A6),
        to_a(udp.HEADER.pack(1, 2, 8, 0), 17, target="255.255.255.255", group=True),
        to_a(udp.HEADER.pack(1, 2, 8, 0), 17, group=True),
        to_a(udp.HEADER.pack(1, 2, 8, 0), 17, source="0.0.0.0"),
        to_a(icmp.build(icmp.Icmp(icmp.UNREACHABLE, 1, 0, 0, quoted_udp(1))), 1),
        to_a(tcp.build(tcp.Header(1, 2, 3, 4, tcp.SYN, 100)), 6, group=True),
        to_a(b"", 59, B6, A6),
        to_a(icmpv6.build(icmpv6.Icmpv6(133, 0, 0, b""), checksum.pseudo_sum(packed(B6), packed(A6), 58)), 58, B6, A6),
    ],
)
def test_what_must_not_be_answered(frame: memoryview) -> None:
    """RFC 1122 section 3.2.2: no error and no echo for groups, strange sources, or errors."""
    host = stack(1, MAC_A, f"{A4}/24", f"{A6}/64")
    host.receive(0, [frame], 0.0)
    assert host.to_send(0.0) == []
    assert sum(host.counters.values()) <= 1


@pytest.mark.parametrize(
    ("frame", "kind", "code", "word"),
    [
        (to_a(b"12345678", 200), icmp.UNREACHABLE, icmp.PROTOCOL_UNREACHABLE, 0),
        (to_a(udp.HEADER.pack(1, 2, 8, 0), 17), icmp.UNREACHABLE, icmp.PORT_UNREACHABLE, 0),
        (to_a(b"12345678", 200, B6, A6), icmpv6.PARAMETER_PROBLEM, icmpv6.UNRECOGNISED_NEXT_HEADER, 6),
        (to_a(b"\x3b\0\xc5\x04\0\0\0\0", 60, B6, A6), icmpv6.PARAMETER_PROBLEM, icmpv6.UNRECOGNISED_OPTION, 42),
        (to_a(b"\x3b\0\0\x01\0\0\0\0", 43, B6, A6), icmpv6.PARAMETER_PROBLEM, icmpv6.ERRONEOUS_FIELD, 42),
    ],
)
def test_errors_that_we_owe(frame: memoryview, kind: int, code: int, word: int) -> None:
    host = stack(1, MAC_A, f"{A4}/24", f"{A6}/64")
    for address in (B4, B6):
        host.ports[0].neighbours.heard(packed(address), ethernet.mac_bytes(MAC_B), create=True)
    host.receive(0, [frame], 0.0)
    ((_, parts),) = host.to_send(0.0)
    answer = memoryview(b"".join(parts))
    if frame[14] >> 4 == 4:
        message = icmp.parse(answer[34:])
        assert (message.kind, message.code) == (kind, code)
        assert message.body == frame[14:]
    else:
        message6 = icmpv6.parse(answer[54:], checksum.pseudo_sum(packed(A6), packed(B6), 58))
        assert (message6.kind, message6.code, message6.word) == (kind, code, word)
        assert message6.body == frame[14:]


TO_NOBODY = udp.build(1, 2, bytes(16), checksum.pseudo_sum(packed(B6), packed(A6), 17)) + bytes(16)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    ("protocol", "payload", "kind", "code", "word"),
    [
        (17, TO_NOBODY, icmpv6.UNREACHABLE, icmpv6.PORT_UNREACHABLE, 0),
        (200, bytes(24), icmpv6.PARAMETER_PROBLEM, icmpv6.UNRECOGNISED_NEXT_HEADER, 40),
        (60, b"\xc8" + bytes(23), icmpv6.PARAMETER_PROBLEM, icmpv6.UNRECOGNISED_NEXT_HEADER, 48),
        (60, b"\x3b\0\xc5\x04" + bytes(20), icmpv6.PARAMETER_PROBLEM, icmpv6.UNRECOGNISED_OPTION, 50),
        (43, b"\x3b\0\0\x01" + bytes(20), icmpv6.PARAMETER_PROBLEM, icmpv6.ERRONEOUS_FIELD, 50),
    ],
)
def test_errors_about_fragments_quote_the_first(
    protocol: int, payload: bytes, kind: int, code: int, word: int, backwards: bool
) -> None:
    """And their pointers are into that one."""
    host = stack(1, MAC_A, f"{A6}/64")
    host.ports[0].neighbours.heard(packed(B6), ethernet.mac_bytes(MAC_B), create=True)
    fragments = [
        to_a(ipv6.build_fragment(ipv6.Fragment(protocol, offset, not offset, 9)) + data, ipv6.NEXT_FRAGMENT, B6, A6)
        for offset, data in ((0, payload[:8]), (8, payload[8:]))
    ]
    host.receive(0, fragments[::-1] if backwards else fragments, 0.0)
    ((_, parts),) = host.to_send(0.0)
    message = icmpv6.parse(b"".join(parts)[54:], checksum.pseudo_sum(packed(A6), packed(B6), 58))
    assert (message.kind, message.code, message.word) == (kind, code, word)
    assert message.body == fragments[0][14:]


@pytest.mark.parametrize("protocol", [17, 200])
def test_errors_about_ipv4_fragments_quote_the_first(protocol: int) -> None:
    host = stack(1, MAC_A, f"{A4}/24")
    host.ports[0].neighbours.heard(packed(B4), ethernet.mac_bytes(MAC_B), create=True)
    link = ethernet.build(ethernet.mac_bytes(MAC_A), ethernet.mac_bytes(MAC_B), ethernet.TYPE_IPV4)
    payload = udp.HEADER.pack(1, 2, 24, 0) + bytes(16)
    fragments = []
    for fragment, data in ((ipv4.MORE_FRAGMENTS, payload[:8]), (1, payload[8:])):
        header = ipv4.Header(packed(B4), packed(A4), protocol, len(data), identification=9, fragment=fragment)
        fragments.append(memoryview(link + ipv4.build(header) + data))
    host.receive(0, fragments, 0.0)
    ((_, parts),) = host.to_send(0.0)
    message = icmp.parse(b"".join(parts)[34:])
    code = icmp.PORT_UNREACHABLE if protocol == 17 else icmp.PROTOCOL_UNREACHABLE
    assert (message.kind, message.code) == (icmp.UNREACHABLE, code)
    assert message.body == fragments[0][14:]


def test_reassembly_timeout_is_reported() -> None:
    host = stack(1, MAC_A, f"{A4}/24")
    host.ports[0].neighbours.heard(packed(B4), ethernet.mac_bytes(MAC_B), create=True)
    header = ipv4.Header(packed(B4), packed(A4), 17, 16, identification=9, fragment=ipv4.MORE_FRAGMENTS)
    frame = ethernet.build(ethernet.mac_bytes(MAC_A), ethernet.mac_bytes(MAC_B), ethernet.TYPE_IPV4)
    host.receive(0, [memoryview(frame + ipv4.build(header) + bytes(16))], 0.0)
    assert host.next_timer() == 30.0
    host.handle_timer(30.0)
    ((_, parts),) = host.to_send(30.0)
    message = icmp.parse(b"".join(parts)[34:])
    assert (message.kind, message.code) == (icmp.TIME_EXCEEDED, icmp.REASSEMBLY_TIME_EXCEEDED)


def test_duplicate_address_is_counted_not_believed() -> None:
    host = stack(1, MAC_A, f"{A4}/24")
    claim = arp.build(arp.Arp(arp.REQUEST, ethernet.mac_bytes(MAC_B), packed(A4), bytes(6), packed(A4)))
    head = ethernet.build(ethernet.BROADCAST, ethernet.mac_bytes(MAC_B), ethernet.TYPE_ARP)
    host.receive(0, [memoryview(head + claim)], 0.0)
    assert host.counters == {"address_conflict": 1}
    assert host.to_send(0.0) == []


def test_someone_checks_whether_our_ipv6_address_is_free() -> None:
    """RFC 4862 section 5.4.3: the answer goes to all nodes."""
    host = stack(1, MAC_A, f"{A6}/64")
    group = ipv6.solicited_node(packed(A6))
    pseudo = checksum.pseudo_sum(ipv6.UNSPECIFIED, group, 58)
    body = icmpv6.build_neighbour(icmpv6.Neighbour(icmpv6.NEIGHBOUR_SOLICITATION, packed(A6)), pseudo)
    header = ipv6.build(ipv6.Header(ipv6.UNSPECIFIED, group, 58, len(body), 255))
    link = ethernet.build(ethernet.ipv6_multicast(group), ethernet.mac_bytes(MAC_B), ethernet.TYPE_IPV6)
    host.receive(0, [memoryview(link + header + body)], 0.0)
    ((_, parts),) = host.to_send(0.0)
    assert b"".join(parts)[38:54] == ipv6.ALL_NODES


def test_neighbour_discovery_from_afar_is_refused() -> None:
    """A hop limit below 255 has passed a router (RFC 4861 section 7.1)."""
    host = stack(1, MAC_A, f"{A6}/64")
    pseudo = checksum.pseudo_sum(packed(B6), packed(A6), 58)
    solicitation = icmpv6.Neighbour(icmpv6.NEIGHBOUR_SOLICITATION, packed(A6), ethernet.mac_bytes(MAC_B))
    body = icmpv6.build_neighbour(solicitation, pseudo)
    host.receive(0, [to_a(body, 58, B6, A6)], 0.0)
    assert host.counters == {"bad_ndp": 1}
    assert host.ports[0].neighbours.snapshot() == []


# --- bad input ---


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(VECTORS), st.lists(st.tuples(st.integers(0, 1600), st.integers(0, 255)), max_size=4), st.data())
def test_damaged_frames_never_raise(frame: bytes, changes: list[tuple[int, int]], data: st.DataObject) -> None:
    """The kernel's frames, cut and changed anywhere, at both ends of the conversation."""
    content = bytearray(frame)
    for position, value in changes:
        content[position % len(content)] = value
    length = data.draw(st.integers(0, len(content)))
    for seed, mac, four, six in ((1, MAC_A, A4, A6), (2, MAC_B, B4, B6)):
        host = stack(seed, mac, f"{four}/24", f"{six}/64")
        host.listen(None, 7000)
        host.udp(None, 7002)
        host.receive(0, [memoryview(bytes(content)), memoryview(bytes(content[:length]))], 0.0)
        host.copy_unread()
        assert len(host.to_send(0.0)) <= 4


@settings(deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=5), st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x08\x06"]))
def test_noise_never_raises(bodies: list[bytes], kind: bytes) -> None:
    host = stack(1, MAC_A, f"{A4}/24", f"{A6}/64")
    link = ethernet.mac_bytes(MAC_A) + ethernet.mac_bytes(MAC_B) + kind
    host.receive(0, [memoryview(link + body) for body in bodies], 0.0)
    assert host.to_send(0.0) == []


def test_frames_for_a_port_that_is_not_there_are_counted() -> None:
    host = stack(1, MAC_A, f"{A4}/24")
    host.receive(7, [memoryview(VECTORS[0])], 0.0)
    assert host.counters == {"no_port": 1}


def test_udp_queue_is_bounded() -> None:
    host = stack(1, MAC_A, f"{A4}/24", config=StackConfig(announce=False, udp_receive_buffer=10_000))
    socket = host.udp(A4, 2)
    host.receive(0, [to_a(udp.HEADER.pack(1, 2, 1008, 0) + bytes(1000), 17)] * 50, 0.0)
    assert socket.readable == 9
    assert socket.dropped == 41


def test_unanswered_neighbours_hold_a_bounded_number_of_frames() -> None:
    config = StackConfig(announce=False, neighbours=NeighbourConfig(pending_frames=5))
    host = stack(1, MAC_A, f"{A4}/24", config=config)
    socket = host.udp()
    for _ in range(50):
        socket.sendto(b"?", (B4, 9), 0.0)
    assert host.counters["neighbour_queue_full"] == 45
    host.receive(0, [to_a_arp_reply()], 0.0)
    assert len(host.to_send(0.0)) == 1 + 5


# --- the fault injector ---


def test_faulty_link_repeats_with_its_seed() -> None:
    faults = Faults(loss=0.1, duplicate=0.1, corrupt=0.1, reorder=0.1, delay=0.01, jitter=0.01)
    frames = [bytes((n & 255, n >> 8)) * 30 for n in range(2000)]
    runs = []
    for _ in range(2):
        link = FaultyLink(faults, random.Random(7))
        link.push(frames, 0.0)
        assert link.pull(0.0099) == []
        runs.append((link.pull(1.0), link.counters))
        assert link.next_timer() is None
    assert runs[0] == runs[1]
    counters = runs[0][1]
    assert all(120 < counters[what] < 280 for what in ("lost", "duplicated", "corrupted", "reordered"))
    assert len(runs[0][0]) == 2000 - counters["lost"] + counters["duplicated"]


def test_perfect_link_changes_nothing() -> None:
    link = FaultyLink(Faults(), random.Random(7))
    frames = [bytes((n,)) * 60 for n in range(100)]
    link.push(frames, 0.0)
    assert link.pull(0.0) == frames


def test_corruption_flips_one_bit_and_spares_arp_and_the_link_header() -> None:
    link = FaultyLink(Faults(corrupt=1.0), random.Random(7))
    arp_frame = next(frame for frame in VECTORS if frame[12:14] == b"\x08\x06")
    ip_frame = next(frame for frame in VECTORS if frame[12:14] == b"\x08\x00")
    link.push([arp_frame, ip_frame, ip_frame[:14]], 0.0)
    first, second, third = link.pull(0.0)
    assert (first, third) == (arp_frame, ip_frame[:14])
    assert second[:14] == ip_frame[:14]
    difference = int.from_bytes(second, "big") ^ int.from_bytes(ip_frame, "big")
    assert difference.bit_count() == 1


def test_fault_injector_is_driven_like_a_stack() -> None:
    a, b = stack(1, MAC_A, f"{A4}/24"), stack(2, MAC_B, f"{B4}/24")
    wrapped = FaultInjector(a, Faults(delay=0.01), Faults(delay=0.02), random.Random(1))
    ping = a.ping(B4, 0.0)
    ping.send(b"x", 0.0)
    now = 0.0
    got: list[EchoReply] = []
    while not got and now < 1.0:
        for _, frame in wrapped.to_send(now):
            b.receive(0, [memoryview(b"".join(frame))], now)
        for index, frame in b.to_send(now):
            wrapped.receive(index, [memoryview(b"".join(frame))], now)
        wrapped.copy_unread()
        due = wrapped.next_timer()
        assert due is not None
        now = max(now, due)
        wrapped.handle_timer(now)
        got = ping.replies()
    assert got[0].round_trip == pytest.approx(0.06)  # ARP and echo, 30 ms each


@given(st.sets(st.integers(0, 255), max_size=5))
def test_group_macs_cover_every_address(hosts: set[int]) -> None:
    addresses = [f"10.0.{n}.1/24" for n in hosts] + [f"fd00::{n:x}/64" for n in hosts]
    host = stack(1, MAC_A, *addresses)
    macs = host.ports[0].group_macs
    for n in hosts:
        assert ethernet.ipv6_multicast(ipv6.solicited_node(packed(f"fd00::{n:x}"))) in macs
    assert ethernet.ipv4_multicast(packed("224.0.0.1")) in macs


@VERSIONS
def test_narrow_way_from_a_neighbor_is_told_by_mss_and_by_icmp(ours: str, theirs: str) -> None:
    """Packets of more than 1,340 bytes from B do not arrive: B's stack makes shorter ones, on the connection that
    stands (its own check of the report included) and on those from now on."""
    wire = Wire(stack(1, MAC_A, f"{A4}/24", f"{A6}/64", mtu=2800), stack(2, MAC_B, f"{B4}/24", f"{B6}/64", mtu=2800))
    listener = wire.b.tcp.listen(80)
    client = wire.a.tcp.connect(wire.a.find_flow(packed(theirs), wire.now, local=packed(ours)), 80, wire.now)
    wire.run(0.1)
    server = listener.accept()
    assert client.established and server is not None
    headers = 40 if "." in ours else 60
    server.write(bytes(2800))
    wire.run(1)
    client.read(1 << 20)
    wire.a.limit_neighbour(0, MAC_B, 1340, wire.now)
    wire.seen.clear()
    wire.exchange()
    server.write(bytes(6000))
    wire.run(1)
    from_b = [frame for frame in wire.seen if frame[6:12] == MAC_B.to_bytes(6, "big")]
    assert max(map(len, from_b)) <= 14 + 1340 and sum(map(len, from_b)) > 6000
    wire.seen.clear()
    wire.a.tcp.connect(wire.a.find_flow(packed(theirs), wire.now, local=packed(ours)), 80, wire.now)
    wire.exchange()
    assert b"\x02\x04" + (1340 - headers).to_bytes(2, "big") in wire.seen[0]  # the SYN's MSS
    wire.a.limit_neighbour(0, MAC_B, None, wire.now)
    assert not wire.a.ports[0].takes
