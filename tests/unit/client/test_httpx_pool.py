"""The connections of httpx's AsyncTransport, against a server of asyncio on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
import httpcore  # noqa: E402

from ztclient.integrations.httpx_pool import AsyncPool  # noqa: E402


class Server:
    """Answers with the number of the connection and of the request on it; ``/wait`` when it is let."""

    def __init__(self) -> None:
        self.connections = 0
        self.open = 0
        self.most = 0
        self.go = asyncio.Event()
        self.waiting = asyncio.Semaphore(0)
        self.left = asyncio.Semaphore(0)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most = max(self.most, self.open)
        number, requests = self.connections, 0
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                requests += 1
                if head.startswith(b"GET /wait"):
                    self.waiting.release()
                    await self.go.wait()
                body = b"%d.%d" % (number, requests)
                close = b"Connection: close\r\n" if head.startswith(b"GET /last") else b""
                writer.write(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (close, len(body), body))
                await writer.drain()
                if close:
                    break
        self.open -= 1
        self.left.release()
        writer.close()


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[Server, int]]:
    server = Server()
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    try:
        yield server, listening.sockets[0].getsockname()[1]
    finally:
        server.go.set()
        listening.close()


def pool(**limits: Any) -> AsyncPool:
    return AsyncPool(
        httpcore.AnyIOBackend(),
        ssl_context=ssl.create_default_context(),
        limits=httpx.Limits(**limits),
        http1=True,
        http2=False,
        retries=0,
    )


async def get(connections: AsyncPool, port: int, path: str = "/", **timeouts: float) -> str:
    request = httpcore.Request(
        "GET",
        f"http://127.0.0.1:{port}{path}",
        headers={"Host": "127.0.0.1"},
        extensions={"timeout": timeouts},
    )
    answer = await connections.handle_async_request(request)
    try:
        return b"".join([part async for part in answer.aiter_stream()]).decode()
    finally:
        await answer.aclose()


def run(test: Callable[[Server, int], Awaitable[None]]) -> None:
    async def main() -> None:
        async with serving() as (server, port):
            await test(server, port)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_free_connection_is_used_again() -> None:
    async def test(server: Server, port: int) -> None:
        connections = pool()
        assert [await get(connections, port) for _ in range(3)] == ["1.1", "1.2", "1.3"]
        await connections.aclose()
        assert await get(connections, port) == "2.1"
        await connections.aclose()

    run(test)


def test_so_many_at_a_time_and_the_others_wait() -> None:
    async def test(server: Server, port: int) -> None:
        connections = pool(max_connections=3)
        answers = await asyncio.gather(*(get(connections, port) for _ in range(40)))
        assert len(set(answers)) == 40
        assert server.connections <= 3
        await connections.aclose()

    run(test)


def test_who_waits_too_long_for_a_turn_is_told() -> None:
    async def test(server: Server, port: int) -> None:
        connections = pool(max_connections=1)
        first = asyncio.create_task(get(connections, port, "/wait"))
        await server.waiting.acquire()
        with pytest.raises(httpcore.PoolTimeout):
            await get(connections, port, pool=0.05)
        server.go.set()
        assert await first == "1.1"
        assert await get(connections, port, pool=5) == "1.2"
        await connections.aclose()

    run(test)


def test_no_more_are_kept_than_was_asked_for() -> None:
    async def test(server: Server, port: int) -> None:
        connections = pool(max_connections=10, max_keepalive_connections=2)
        waiting = [asyncio.create_task(get(connections, port, "/wait")) for _ in range(10)]
        for _ in waiting:
            await server.waiting.acquire()
        server.go.set()
        await asyncio.gather(*waiting)
        for _ in range(8):
            await server.left.acquire()
        assert server.open == 2
        assert server.connections == 10
        await get(connections, port)
        assert server.connections == 10
        await connections.aclose()

    run(test)


def test_what_the_server_closed_is_not_used_again() -> None:
    async def test(server: Server, port: int) -> None:
        connections = pool()
        assert await get(connections, port, "/last") == "1.1"
        assert await get(connections, port) == "2.1"
        await connections.aclose()

    run(test)


def test_a_request_that_is_given_up_gives_its_turn_back() -> None:
    async def test(server: Server, port: int) -> None:
        connections = pool(max_connections=1)
        for _ in range(3):
            given_up = asyncio.create_task(get(connections, port, "/wait"))
            await server.waiting.acquire()
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
        assert await get(connections, port, pool=5) == "4.1"
        with pytest.raises(httpcore.ConnectError):
            await get(connections, 1, pool=5)
        assert await get(connections, port, pool=5)
        await connections.aclose()

    run(test)


def test_a_connection_to_another_origin_makes_room() -> None:
    async def test(server: Server, port: int) -> None:
        async with serving() as (other, elsewhere):
            connections = pool(max_connections=1)
            for _ in range(3):
                await get(connections, port)
                await get(connections, elsewhere)
            for _ in range(3):
                await server.left.acquire()
            assert (server.open, other.open) == (0, 1)
            assert server.most == other.most == 1
            await connections.aclose()

    run(test)
