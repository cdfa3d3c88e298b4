"""The gateway: host a reaches this machine's own servers through the sockets of host b's worker."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.unit.worker.worker_pair import A6, B6, NWID, A, B, Pair, fetch, on_loop, read_all, running_pair, until
from ztnode.embedded import free_port
from ztnode.node.api import DialError
from ztnode.node.gateways import pings, targets
from ztnode.node.handoffs import claim_records
from ztnode.worker.udp_pairs import DATAGRAM, FAILURE, build_record, parse_record

HOST, OTHER, HOST6 = "127.55.0.1", "127.66.0.1", "::1"
ROUTES = [("127.0.0.0/8", B), ("::1/128", B6), ("0.0.0.0/0", B)]


@contextlib.asynccontextmanager
async def through_b(directory: Path, *named: str, flows: int = 100, workers: int = 1) -> AsyncIterator[Pair]:
    """A pair in which b is the gateway to what is named, and the network's routes lead a there, and to more."""
    async with running_pair(directory, workers) as pair:
        for supervisor, mac, addresses in (
            (pair.a, 0x020000000001, [f"{A}/24", f"{A6}/64"]),
            (pair.b, 0x020000000002, [f"{B}/24", f"{B6}/64"]),
        ):
            supervisor.port_up(7, nwid=NWID, mac=mac, mtu=2800, addresses=addresses, routes=ROUTES)
        pair.b.set_gateway([str(target) for target in targets(named)], flows)
        yield pair


@contextlib.contextmanager
def echo_server(host: str) -> Iterator[int]:
    """A server of this machine that sends back what it gets, by TCP and UDP; its port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as tcp, socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.bind(tcp.getsockname())

        def connections() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(tcp.accept()[0],), daemon=True).start()

        def serve(connection: socket.socket) -> None:
            with connection:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)

        def datagrams() -> None:
            with contextlib.suppress(OSError):
                while True:
                    data, source = udp.recvfrom(65535)
                    udp.sendto(data, source)

        for target in (connections, datagrams):
            threading.Thread(target=target, daemon=True).start()
        yield tcp.getsockname()[1]
        tcp.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("workers", [1, 2])
@on_loop
async def test_bytes_datagrams_and_pings_and_what_the_target_refuses(tmp_path: Path, workers: int) -> None:
    async with through_b(tmp_path, "127.55.0.0/24", "::1/128", workers=workers) as pair:
        for host in (HOST, HOST6):
            with echo_server(host) as port:
                await _bytes(pair, host, port)
                await _datagrams(pair, host, port)
            await _ping(pair, host)
            await _refusals(pair, host)


async def _bytes(pair: Pair, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    data = os.urandom(4 << 20)
    with fetch(await pair.a.dial(host, port)) as dialled:

        async def send() -> None:
            await loop.sock_sendall(dialled, data)
            dialled.shutdown(socket.SHUT_WR)

        _, got = await asyncio.gather(send(), read_all(dialled))
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


async def _datagrams(pair: Pair, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    data = os.urandom(8000)
    packed = ip_address(host).packed
    with await claim_records(await pair.a.open_udp(None, 0)) as udp:
        for size in (0, 64, 8000):  # the last one in fragments
            await loop.sock_sendall(udp, build_record(packed, port, data[:size]))
            async with asyncio.timeout(20):
                assert parse_record(await loop.sock_recv(udp, 1 << 16)) == (DATAGRAM, host, port, data[:size])


async def _ping(pair: Pair, host: str) -> None:
    if ip_address(host).version in pings():
        assert await pair.a.ping(host, timeout=20) > 0
        return
    with pytest.raises(DialError) as raised:  # told at once, not left to wait
        await pair.a.ping(host, timeout=20)
    assert raised.value.errno in (errno.EHOSTUNREACH, errno.EACCES)


async def _refusals(pair: Pair, host: str) -> None:
    port = free_port(host)
    with pytest.raises(DialError) as raised:
        await pair.a.dial(host, port, timeout=20)
    assert raised.value.errno == errno.ECONNREFUSED
    loop = asyncio.get_running_loop()
    with await claim_records(await pair.a.open_udp(None, 0)) as udp:
        await loop.sock_sendall(udp, build_record(ip_address(host).packed, port, b"anybody?"))
        async with asyncio.timeout(20):
            kind, *_, number = parse_record(await loop.sock_recv(udp, 1 << 16))
        assert (kind, int.from_bytes(number, "big")) == (FAILURE, errno.ECONNREFUSED)


@on_loop
async def test_only_what_is_named_and_routed_is_reached(tmp_path: Path) -> None:
    """A wide target does not stand for the host itself, and a member's own listeners do not take what passes."""
    with socket.create_server((OTHER, 0)) as server, socket.create_server((HOST, 0)) as named:
        server.setblocking(False)
        port = server.getsockname()[1]
        async with through_b(tmp_path, "127.55.0.0/24", "0.0.0.0/0") as pair:
            listener, _ = await pair.b.listen(None, port)
            with pytest.raises(DialError) as raised:
                await pair.a.dial(OTHER, port, timeout=20)
            assert raised.value.errno == errno.EHOSTUNREACH
            with pytest.raises(BlockingIOError):
                server.accept()
            # A neighbour's address is the network's own, though 0.0.0.0/0 holds it.
            with pytest.raises(DialError):
                await pair.a.dial("10.121.0.77", port, timeout=1)
            await until(lambda: pair.b.workers()[0].counters.get("transit_refused", 0) > 0)
            assert not pair.b.workers()[0].counters["gateway_refused"]
            await pair.b.close_listener(listener)
            # What stands ends when the way is closed.
            with fetch(await pair.a.dial(HOST, named.getsockname()[1])) as dialled:
                pair.b.set_gateway([], 0)
                with pytest.raises(ConnectionResetError):
                    await read_all(dialled)
            with pytest.raises(DialError):
                await pair.a.dial(HOST, named.getsockname()[1], timeout=20)


@on_loop
async def test_flows_are_bounded(tmp_path: Path) -> None:
    """With no room a SYN waits for a flow to end: nothing is refused, and no more sockets are made."""
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        async with through_b(tmp_path, "127.55.0.0/24", flows=2) as pair:
            first, second = [fetch(await pair.a.dial(HOST, port)) for _ in range(2)]
            third = asyncio.create_task(pair.a.dial(HOST, port, timeout=20))
            await until(lambda: pair.b.workers()[0].counters.get("gateway_full", 0) > 0)
            assert not third.done()
            first.close()
            server.accept()[0].close()
            with second, fetch(await third):
                assert pair.b.workers()[0].counters["gateway_connections"] >= 2


@pytest.mark.parametrize(
    ("named", "excepted", "inside", "outside"),
    [
        ("192.168.55.0/24", "192.168.55.8/30", "192.168.55.7 192.168.55.12", "192.168.55.9 192.168.54.1"),
        ("0.0.0.0/0", "", "1.1.1.1 10.0.0.1", "127.0.0.1 0.0.0.0 169.254.169.254 224.0.0.1 255.255.255.255"),
        ("::/0", "", "2001:db8::1 fd00::1", ":: ::1 ::ffff:127.0.0.1 fe80::1 ff02::1 fd00:ec2::254"),
        (
            "::/0",
            "",
            "64:ff9c::1 fd00:43::42",
            "64:ff9b::a9fe:a9fe 64:ff9b:1::7f00:1 2002:7f00:1::1 2001:0:a00:1::1 fec0::1",
        ),
        ("fd00::/8", "", "fd20:ce::253", "fd20:ce::254 fd00:c1::a9fe:a9fe fd00:42::42"),
        ("64:ff9b::/96", "", "64:ff9b::1", "64:ff9c::1"),
        ("64::/16", "", "64:ff9c::1", "64:ff9b:1::1"),
        ("127.0.0.0/8", "", "127.0.0.1", "128.0.0.1"),
        ("169.254.169.254/32", "", "169.254.169.254", "169.254.169.253"),
    ],
)
def test_targets(named: str, excepted: str, inside: str, outside: str) -> None:
    from ztnode.netstack.transit import Prefixes

    prefixes = Prefixes(targets([named], excepted.split()))
    for text, expected in ((inside, True), (outside, False)):
        for address in text.split():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            assert (socket.inet_pton(family, address) in prefixes) is expected, address


@pytest.mark.parametrize("named", ["192.168.55.1/24", "nonsense", "10.0.0.0/33"])
def test_bad_targets(named: str) -> None:
    with pytest.raises(ValueError, match=r"192\.168\.55\.0/24|no network"):
        targets([named])
