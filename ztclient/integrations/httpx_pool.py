"""The connections of one AsyncTransport.

httpcore's own pool looks at each of its connections whenever one is taken or given back: with 200 of them a request of
64 KB costs 9 ms, 8 of which are that. Here it is a list for each origin.

A connection costs as much as half a request of 64 KB, in six processes. So requests that come in a crowd dial a few,
and the others wait for the first of these that comes free; a server that takes its time has all it may have soon after.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import httpcore
import httpx

from ztclient.integrations.httpx_errors import counterpart
from ztclient.integrations.httpx_http1 import Answer

MOST_DIALS: Final = 32
"""Under way to one origin before further requests wait for a connection that comes free."""
PATIENCE: Final = 0.15
"""Seconds between two looks at those who wait: where no connection came free for them, or too few at two looks, all
dial."""
LONGEST_WAIT: Final = 2.0
"""Seconds in which, at the rate since the last look, the last of them should have one; and the longest that dials under
way are waited for."""


class Connection(Protocol):
    """One to an origin. Raises what httpcore raises."""

    @property
    def shared(self) -> bool:
        """Whether it takes a request beside another."""

    def is_available(self) -> bool:
        """Whether it takes a request now."""

    def is_idle(self) -> bool:
        """Whether it has none."""

    def is_closed(self) -> bool:
        """Whether it will take none any more."""

    def has_expired(self) -> bool:
        """Whether, being idle, it has waited too long, or the server has closed it."""

    async def send(self, request: httpx.Request) -> Answer:
        """Send it, and wait for the answer's head; ConnectionNotAvailable: ask another."""

    async def aclose(self) -> None:
        """What is under way fails."""


class Connector(Protocol):
    """Makes connections."""

    def may_share(self, request: httpx.Request) -> bool:
        """Whether the connection may turn out to be ``shared``."""

    async def connect(self, request: httpx.Request) -> Connection:
        """A connection to the request's origin. Raises what httpcore raises."""


_Key = tuple[str, bytes, int | None]
"""Scheme, host and port."""


class _Origin:
    """What there is for one origin. While somebody waits nothing is free."""

    def __init__(self, key: _Key, may_share: bool) -> None:
        self.key = key
        self.may_share = may_share
        self.requests = 0
        """Under way."""
        self.free: list[Connection] = []
        self.dialling = 0
        self.waiting: deque[asyncio.Future[Connection | None]] = deque()
        """For a connection, or for the word to dial."""
        self.came_free = 0
        """Connections, for those who wait, since they were looked at last."""
        self.look: asyncio.TimerHandle | None = None
        self.waits_since = 0.0
        self.too_few = False
        """At the last look."""


class AsyncPool:
    """Requests have their turn in the order they came in, ``limits.max_connections`` at a time; of the connections that
    are free the last used one goes first."""

    def __init__(self, connector: Connector, limits: httpx.Limits) -> None:
        self._connector = connector
        self._most = sys.maxsize if limits.max_connections is None else limits.max_connections
        kept = limits.max_keepalive_connections
        self._most_kept = self._most if kept is None else min(kept, self._most)
        self._turns = asyncio.Semaphore(self._most)
        self._all: set[Connection] = set()
        self._dialling = 0
        self._closings = 0
        self._origins: dict[_Key, _Origin] = {}
        """Those with requests or free connections."""
        self._free: dict[Connection, _Origin] = {}
        """Of all origins; what came free first is the first."""

    async def send(self, request: httpx.Request) -> httpx.Response:
        """The answer, whose stream must be closed. Raises what httpcore raises, PoolTimeout among it; the stream raises
        what httpx does."""
        patience: float | None = request.extensions.get("timeout", {}).get("pool")
        closings = self._closings
        try:
            if self._turns.locked():
                async with asyncio.timeout(patience):
                    await self._turns.acquire()
            else:
                await self._turns.acquire()  # at once
        except TimeoutError:
            raise httpcore.PoolTimeout(f"{self._most} requests are under way") from None
        url = request.url
        key = url.scheme, url.raw_host, url.port
        if (origin := self._origins.get(key)) is None:
            origin = self._origins[key] = _Origin(key, self._connector.may_share(request))
        origin.requests += 1
        try:
            connection, answer = await self._sent(origin, request, patience, closings)
        except BaseException:
            self._turns.release()
            self._over(origin)
            raise
        body = _Body(answer, request, lambda: self._end(origin, connection))
        return httpx.Response(answer.status, headers=answer.headers, stream=body, extensions=answer.extensions)

    async def aclose(self) -> None:
        """Closes all connections; what is under way fails."""
        closing = list(self._all)
        self._closings += 1
        self._all.clear()
        self._free.clear()
        for origin in list(self._origins.values()):
            origin.free.clear()
            self._let_dial(origin, len(origin.waiting))
            self._forget(origin)
        for connection in closing:
            await connection.aclose()

    async def _sent(
        self, origin: _Origin, request: httpx.Request, patience: float | None, closings: int
    ) -> tuple[Connection, Answer]:
        while True:
            connection = await self._take(origin, patience)
            if connection is None and closings == self._closings:
                connection = await self._dial(origin, request)
            if closings != self._closings:
                if connection is not None:
                    await self._close(origin, connection)
                raise httpcore.ConnectError("the client was closed")
            assert connection is not None
            if connection.shared and connection.is_available():
                self._offer(origin, connection)
            try:
                return connection, await connection.send(request)
            except httpcore.ConnectionNotAvailable:
                continue
            except BaseException:
                await self._put_back(origin, connection)
                raise

    async def _take(self, origin: _Origin, patience: float | None) -> Connection | None:
        """One that is free or comes free; None: dial."""
        while origin.free:
            connection = origin.free.pop()
            del self._free[connection]
            if connection.is_closed() or connection.has_expired():
                await self._close(origin, connection)
            elif connection.is_available():
                return connection
        if origin.may_share:
            waits = origin.dialling > 0
        else:
            hurried = patience is not None and patience < LONGEST_WAIT
            waits = not hurried and (bool(origin.waiting) or origin.dialling >= MOST_DIALS)
        return await self._wait(origin) if waits else None

    async def _wait(self, origin: _Origin) -> Connection | None:
        """A connection that comes free, or None when this one should dial."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Connection | None] = loop.create_future()
        origin.waiting.append(turn)
        if origin.look is None:
            origin.waits_since = loop.time()
            origin.too_few = False
            self._look_later(origin)
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # what it was given is for the next one
                given = turn.result()
                if given is None:
                    self._let_dial(origin, 1)
                else:
                    await self._put_back(origin, given)
            raise

    def _look_later(self, origin: _Origin) -> None:
        if origin.look is not None:
            origin.look.cancel()
        origin.came_free = 0
        origin.look = asyncio.get_running_loop().call_later(PATIENCE, self._look, origin)

    def _look(self, origin: _Origin) -> None:
        """Whether those who wait are better off by dials of their own."""
        origin.look = None
        if not origin.waiting:
            return
        waited = asyncio.get_running_loop().time() - origin.waits_since
        under_way = origin.dialling > 0 and (origin.may_share or waited < LONGEST_WAIT)
        before, too_few = origin.too_few, origin.came_free * LONGEST_WAIT / PATIENCE < len(origin.waiting)
        if too_few and not under_way and (before or not origin.came_free):
            self._let_dial(origin, len(origin.waiting))
        else:
            origin.too_few = too_few and not under_way
            self._look_later(origin)

    def _let_dial(self, origin: _Origin, count: int) -> None:
        while count and origin.waiting:
            turn = origin.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                count -= 1

    async def _dial(self, origin: _Origin, request: httpx.Request) -> Connection:
        while self._free and (oldest := next(iter(self._free))).has_expired():
            await self._close(self._free[oldest], oldest)  # nobody may ever ask its origin again
        while len(self._all) + self._dialling >= self._most and (idle := self._idle()) is not None:
            await self._close(*idle)
        self._dialling += 1
        origin.dialling += 1
        try:
            connection = await self._connector.connect(request)
        except BaseException as error:
            # Those who wait for a connection to share would each wait as long as this one did.
            whole = origin.may_share and isinstance(error, Exception)
            self._let_dial(origin, len(origin.waiting) if whole else 1)
            raise
        finally:
            self._dialling -= 1
            origin.dialling -= 1
            if not origin.dialling and origin.look is not None:
                self._look_later(origin)  # only now can any come free
        self._all.add(connection)
        if origin.may_share and not connection.shared:  # as the server would have it
            origin.may_share = False
            self._let_dial(origin, MOST_DIALS)
        return connection

    def _idle(self) -> tuple[_Origin, Connection] | None:
        for connection, origin in self._free.items():
            if connection.is_idle():
                return origin, connection
        return None

    async def _end(self, origin: _Origin, connection: Connection) -> None:
        self._turns.release()
        try:
            await self._put_back(origin, connection)
        finally:
            self._over(origin)

    def _over(self, origin: _Origin) -> None:
        origin.requests -= 1
        self._forget(origin)

    def _forget(self, origin: _Origin) -> None:
        if not origin.requests and not origin.free:
            self._origins.pop(origin.key, None)

    async def _put_back(self, origin: _Origin, connection: Connection) -> None:
        if connection.is_closed() or connection not in self._all or (origin.waiting and connection.has_expired()):
            self._let_dial(origin, 1)
            await self._close(origin, connection)
        elif connection.is_available():
            self._offer(origin, connection)
            while len(self._free) > self._most_kept and (idle := self._idle()) is not None:
                await self._close(*idle)
        elif connection.is_idle():  # it failed, and has no other request
            await self._close(origin, connection)

    def _offer(self, origin: _Origin, connection: Connection) -> None:
        while origin.waiting:
            turn = origin.waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                origin.came_free += 1
                return
        if self._free.pop(connection, None) is None:
            origin.free.append(connection)
        self._free[connection] = origin

    async def _close(self, origin: _Origin, connection: Connection) -> None:
        self._all.discard(connection)
        if self._free.pop(connection, None) is not None:
            origin.free.remove(connection)
            self._forget(origin)
        await connection.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: Answer, request: httpx.Request, end: Callable[[], Awaitable[None]]) -> None:
        self._answer = answer
        self._request = request
        self._end = end
        self._closed = False

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._answer.parts)
        except StopAsyncIteration:
            raise
        except Exception as error:
            await self.aclose()
            raise counterpart(error, self._request) from error
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                await self._answer.finish()
            finally:
                await self._end()
