"""Multicast groups and broadcast of UDP sockets."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from tests.unit.netstack.test_netstack_stack import A4, A6, B4, B6, MAC_A, Wire, packed, stack
from ztnode.netstack.config import PortConfig, StackConfig
from ztnode.netstack.stack import Stack
from ztnode.netstack.udp import MAX_MEMBERSHIPS, UdpSocket
from ztnode.wire import ethernet

MDNS, MDNS6 = "224.0.0.251", "ff02::fb"


@pytest.fixture
def wire() -> Wire:
    return Wire(stack(1, MAC_A, f"{A4}/24", f"{A6}/64"), stack(2, MAC_A + 1, f"{B4}/24", f"{B6}/64"))


def texts(sock: UdpSocket) -> list[bytes]:
    found = []
    while (received := sock.recvfrom()) is not None:
        found.append(received[0])
    return found


def error_of(call: object, *arguments: object) -> int | None:
    with pytest.raises(OSError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.errno


@pytest.mark.parametrize(("group", "own"), [(MDNS, A4), (MDNS6, A6)])
def test_a_group_reaches_those_who_joined_it_and_leaves_with_them(wire: Wire, group: str, own: str) -> None:
    member, other, sender = wire.b.udp(None, 5353, reuse=True), wire.b.udp(None, 5353, reuse=True), wire.a.udp()
    sender.sendto(b"too early", (group, 5353), 0.0)
    wire.exchange()
    member.join(group)
    mac = ethernet.ipv4_multicast(packed(group)) if "." in group else ethernet.ipv6_multicast(packed(group))
    assert wire.b.regrouped() == [(0, frozenset({mac}))] and wire.b.regrouped() == []
    wire.seen.clear()
    sender.sendto(b"hello", (group, 5353), 0.0)
    wire.exchange()
    (frame,) = wire.seen
    assert frame[:6] == mac and frame[22 if "." in group else 21] == 1, "one hop, as RFC 1112 has it"
    assert (texts(member), texts(other)) == ([b"hello"], [])
    other.join(group)
    sender.multicast_hops = 255
    sender.sendto(b"both", (group, 5353), 0.0)
    wire.exchange()
    assert wire.seen[-1][22 if "." in group else 21] == 255
    assert (texts(member), texts(other)) == ([b"both"], [b"both"])
    member.leave(group)
    assert wire.b.regrouped() == []
    other.close()
    assert wire.b.regrouped() == [(0, frozenset())]
    sender.sendto(b"too late", (group, 5353), 0.0)
    wire.exchange()
    assert texts(member) == []
    assert own


def test_a_socket_bound_to_a_group_gets_nothing_else(wire: Wire) -> None:
    bound, sender = wire.b.udp(MDNS, 1900), wire.a.udp()
    bound.join(MDNS)
    for target in (MDNS, B4):
        sender.sendto(target.encode(), (target, 1900), 0.0)
    wire.exchange()
    assert texts(bound) == [MDNS.encode()]
    bound.sendto(b"search", (MDNS, 1), 0.0)  # from an address of ours, not from the group
    wire.exchange()
    assert wire.seen[-1][26:30] == packed(B4)


def test_our_own_members_hear_us_unless_that_is_switched_off(wire: Wire) -> None:
    sock = wire.a.udp(None, 5353)
    sock.join(MDNS)
    sock.sendto(b"one", (MDNS, 5353), 0.0)
    sock.multicast_loop = False
    sock.sendto(b"two", (MDNS, 5353), 0.0)
    wire.exchange()
    assert texts(sock) == [b"one"] and len(wire.seen) == 2


def test_siblings_hear_us_too() -> None:
    config = StackConfig(announce=False, siblings=True)
    one, two = (stack(seed, MAC_A, f"{A4}/24", config=config) for seed in (1, 2))
    sender, member = one.udp(A4, 1000), two.udp(None, 5353)
    member.join(MDNS)
    sender.sendto(b"hello", (MDNS, 5353), 0.0)
    frames = [(index, b"".join(frame)) for index, frame in one.to_send(0.0)]
    assert len(frames) == 2
    for index, frame in frames:
        two.receive(index, [memoryview(frame)], 0.0)
    assert texts(member) == [b"hello"], "the copy for the network is not for ourselves"


def test_memberships_are_those_of_an_interface_where_one_is_named(wire: Wire) -> None:
    host = wire.b
    host.add_port(1, PortConfig(MAC_A + 9, 1500, ("10.77.0.1/24",)), 0.0)
    sock = host.udp(None, 5353)
    sock.join(MDNS, "10.77.0.1")
    assert [index for index, _ in host.regrouped()] == [1]
    assert error_of(sock.leave, MDNS) == errno.EADDRNOTAVAIL
    assert error_of(sock.join, MDNS, "10.99.0.1") == errno.ENODEV
    sock.join("224.0.0.5")
    assert [index for index, _ in host.regrouped()] == [0, 1]
    host.add_port(2, PortConfig(MAC_A + 10, 1500, ("10.78.0.1/24",)), 0.0)
    assert [index for index, _ in host.regrouped()] == [2], "a network that comes later has the group, too"
    sock.send_groups_from("10.77.0.1")
    sock.sendto(b"x", (MDNS, 5353), 0.0)
    assert {index for index, _ in host.to_send(0.0)} == {1}
    host.remove_port(1, 0.0)
    assert {member[1] for member in sock.memberships} == {None}


def test_what_is_refused(wire: Wire) -> None:
    sock = wire.a.udp()
    assert error_of(sock.join, "10.0.0.1") == errno.EINVAL
    sock.join(MDNS)
    assert error_of(sock.join, MDNS) == errno.EADDRINUSE
    for number in range(MAX_MEMBERSHIPS - 1):
        sock.join(f"239.1.1.{number}")
    assert error_of(sock.join, "239.1.2.1") == errno.ENOBUFS
    others = [wire.a.udp() for _ in range(20)]
    with pytest.raises(OSError) as caught:
        for number in range(300):
            others[number % 20].join(f"239.2.{number // 200}.{number % 200}")
    assert caught.value.errno == errno.ENOBUFS
    assert error_of(sock.sendto, b"x", ("10.66.0.255", 9), 0.0) == errno.EACCES
    sock.set_broadcast(True)
    sock.sendto(b"x", ("10.66.0.255", 9), 0.0)
    assert error_of(wire.a.udp, None, sock.local_port) == errno.EADDRINUSE


def test_a_network_without_multicast_or_broadcast_says_so(wire: Wire) -> None:
    host: Stack = wire.a
    host.update_port(0, replace(host.ports[0].config, multicast=False, broadcast=False), 0.0)
    sock = host.udp()
    assert error_of(sock.join, MDNS) == errno.EPERM
    assert error_of(sock.sendto, b"x", (MDNS, 9), 0.0) == errno.EPERM
    assert error_of(sock.set_broadcast, True) == errno.EACCES
    sock.broadcast = True  # allowed while it was allowed
    assert error_of(sock.sendto, b"x", ("255.255.255.255", 9), 0.0) == errno.EACCES


def test_a_broadcast_reaches_every_socket_at_its_port(wire: Wire) -> None:
    one, two = (wire.b.udp(None, 9, reuse=True) for _ in range(2))
    bound, sender = wire.b.udp(B4, 9, reuse=True), wire.a.udp()
    sender.set_broadcast(True)
    sender.sendto(b"all", ("255.255.255.255", 9), 0.0)
    wire.exchange()
    assert (texts(one), texts(two), texts(bound)) == ([b"all"], [b"all"], [])
