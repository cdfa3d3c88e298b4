"""Packets by a TCP relay where UDP brings nothing; ``tests/netns/test_tcp_proxy.py`` has ZeroTier's own relay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from ztnode.hookspecs import Datagrams, Endpoint, TellsPeersApart
from ztnode.node.tcp_relay import FALLBACK_AFTER, MAX_UNSENT, RETRY, TcpRelay
from ztnode.wire.tcp_relay import MAX_RECORD, RecordReader, build_greeting, build_record
from ztnode.wire.wire_error import WireError

ROOT: Endpoint = ("84.17.53.155", 9993)
PACKET = b"a packet of 24 bytes...."
RECORD = b"\x17\x03\x03\x00\x1f\x04\x54\x11\x35\x9b\x27\x09" + PACKET


def test_records() -> None:
    assert build_record(ROOT, PACKET) == RECORD
    assert build_greeting(1, 14, 1) == b"\x17\x03\x03\x00\x04\x01\x0e\x00\x01"
    others = b"\x17\x03\x03\x00\x00" + b"\x17\x03\x03\x00\x01\x06" + build_record(ROOT, b"short")
    assert RecordReader().feed(others + RECORD) == [(PACKET, ROOT)]
    with pytest.raises(WireError):
        RecordReader().feed(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(WireError):
        RecordReader().feed(b"\x17\x03\x03\xff\xff")
    with pytest.raises(ValueError, match="4 octets"):
        build_record(("2001:db8::1", 1), PACKET)


@given(st.lists(st.binary(min_size=16, max_size=100), max_size=5), st.lists(st.integers(1, 50), max_size=30))
def test_a_stream_comes_in_any_pieces(packets: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(build_record(ROOT, packet) for packet in packets)
    reader, found = RecordReader(), []
    for cut in cuts:
        found += reader.feed(stream[:cut])
        stream = stream[cut:]
    found += reader.feed(stream)
    assert found == [(packet, ROOT) for packet in packets]
    assert len(reader._held) <= MAX_RECORD + 5


class Udp:
    """A transport that brings nothing until it is told to."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.receive: Callable[[Datagrams], None] = lambda _datagrams: None

    async def open(self, port: int, receive: Callable[[Datagrams], None]) -> None:
        self.receive = receive

    def send(self, endpoint: Endpoint, datagrams: Sequence[bytes]) -> int:
        self.sent += datagrams
        return 0

    def local_endpoints(self) -> Sequence[Endpoint]:
        return [("0.0.0.0", 9993)]

    async def close(self) -> None:
        pass


class Relay:
    """What a tcp-proxy would see, and a TcpRelay that goes to it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.udp = Udp()
        self.streams: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.came: asyncio.Queue[Datagrams] = asyncio.Queue()

    async def start(self, *, always: bool) -> TcpRelay:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self.streams.put((reader, writer))

        self.server = await asyncio.start_server(accept, "127.0.0.1", 0)
        address = self.server.sockets[0].getsockname()[:2]
        transport = TcpRelay(self.udp, address, always=always, clock=lambda: self.now)
        await transport.open(0, self.came.put_nowait)
        assert isinstance(transport, TellsPeersApart)
        transport.favor([ROOT])
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


def run(check: Callable[[Relay], object]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await check(Relay())  # type: ignore[misc]

    uvloop.run(bounded())  # as the node does, whose transports are not asyncio's


def test_it_is_taken_when_udp_is_silent_and_left_when_it_is_back() -> None:
    async def check(relay: Relay) -> None:
        transport = await relay.start(always=False)
        assert transport.send(ROOT, [PACKET]) == 0 and relay.udp.sent == [PACKET]
        relay.now += FALLBACK_AFTER + 1
        transport.send(("10.0.0.7", 9993), [PACKET])
        transport.send(("2001:db8::1", 9993), [PACKET])
        assert transport._connecting is None, "the relay is for the internet's IPv4"
        transport.send(ROOT, [PACKET])
        reader, writer = await relay.greeted()
        await until(lambda: transport.is_active)
        assert transport.send(ROOT, [PACKET, b"short"]) == 0 and len(relay.udp.sent) == 6, "by UDP all the same"
        assert await reader.readexactly(len(RECORD)) == RECORD
        writer.write(RECORD)
        assert await relay.came.get() == [(PACKET, ROOT)]
        relay.udp.receive([(PACKET, ("192.168.1.1", 9993))])
        assert transport.is_active
        relay.udp.receive([(PACKET, ROOT)])
        assert await reader.read() == b""
        assert await relay.came.get() and await relay.came.get() == [(PACKET, ROOT)]
        await transport.close()
        writer.close()

    run(check)


def test_forced_it_uses_nothing_else_and_comes_back() -> None:
    async def check(relay: Relay) -> None:
        transport = await relay.start(always=True)
        assert transport.send(ROOT, [PACKET]) == 1 and relay.udp.sent == []
        _, writer = await relay.greeted()
        relay.udp.receive([(PACKET, ROOT)])
        assert relay.came.empty()
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await until(lambda: not transport.is_active and transport._next_try > relay.now + RETRY)
        transport.send(ROOT, [PACKET])
        assert transport._connecting is None, "not at once again to one that speaks something else"
        relay.now += FALLBACK_AFTER + 1
        transport.send(ROOT, [PACKET])
        _, writer2 = await relay.greeted()
        await until(lambda: transport.is_active)
        # It takes nothing: what does not fit is dropped.
        for _ in range(10_000):
            if transport.send(ROOT, [bytes(1400)] * 20):
                break
        assert transport._tcp is not None and transport._tcp.get_write_buffer_size() < MAX_UNSENT + 20 * 1412
        await transport.close()
        assert transport.send(ROOT, [PACKET]) == 1
        writer.close()
        writer2.close()

    run(check)


def test_a_relay_that_is_not_there_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    async def check(relay: Relay) -> None:
        transport = await relay.start(always=True)
        relay.server.close()
        await relay.server.wait_closed()
        for _ in range(3):
            relay.now += RETRY
            transport.send(ROOT, [PACKET])
            assert transport._connecting is not None
            await transport._connecting
        await transport.close()

    run(check)
    assert sum("cannot be reached" in record.message for record in caplog.records) == 1
