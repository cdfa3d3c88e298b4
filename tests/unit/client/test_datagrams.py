"""UDP sockets and pings of the client, by hand-off and by byte stream, blocking and on both event loops."""

from __future__ import annotations

import asyncio
import errno
import json
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

import ztclient
from tests.unit.fake_node import IP, NWID, FakeNode, RunningNode
from ztclient import aio
from ztclient.udp_options import interface_index
from ztnode.cli.app import run as cli
from ztnode.control.tcp_options import TcpOptions

HOST = "10.121.15.99"


@pytest.fixture(params=["local", "remote"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[RunningNode, str | None]]:
    """A node and the token that it wants."""
    state = tmp_path / "st"
    state.mkdir(mode=0o700)
    with RunningNode(state, TcpOptions("127.0.0.1:0") if request.param == "remote" else None) as running:
        yield running, (state / "control.token").read_text().strip() if request.param == "remote" else None


@pytest.fixture
def reached(running: tuple[RunningNode, str | None]) -> tuple[str, str | None]:
    """Address and token of a node."""
    return running[0].addresses[-1], running[1]


@pytest.fixture
def node(running: tuple[RunningNode, str | None]) -> FakeNode:
    return running[0].node


@pytest.fixture
def udp(reached: tuple[str, str | None]) -> Iterator[ztclient.DatagramSocket]:
    with ztclient.Node(reached[0], token=reached[1]).open_udp(IP, 5353) as sock:
        sock.settimeout(10)
        yield sock


def test_datagrams(udp: ztclient.DatagramSocket) -> None:
    assert isinstance(udp, socket.socket) and udp.type is socket.SOCK_DGRAM
    assert udp.getsockname() == (IP, 5353)
    assert udp.sendto(b"hello", (HOST, 7)) == 5
    assert select.select([udp], [], [], 10)[0] == [udp]
    assert udp.recvfrom(100) == (b"hello", (HOST, 7))
    assert udp.sendto(b"", 0, ("fd00::1", 7)) == 0
    assert udp.recvfrom(100) == (b"", ("fd00::1", 7, 0, 0))
    udp.sendto(b"x" * 65507, (HOST, 7))
    assert udp.recv(10) == b"x" * 10  # the rest is cut off, as everywhere
    buffer = bytearray(8)
    udp.sendto(b"hello", (HOST, 7))
    assert udp.recvfrom_into(buffer) == (5, (HOST, 7)) and buffer[:5] == b"hello"
    udp.setblocking(False)
    with pytest.raises(BlockingIOError):
        udp.recv(1)
    udp.settimeout(0.05)
    with pytest.raises(TimeoutError):
        udp.recv(1)


def test_connected(udp: ztclient.DatagramSocket) -> None:
    with pytest.raises(OSError) as caught:
        udp.send(b"whom to?")
    assert caught.value.errno == errno.EDESTADDRREQ
    udp.connect((HOST, 7))
    assert udp.getpeername() == (HOST, 7)
    udp.sendto(b"from elsewhere", (HOST, 8))
    udp.send(b"mine")
    assert udp.recv(100) == b"mine"
    with udp.dup() as again:
        again.send(b"dup")
        assert udp.recv(100) == b"dup"


def test_what_icmp_reports(udp: ztclient.DatagramSocket) -> None:
    udp.sendto(b"into the void", (HOST, 9))
    udp.sendto(b"x", (HOST, 7))
    assert udp.recv(100) == b"x"  # who is not connected hears nothing of it
    udp.connect((HOST, 9))
    udp.send(b"into the void")
    with pytest.raises(ConnectionRefusedError):
        udp.recv(100)


@pytest.mark.parametrize(
    ("data", "address", "error"),
    [(b"x" * 65508, (HOST, 7), OSError), (b"x", (HOST, 0), OSError), (b"x", ("example.com", 7), ValueError)],
)
def test_what_cannot_be_sent(
    udp: ztclient.DatagramSocket, data: bytes, address: tuple[str, int], error: type[Exception]
) -> None:
    with pytest.raises(error):
        udp.sendto(data, address)


def test_a_foreign_address(reached: tuple[str, str | None]) -> None:
    with pytest.raises(OSError, match="managed") as caught:
        ztclient.Node(reached[0], token=reached[1]).open_udp("10.9.9.9", 1)
    assert caught.value.errno == errno.EADDRNOTAVAIL


class Collector(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: asyncio.Queue[object] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.got.put_nowait((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.got.put_nowait(type(exc))

    def connection_lost(self, exc: Exception | None) -> None:
        self.got.put_nowait("closed")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_endpoint(reached: tuple[str, str | None], loop: str) -> None:
    async def main() -> None:
        node = aio.Node(reached[0], token=reached[1])
        transport, protocol = await aio.create_datagram_endpoint(Collector, (IP, 0), node=node)
        assert transport.get_extra_info("sockname") == (IP, 40000)
        for number in range(200):
            transport.sendto(b"%d" % number, (HOST, 7))
        async with asyncio.timeout(10):
            assert [await protocol.got.get() for _ in range(200)] == [(b"%d" % n, (HOST, 7)) for n in range(200)]
            transport.close()
            assert await protocol.got.get() == "closed"
            transport, protocol = await aio.create_datagram_endpoint(Collector, remote_addr=(HOST, 9), node=node)
            transport.sendto(b"into the void")
            assert await protocol.got.get() is ConnectionRefusedError
        transport.abort()
        assert await node.ping(HOST, size=100) == 0.01

    (asyncio.run if loop == "asyncio" else uvloop.run)(main())


def test_ping(reached: tuple[str, str | None]) -> None:
    node = ztclient.Node(reached[0], token=reached[1])
    assert node.ping(HOST, size=100) == 0.01
    with pytest.raises(OSError, match="ARP"):
        node.ping("192.0.2.1")
    with pytest.raises(TimeoutError):
        node.ping("198.51.100.1", 0.1)
    with pytest.raises(ValueError, match="65000"):
        node.ping(HOST, size=65001)
    with pytest.raises(socket.gaierror):
        node.ping("example.com")


def test_ping_command(running_node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["ping", "-c", "3", "-i", "0.01", HOST]) == 0
    out = capsys.readouterr().out
    assert f"64 bytes from {HOST}: seq=3 time=5.600 ms" in out
    assert "3 packets transmitted, 3 received, 0% packet loss" in out
    assert "rtt min/avg/max/mdev = 5.600/5.600/5.600/0.000 ms" in out
    assert cli(["ping", "-c", "1", "198.51.100.1"]) == 1
    captured = capsys.readouterr()
    assert "100% packet loss" in captured.out and "did not answer" in captured.err
    assert cli(["ping", "-c", "1", "--json", HOST]) == 0
    assert json.loads(capsys.readouterr().out)["round_trips_ms"] == [5.6]


def test_options_of_groups_are_asked_of_the_node(udp: ztclient.DatagramSocket, node: FakeNode) -> None:
    group, own = socket.inet_aton("224.0.0.251"), socket.inet_aton(IP)
    udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + own)
    udp.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, group + bytes(4))
    udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
    udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 4)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, False)
    index = interface_index(NWID)
    group6 = socket.inet_pton(socket.AF_INET6, "ff02::fb")
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group6 + struct.pack("@I", 0))
    assert node.configured == [
        ("join", "224.0.0.251", IP, 0),
        ("leave", "224.0.0.251", None, 0),
        ("multicast_source", IP, None, 0),
        ("multicast_hops", None, None, 4),
        ("multicast_loop", None, None, 0),
        ("join", "ff02::fb", None, 0),
    ]
    assert udp.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 4
    for value, number in ((group[:3], errno.EINVAL), (group + bytes(4) + struct.pack("@i", index + 1), errno.ENODEV)):
        with pytest.raises(OSError) as caught:
            udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, value)
        assert caught.value.errno == number
    with pytest.raises(PermissionError, match="no multicast"):
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.9") + bytes(4))
    with pytest.raises(PermissionError, match="SO_BROADCAST"):
        udp.sendto(b"x", ("255.255.255.255", 9))
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    udp.sendto(b"x", ("255.255.255.255", 9))
    with pytest.raises(PermissionError, match="nothing is sent to 255"):
        udp.recv(10)
