"""Our stack against the Linux kernel's below TCP: ARP, NDP, echo, UDP, fragments, errors, both ways."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tests.netns import tapharness
from tests.netns.tapharness import KERNEL, NOBODY, OURS, Harness, harness
from ztnode.netstack.echo import EchoReply, EchoSocket
from ztnode.wire import checksum

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(tapharness.unavailable() is not None, reason=str(tapharness.unavailable())),
]

FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
VERSIONS = pytest.mark.parametrize("version", [4, 6])


def collected(ping: EchoSocket, replies: list[EchoReply], wanted: int = 1) -> bool:
    """Move what came to ``replies``; whether these are enough."""
    replies += ping.replies()
    return len(replies) >= wanted


@pytest.fixture
def net() -> Iterator[Harness]:
    with harness() as instance:
        yield instance


def kernel_socket(net: Harness, version: int, kind: int, protocol: int = 0) -> socket.socket:
    sock = net.namespace.run(lambda: socket.socket(FAMILY[version], kind, protocol))
    sock.setblocking(False)
    return sock


def receive(net: Harness, sock: socket.socket, timeout: float = 5.0) -> tuple[bytes, tuple[str, int]]:
    """Drive our stack until the kernel's socket has something."""
    got: list[tuple[bytes, tuple[str, int]]] = []

    def ready() -> bool:
        with contextlib.suppress(BlockingIOError):
            got.append(sock.recvfrom(70000))
        return bool(got)

    net.run(ready, timeout)
    return got[0]


@VERSIONS
def test_we_ping_the_kernel(net: Harness, version: int) -> None:
    ping = net.stack.ping(KERNEL[version], time.monotonic())
    replies: list[EchoReply] = []
    for size in (0, 56, 1400):
        ping.send(os.urandom(size), time.monotonic())
        net.run(lambda: collected(ping, replies))
        assert len(replies.pop().payload) == size
    # ARP or NDP made the entry, and the kernel's answer to it confirmed it.
    states = {address: state.name for address, _, state in net.stack.ports[0].neighbours.snapshot()}
    assert states[socket.inet_pton(FAMILY[version], KERNEL[version])] == "REACHABLE"


@VERSIONS
def test_we_ping_the_kernel_in_fragments(net: Harness, version: int) -> None:
    ping = net.stack.ping(KERNEL[version], time.monotonic())
    payload = os.urandom(9000)
    ping.send(payload, time.monotonic())
    replies: list[EchoReply] = []
    net.run(lambda: collected(ping, replies))
    assert replies[0].payload == payload


@VERSIONS
@pytest.mark.parametrize("size", [8, 1400, 20000])
def test_the_kernel_pings_us(net: Harness, version: int, size: int) -> None:
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    sock = kernel_socket(net, version, socket.SOCK_RAW, protocol)
    payload = os.urandom(size)
    message = struct.pack("!BBHHH", 8 if version == 4 else 128, 0, 0, 77, 1) + payload
    if version == 4:
        message = message[:2] + checksum.checksum(message).to_bytes(2, "big") + message[4:]
    sock.sendto(message, (OURS[version], 0))
    reply = 0 if version == 4 else 129
    while True:
        data, source = receive(net, sock)
        body = data[20:] if version == 4 else data
        if body[0] == reply:
            break
    assert source[0] == OURS[version]
    assert body[8:] == payload
    sock.close()


@VERSIONS
@pytest.mark.parametrize("size", [0, 1, 1400, 1473, 9000, 60000])
def test_udp_both_ways(net: Harness, version: int, size: int) -> None:
    theirs = kernel_socket(net, version, socket.SOCK_DGRAM)
    theirs.bind((KERNEL[version], 4000))
    ours = net.stack.udp(OURS[version], 5000)
    payload = os.urandom(size)
    ours.sendto(payload, (KERNEL[version], 4000), time.monotonic())
    data, source = receive(net, theirs)
    assert data == payload
    assert source[:2] == (OURS[version], 5000)
    theirs.sendto(payload, (OURS[version], 5000))
    net.run(lambda: ours.readable)
    assert ours in net.stack.ready()
    assert ours.recvfrom() == (payload, (KERNEL[version], 4000))
    theirs.close()


@VERSIONS
def test_port_unreachable_reaches_our_socket(net: Harness, version: int) -> None:
    ours = net.stack.udp()
    ours.connect((KERNEL[version], 4001), time.monotonic())
    ours.send(b"anybody?", time.monotonic())
    net.run(lambda: ours.error)
    with pytest.raises(ConnectionRefusedError):
        ours.recv()
    assert ours.recv() is None


@VERSIONS
@pytest.mark.parametrize("size", [8, 5000], ids=["whole", "fragmented"])
def test_port_unreachable_reaches_the_kernel(net: Harness, version: int, size: int) -> None:
    theirs = kernel_socket(net, version, socket.SOCK_DGRAM)
    theirs.connect((OURS[version], 5001))
    theirs.send(bytes(size))
    with pytest.raises(ConnectionRefusedError):
        receive(net, theirs)
    theirs.close()


@VERSIONS
def test_nobody_there_fails(net: Harness, version: int) -> None:
    ours = net.stack.udp()
    ours.connect((NOBODY[version], 4001), time.monotonic())
    ours.send(b"anybody?", time.monotonic())
    net.run(lambda: ours.error)
    with pytest.raises(OSError, match="No route to host"):
        ours.recv()


@VERSIONS
def test_a_routers_report_reaches_our_socket(net: Harness, version: int) -> None:
    """The kernel as the gateway of a managed route, itself without a route to the target."""
    net.namespace.sysctl("ipv4.ip_forward", "1")
    net.namespace.sysctl("ipv6.conf.all.forwarding", "1")
    target = {4: "10.99.0.1", 6: "fd99::1"}[version]
    config = net.stack.ports[0].config
    routes = (("10.99.0.0/16", KERNEL[4]), ("fd99::/32", KERNEL[6]))
    net.stack.update_port(0, type(config)(config.mac, config.mtu, config.addresses, routes), time.monotonic())
    ours = net.stack.udp()
    ours.connect((target, 9), time.monotonic())
    ours.send(b"far away", time.monotonic())
    net.run(lambda: ours.error)
    with pytest.raises(OSError, match=r"Network is unreachable|No route to host"):
        ours.recv()


@VERSIONS
def test_path_mtu_is_learnt_from_a_router(net: Harness, version: int) -> None:
    """The kernel forwards into a link with a smaller MTU; our next datagram comes in fitting fragments."""
    net.namespace.sysctl("ipv4.ip_forward", "1")
    net.namespace.sysctl("ipv6.conf.all.forwarding", "1")
    narrow = tapharness.Tap(net.namespace, "tap1", 1300)
    net.namespace.ip("address", "add", "10.98.0.1/24", "dev", "tap1")
    net.namespace.ip("-6", "address", "add", "fd98::1/64", "dev", "tap1", "nodad")
    target = {4: "10.98.0.5", 6: "fd98::5"}[version]
    config = net.stack.ports[0].config
    routes = (("10.98.0.0/24", KERNEL[4]), ("fd98::/64", KERNEL[6]))
    net.stack.update_port(0, type(config)(config.mac, config.mtu, config.addresses, routes), time.monotonic())
    ours = net.stack.udp()
    ours.connect((target, 9), time.monotonic())
    ours.send(bytes(1400), time.monotonic())
    net.run(lambda: net.stack.counters.get("path_mtu_lowered"))
    flow = net.stack.find_flow(socket.inet_pton(FAMILY[version], target), time.monotonic())
    assert flow.mtu == 1300
    # UDP has no sequence number to guess: the socket's existence is the proof, and it lowers one path only.
    other = net.stack.find_flow(socket.inet_pton(FAMILY[version], KERNEL[version]), time.monotonic())
    assert other.mtu == 1500
    narrow.close()


def test_the_kernel_learns_our_address_unasked(net: Harness) -> None:
    """Gratuitous ARP: the kernel with arp_accept keeps what we announce."""
    net.namespace.sysctl("ipv4.conf.tap0.arp_accept", "1")
    net.stack.ports[0].announce(socket.inet_aton(OURS[4]))
    net.run(lambda: "02:aa:bb:cc:00:01" in net.namespace.ip("neigh", "show", "dev", "tap0"))


@VERSIONS
def test_the_kernel_keeps_us_reachable(net: Harness, version: int) -> None:
    """The kernel's probes (unicast requests) are answered."""
    theirs = kernel_socket(net, version, socket.SOCK_DGRAM)
    ours = net.stack.udp(OURS[version], 5000)
    theirs.sendto(b"x", (OURS[version], 5000))
    net.run(lambda: ours.readable)
    stale = net.namespace.ip("neigh", "show", "dev", "tap0", OURS[version])
    assert "02:aa:bb:cc:00:01" in stale
    net.namespace.ip("neigh", "change", OURS[version], "dev", "tap0", "lladdr", "02:aa:bb:cc:00:01", "nud", "probe")
    net.run(lambda: "REACHABLE" in net.namespace.ip("neigh", "show", "dev", "tap0", OURS[version]))
    theirs.close()


def test_own_address_stays_inside(net: Harness) -> None:
    net.flush()
    before = net.frames_out
    one, two = net.stack.udp(OURS[4], 6000), net.stack.udp(OURS[4], 6001)
    one.sendto(b"hello me", (OURS[4], 6001), time.monotonic())
    net.flush()
    assert two.recvfrom() == (b"hello me", (OURS[4], 6000))
    assert net.frames_out == before
