"""ztclient.aio: asyncio's functions over the overlay, on both loops, by hand-off and by byte stream."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

import ztclient
from tests.unit.fake_node import IP, NWID, RunningNode, asking, configured
from tests.unit.peers import echo, peer, reset_after_some
from tests.unit.tls_files import TlsFiles
from ztclient import aio
from ztnode.control.tcp_options import TcpOptions

T = TypeVar("T")
HOST = "10.121.15.99"
Run = Callable[[Coroutine[Any, Any, T]], T]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[Any]:
    """``asyncio.run`` on each of the two loops."""
    return asyncio.run if request.param == "asyncio" else uvloop.run


@pytest.fixture(params=["local", "remote"])
def reached(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[RunningNode, aio.Node]]:
    """A node and a client of it, by hand-off and by byte stream."""
    state = tmp_path / "st"
    state.mkdir(mode=0o700)
    with RunningNode(state, TcpOptions("127.0.0.1:0") if request.param == "remote" else None) as running:
        token = (state / "control.token").read_text().strip() if request.param == "remote" else None
        yield running, aio.Node(running.addresses[-1], token=token)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("did not come to pass")


def test_streams(run: Run[None], reached: tuple[RunningNode, aio.Node]) -> None:
    running, node = reached

    async def main() -> None:
        reader, writer = await aio.open_connection(HOST, 7, node=node)
        assert writer.get_extra_info("peername") == (HOST, 7)
        assert writer.get_extra_info("sockname")[0] == IP
        writer.write(b"hello" * 100_000)
        writer.write_eof()
        assert await reader.read() == b"hello" * 100_000
        writer.close()
        await writer.wait_closed()

    with peer(echo) as real:
        running.serve(HOST, 7, real)
        run(main())


def test_a_reset_stays_one(run: Run[None], reached: tuple[RunningNode, aio.Node]) -> None:
    running, node = reached

    async def main() -> None:
        reader, writer = await aio.open_connection(HOST, 7, node=node)
        assert await reader.readexactly(10) == b"0123456789"
        writer.write(b"!")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    with peer(reset_after_some) as real:
        running.serve(HOST, 7, real)
        run(main())


def test_failures_are_those_of_a_socket(run: Run[None], reached: tuple[RunningNode, aio.Node]) -> None:
    _, node = reached

    async def main() -> None:
        with pytest.raises(ConnectionRefusedError):
            await aio.open_connection(HOST, 9, node=node)
        with pytest.raises(OSError, match="ARP") as caught:
            await aio.open_connection("192.0.2.9", 9, node=node)
        assert caught.value.errno == errno.EHOSTUNREACH
        with pytest.raises(TimeoutError):
            await aio.open_connection("198.51.100.1", 9, node=node, timeout=0.2)
        with pytest.raises(socket.gaierror):
            await aio.open_connection("example.com", 9, node=node)

    run(main())


def test_absent_hosts_hold_up_nobody(run: Run[None], reached: tuple[RunningNode, aio.Node]) -> None:
    """All dials are under way at the same moment, and one more is answered in spite of them."""
    running, node = reached

    async def main() -> None:
        absent = [asyncio.ensure_future(node.dial("198.51.100.1", 9, 60)) for _ in range(30)]
        await until(lambda: running.node.dialling == 30)
        threads = threading.active_count()
        reader, writer = await aio.open_connection(HOST, 7, node=node)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        assert running.node.dialling == 30 and not any(dial.done() for dial in absent)
        assert threading.active_count() - threads < 10  # gRPC starts some of its own; thirty dials have none each
        writer.close()
        for dial in absent:
            dial.cancel()
        await asyncio.gather(*absent, return_exceptions=True)

    with peer(echo) as real:
        running.serve(HOST, 7, real)
        run(main())


def test_server(run: Run[None], reached: tuple[RunningNode, aio.Node]) -> None:
    running, node = reached
    seen: list[object] = []

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername"))
        writer.write((await reader.read()).upper())
        writer.close()

    async def main() -> None:
        async with await aio.start_server(shout, IP, 8080, node=node) as server:
            assert server.getsockname() == (IP, 8080) and server.is_serving()
            real = running.node.overlay[IP, 8080]

            async def talk(number: int) -> bytes:
                reader, writer = await asyncio.open_connection(*real)
                writer.write(b"hello %d" % number)
                writer.write_eof()
                answer = await reader.read()
                writer.close()
                return answer

            assert await asyncio.gather(*map(talk, range(40))) == [b"HELLO %d" % number for number in range(40)]
        assert not server.is_serving()
        await until(lambda: not running.node.listeners)

    run(main())
    assert seen == [("10.121.15.99", 41000)] * 40


def test_accept_that_is_cancelled_loses_nothing(run: Run[None], reached: tuple[RunningNode, aio.Node]) -> None:
    running, node = reached

    async def main() -> None:
        async with await node.listen(IP, 8080) as listener:
            for _ in range(20):
                accepting = asyncio.ensure_future(listener.accept())
                await asyncio.sleep(0)
                accepting.cancel()
            _, writer = await asyncio.open_connection(*running.node.overlay[IP, 8080])
            accepted, address = await asyncio.wait_for(listener.accept(), 10)
            assert address == accepted.getpeername() == ("10.121.15.99", 41000)
            accepted.close()
            writer.close()
            waiting = asyncio.ensure_future(listener.accept())
            await asyncio.sleep(0.01)
        with pytest.raises(OSError, match="closed") as caught:
            await waiting
        assert caught.value.errno == errno.EBADF

    run(main())


def test_tls_checks_the_name(run: Run[None], running_node: RunningNode, tls_files: TlsFiles) -> None:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(tls_files.certificate, tls_files.key)
    trusting = ssl.create_default_context(cafile=str(tls_files.certificate))

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()

    async def main() -> None:
        async with await aio.start_server(shout, IP, 443, ssl=served):
            for host in (HOST, "10.121.15.98"):
                running_node.node.overlay[host, 443] = running_node.node.overlay[IP, 443]
            reader, writer = await aio.open_connection(HOST, 443, ssl=trusting)
            writer.write(b"hello\n")
            assert await reader.readline() == b"HELLO\n"
            writer.close()
            with pytest.raises(ssl.SSLCertVerificationError):
                await aio.open_connection("10.121.15.98", 443, ssl=trusting)

    run(main())


def test_administration(run: Run[None], reached: tuple[RunningNode, aio.Node]) -> None:
    running, node = reached
    running.node.on_join = asking

    async def main() -> None:
        assert (await node.status()).online
        assert [network.nwid for network in await node.networks()] == [f"{NWID:016x}"]
        assert (await node.network(NWID)).name == "lab"
        assert IP in await node.ips() and await node.peers()
        states: list[str] = []

        def changed(network: ztclient.Network) -> None:
            states.append(network.state)
            running.call(running.node.change, configured(NWID + 1))

        assert (await node.join(NWID + 1, 10, on_change=changed)).ready
        assert states[0] == "requesting"
        with pytest.raises(ztclient.JoinTimeoutError, match="asking the controller"):
            await node.join(NWID + 2, 0.1)
        await node.leave(NWID + 2)
        with pytest.raises(ztclient.NotFoundError):
            await node.network(NWID + 2)

    run(main())


def test_without_a_node(run: Run[None], tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(ztclient.NodeUnavailableError):
            await aio.Node(state=tmp_path).status()

    run(main())


def test_one_node_on_one_loop_after_another(run: Run[None], reached: tuple[RunningNode, aio.Node]) -> None:
    _, node = reached

    async def main() -> None:
        assert (await node.status()).online

    for _ in range(3):
        run(main())
