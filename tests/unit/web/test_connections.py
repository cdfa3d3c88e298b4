"""Connections to the API that say nothing, over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs ztnode[web]")

import uvicorn
from uvicorn.server import ServerState

from tests.unit.tls_files import make as make_tls_files
from ztnode.web import connections

MOST = 8
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"here"})


@pytest.mark.parametrize("encrypted", [False, True], ids=["http", "https"])
def test_silent_connections_are_bounded_and_end(
    encrypted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", MOST)
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    tls = client = None
    if encrypted:
        files = make_tls_files(tmp_path, "api", "127.0.0.1")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(files.certificate, files.key)
        client = ssl.create_default_context(cafile=files.certificate)

    async def scenario() -> None:
        config = uvicorn.Config(_app, http=connections.TimedProtocol, ws="none", lifespan="off", log_config=None)
        config.load()
        state = ServerState()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            port = listener.getsockname()[1]

            def make() -> connections.TimedProtocol:
                return connections.TimedProtocol(config, state, {})

            accepting = asyncio.create_task(connections.accept(listener, make, state, lambda: tls))
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST)]
            silent[0][1].write(REQUEST[:20])  # of TLS no part, and of HTTP half a head
            refused, late = await asyncio.open_connection("127.0.0.1", port)
            assert await asyncio.wait_for(refused.read(), 10) == b""
            late.close()
            for reader, writer in silent:
                with contextlib.suppress(ConnectionResetError):
                    await asyncio.wait_for(reader.read(), 10)
                writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
            for _ in range(2):
                writer.write(REQUEST)
                assert (await reader.readuntil(b"here")).startswith(b"HTTP/1.1 200 ")
            writer.write(b"G")  # and no more
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
            accepting.cancel()
            await asyncio.wait([accepting])

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 1_000_000, b"400"),
        (b"GET /" + b"a" * 1_000_000, b"400"),
        (b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 100_000, b"400"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 10_000, b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + b"a" * 1_000_000, b"200"),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 50_000 + b"\r\n\r\n", b"200"),
    ],
    ids=["field", "line", "fields", "trailers", "body", "long"],
)
def test_a_head_has_a_limit_and_a_body_is_the_applications(data: bytes, status: bytes) -> None:
    """Of many fields the event loop, and with it the node, saw nothing else for seconds."""

    async def scenario() -> bytes:
        config = uvicorn.Config(_app, http=connections.TimedProtocol, ws="none", lifespan="off", log_config=None)
        config.load()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: connections.TimedProtocol(config, ServerState(), {}), "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(data)
            answer = b""
            while status not in answer:
                answer += (part := await reader.read(1000))
                assert part, answer
            writer.close()
        return answer

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_answers_have_the_time_though_no_clock_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn's own is set ten times a second, for as long as a node runs."""
    monkeypatch.setattr("ztnode.web.connections.time.time", lambda: 784111777.9)

    async def scenario() -> bytes:
        config = uvicorn.Config(_app, http=connections.TimedProtocol, lifespan="off", log_config=None)
        config.load()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: connections.TimedProtocol(config, ServerState(), {}), "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(REQUEST)
            answer = await reader.readuntil(b"\r\n\r\n")
            writer.close()
        return answer

    answer = asyncio.run(asyncio.wait_for(scenario(), 20))
    assert answer.count(b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n") == 1
