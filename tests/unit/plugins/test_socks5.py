"""SOCKS5 proxies that say no, or something else; ``tests/netns/test_udp_blocked.py`` has real ones."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from ztnode.hookspecs import Counts, Datagrams, Endpoint, MayBeDown, UsesProxies
from ztnode.plugins import outer_proxy, reconnecting
from ztnode.plugins.socks5 import Socks5Transport, pack_endpoint, unpack_endpoint

ROOT: Endpoint = ("84.17.53.155", 9993)
PACKET = b"a packet of 24 bytes...."


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnecting, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(reconnecting, "DIAL_TIMEOUT", 0.5)


def run(check: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await check()

    uvloop.run(bounded())


async def proxy(*answers: bytes) -> asyncio.Server:
    """One that says these to each client, whatever it hears, one at each read, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            if await reader.read(512):
                writer.write(answer)
        if not answers[-1]:
            await reader.read()
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


def port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("not so")


@pytest.mark.parametrize(
    ("credentials", "answers", "reason", "garbage"),
    [
        ("", (b"HTTP/1.1 400 Bad Request\r\n\r\n",), "does not speak SOCKS5", True),
        ("", (b"\x05\xff",), "wants a name and a password", False),
        ("joe:secret@", (b"\x05\xff",), "takes no name and password", False),
        ("joe:secret@", (b"\x05\x02", b"\x01\x01"), "does not take this name and password", False),
        ("", (b"\x05\x00", b"\x05\x07\x00\x01" + bytes(6)), "it relays no UDP", False),
        ("", (b"\x05\x00", b"\x05\x99\x00\x01" + bytes(6)), "reply 153", False),
        ("", (b"\x05\x00", b"\x05\x00\x00\x09" + bytes(600)), "does not speak SOCKS5", True),
        ("", (b"\x05\x00", b"\x05"), "it hung up", False),
        ("", (b"\x05\x00", b""), "no answer in 0.5 s", False),
    ],
)
def test_a_proxy_that_is_of_no_use_is_named_once(
    credentials: str, answers: tuple[bytes, ...], reason: str, garbage: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        async with await proxy(*answers) as server:
            transport = Socks5Transport(f"socks5://{credentials}127.0.0.1:{port_of(server)}")
            await transport.open(0, lambda _datagrams: None)
            await until(lambda: transport.counters["socks5_refused"] >= 2)
            assert transport.send(ROOT, [PACKET]) == 1 and not transport.is_up
            assert (transport.counters.get("socks5_garbage", 0) > 0) is garbage
            await transport.close()

    run(check)
    (record,) = caplog.records
    assert reason in record.message and "secret" not in record.message


def test_datagrams_and_an_association_that_ends() -> None:
    async def check() -> None:
        came: asyncio.Queue[Datagrams] = asyncio.Queue()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as relay:
            relay.bind(("127.0.0.1", 0))
            relay.settimeout(30)
            writers: list[asyncio.StreamWriter] = []

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writers.append(writer)
                await reader.readexactly(3)
                writer.write(b"\x05\x00")
                await reader.readexactly(10)
                writer.write(b"\x05\x00\x00" + pack_endpoint(("0.0.0.0", relay.getsockname()[1])))
                await reader.read()
                writer.close()

            async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
                transport = Socks5Transport(f"socks5://localhost:{port_of(server)}")
                for extra in (Counts, MayBeDown, UsesProxies):
                    assert isinstance(transport, extra)
                await transport.open(0, came.put_nowait)
                for number in range(2):
                    await until(lambda: transport.is_up)
                    assert transport.send(ROOT, [PACKET]) == 0
                    data, client = await asyncio.to_thread(relay.recvfrom, 2048)
                    assert data == b"\0\0\0" + pack_endpoint(ROOT) + PACKET
                    for garbage in (b"", b"\0\0\1" + data[3:], b"\0\0\0\3\4name", data[:8]):
                        relay.sendto(garbage, client)
                    relay.sendto(data, client)
                    assert list(await came.get()) == [(PACKET, ROOT)]
                    assert transport.counters["socks5_garbage"] == 4 * (number + 1)
                    writers[-1].close()
                    await until(lambda number=number: transport.counters["socks5_lost"] == number + 1)  # type: ignore[misc]
                await transport.close()
                assert not transport.is_up

    run(check)


def test_addresses() -> None:
    for endpoint in (ROOT, ("2001:db8::1", 443)):
        packed = pack_endpoint(endpoint)
        assert unpack_endpoint(b"xx" + packed, 2) == (endpoint, len(packed) + 2)
    for data in (b"", b"\3\4name\0\0", pack_endpoint(ROOT)[:-1]):
        with pytest.raises(ValueError, match="not a SOCKS5 address"):
            unpack_endpoint(data, 0)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\xff" * 5000,
        b"",
    ],
)
def test_an_http_proxy_that_is_of_no_use(answer: bytes) -> None:
    async def check() -> None:
        async with await proxy(answer or b"\r") as server:
            url = f"http://joe:secret@127.0.0.1:{port_of(server)}"
            with pytest.raises(OSError, match=r"by the proxy http://127\.0\.0\.1") as refused:
                await outer_proxy.connect(("relay.example", 443), url)
            assert "secret" not in str(refused.value)

    run(check)


def test_which_proxy_leads_where(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    assert outer_proxy.proxy_for("relay.example", None) is None
    monkeypatch.setenv("ALL_PROXY", "socks5h://proxy.example")
    assert outer_proxy.proxy_for("relay.example", None) == "socks5://proxy.example:1080"
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "relay.example,.inner.example,192.0.2.1")
    assert outer_proxy.proxy_for("other.example", None) == "http://proxy.example:3128"
    for host in ("relay.example", "a.inner.example", "192.0.2.1"):
        assert outer_proxy.proxy_for(host, None) is None
    assert outer_proxy.proxy_for("relay.example", "http://given.example") == "http://given.example:8080"
    assert outer_proxy.proxy_for("other.example", "none") is None
