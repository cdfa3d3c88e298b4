"""A stack as the gateway of another network: what it hands its owner, and how the owner's answers reach the member."""

from __future__ import annotations

import errno
import random
from ipaddress import ip_address

import pytest

from tests.unit.netstack.test_netstack_stack import A4, A6, B4, B6, MAC_A, MAC_B, Wire
from ztnode.netstack.config import PortConfig, StackConfig
from ztnode.netstack.stack import Stack
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.held_syns import HELD_BY_ONE, HELD_MAX, HeldSyn

ROUTES = (("192.0.2.0/24", B4), ("2001:db8::/64", B6), ("198.51.100.0/24", B4))
VERSIONS = pytest.mark.parametrize("target", ["192.0.2.7", "2001:db8::7"], ids=["ipv4", "ipv6"])


@pytest.fixture
def wire() -> Wire:
    """a is a member; b is the gateway of two networks, though the routes lead to it for three."""
    stacks = []
    for seed, mac, addresses in ((1, MAC_A, (A4, A6)), (2, MAC_B, (B4, B6))):
        stack = Stack(random=random.Random(seed).randbytes, now=0.0, config=StackConfig(announce=False))
        stack.add_port(0, PortConfig(mac, 1500, (f"{addresses[0]}/24", f"{addresses[1]}/64"), ROUTES), 0.0)
        stacks.append(stack)
    stacks[1].transit.set_targets(["192.0.2.0/24", "2001:db8::/64", "203.0.113.0/24"])
    return Wire(*stacks)


@VERSIONS
def test_a_syn_is_answered_once_its_target_is_there(wire: Wire, target: str) -> None:
    wire.b.listen(None, 80)  # the gateway's own, which what passes does not concern
    connection = wire.a.connect(target, 80, 0.0)
    wire.run(3.0)  # SYNs come again and ask for nothing new
    (syn,) = wire.b.transit.syns.take()
    assert not connection.established and connection.error is None
    assert (syn.destination, syn.destination_port) == (ip_address(target).packed, 80)
    other = wire.b.accept(syn, wire.now)
    assert isinstance(other, TcpConnection)
    wire.run(2.0)
    assert connection.established and other.established
    assert other.local == (target, 80)
    connection.write(b"question")
    wire.run(0.5)
    assert b"".join(bytes(part) for part in other.read(100)) == b"question"
    # Told anew where to lead, it knows the way no more and the connection fails rather than go on unseen.
    wire.b.transit.set_targets([])
    assert not wire.b.transit.leads(0, syn.destination)


@VERSIONS
@pytest.mark.parametrize(
    ("number", "seen"), [(errno.ECONNREFUSED, errno.ECONNREFUSED), (errno.ETIMEDOUT, errno.EHOSTUNREACH)]
)
def test_why_a_target_is_not_reached(wire: Wire, target: str, number: int, seen: int) -> None:
    connection = wire.a.connect(target, 80, 0.0)
    wire.run(0.1)
    (syn,) = wire.b.transit.syns.take()
    wire.b.refuse(syn, number, wire.now)
    wire.run(0.1)
    assert connection.error is not None and connection.error.errno == seen
    again = wire.a.connect(target, 80, wire.now)
    wire.run(0.1)
    assert len(wire.b.transit.syns.take()) == 1 and again.error is None


@pytest.mark.parametrize("target", ["198.51.100.1", "203.0.113.1"], ids=["not named", "not routed"])
def test_where_it_does_not_lead_is_told(wire: Wire, target: str) -> None:
    """Named by the gateway and routed by the controller: one alone opens no way."""
    wire.a.update_port(
        0, PortConfig(MAC_A, 1500, (f"{A4}/24", f"{A6}/64"), (*ROUTES, ("203.0.113.0/24", B4))), wire.now
    )
    connection = wire.a.connect(target, 80, 0.0)
    udp = wire.a.udp()
    udp.connect((target, 53), 0.0)
    udp.send(b"question", 0.0)
    wire.run(0.1)
    assert wire.b.transit not in wire.b.ready()
    for error in (connection.error, udp.error):
        assert error is not None and error.errno == errno.EHOSTUNREACH
    assert wire.b.counters["transit_refused"] == 2


def test_held_syns_are_bounded_and_one_address_has_a_share(wire: Wire) -> None:
    """Else whoever dials what answers nothing would keep all others out."""
    for port in range(1, HELD_BY_ONE + 9):
        wire.a.connect("192.0.2.7", port, 0.0)
    wire.run(0.3)  # the first are lost while the neighbour is looked for
    held = wire.b.transit.syns.take()
    assert len(held) == HELD_BY_ONE
    assert wire.b.counters["held_syns_share_full"] >= 8
    (first, *others), syns = held, wire.b.transit.syns

    def another(source: bytes, port: int) -> HeldSyn:
        key = source + first.destination + port.to_bytes(2, "big") + first.key[-2:]
        return HeldSyn(0, key, first.destination, source, first.header, b"")

    for number in range(HELD_MAX):
        syns.arrived(another(bytes([10, 0, 1, number // 64]), number))
    assert len(syns.take()) == HELD_MAX - HELD_BY_ONE and wire.b.counters["held_syns_full"] == HELD_BY_ONE
    for syn in (first, first):  # settled once more, it frees nothing more
        syns.settle(syn)
    for port in range(2):
        syns.arrived(another(first.source, 60_000 + port))
    assert len(syns.take()) == 1
    for syn in others:
        syns.settle(syn)


@VERSIONS
def test_datagrams_and_pings(wire: Wire, target: str) -> None:
    udp = wire.a.udp()
    udp.sendto(b"question", (target, 53), 0.0)
    echo = wire.a.ping(target, 0.0)
    echo.send(b"ping", 0.0)
    wire.run(0.1)
    assert wire.b.transit in wire.b.ready()
    ((flow, data),) = wire.b.transit.datagrams()
    ((ping, sequence, body),) = wire.b.transit.echoes()
    assert (data, body) == (b"question", b"ping")
    assert wire.b.answer_datagram(flow, b"answer" * 500, wire.now)  # in fragments
    wire.b.answer_echo(ping, sequence, body, wire.now)
    wire.run(0.1)
    assert udp.recvfrom() == (b"answer" * 500, (target, 53))
    assert [reply.payload for reply in echo.replies()] == [b"ping"]
    wire.b.report(flow, errno.ECONNREFUSED, wire.now)
    wire.b.report(ping, errno.EHOSTUNREACH, wire.now)
    wire.run(0.1)
    ((error, where),) = udp.errors()
    assert (error.errno, where) == (errno.ECONNREFUSED, (target, 53))
    assert echo.error is not None and echo.error.errno == errno.EHOSTUNREACH
