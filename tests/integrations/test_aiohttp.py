"""ztclient.integrations, with the real libraries."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import web

import ztclient
from tests.unit.fake_node import RunningNode
from tests.unit.tls_files import TlsFiles
from ztclient.integrations.aiohttp import connector

HOST = "10.121.15.99"
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return asyncio.run if request.param == "asyncio" else uvloop.run


async def serve(running: RunningNode, port: int, context: ssl.SSLContext | None = None) -> web.AppRunner:
    """A server that stands for one on the overlay."""

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def away(request: web.Request) -> web.Response:
        raise web.HTTPFound("/echo")

    application = web.Application(client_max_size=1 << 24)
    application.add_routes([web.post("/echo", echo), web.get("/echo", echo), web.get("/away", away)])
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    running.serve(HOST, port, runner.addresses[0])
    return runner


def test_aiohttp(run: Run, running_node: RunningNode) -> None:
    async def main() -> None:
        runner = await serve(running_node, 80)
        async with aiohttp.ClientSession(f"http://{HOST}", connector=connector(ztclient.Node())) as session:

            async def one(number: int) -> None:
                body = b"%05d" % number * 10_000
                async with session.post("/echo", data=body) as response:
                    assert await response.read() == body

            await asyncio.gather(*map(one, range(40)))
            async with session.get("/away") as response:
                assert response.url.path == "/echo" and response.status == 200
        await runner.cleanup()

    run(main())
    assert 0 < len(running_node.node.dials) <= 41  # connections are used again


def test_aiohttp_failures_are_its_own(run: Run, running_node: RunningNode) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession(connector=connector()) as session:
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await session.get(f"http://{HOST}:9/")
            assert isinstance(caught.value.os_error, ConnectionRefusedError)
            with pytest.raises(aiohttp.ClientConnectorDNSError):
                await session.get("http://example.com/")
            with pytest.raises(aiohttp.ServerTimeoutError):
                await session.get("http://198.51.100.1/", timeout=aiohttp.ClientTimeout(sock_connect=0.2))

    run(main())


def test_aiohttp_checks_the_certificate(run: Run, running_node: RunningNode, tls_files: TlsFiles) -> None:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(tls_files.certificate, tls_files.key)
    trusting = ssl.create_default_context(cafile=str(tls_files.certificate))

    async def main() -> None:
        runner = await serve(running_node, 443, served)
        # Old releases would use the first connection for the other name too.
        async with aiohttp.ClientSession(connector=connector(force_close=True)) as session:
            async with session.get(f"https://{HOST}/echo", ssl=trusting) as response:
                assert response.status == 200
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(f"https://{HOST}/echo", ssl=trusting, server_hostname="example.com")
        await runner.cleanup()

    run(main())
