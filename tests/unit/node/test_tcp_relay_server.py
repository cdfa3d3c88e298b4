"""The TCP relay for others: what it passes on, and what it does not let be done with it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
import uvloop

from ztnode.hookspecs import Datagrams, Endpoint
from ztnode.node import tcp_relay_server
from ztnode.node.tcp_relay_server import IDLE, TcpRelayServer, is_relayed_to, looks_like_vl1
from ztnode.plugins.tcp import TcpTransport
from ztnode.wire.fragment import split
from ztnode.wire.tcp_relay import RecordReader, build_greeting, build_record

PACKET = bytes(8) + bytes.fromhex("89e92ceee50a69e30a6918") + bytes(20)
GREETING = build_greeting(1, 14, 1)


class Scene:
    """A relay, and a node of the internet behind it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.relay = TcpRelayServer(clock=lambda: self.now)
        self.node = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.node.bind(("127.0.0.1", 0))
        self.node.setblocking(False)
        self.peer: Endpoint = self.node.getsockname()
        self.at: Endpoint = "", 0

    async def heard(self) -> tuple[bytes, Endpoint]:
        return await asyncio.to_thread(self._heard)

    def _heard(self) -> tuple[bytes, Endpoint]:
        self.node.settimeout(10)
        return self.node.recvfrom(4096)

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.at)

    async def counted(self, name: str, count: int = 1) -> None:
        for _ in range(10_000):
            if self.relay.counters[name] >= count:
                return
            await asyncio.sleep(0.001)
        raise AssertionError(dict(self.relay.counters))


@pytest.fixture(autouse=True)
def loopback_is_the_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_relay_server, "is_relayed_to", lambda endpoint: endpoint[1] != 53)
    monkeypatch.setattr("ztnode.plugins.tcp.is_relayed", lambda ip: True)


def run(check: Callable[[Scene], Awaitable[None]]) -> None:
    async def bounded() -> None:
        scene = Scene()
        async with asyncio.timeout(20):
            scene.at = await scene.relay.open("127.0.0.1", 0)
            try:
                await check(scene)
            finally:
                scene.relay.close()
                scene.node.close()
        assert scene.relay.clients == 0

    uvloop.run(bounded())


def test_a_client_of_ours_is_a_node_behind_a_nat() -> None:
    async def check(scene: Scene) -> None:
        came: asyncio.Queue[Datagrams] = asyncio.Queue()
        first, second = TcpTransport(scene.at), TcpTransport(scene.at)
        for transport in (first, second):
            await transport.open(0, came.put_nowait)
        first.send(scene.peer, [PACKET])
        packet, source = await scene.heard()
        assert packet == PACKET
        second.send(scene.peer, [PACKET])
        assert (await scene.heard())[1] != source, "each has an address of its own"
        scene.node.sendto(PACKET[::-1], source)
        assert list(await came.get()) == [(PACKET[::-1], scene.peer)]
        for transport in (first, second):
            await transport.close()

    run(check)


@pytest.mark.parametrize(
    "spoken",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"\x17\x03\x03\xff\xff",
        build_record(("80.1.1.1", 9993), PACKET),
    ],
    ids=["http", "tls", "too long", "no greeting"],
)
def test_other_talk_is_counted_and_closed(spoken: bytes) -> None:
    async def check(scene: Scene) -> None:
        reader, writer = await scene.client()
        writer.write(spoken)
        with pytest.raises(ConnectionError):
            if not await reader.read():
                raise ConnectionResetError
        assert scene.relay.counters["garbage"] == 1
        writer.close()

    run(check)


def test_it_is_no_gun() -> None:
    async def check(scene: Scene) -> None:
        _, writer = await scene.client()
        writer.write(GREETING)
        for number in range(1000):
            writer.write(build_record(scene.peer, PACKET + number.to_bytes(2, "big")))
        writer.write(build_record(("127.0.0.1", 53), PACKET) + build_record(scene.peer, b"\xff" * 40))
        await scene.counted("refused", 2)
        assert scene.relay.counters["sent"] == tcp_relay_server.UNANSWERED_BURST
        assert scene.relay.counters["unanswered"] == 1000 - tcp_relay_server.UNANSWERED_BURST
        _, source = await scene.heard()
        scene.node.sendto(PACKET, source)
        await scene.counted("received")
        for number in range(1000):
            writer.write(build_record(scene.peer, PACKET + number.to_bytes(2, "big")))
        await scene.counted("sent", int(tcp_relay_server.UNANSWERED_BURST) + 1000)
        writer.write(build_record(scene.peer, PACKET + bytes(1900)) * 3000)
        await scene.counted("over_share")
        writer.close()

    run(check)


@pytest.mark.parametrize("record", [b"\x17\x03\x03\0\0", GREETING, build_record(("80.1.1.1", 53), PACKET)])
def test_a_flood_of_small_records_waits_for_its_share(record: bytes) -> None:
    async def check(scene: Scene) -> None:
        _, writer = await scene.client()
        for _ in range(3):
            writer.write(GREETING + record * int(tcp_relay_server.RECORDS_BURST / 2) + build_record(scene.peer, PACKET))
        await scene.counted("over_share")
        await scene.counted("sent", 3)  # later, and not lost
        writer.close()

    run(check)


def test_clients_are_bounded_and_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_relay_server, "MAX_CLIENTS_OF_HOST", 2)

    async def check(scene: Scene) -> None:
        streams = [await scene.client() for _ in range(3)]
        await scene.counted("too_many")
        streams[0][1].write(GREETING + build_record(scene.peer, PACKET))
        await scene.counted("sent")
        scene.now += 11
        scene.relay._look()
        assert scene.relay.counters["idle"] == 1, "the one that never greeted"
        scene.now += IDLE
        scene.relay._look()
        assert scene.relay.counters["idle"] == 2
        assert scene.relay.clients == 0
        for _, writer in streams:
            writer.close()

    run(check)


def test_a_node_that_comes_back_is_where_it_was() -> None:
    """Peers go on sending there. Another node of that host is elsewhere, and so is one that comes while it is there."""

    async def check(scene: Scene) -> None:
        async def source_of(packet: bytes) -> tuple[int, asyncio.StreamWriter]:
            _, writer = await scene.client()
            writer.write(GREETING + build_record(scene.peer, packet))
            return (await scene.heard())[1][1], writer

        async def gone(writer: asyncio.StreamWriter) -> None:
            there = scene.relay.clients
            writer.close()
            for _ in range(10_000):
                if scene.relay.clients < there:
                    return
                await asyncio.sleep(0.001)

        other = PACKET[:13] + b"other" + PACKET[18:]
        first, writer = await source_of(PACKET)
        beside, second = await source_of(PACKET)
        await gone(second)
        elsewhere, third = await source_of(other)
        assert len({first, beside, elsewhere}) == 3
        await gone(writer)
        await gone(third)
        assert (await source_of(other))[0] == elsewhere
        again, writer = await source_of(PACKET)
        assert again in (first, beside)
        await gone(writer)
        assert (await source_of(PACKET))[0] == again

    run(check)


def test_many_clients_of_one_host_have_the_share_of_one() -> None:
    async def check(scene: Scene) -> None:
        share = int(tcp_relay_server.RECORDS_BURST)
        streams = [await scene.client() for _ in range(8)]
        for _, writer in streams:
            writer.write(GREETING + b"\x17\x03\x03\0\0" * (share // 8 + 1))
        await scene.counted("over_share")
        assert scene.relay.records.take(scene.now, 0) == 0, "others have theirs"
        (host,) = scene.relay._hosts.values()
        assert host.clients == 8 and host.records.take(scene.now, 0) > 0
        for _, writer in streams:
            writer.close()

    run(check)


def test_who_is_quiet_makes_room_and_who_is_not_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_relay_server, "MAX_CLIENTS", 3)

    async def check(scene: Scene) -> None:
        streams = []
        for number in range(3):
            streams.append(await scene.client())
            streams[-1][1].write(GREETING + build_record(scene.peer, PACKET))
            await scene.counted("sent", number + 1)
            scene.now += 1
        streams.append(await scene.client())
        await scene.counted("too_many")
        scene.now += tcp_relay_server.QUIET - 3
        streams[0][1].write(build_record(scene.peer, PACKET))
        await scene.counted("sent", 4)
        scene.now += 2
        streams.append(await scene.client())
        await scene.counted("accepted", 4)
        assert scene.relay.clients == 3 and scene.relay.counters["idle"] == 1
        with pytest.raises(ConnectionError):
            if not await streams[1][0].read():
                raise ConnectionResetError
        for _, writer in streams:
            writer.close()

    run(check)


def test_a_client_that_does_not_read_holds_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_relay_server, "MAX_UNSENT", 1 << 15)

    async def check(scene: Scene) -> None:
        reader, writer = await scene.client()
        writer.write(GREETING + build_record(scene.peer, PACKET))
        _, source = await scene.heard()
        transport = cast(asyncio.Transport, writer.transport)
        transport.pause_reading()
        while not scene.relay.counters["unread"]:
            for _ in range(50):
                scene.node.sendto(PACKET + bytes(1300), source)
            await asyncio.sleep(0.001)
        (client,) = scene.relay._clients
        assert client._tcp is not None and client._tcp.get_write_buffer_size() < 1 << 18
        transport.resume_reading()
        assert RecordReader().feed(await reader.readexactly(12 + len(PACKET) + 1300))
        writer.close()

    run(check)


def test_what_goes_out() -> None:
    assert looks_like_vl1(PACKET)
    assert all(map(looks_like_vl1, split(PACKET + bytes(3000), 1432)))
    for other in (b"", bytes(40), b"\xff" * 40, PACKET[:20], PACKET + bytes(2048), b"\x12\x34\x01\x00" + bytes(30)):
        assert not looks_like_vl1(other)
    assert is_relayed_to(("80.1.1.1", 9993))
    for endpoint in (
        ("80.1.1.1", 53),
        ("127.0.0.1", 9993),
        ("10.0.0.1", 9993),
        ("169.254.169.254", 8080),
        ("224.0.0.1", 9993),
    ):
        assert not is_relayed_to(endpoint)
