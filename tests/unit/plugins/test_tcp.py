"""The TCP transport: a relay that is there, one that is not, and one that speaks something else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from ztnode import plugins
from ztnode.hookspecs import Counts, Datagrams, Endpoint, MayBeDown, UsesProxies
from ztnode.plugins import reconnecting
from ztnode.plugins.tcp import MAX_UNSENT, ZEROTIER, TcpTransport
from ztnode.wire.tcp_relay import build_greeting, build_record

ROOT: Endpoint = ("84.17.53.155", 9993)
PACKET = b"a packet of 24 bytes...."
RECORD = build_record(ROOT, PACKET)


class Relay:
    """What a tcp-proxy would see, and a transport that goes to it."""

    async def start(self) -> TcpTransport:
        self.streams: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.came: asyncio.Queue[Datagrams] = asyncio.Queue()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self.streams.put((reader, writer))

        self.server = await asyncio.start_server(accept, "127.0.0.1", 0)
        transport = TcpTransport(self.server.sockets[0].getsockname()[:2])
        await transport.open(0, self.came.put_nowait)
        return transport

    async def greeted(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.streams.get()
        assert await reader.readexactly(9) == build_greeting(1, 14, 1)
        return reader, writer


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("not so")


def run(check: Callable[[Relay], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await check(Relay())

    uvloop.run(bounded())  # as the node does, whose transports are not asyncio's


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnecting, "FIRST_PAUSE", 0.01)


def test_packets_go_and_come_from_the_first_one_on() -> None:
    async def check(relay: Relay) -> None:
        transport = await relay.start()
        assert transport.send(ROOT, [PACKET]) == 0, "the one for which the connection is made is not lost"
        assert transport.send(("10.0.0.7", 9993), [PACKET]) == 1, "the relay is for the internet"
        assert transport.send(("2001:db8::1", 9993), [PACKET]) == 1, "and for IPv4"
        reader, writer = await relay.greeted()
        await until(lambda: transport.is_up)
        assert transport.send(ROOT, [PACKET, b"short"]) == 0
        assert await reader.readexactly(2 * len(RECORD)) == 2 * RECORD
        writer.write(RECORD)
        assert await relay.came.get() == [(PACKET, ROOT)]
        await transport.close()
        assert await reader.read() == b"" and not transport.is_up
        writer.close()

    run(check)


def test_garbage_is_counted_and_the_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(reconnecting, "FIRST_PAUSE", 1.0)
    monkeypatch.setattr(reconnecting, "STEADY", 0.0)
    monkeypatch.setattr(reconnecting, "sleep", sleep)

    async def check(relay: Relay) -> None:
        transport = await relay.start()
        for answer in (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\x15\x03\x03\x00\x02\x02\x28",
            b"\x17\x03\x03\xff\xff",
            b"",
        ):
            _, writer = await relay.greeted()
            writer.write(answer)
            writer.close()
        _, writer = await relay.greeted()
        writer.write(RECORD)
        await relay.came.get()
        writer.close()
        _, writer = await relay.greeted()
        assert transport.counters["tcp_garbage"] == 3
        assert all(0.75 * 2**n <= pause <= 2**n for n, pause in enumerate(pauses[:4])), pauses
        assert pauses[4] <= 1, "of use: it begins anew"
        await transport.close()
        writer.close()

    run(check)


def test_what_the_relay_does_not_take_is_dropped() -> None:
    async def check(relay: Relay) -> None:
        transport = await relay.start()
        _, writer = await relay.greeted()
        await until(lambda: transport.is_up)
        for _ in range(10_000):
            if transport.send(ROOT, [bytes(1400)] * 20):
                break
        assert transport.counters["tcp_dropped"] == 20
        assert transport._tcp is not None and transport._tcp.get_write_buffer_size() < MAX_UNSENT + 20 * 1412
        await transport.close()
        writer.close()

    run(check)


def test_a_relay_that_is_not_there_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    async def check(relay: Relay) -> None:
        transport = await relay.start()
        _, writer = await relay.greeted()
        relay.server.close()
        writer.transport.abort()
        await until(lambda: transport.counters["tcp_refused"] >= 3)
        for _ in range(1000):
            transport.send(ROOT, [bytes(1400)])
        assert sum(map(len, transport._held)) < 1 << 15, "what waits for it is bounded"
        await transport.close()

    run(check)
    assert sum("cannot be used" in record.message for record in caplog.records) == 1


def test_it_is_asked_for_as_any_plugin() -> None:
    manager = plugins.load()
    made = plugins.call(manager, "ztnode_transport", name="tcp://relay.example:8443")
    assert isinstance(made, TcpTransport) and made._relay == ("relay.example", 8443)
    assert isinstance(made, MayBeDown) and isinstance(made, Counts) and isinstance(made, UsesProxies)
    own = plugins.call(manager, "ztnode_transport", name="tcp")
    assert isinstance(own, TcpTransport) and own._relay == ZEROTIER
    with pytest.raises(ValueError, match="no address of a TCP relay"):
        plugins.call(manager, "ztnode_transport", name="tcp://relay.example")
