"""The connections of one AsyncTransport.

httpcore's own pool looks at each of its connections whenever one is taken or given back: with 200 of them a request of
64 KB costs 9 ms, 8 of which are that. Here it is a list for each origin. The connections themselves are httpcore's.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpcore
import httpx

_Origin = tuple[bytes, bytes, int]


class AsyncPool:
    """Requests have their turn in the order they came in, ``limits.max_connections`` at a time; of the connections that
    are free the last used one goes first."""

    def __init__(
        self,
        backend: httpcore.AsyncNetworkBackend,
        *,
        ssl_context: ssl.SSLContext,
        limits: httpx.Limits,
        http1: bool,
        http2: bool,
        retries: int,
    ) -> None:
        self._options: dict[str, Any] = {
            "ssl_context": ssl_context,
            "keepalive_expiry": limits.keepalive_expiry,
            "http1": http1,
            "http2": http2,
            "retries": retries,
            "network_backend": backend,
        }
        self._shared = http2
        """Whether a connection can take a request beside another."""
        self._most = sys.maxsize if limits.max_connections is None else limits.max_connections
        kept = limits.max_keepalive_connections
        self._most_kept = self._most if kept is None else min(kept, self._most)
        self._turns = asyncio.Semaphore(self._most)
        self._all: set[httpcore.AsyncConnectionInterface] = set()
        self._free: dict[_Origin, list[httpcore.AsyncConnectionInterface]] = {}

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """The answer's head; its body is read from ``stream``, which must be closed.

        Raises what httpcore raises, PoolTimeout among it.
        """
        try:
            if self._turns.locked():
                async with asyncio.timeout(request.extensions.get("timeout", {}).get("pool")):
                    await self._turns.acquire()
            else:
                await self._turns.acquire()  # at once
        except TimeoutError:
            raise httpcore.PoolTimeout(f"{self._most} requests are under way") from None
        try:
            connection, answer = await self._send(request)
        except BaseException:
            self._turns.release()
            raise
        body = _Body(answer.stream, lambda: self._end(connection, request))
        return httpcore.Response(answer.status, headers=answer.headers, content=body, extensions=answer.extensions)

    async def aclose(self) -> None:
        """Closes all connections."""
        closing = list(self._all)
        self._all.clear()
        self._free.clear()
        for connection in closing:
            await connection.aclose()

    async def _send(self, request: httpcore.Request) -> tuple[httpcore.AsyncConnectionInterface, httpcore.Response]:
        while True:
            connection = await self._take(request)
            if self._shared and connection.is_available():
                self._offer(connection, request)
            try:
                return connection, await connection.handle_async_request(request)
            except httpcore.ConnectionNotAvailable:
                continue  # as many streams as the peer allows, or the peer does not speak HTTP/2
            except BaseException:
                await self._put_back(connection, request)
                raise

    async def _take(self, request: httpcore.Request) -> httpcore.AsyncConnectionInterface:
        free = self._free.get(_origin(request), [])
        while free:
            connection = free.pop()
            if connection.is_closed() or connection.has_expired():
                await self._close(connection)
            elif connection.is_available():
                return connection
        while len(self._all) >= self._most and (idle := self._idle_elsewhere()) is not None:
            await self._close(idle)
        made = httpcore.AsyncHTTPConnection(request.url.origin, **self._options)
        self._all.add(made)
        return made

    def _idle_elsewhere(self) -> httpcore.AsyncConnectionInterface | None:
        for free in self._free.values():
            for position, connection in enumerate(free):
                if connection.is_idle():
                    return free.pop(position)
        return None

    async def _end(self, connection: httpcore.AsyncConnectionInterface, request: httpcore.Request) -> None:
        self._turns.release()
        await self._put_back(connection, request)

    async def _put_back(self, connection: httpcore.AsyncConnectionInterface, request: httpcore.Request) -> None:
        if connection.is_closed() or connection not in self._all:
            await self._close(connection)
        elif connection.is_available():
            if connection.is_idle() and sum(map(len, self._free.values())) >= self._most_kept:
                await self._close(connection)
            else:
                self._offer(connection, request)

    def _offer(self, connection: httpcore.AsyncConnectionInterface, request: httpcore.Request) -> None:
        free = self._free.setdefault(_origin(request), [])
        if not self._shared or connection not in free:
            free.append(connection)

    async def _close(self, connection: httpcore.AsyncConnectionInterface) -> None:
        self._all.discard(connection)
        if self._shared:
            for free in self._free.values():
                with contextlib.suppress(ValueError):
                    free.remove(connection)
        await connection.aclose()


def _origin(request: httpcore.Request) -> _Origin:
    origin = request.url.origin
    return origin.scheme, origin.host, origin.port


class _Body:
    def __init__(self, stream: Any, end: Callable[[], Awaitable[None]]) -> None:
        self._stream = stream
        self._end = end
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._stream:
                yield part
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                await self._stream.aclose()
            finally:
                await self._end()
